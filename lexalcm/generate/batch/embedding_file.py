"""Written concepts in a file that other programs read: NumPy's `.npy`, or `.safetensors`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lexalcm.errors import UserError
from lexalcm.generate.continuation import WrittenSentence
from lexalcm.io.atomic import atomic_file, check_output_file

SUFFIXES = (".npy", ".safetensors")


def check_embedding_file(path: Path, texts: int) -> None:
    """Make sure that concepts may be kept there, before they are made.

    Raises:
        UserError: another kind of file, several texts for one array, or a place that cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"cannot keep embeddings in {path}: name it .npy or .safetensors")
    if path.suffix == ".npy" and texts > 1:
        raise UserError(f"{path} holds one array, and there are {texts} texts: name it .safetensors")
    check_output_file(path)


def save_embeddings(path: Path, prompt: Tensor, texts: Sequence[Sequence[WrittenSentence]]) -> None:
    """Write what the model made, float32 in the codec's space.

    Args:
        path: `.npy` gets the concepts of the one text, [n, D]; `.safetensors` gets `prompt` and `written`, or
            `written_0`, `written_1`, ... of several texts.
        prompt: concepts of what was continued, [m, D].
        texts: the sentences of each.
    """
    written = [torch.stack([one.concept for one in text]) if text else prompt[:0] for text in texts]
    with atomic_file(path) as temporary:
        if path.suffix == ".npy":
            with temporary.open("wb") as file:
                np.save(file, written[0].numpy())
        else:
            names = ["written"] if len(written) == 1 else [f"written_{number}" for number in range(len(written))]
            tensors = {"prompt": prompt, **dict(zip(names, written, strict=True))}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
