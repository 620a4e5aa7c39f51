"""A model's guess of every concept of a batch from the true concepts before it.

A document longer than the window is read in overlapping windows, each beginning half a window after the one before,
so that past the first window every guess sees at least half a window of context, at positions the model was trained
on. That costs at most twice the concepts of the document. Windows are packed into rows (first fit, longest first),
since a diffusion model's time is rows times denoising steps.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from lexalcm.errors import LexaError
from lexalcm.evaluate.run.batches import EvaluationBatch
from lexalcm.generate.teacher_forced import predict_each
from lexalcm.model.predictor import ConceptPredictor

POSITIONS = 4096
"""Positions in the rows that a model is given at a time, at most (but one row always)."""


class Window(NamedTuple):
    """A stretch of a document: concepts start..stop are read, those from `first` on are predicted."""

    start: int
    stop: int
    first: int

    @property
    def length(self) -> int:
        """Concepts read."""
        return self.stop - self.start

    def shifted(self, offset: int) -> "Window":
        """The same stretch, counted from `offset` before."""
        return Window(*(place + offset for place in self))


def windows(length: int, size: int) -> Iterator[Window]:
    """Cut a document into windows of at most `size` concepts, so that each concept but the first is predicted once."""
    start, first = 0, 1
    while first < length:
        stop = min(start + size, length)
        yield Window(start, stop, first)
        start, first = start + size // 2, stop


def pack_windows(pieces: list[Window], size: int) -> list[list[Window]]:
    """Put windows into rows of `size` positions: each, the longest first, into the first row that has room."""
    rows: list[list[Window]] = []
    room: list[int] = []
    for piece in sorted(pieces, key=lambda piece: -piece.length):
        row = next((row for row, left in enumerate(room) if left >= piece.length), None)
        if row is None:
            rows.append([])
            room.append(size)
            row = len(rows) - 1
        rows[row].append(piece)
        room[row] -= piece.length
    return rows


def predict_batch(
    predictor: ConceptPredictor, batch: EvaluationBatch, *, window: int, seed: int, number: int
) -> np.ndarray:
    """Predict each concept of a batch from those before it in its document.

    Args:
        predictor: a model, on its device, with its options.
        batch: [n, dim] embeddings as the data set holds them.
        window: most concepts of a document that are read at once.
        seed, number: the run's seed and the batch's number; together they seed the noise.

    Returns:
        float32 [n, dim], in the space of the embeddings; the first concept of a document NaN.

    Raises:
        LexaError: the model's output is not finite.
    """
    starts = np.flatnonzero(batch.positions == 0)
    lengths = np.diff([*starts, len(batch.positions)])
    pieces = [
        piece.shifted(start)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        for piece in windows(length, window)
    ]
    rows = pack_windows(pieces, window)
    predictions = np.full_like(batch.embeddings, np.nan)
    at_once = max(1, POSITIONS // window)
    for part, first in enumerate(range(0, len(rows), at_once)):
        noise_seed = int(np.random.SeedSequence([seed, number, part]).generate_state(1, np.uint32)[0])
        _predict_rows(predictor, batch.embeddings, rows[first : first + at_once], noise_seed, predictions)
    if not np.isfinite(predictions[batch.targets]).all():
        raise LexaError("the model's predictions are not finite numbers: check it with lcm verify model")
    return predictions


def _predict_rows(
    predictor: ConceptPredictor,
    concepts: np.ndarray,
    rows: list[list[Window]],
    seed: int,
    predictions: np.ndarray,
) -> None:
    """Predict the windows of some rows, of `concepts` [n, dim] into `predictions` [n, dim]."""
    length = max(sum(piece.length for piece in row) for row in rows)
    embeddings = np.zeros((len(rows), length, concepts.shape[1]), dtype=np.float32)
    documents = np.full((len(rows), length), -1, dtype=np.int64)
    positions = np.zeros_like(documents)
    places = []
    for row, pieces in enumerate(rows):
        begin = 0
        for document, piece in enumerate(pieces):
            end = begin + piece.length
            embeddings[row, begin:end] = concepts[piece.start : piece.stop]
            documents[row, begin:end] = document
            positions[row, begin:end] = np.arange(piece.length)
            places.append((row, slice(begin + piece.first - piece.start, end), slice(piece.first, piece.stop)))
            begin = end
    guesses = predict_each(
        predictor, torch.from_numpy(embeddings), torch.from_numpy(documents), torch.from_numpy(positions), seed
    ).numpy(force=True)
    for row, guessed, predicted in places:
        predictions[predicted] = guesses[row, guessed]
