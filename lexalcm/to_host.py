"""Numbers from a device to the CPU, without waiting for what is launched behind them."""

import torch
from torch import Tensor


class ToHost:
    """A copy on its way to the CPU; made when what it copies has been launched."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._arrived: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._tensor = tensor.to("cpu", non_blocking=True)  # into pinned memory
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor:
        """The copy; waits until it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor.cpu()
