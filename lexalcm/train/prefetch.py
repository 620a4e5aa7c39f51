"""Micro-batches on their way to a GPU while the one before is computed.

The copy runs on a stream of its own, from pinned memory, so that the GPU computes meanwhile. The trainer says when to
fetch: once the work of the micro-batch before has been launched, so that reading the data costs the GPU nothing either.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from lexalcm.data.batches.batch import Batch, TransferredBatch


class Prefetcher:
    """An iterator over micro-batches that are on the device, or on their way; on a CPU, the batches as they come.

    Attributes:
        waited: seconds in which the device had nothing to do for want of data; set to zero by who reads it.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self._batches = batches
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: Batch | None = None
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._next is None:
            began = time.perf_counter()
            self._next = self._send(next(self._batches))
            self.waited += time.perf_counter() - began
        batch, self._next = self._next, None
        return batch

    def fetch(self) -> None:
        """Get the next micro-batch while the device computes; where it is done before, that is a wait for data."""
        if self._stream is None or self._next is not None:
            return
        launched = torch.cuda.Event()
        launched.record(torch.cuda.current_stream(self._device))
        began = time.perf_counter()
        batch = next(self._batches, None)
        self._next = None if batch is None else self._send(batch)
        if launched.query():
            self.waited += time.perf_counter() - began

    def _send(self, batch: Batch) -> Batch:
        if self._stream is None:
            return batch
        with torch.cuda.stream(self._stream):
            there = batch.to(self._device)
        arrived = torch.cuda.Event()
        arrived.record(self._stream)
        return replace(batch, transferred=TransferredBatch(there, arrived))
