"""Model FLOPs utilization (arXiv 2204.02311): operations that the design needs, over what the device can do.

The numerator counts the concepts that a batch holds, not its padding (`lexalcm.model.flops`). The denominator is the
device's peak for dense matrix products in the run's precision, from its maker's data sheet; a device that is not listed
has none, and `train.peak_tflops` says it.
"""

import re
from typing import NamedTuple

import torch

from lexalcm.data.batches.batch import Batch
from lexalcm.model.config import ModelConfig
from lexalcm.model.flops import training_flops


class Peak(NamedTuple):
    """Dense teraflops."""

    bf16: float | None  # tensor cores, float32 sums; none: the device has no bfloat16
    fp32: float  # without TF32


PEAKS: tuple[tuple[str, Peak], ...] = (
    # Data sheets of NVIDIA. Rates of tensor cores with sparsity, as from Hopper and Ada on, are halved here.
    (r"\bGB200\b", Peak(2500, 80)),  # of NVL72
    (r"\bB200\b", Peak(2250, 75)),  # of HGX B200
    (r"\bH200 NVL\b", Peak(835.5, 60)),
    (r"\bH200\b|\bGH200\b", Peak(989.5, 67)),
    (r"\bH100 PCIe\b", Peak(756, 51)),
    (r"\bH100 NVL\b", Peak(835.5, 60)),
    (r"\bH100\b", Peak(989.5, 67)),  # SXM
    (r"\bA100\b", Peak(312, 19.5)),
    (r"\bA40\b", Peak(149.7, 37.4)),
    (r"\bA30\b", Peak(165, 10.3)),
    (r"\bA10\b", Peak(125, 31.2)),
    (r"\bL40S\b", Peak(362, 91.6)),
    (r"\bL40\b", Peak(181, 90.5)),
    (r"\bL4\b", Peak(121, 30.3)),
    (r"\bV100-SXM", Peak(None, 15.7)),
    (r"\bV100-PCIE", Peak(None, 14)),
    (r"\bT4\b", Peak(None, 8.1)),
    (r"\bRTX 6000 Ada\b", Peak(364.2, 91.1)),
    (r"\bRTX A6000\b", Peak(154.8, 38.7)),
    # NVIDIA's white papers on the Ampere (GA102), Ada and Blackwell GeForce GPUs.
    (r"\bRTX 5090\b(?! D| Laptop)", Peak(209.5, 104.8)),
    (r"\bRTX 4090\b(?! D| Laptop)", Peak(165.2, 82.6)),
    (r"\bRTX 4080\b(?! SUPER| Laptop)", Peak(97.5, 48.7)),
    (r"\bRTX 4070 Ti\b(?! SUPER| Laptop)", Peak(80.2, 40.1)),
    (r"\bRTX 3090\b(?! Ti| Laptop)", Peak(71, 35.6)),
    # AMD's data sheet.
    (r"\bMI300X\b", Peak(1307.4, 163.4)),
)
"""What the name that a device gives itself says of its peak; the first pattern that is found counts."""


def peak_flops(device: torch.device, precision: str, peak_tflops: float | None) -> float | None:
    """Floating-point operations a second that a device can do, or None where that is not known.

    Args:
        device: of this process.
        precision: `"bf16"` or `"fp32"`.
        peak_tflops: the setting, which takes precedence over what is known.
    """
    if peak_tflops is not None:
        return peak_tflops * 1e12
    if device.type != "cuda" or (precision == "fp32" and torch.get_float32_matmul_precision() != "highest"):
        return None
    known = known_peak(torch.cuda.get_device_name(device), precision)
    return None if known is None else known * 1e12


def known_peak(name: str, precision: str) -> float | None:
    """Dense teraflops of a device by its name, e.g. `"NVIDIA H100 80GB HBM3"`; None where not known."""
    for pattern, peak in PEAKS:
        if re.search(pattern, name):
            return peak.bf16 if precision == "bf16" else peak.fp32
    return None


def batch_flops(config: ModelConfig, batch: Batch) -> float:
    """Operations of forward and backward pass that a micro-batch's concepts need, with documents as long as they are.

    The attention of a document of n concepts costs n^2, so that the mean length that counts is the mean over concepts.
    """
    concepts = int((batch.documents >= 0).sum())
    if not concepts:
        return 0.0
    earlier = int(batch.positions.sum())  # n (n - 1) / 2 of each document
    return training_flops(config, concepts, (2 * earlier + concepts) / concepts)
