"""A model's guess of every concept of a batch from the true concepts before it.

A document longer than the window is read in overlapping windows, each beginning half a window after the one before,
so that past the first window every guess sees at least half a window of context, at positions the model was trained
on. That costs at most twice the concepts of the document.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from lexalcm.errors import LexaError
from lexalcm.evaluate.batches import EvaluationBatch
from lexalcm.generate.options import GenerationOptions
from lexalcm.generate.teacher_forced import predict_each
from lexalcm.model.lcm import LCM


class Window(NamedTuple):
    """A stretch of a document: concepts start..stop are read, those from `first` on are predicted."""

    start: int
    stop: int
    first: int


def windows(length: int, size: int) -> Iterator[Window]:
    """Cut a document into windows of at most `size` concepts, so that each concept but the first is predicted once."""
    start = stop = 0
    first = 1
    while first < length:
        stop = min(start + size, length)
        yield Window(start, stop, first)
        start, first = start + size // 2, stop


def predict_batch(
    model: LCM, batch: EvaluationBatch, options: GenerationOptions, *, window: int, seed: int, number: int
) -> np.ndarray:
    """Predict each concept of a batch from those before it in its document.

    Args:
        model: in the state it is evaluated in, on its device.
        batch: [n, dim] embeddings as the data set holds them.
        options: how a diffusion model generates; a base model takes no notice.
        window: longest context, in concepts, of any prediction, plus one.
        seed, number: the run's seed and the batch's number; together they seed the noise.

    Returns:
        float32 [n, dim], in the space of the embeddings; the first concept of a document NaN.

    Raises:
        LexaError: the model's output is not finite.
    """
    predictions = np.full_like(batch.embeddings, np.nan)
    starts = np.flatnonzero(batch.positions == 0)
    lengths = np.diff([*starts, len(batch.positions)])
    rows = [
        (int(offset), piece)
        for offset, length in zip(starts, lengths, strict=True)
        for piece in windows(int(length), window)
    ]
    for part, group in enumerate(_group_rows(rows, max(len(batch.positions), window))):
        longest = max(piece.stop - piece.start for _, piece in group)
        embeddings = np.zeros((len(group), longest, batch.embeddings.shape[1]), dtype=np.float32)
        documents = np.full((len(group), longest), -1, dtype=np.int64)
        positions = np.zeros_like(documents)
        for row, (offset, piece) in enumerate(group):
            size = piece.stop - piece.start
            embeddings[row, :size] = batch.embeddings[offset + piece.start : offset + piece.stop]
            documents[row, :size] = 0
            positions[row, :size] = np.arange(size)
        noise_seed = int(np.random.SeedSequence([seed, number, part]).generate_state(1, np.uint32)[0])
        guesses_RLD = predict_each(
            model,
            torch.from_numpy(embeddings).to(model.device),
            torch.from_numpy(documents),
            torch.from_numpy(positions),
            options,
            noise_seed,
        ).numpy(force=True)
        for row, (offset, piece) in enumerate(group):
            kept = guesses_RLD[row, piece.first - piece.start : piece.stop - piece.start]
            predictions[offset + piece.first : offset + piece.stop] = kept
    if not np.isfinite(predictions[batch.targets]).all():
        raise LexaError("the model's predictions are not finite numbers: check it with lcm verify model")
    return predictions


def _group_rows(rows: list[tuple[int, Window]], budget: int) -> Iterator[list[tuple[int, Window]]]:
    """Groups of rows, in order, that padded to the longest of them hold at most `budget` positions."""
    group: list[tuple[int, Window]] = []
    longest = 0
    for row in rows:
        size = row[1].stop - row[1].start
        if group and (len(group) + 1) * max(longest, size) > budget:
            yield group
            group, longest = [], 0
        group.append(row)
        longest = max(longest, size)
    if group:
        yield group
