"""CUDA graphs: a series of kernels that was captured once is started again as a whole.

Started one by one from Python, the kernels of a denoising step take a GPU some 2 microseconds each and the processor
some 10: the GPU waits. A graph replays them with their numbers and addresses as they were. What it works on must
therefore stay in its place, and nothing may be read back to the processor in between.
"""

from collections.abc import Callable
from typing import Any

import torch

Work = Callable[[], object]
"""Works on tensors that stay in their places; what it returns does too, until it is called again."""

Capture = Callable[[Work], Work]
"""From work that has been done once, and so has nothing left to set up, to its replay, which returns nothing new."""


class CudaGraphs:
    """Captures work into graphs that share the memory of what they compute on their way.

    So one's results must be copied before another one is replayed. That memory is given back with the last graph.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, work: Work) -> Work:
        """The work as a graph, not done yet; its results are overwritten by each replay.

        Raises:
            RuntimeError: it cannot be captured, or there is no GPU.
        """
        if self._device.type != "cuda":
            raise RuntimeError(f"the model is on {self._device.type}")
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            outside, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    work()
            finally:
                torch.cuda.set_stream(outside)  # a capture that fails leaves its own behind
        return graph.replay
