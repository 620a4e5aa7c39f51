"""How the tensors of a checkpoint are distributed over processes."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from lexalcm.io.safetensors_writer import TensorSpec
from lexalcm.train.checkpoint.format import assign_rounds, file_name


@pytest.mark.parametrize("processes", [1, 2, 5, 64])
def test_each_process_writes_about_as_much_as_any_other_in_every_round(processes: int) -> None:
    rng = np.random.default_rng(0)
    layout = {str(number): TensorSpec(torch.Size((int(size),))) for number, size in enumerate(rng.integers(1, 99, 203))}
    rounds = assign_rounds(layout, processes)
    assert sorted(name for names in rounds for name in names) == sorted(layout)
    sizes = [[layout[name].nbytes for name in names] for names in rounds]
    assert all(len(of_round) == processes for of_round in sizes[:-1])
    assert all(min(before) >= max(after) for before, after in pairwise(sizes))
    totals = [sum(of_round[rank] for of_round in sizes if rank < len(of_round)) for rank in range(processes)]
    assert max(totals) - min(totals) <= max(spec.nbytes for spec in layout.values())


def test_one_process_writes_a_file_of_each_kind_and_several_number_theirs() -> None:
    assert file_name("weights", 0, 1) == "weights.safetensors"
    assert [file_name("ema", rank, 12) for rank in (0, 11)] == [
        "ema-00001-of-00012.safetensors",
        "ema-00012-of-00012.safetensors",
    ]
