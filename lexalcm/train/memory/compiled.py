"""What a compiled layer keeps for its backward pass, by the partitioner that compiles it.

A compiled layer keeps less than an eager one: what is cheap is computed again. Which that is, AOTAutograd's min-cut
partitioner decides; here it partitions the layer on tensors without numbers, with the decompositions of torch's
compiler and nothing generated. A layer takes two seconds, whatever its size.

Torch 2.8 cannot compile on such tensors, 2.11 and 2.13 can. Before 2.11, compiled layers are planned as eager ones,
which keep more.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_map

from lexalcm.train.memory.trace import Given

FIRST_TORCH = Version("2.11")
MASK_DIMENSIONS = 4  # rows, heads, queries, keys


class Kept(NamedTuple):
    """Bytes that a layer keeps, for each row of its micro-batch and whatever the rows."""

    per_row: float
    fixed: int

    def at(self, rows: int) -> int:
        """Bytes at a number of rows."""
        return round(self.per_row * rows) + self.fixed


def can_partition() -> bool:
    """Whether this torch can tell; see the module's text."""
    return Version(torch.__version__) >= FIRST_TORCH


def kept_by_compiled(layer: nn.Module, given: Sequence[Any], rows: int, precision: str) -> Kept:
    """Partition a layer, in training.

    Args:
        layer: on the meta device.
        given: its arguments, tensors as `Given`; those of the micro-batch have its rows as their first dimension.
        rows: of the micro-batch.
        precision: `fp32`, else bf16 by autocast.
    """
    from torch._subclasses import FakeTensorMode

    kept: list[Kept] = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer = layer.to_empty(device="cpu").requires_grad_().train()
        inputs = tree_map(_empty, list(given), is_leaf=lambda argument: isinstance(argument, Given))
        compiled = torch.compile(layer.forward, backend=_partitioning(kept, rows), dynamic=False)
        with torch.autocast("cpu", torch.bfloat16) if precision != "fp32" else nullcontext():
            compiled(*inputs)
    torch.compiler.reset()  # or training would find this compiler's layers
    return kept[0]


def _empty(given: Any) -> Any:
    if not isinstance(given, Given):
        return given
    if given.dtype == torch.bool and len(given.shape) == MASK_DIMENSIONS:
        return None  # plain causal attention keeps what FlexAttention keeps, and no mask
    return torch.empty(given.shape, dtype=given.dtype).requires_grad_(given.requires_grad)


def _partitioning(kept: list[Kept], rows: int) -> Callable[..., Any]:
    """A compiler that generates nothing and notes what the forward graph hands on to the backward graph."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    def forward(module: torch.fx.GraphModule, _: Any) -> Any:
        kept.append(_handed_on(module.graph, rows))
        return make_boxed_func(module.forward)

    return aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda module, _: make_boxed_func(module.forward),
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )


def _handed_on(graph: torch.fx.Graph, rows: int) -> Kept:
    """What a forward graph makes and puts out: its result, which the next layer keeps, and what its backward needs."""
    of_rows: set[torch.fx.Node] = set()
    for node in graph.nodes:
        value = node.meta.get("val")
        own = node.op == "placeholder" and isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == rows
        if own or any(argument in of_rows for argument in node.all_input_nodes):
            of_rows.add(node)
    per_row, fixed = 0.0, 0
    counted = {_storage(node) for node in graph.nodes if node.op == "placeholder"}
    (out,) = (node for node in graph.nodes if node.op == "output")
    for node in out.all_input_nodes:
        storage = _storage(node)
        if storage is None or storage in counted:  # another view of what is there
            continue
        counted.add(storage)
        size = node.meta["val"].untyped_storage().nbytes()
        if node in of_rows:
            per_row += size / rows
        else:
            fixed += size
    return Kept(per_row, fixed)


def _storage(node: torch.fx.Node) -> StorageWeakRef | None:
    """What a node's tensor shares with its views."""
    value = node.meta.get("val")
    return StorageWeakRef(value.untyped_storage()) if isinstance(value, Tensor) else None
