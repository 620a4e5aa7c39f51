"""Where a tensor would be if the GPU were real, and that those of GPU and CPU do not meet.

Known of what is made by functions of torch, which is what the project's own code does. FSDP and DeepSpeed make tensors
in ways that are not seen here, and what a backward pass computes again is not seen either.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

PLACE: Any = WeakTensorKeyDictionary()
"""Of a tensor: `cpu` or `cuda`; one that is not in it was not seen being made."""

CROSSING = {
    *("to", "cpu", "cuda", "type", "copy_", "index_copy_", "_copy_from", "broadcast", "all_reduce", "all_gather"),
    *("tolist", "item", "__bool__", "__float__", "__int__", "__index__", "__repr__", "__format__"),
    *(
        "__get__",
        "__set__",
        "set_",
        "untyped_storage",
        "storage_offset",
        "data_ptr",
        "_has_compatible_shallow_copy_type",
    ),
    *("size", "dim", "numel", "nelement", "element_size", "stride", "__len__", "__hash__", "is_contiguous", "_is_view"),
    *("is_floating_point", "is_complex", "has_names", "requires_grad_", "register_hook", "detach_", "backward"),
}
"""Functions that may see tensors of both: they copy, or look at no numbers."""

OF_NUMPY = {"numpy", "__array__"}
INDEXED = {"__getitem__", "__setitem__"}
MOVING = {"to", "cpu", "cuda"}


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def result_and_place(call: Callable[..., Any], func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Call a torch function, and note down where its result would be.

    Args:
        call: what is called.
        func: the function that is meant, which has not been brought to the CPU.
        name: its name.
        args: its arguments.
        kwargs: likewise.

    Raises:
        RuntimeError: a tensor of the GPU meets one of the CPU's, or NumPy.
    """
    if func == torch.Tensor.device.__get__:
        return torch.device("cuda", 0) if PLACE.get(args[0]) == "cuda" else func(*args)
    if func == torch.Tensor.is_cuda.__get__:
        return PLACE.get(args[0]) == "cuda"
    given = [*tensors(args), *tensors(kwargs)]
    # A number in a tensor of the CPU's may meet any.
    places = {PLACE[one] for one in given if one in PLACE and (one.dim() or PLACE[one] == "cuda")}
    if name in OF_NUMPY and "cuda" in places and not kwargs.get("force"):
        raise RuntimeError(f"{name} of a GPU's tensor")
    indexed = name in INDEXED and PLACE.get(given[0]) == "cuda"  # indices may be the CPU's
    if len(places) > 1 and name not in CROSSING and not indexed:
        shown = [(tuple(one.shape), PLACE.get(one)) for one in given]
        raise RuntimeError(f"{name}: tensors of CPU and GPU meet: {shown}")
    result = call(*args, **kwargs)
    if name == "__set__" and len(given) == 2:  # x.data = y, x.grad = y
        if given[1] in PLACE:
            PLACE[given[0]] = PLACE[given[1]]
        return result
    where = _where(name, given, places, args, kwargs)
    if name in MOVING and result is args[0] and where not in (None, PLACE.get(result)):  # it is another one there
        result = result.detach() if isinstance(result, torch.nn.Parameter) else result.view_as(result)
    for one in tensors(result):
        if where is not None and not any(one is other for other in given if other in PLACE):
            PLACE[one] = where
    return result


def _where(name: str, given: list[torch.Tensor], places: set[str], args: Any, kwargs: Any) -> str | None:
    """Where a function's result is; none: unknown."""
    if name in ("cpu", "cuda"):
        return name
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda")):
            return str(value).split(":")[0]
    if name == "to" and len(given) > 1:
        return PLACE.get(given[1])
    if "cuda" in places:
        return "cuda"
    return "cpu" if "cpu" in places or not given else None
