"""What a micro-batch takes in memory, counted by computing it with tensors that have everything but numbers.

The model's own code runs, forward and backward pass, under autograd and autocast as they are, on tensors of which only
shape and type exist. Torch's meta functions say what shape an operation's result has; its bytes are added to what is
alive, and taken off when the last tensor that shares them is gone. So there is no formula for a layer that could come
apart from the layer. An operation costs 0.1 ms, whatever the sizes.

Where a GPU's kernels keep other things for the backward pass than a CPU's, `_GPU_KERNELS` puts them in. What a kernel
takes inside itself is not seen: on a GPU a few tens of MiB of cuBLAS's workspace.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeVar
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from lexalcm.data.batches.batch import FIELDS
from lexalcm.model.config import ModelConfig
from lexalcm.model.create import meta_model
from lexalcm.model.layers.norm import inverse_rms
from lexalcm.model.lcm import LCM
from lexalcm.objective import create_objective

T = TypeVar("T")
aten = torch.ops.aten


class Given(NamedTuple):
    """A tensor that a layer is called with, without its numbers."""

    shape: torch.Size
    dtype: torch.dtype
    requires_grad: bool


class LayerTrace(NamedTuple):
    """Bytes that a layer leaves behind."""

    forward: int  # until the forward pass is over; under autocast, copies of weights are among it
    kept: int  # for the backward pass


class MemoryTrace:
    """What one micro-batch of a model took, in bytes beyond weights and gradients.

    Attributes:
        forward_peak: the most that were alive at a time in the forward pass, the batch included.
        backward_peak: the same of the backward pass.
        layers: what each layer left behind.
        given: what each layer was called with, tensors as `Given`.
    """

    def __init__(self) -> None:
        self.forward_peak = 0
        self.backward_peak = 0
        self.layers: list[LayerTrace] = []
        self.given: list[tuple[Any, ...]] = []
        self._alive = 0
        self._gradients = 0
        self._peak = 0
        self._made_by_layers: list[list[ref[_Bytes]]] = []
        self._left_by_layers: list[int] = []
        self._made: list[ref[_Bytes]] | None = None

    def add(self, piece: "_Bytes") -> None:
        """Something has been made."""
        self._alive += piece.size
        self._peak = max(self._peak, self._alive - self._gradients)
        if self._made is not None:
            self._made.append(ref(piece))

    def take(self, size: int) -> None:
        """Something is gone."""
        self._alive -= size

    def add_gradient(self, parameter: Tensor) -> None:
        """What was made has become a parameter's gradient, which is counted elsewhere."""
        self._gradients += parameter.nbytes

    def begin_layer(self, layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        """What is made from now on is a layer's."""
        self.given.append(tree_map_only(Tensor, _given, arguments))
        self._made = []

    def end_layer(self, *_: Any) -> None:
        """The layer has been computed."""
        assert self._made is not None
        self._made_by_layers.append(self._made)
        self._made = None

    def end_forward(self) -> None:
        """The model has been computed; autocast still has its copies of weights."""
        self.forward_peak = self._peak
        self._left_by_layers = list(map(_alive, self._made_by_layers))

    def begin_backward(self) -> None:
        """The forward pass is over."""
        self._peak = self._alive
        kept = map(_alive, self._made_by_layers)
        self.layers = [LayerTrace(*one) for one in zip(self._left_by_layers, kept, strict=True)]

    def end_backward(self) -> None:
        """All gradients are there."""
        self.backward_peak = self._peak


def _given(tensor: Tensor) -> Given:
    return Given(tensor.shape, tensor.dtype, tensor.requires_grad)


def _alive(pieces: "list[ref[_Bytes]]") -> int:
    return sum(piece.size for one in pieces if (piece := one()) is not None)


def traced_model(config: ModelConfig, precision: str) -> LCM:
    """A model without memory; precision as for `trace_micro_batch`."""
    # Masks are what attention keeps for the backward pass on a CPU; a GPU's kernel needs none that is stored.
    model = meta_model(config.model_copy(update={"attention": "sdpa"}))
    return model.to(torch.bfloat16) if precision == "bf16-weights" else model


def trace_micro_batch(
    config: ModelConfig,
    objective_name: str,
    rows: int,
    length: int,
    device_type: str,
    precision: str,
    *,
    recomputed: bool = False,
) -> MemoryTrace:
    """Compute one micro-batch without memory.

    Args:
        config: the model's sizes.
        objective_name: of `train.objective`.
        rows: in the micro-batch.
        length: concepts in a row.
        device_type: `cpu` or `cuda`, whose kernels are meant; it need not be here.
        precision: `fp32`; `bf16` for autocast over float32 weights; `bf16-weights` for weights that are bf16.
        recomputed: with activation checkpointing of all layers.
    """
    model = traced_model(config, precision)
    objective = create_objective(model, objective_name)
    model.requires_grad_(False)  # the meta tensors inside; the parameters around them are new
    device = torch.device(device_type)
    kernels = _GPUKernels if device_type == "cuda" else nullcontext
    for layer in model.blocks():  # when a layer is recomputed, what is around the backward pass is off
        layer.forward = partial(_under, kernels, layer.forward)
        if recomputed:  # as `prepare_layers` does it, but that there are no random numbers to be drawn again
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    inverse_rms(torch.zeros(1, config.width), config.norm_eps)  # its constants are kept, and must be real ones
    trace = MemoryTrace()
    with _Operations(trace, device), kernels():
        _empty(model, trace, device)
        for layer in model.blocks():
            layer.register_forward_pre_hook(trace.begin_layer)
            layer.register_forward_hook(trace.end_layer)
        objective.train()
        fields = {name: FIELDS[name] for name in objective.fields}
        batch = {
            name: torch.empty(field.shape(rows, length, config.dim), dtype=field.dtype)
            for name, field in fields.items()
        }
        with torch.autocast("cpu", torch.bfloat16) if precision != "fp32" else nullcontext():
            loss = objective(**batch)
            trace.end_forward()
        trace.begin_backward()
        loss.sum.backward()
        trace.end_backward()
    return trace


def _under(context: Callable[[], AbstractContextManager[Any]], function: Callable[..., T], *args: Any) -> T:
    with context():
        return function(*args)


def _empty(model: nn.Module, trace: MemoryTrace, device: torch.device) -> None:
    """Put tensors without numbers in the place of a model's parameters and buffers; they count nothing."""
    for part in model.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            empty = nn.Parameter(_Shape.of(parameter, device, _Bytes(trace, 0)))
            empty.register_post_accumulate_grad_hook(trace.add_gradient)
            part._parameters[name] = empty
        for name, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[name] = _Shape.of(buffer, device, _Bytes(trace, 0))


class _Bytes:
    """A piece of memory, alive as long as a tensor refers to it."""

    __slots__ = ("__weakref__", "size", "trace")

    def __init__(self, trace: MemoryTrace, size: int) -> None:
        self.trace, self.size = trace, size
        trace.add(self)

    def __del__(self) -> None:
        self.trace.take(self.size)


class _Shape(torch.Tensor):
    """A tensor without numbers. For autograd and autocast it is a CPU's, so that a GPU need not be here."""

    meta: Tensor
    bytes: _Bytes
    claimed: torch.device

    @staticmethod
    def of(meta: Tensor, device: torch.device, memory: _Bytes) -> "_Shape":
        shape = torch.Tensor._make_wrapper_subclass(
            _Shape, meta.size(), strides=meta.stride(), storage_offset=meta.storage_offset(), dtype=meta.dtype
        )
        shape.meta, shape.bytes, shape.claimed = meta, memory, device
        return shape

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.claimed

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func}: a tensor without numbers is only for tracing memory")


