"""Makes torch answer, in any Python process that finds this folder on PYTHONPATH, as on a machine with GPUs.

Tensors stay on the CPU: whatever names a GPU is brought here, and NCCL is gloo. So the Python of a GPU's path runs as
it does there, its choices, plans and messages included. What a GPU computes, how fast, and what it holds is not
pretended. Kernels cannot be compiled, as on a GPU without Triton, and CUDA graphs cannot be captured.

Variables, read when something is asked, so that a forked process may have its own: `GPUS` (1 if not set), `GPU_GB` of
memory each (80 if not set), `PLACES` for `places.py`, which stops where a tensor of the GPU meets one of the CPU's.
"""

import os
import sys
import threading
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.device_mesh as device_mesh
import torch.utils.data
from places import result_and_place
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Device = torch.device
NAME = "NVIDIA H100 80GB HBM3"
current = 0

os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.modules["triton"] = None


def gpus() -> int:
    return int(os.environ.get("GPUS", "1"))


def memory() -> int:
    return int(float(os.environ.get("GPU_GB", "80")) * 2**30)


def properties(device: Any = None) -> SimpleNamespace:
    return SimpleNamespace(name=NAME, major=9, minor=0, multi_processor_count=132, total_memory=memory())


def set_device(device: Any) -> None:
    global current
    index = device if isinstance(device, int) else Device(device).index
    check(index)
    current = current if index is None else index


def check(index: int | None) -> None:
    if index is not None and index >= gpus():
        raise RuntimeError("CUDA error: invalid device ordinal")


class Stream:
    """One like any other: what is asked of it has been done."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = Device("cuda", current)

    def wait_stream(self, stream: "Stream") -> None:
        assert isinstance(stream, Stream)

    def wait_event(self, event: "Event") -> None:
        assert isinstance(event, Event)

    def record_event(self, event: "Event | None" = None) -> "Event":
        return event or Event()

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False


class Event:
    """Of a stream: it has come."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, stream: Stream | None = None) -> None:
        assert stream is None or isinstance(stream, Stream)

    wait = record

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: "Event") -> float:
        return 1.0


class Entered:
    """`torch.cuda.stream(stream)` and `torch.cuda.device(device)`."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class NoGraph:
    """`torch.cuda.CUDAGraph` and `torch.cuda.graph`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("a pretended GPU captures no graphs")


def answering(answer: Any) -> Any:
    """A function that gives an answer; each is one of its own, because torch's compiler tells them apart."""
    if isinstance(answer, type):
        return type(answer.__name__, (answer,), {})
    return (lambda *args, **_: answer(*args)) if callable(answer) else lambda *_, **__: answer


ANSWERS: dict[str, Any] = {
    **dict.fromkeys(("is_available", "is_initialized", "is_bf16_supported"), lambda *_: gpus() > 0),
    **dict.fromkeys(("_lazy_init", "init", "synchronize", "set_stream", "empty_cache", "ipc_collect"), None),
    **dict.fromkeys(("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state"), None),
    **dict.fromkeys(("reset_peak_memory_stats", "reset_max_memory_allocated"), None),
    **dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"), 1),
    **dict.fromkeys(("current_stream", "default_stream"), lambda *_: torch.cuda.Stream()),
    **dict.fromkeys(("stream", "StreamContext", "device", "device_of"), Entered),
    **dict.fromkeys(("CUDAGraph", "graph", "graph_pool_handle"), NoGraph),
    "is_current_stream_capturing": False,
    "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
    "Stream": Stream,
    "Event": Event,
    "device_count": gpus,
    "current_device": lambda: current,
    "set_device": set_device,
    "get_device_name": NAME,
    "get_device_capability": (9, 0),
    "get_device_properties": properties,
    "mem_get_info": lambda *_: (memory(), memory()),
}
OF_ANY_ACCELERATOR: dict[str, Any] = {
    "is_available": lambda: gpus() > 0,
    "device_count": gpus,
    "current_accelerator": lambda *_: Device("cuda"),
    "current_device_index": lambda: current,
    "set_device_index": set_device,
    "synchronize": None,
    **dict.fromkeys(("current_stream",), lambda *_: torch.cuda.Stream()),
}
for module, answers in ((torch.cuda, ANSWERS), (torch.cuda.random, ANSWERS), (torch.accelerator, OF_ANY_ACCELERATOR)):
    for name, answer in answers.items():
        if hasattr(module, name):
            setattr(module, name, answering(answer))


def here(value: Any) -> Any:
    """The CPU for a GPU, gloo for NCCL."""
    if isinstance(value, Device) and value.type == "cuda":
        check(value.index)
        return Device("cpu")
    if isinstance(value, str) and value.split(":")[0] == "cuda":
        check(Device(value).index)
        return "cpu"
    return "gloo" if isinstance(value, str) and value == "nccl" else value


def moved(call: Any) -> Any:
    """The call with what it names brought here."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return call(*map(here, args), **{key: here(value) for key, value in kwargs.items()})

    return wrapped


class Here(TorchFunctionMode):
    """Every torch function brought here, but the making of a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is Device or name == "_parse_to":
            return func(*args, **kwargs)
        call = (lambda tensor, *_, **__: tensor) if func is Tensor.cuda else moved(func)
        if os.environ.get("PLACES"):
            return result_and_place(call, func, name, args, kwargs)
        return call(*args, **kwargs)


def attend(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, key_starts: Tensor, *_: Any) -> Tensor:
    """FlashAttention's `varlen_attn`, a kernel that only GPUs have: [N, H, E], each sequence by itself."""
    sizes = starts.diff().tolist(), key_starts.diff().tolist()
    parts = zip(query.split(sizes[0]), key.split(sizes[1]), value.split(sizes[1]), strict=True)
    by_head = [[part.transpose(0, 1) for part in one] for one in parts]
    return torch.cat([functional.scaled_dot_product_attention(*one).transpose(0, 1) for one in by_head])


def brought_here(start: Any) -> Any:
    """What a new thread does, which has no mode of its own."""

    def wrapped(*args: Any) -> None:
        with Here():
            start(*args)

    return wrapped


Tensor.pin_memory = lambda self, *_: self
Tensor.record_stream = lambda self, stream: None
torch.autocast.__init__ = moved(torch.autocast.__init__)
dist.init_process_group, dist.new_group = moved(dist.init_process_group), moved(dist.new_group)
device_mesh.init_device_mesh = moved(device_mesh.init_device_mesh)
if find_spec("torch.nn.attention.varlen") is not None:
    import_module("torch.nn.attention.varlen").varlen_attn = attend
Here().__enter__()
threading.Thread._bootstrap_inner = brought_here(threading.Thread._bootstrap_inner)
