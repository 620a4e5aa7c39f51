"""Whole tensors from the equal flat parts that engines which shard keep on their processes."""

import torch
import torch.distributed as dist


def gathered(part: torch.Tensor, shape: torch.Size, to: int) -> torch.Tensor:
    """Bring a tensor together on one process; every process must call it.

    Between CPUs the parts go to that process alone. NCCL would connect each GPU with each other one for that, and keep
    memory for every connection: GPUs gather on all of them, over the ring that they train with.

    Args:
        part: this process's [n], as long as that of every other; the last ones are filled up.
        shape: of the whole tensor.
        to: the process's rank.

    Returns:
        The tensor there; elsewhere it has no meaning.
    """
    count = dist.get_world_size()
    if part.device.type == "cuda":
        whole = part.new_empty(count * part.numel())
        dist.all_gather_into_tensor(whole, part)
    elif dist.get_rank() == to:
        whole = part.new_empty(count * part.numel())
        dist.gather(part, list(whole.chunk(count)), dst=to)
    else:
        dist.gather(part, dst=to)
        return part
    return whole[: shape.numel()].view(shape)