_KNOWN: dict[Any, list[Any]] = {}
"""Shapes, strides and types of results of operations seen before: layers repeat each other."""


class _Operations(TorchDispatchMode):
    """Gives every operation's results their shapes, and adds up what they take."""

    def __init__(self, trace: MemoryTrace, device: torch.device) -> None:
        super().__init__()
        self.trace = trace
        self.device = device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or every call would be wrapped by the compiler, which takes seconds to import

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._fused_sdp_choice.default:
            return SDPBackend.FLASH_ATTENTION.value
        schema = func._schema
        if schema.name.endswith("_"):  # in place
            return args[0]
        inputs: list[_Shape] = []
        meta_args = [_to_meta(arg, inputs) for arg in args]
        meta_kwargs = {name: _to_meta(arg, inputs) for name, arg in (kwargs or {}).items()}
        if any(argument.name == "device" for argument in schema.arguments):
            meta_kwargs["device"] = torch.device("meta")
        results = self._run(func, meta_args, meta_kwargs, inputs)
        shapes = [self._shape(result, inputs) if isinstance(result, Tensor) else result for result in results]
        one = len(schema.returns) == 1
        return (
            shapes[0] if one and str(schema.returns[0].type) != "List[Tensor]" else (shapes if one else tuple(shapes))
        )

    def _run(self, func: Any, args: list[Any], kwargs: dict[str, Any], inputs: list[_Shape]) -> list[Any]:
        """The operation's results on meta tensors; new ones come from memory of the same operation."""
        key = (func, *map(_signature, args), *((name, _signature(arg)) for name, arg in kwargs.items()))
        if key in _KNOWN:
            return [
                torch.empty_strided(result[0], result[1], dtype=result[2], device="meta")
                if type(result) is tuple
                else result
                for result in _KNOWN[key]
            ]
        out = func(*args, **kwargs)
        results = list(out) if isinstance(out, (tuple, list)) else [out]
        storages = {tensor.meta.untyped_storage()._cdata for tensor in inputs}
        if not any(isinstance(x, Tensor) and x.untyped_storage()._cdata in storages for x in results):
            _KNOWN[key] = [_signature(result) if isinstance(result, Tensor) else result for result in results]
        return results

    def _shape(self, result: Tensor, inputs: list[_Shape]) -> Tensor:
        storage = result.untyped_storage()
        for shape in inputs:
            if shape.meta is result:
                return shape
            if shape.meta.untyped_storage()._cdata == storage._cdata:
                return _Shape.of(result, self.device, shape.bytes)
        return _Shape.of(result, self.device, _Bytes(self.trace, storage.nbytes()))


