"""Checks of single documents, and of what only all of them together tell: outlying norms and duplicates.

Norms are counted in bins of 0.2% on a logarithmic scale, and the shortest and longest vectors are remembered, so that a
billion concepts take no more memory than a thousand. Of each document's text a hash of 8 bytes is kept (of one without
text, of its numbers): two different documents in ten million are taken for the same with a probability of 3 in a
million.
"""

import hashlib
import heapq
import io
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from lexalcm.data.format.manifest import Manifest
from lexalcm.data.format.shards import document_key
from lexalcm.data.format.tar import npy_header
from lexalcm.json_text import parse_json
from lexalcm.verify.dataset.report import DataVerification

OUTLIER_SPREADS = 8
"""A norm is an outlier if its logarithm is this many (robust) standard deviations away from the median ..."""

OUTLIER_FACTOR = 1.25
"""... and it differs from the median by this factor."""

_FEWEST_NORMS = 100  # below, there is no telling what is usual
_EXTREMES = 200
_AT_ONCE = 256  # documents
_BIN = 0.002
_LOG_RANGE = (-24.0, 24.0)  # of float16 and float32 numbers with some margin


class DocumentChecks:
    """Takes documents one by one."""

    def __init__(self, manifest: Manifest, found: DataVerification) -> None:
        self.dtype = np.dtype(manifest.dtype)
        self.dim = manifest.codec.dim
        self.header_size = len(npy_header(1, self.dim, self.dtype.name))
        self.text = manifest.text
        self.found = found
        self._norms = _Norms()
        self._hashes = array("Q")
        self._shards: list[tuple[int, str, int]] = []
        """(documents before it, file, number) of each shard that was begun."""
        self._places = array("i")

    def begin_shard(self, file: str, number: int) -> None:
        """The documents that follow are of this shard."""
        self._shards.append((len(self._hashes), file, number))

    def array(self, where: str, content: bytes) -> np.ndarray | None:
        """Check a document's `.npy`; returns its numbers if they can be read."""
        embeddings = self._numbers(where, content)
        if embeddings is None:
            return None
        numbers = embeddings.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            squares = np.einsum("nd,nd->n", numbers, numbers)
            logs = np.log(squares) / 2
            if not np.isfinite(logs).all():  # rarely, and float32 may have been too narrow for the squares
                self._bad_numbers(where, embeddings)
                logs = np.log(np.linalg.norm(embeddings.astype(np.float64), axis=1))
                logs[~np.isfinite(logs)] = np.nan
        self._norms.add(where, logs)
        return embeddings

    def _numbers(self, where: str, content: bytes) -> np.ndarray | None:
        n = max(0, len(content) - self.header_size) // (self.dim * self.dtype.itemsize)
        header = npy_header(n, self.dim, self.dtype.name)
        if content.startswith(header) and len(content) == len(header) + n * self.dim * self.dtype.itemsize:
            return np.frombuffer(content, self.dtype, offset=len(header)).reshape(n, self.dim)
        try:
            embeddings = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # noqa: BLE001  numpy's parser of a damaged header raises nearly anything
            self.found.error(where, f"not an array: {error}")
            return None
        if not isinstance(embeddings, np.ndarray) or embeddings.dtype != self.dtype or embeddings.ndim != 2:
            self.found.error(where, f"not an array [n, dim] of {self.dtype}")
            return None
        if embeddings.shape[1] != self.dim:
            self.found.error(where, f"{embeddings.shape[1]} dimensions, expected {self.dim}")
            return None
        return embeddings

    def _bad_numbers(self, where: str, embeddings: np.ndarray) -> None:
        not_finite = ~np.isfinite(embeddings).all(axis=1)
        zero = ~embeddings.any(axis=1)
        for what, sentences in (("NaN or infinity", not_finite), ("zero vector", zero)):
            if sentences.any():
                shown = ", ".join(map(str, np.flatnonzero(sentences)[:5]))
                self.found.error(where, f"{what} in {sentences.sum()} of its embeddings, at sentence {shown}")

    def document(self, where: str, place: int, content: bytes, embeddings: np.ndarray | None) -> dict[str, Any] | None:
        """Check a document's `.json` beside its numbers, and count it; returns what it says if it can be read."""
        self.found.documents += 1
        self.found.concepts += 0 if embeddings is None else len(embeddings)
        document = self._json(where, content, embeddings)
        if document is None or embeddings is None:
            return None
        identity = "\n".join(document["sentences"]).encode(errors="replace") if self.text else embeddings.tobytes()
        self._hashes.append(int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little"))
        self._places.append(place)
        return document

    def _json(self, where: str, content: bytes, embeddings: np.ndarray | None) -> dict[str, Any] | None:
        try:
            document = parse_json(content)
            sentences = document["sentences"] if self.text else []
            texts = [document["id"], document["lang"], document["title"], *sentences]
            source = document.get("source", 0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self.found.error(where, f"its JSON is damaged or lacks a field ({error!r})")
            return None
        if not isinstance(sentences, list) or not all(isinstance(text, str) for text in texts):
            self.found.error(where, "its JSON has a field of the wrong type")
            return None
        if self.text and embeddings is not None and len(sentences) != len(embeddings):
            self.found.error(where, f"{len(sentences)} sentences for {len(embeddings)} embeddings")
        if not isinstance(source, int) or (embeddings is not None and not 0 <= source <= len(embeddings)):
            self.found.error(where, f"its source cannot be the first {source!r} sentences")
        return document

    def finish(self) -> None:
        """Note what all documents together tell."""
        self._norms.report(self.found)
        hashes = np.frombuffer(self._hashes, np.uint64)
        order = np.argsort(hashes, kind="stable")
        same = hashes[order][1:] == hashes[order][:-1]
        first = np.maximum.accumulate(np.where(np.r_[True, ~same], np.arange(len(order)), 0)) if len(order) else order
        repeated = np.flatnonzero(np.r_[False, same])
        what = "text" if self.text else "numbers"
        where = self._finder()
        for later, earlier in sorted(zip(order[repeated].tolist(), order[first[repeated]].tolist(), strict=True)):
            self.found.warn(where(later), f"the same {what} as {where(earlier)}")

    def _finder(self) -> Callable[[int], str]:
        begins = np.array([before for before, _, _ in self._shards])

        def where(number: int) -> str:
            _, file, shard = self._shards[int(np.searchsorted(begins, number, side="right")) - 1]
            return f"{file} {document_key(shard, self._places[number])}"

        return where


class _Norms:
    """How long all vectors are, and which are the shortest and the longest."""

    def __init__(self) -> None:
        self._counts = np.zeros(round((_LOG_RANGE[1] - _LOG_RANGE[0]) / _BIN), np.int64)
        self._pending: list[np.ndarray] = []
        self._extremes: tuple[list[tuple[float, str, int]], list[tuple[float, str, int]]] = ([], [])

    def add(self, where: str, logs: np.ndarray) -> None:
        """Count a document's norms, given as logarithms; NaN ones are left out."""
        if not len(logs) or np.isnan(logs).all():
            return
        self._pending.append(logs)
        if len(self._pending) >= _AT_ONCE:
            self._count()
        shortest, longest = self._extremes
        for sign, heap, sentence in ((-1, shortest, np.nanargmin(logs)), (1, longest, np.nanargmax(logs))):
            entry = (sign * float(logs[sentence]), where, int(sentence))
            if len(heap) < _EXTREMES:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                heapq.heapreplace(heap, entry)

    def _count(self) -> None:
        logs = np.concatenate([np.empty(0), *self._pending])
        self._pending.clear()
        bins = ((logs[~np.isnan(logs)] - _LOG_RANGE[0]) / _BIN).astype(np.int64).clip(0, len(self._counts) - 1)
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def report(self, found: DataVerification) -> None:
        """Note the outliers: one finding for each document, with its farthest sentence."""
        self._count()
        total = int(self._counts.sum())
        if total < _FEWEST_NORMS:
            return
        cumulative = np.cumsum(self._counts)
        lower, median, upper = (
            _LOG_RANGE[0] + _BIN * (np.searchsorted(cumulative, share * total) + 0.5) for share in (0.25, 0.5, 0.75)
        )
        limit = max(OUTLIER_SPREADS * (upper - lower) / 1.349, np.log(OUTLIER_FACTOR))
        outlying = [
            (abs(sign * value - median), sign * value, where, sentence)
            for sign, heap in zip((-1, 1), self._extremes, strict=True)
            for value, where, sentence in heap
            if abs(sign * value - median) > limit
        ]
        for _, log, where, sentence in sorted(outlying, reverse=True):
            found.warn(
                where,
                f"norm {np.exp(log):.3g} at sentence {sentence}; half of all norms lie between "
                f"{np.exp(lower):.3g} and {np.exp(upper):.3g}",
            )
