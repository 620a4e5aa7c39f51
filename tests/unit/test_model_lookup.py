"""Rows of a table for many positions, with a gradient by matrix product on a GPU."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from lexalcm.model.layers import lookup as module
from lexalcm.model.layers.lookup import lookup

TABLE = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
INDEX = torch.randint(7, (3, 40), generator=torch.Generator().manual_seed(1))
GRADIENT = torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(2))


def summed_one_by_one() -> torch.Tensor:
    summed = torch.zeros(7, 5, dtype=torch.float64)
    for row, gradient in zip(INDEX.flatten().tolist(), GRADIENT.flatten(0, 1).double(), strict=True):
        summed[row] += gradient
    return summed


@pytest.mark.parametrize("way", [lookup, module._OneHotLookup.apply])
def test_rows_and_their_gradient(way: object) -> None:
    table = TABLE.clone().requires_grad_()
    rows = way(table, INDEX)  # type: ignore[operator]
    assert torch.equal(rows, TABLE[INDEX])
    (gradient,) = torch.autograd.grad(rows, table, GRADIENT)
    torch.testing.assert_close(gradient.double(), summed_one_by_one(), rtol=1e-5, atol=1e-5)


def test_compiled_it_is_one_graph_without_a_lookup_of_torchs() -> None:
    """The partitioner computes an index again for the backward pass; an embedding it would keep."""
    graphs = []

    def note(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(str(graph.graph))
        return graph

    def sines(table: torch.Tensor, way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return way(table, INDEX).sin()

    table = TABLE.clone().requires_grad_()
    compiled = torch.compile(partial(sines, way=lookup), backend=note, fullgraph=True)
    (gradient,) = torch.autograd.grad(compiled(table), table, GRADIENT)
    (expected,) = torch.autograd.grad(sines(table, lambda t, i: t[i]), table, GRADIENT)
    torch.testing.assert_close(gradient, expected)
    assert len(graphs) == 1
    assert "embedding" not in graphs[0]


@pytest.mark.gpu
def test_on_a_gpu_the_gradient_is_the_same_in_every_run() -> None:
    def gradient() -> torch.Tensor:
        table = TABLE.cuda().bfloat16().requires_grad_()
        return torch.autograd.grad(lookup(table, INDEX.cuda()), table, GRADIENT.cuda().bfloat16())[0]

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(5))
    torch.testing.assert_close(first.cpu().double(), summed_one_by_one(), rtol=2e-2, atol=5e-2)