def _to_meta(argument: Any, inputs: list[_Shape]) -> Any:
    if isinstance(argument, _Shape):
        inputs.append(argument)
        return argument.meta
    if isinstance(argument, Tensor):
        return argument.to("meta")  # a constant of the model's, small
    if isinstance(argument, (list, tuple)):
        return [_to_meta(one, inputs) for one in argument]
    return argument


def _signature(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.stride(), argument.dtype
    return tuple(map(_signature, argument)) if isinstance(argument, list) else argument


class _GPUKernels(TorchFunctionMode):
    """What a GPU computes otherwise than a CPU, and keeps otherwise for the backward pass."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kernel = _GPU_KERNELS.get(func)
        if kernel is not None:
            return kernel(*args, **(kwargs or {}))
        # A GPU that is not here cannot be asked for a new tensor: it comes from the CPU, and says that it does not.
        args = tuple(map(_on_cpu, args))
        return func(*args, **{name: _on_cpu(value) for name, value in (kwargs or {}).items()})


def _on_cpu(argument: Any) -> Any:
    return torch.device("cpu") if isinstance(argument, torch.device) else argument


def _dropout(x: Tensor, p: float, training: bool, inplace: bool = False) -> Tensor:
    return aten.native_dropout(x, p, training)[0]  # a mask of bytes


def _rms_norm(x: Tensor, shape: list[int], weight: Tensor | None, eps: float) -> Tensor:
    return _FusedRMSNorm.apply(x, weight)


class _FusedRMSNorm(torch.autograd.Function):
    """Keeps its input and a number for each vector; on a CPU the operation falls apart into others that keep more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, torch.empty_like(x[..., 0], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, is_causal: bool) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)[0]  # keeps what FlexAttention keeps


_GPU_KERNELS: dict[Any, Callable[..., Tensor]] = {
    nn.functional.dropout: _dropout,
    nn.functional.rms_norm: _rms_norm,
    nn.functional.scaled_dot_product_attention: _attention,
}
