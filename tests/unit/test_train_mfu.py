"""Model FLOPs utilization: known devices, and operations that depend on the concepts of a batch alone."""

import pytest
import torch
from tiny_models import CONFIGS, packed_rows

from lexalcm.data.batches.batch import Batch
from lexalcm.model.flops import training_flops
from lexalcm.train.monitor.mfu import batch_flops, known_peak, peak_flops


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [  # names as the driver gives them
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA GeForce RTX 4070 Ti", "bf16", 80.2),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("Tesla T4", "bf16", None),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
    ],
)
def test_a_device_has_the_peak_of_its_data_sheet_or_none(name: str, precision: str, teraflops: float | None) -> None:
    assert known_peak(name, precision) == teraflops


def test_a_cpu_has_a_peak_only_where_a_setting_says_it() -> None:
    assert peak_flops(torch.device("cpu"), "fp32", None) is None
    assert peak_flops(torch.device("cpu"), "fp32", 0.5) == 5e11


def batch(lengths: list[list[int]], row_length: int) -> Batch:
    return Batch(**packed_rows(lengths, row_length), number=0)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_padding_costs_nothing(architecture: str) -> None:
    config = CONFIGS[architecture]
    assert batch_flops(config, batch([[6, 6]], 12)) == batch_flops(config, batch([[6], [6]], 40))
    assert batch_flops(config, batch([[6, 6]], 12)) == training_flops(config, 12, document_length=6)


def test_the_attention_of_a_document_costs_its_length_squared() -> None:
    config = CONFIGS["base"]
    short, long = batch([[4]], 12), batch([[8]], 12)
    both = batch_flops(config, batch([[4, 8]], 12))
    assert both == pytest.approx(batch_flops(config, short) + batch_flops(config, long))


def test_an_empty_batch_needs_no_operation() -> None:
    assert batch_flops(CONFIGS["base"], batch([[]], 4)) == 0
