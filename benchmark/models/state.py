"""The one rule by which the fitted state of any module becomes tensors and plain values, and comes back.

The state of a module is what it and its parts hold in parameters, buffers and attributes, however a method came by it:

- tensors, NumPy arrays, numbers, texts, booleans, None, and tuples, lists and dicts (with texts for keys) of these are
  kept, to the last bit and with the order in which a tensor lies in memory, on which sums depend;
- ``torch.Generator`` is not: random numbers are for training;
- all else, settings and sizes above all, is what ``__init__`` made of the same arguments, and is made by it again. What
  only ``fit`` made is refused, by its name: it could be anything, and would have to be unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Path of a part and name of its attribute -> what it holds, in JSON: see ``_encoded``.
Values = dict[str, Any]
#: What torch's modules hold of themselves.
_OF_TORCH = {*vars(nn.Module()), "training"}


class StateError(Exception):
    """A state that cannot be kept, or does not fit; its text says in one line which part of it, and why."""


def dump(module: nn.Module, twin: nn.Module) -> tuple[Values, dict[str, Tensor]]:
    """The state of a fitted ``module``: values for JSON, and the tensors that they name.

    Args:
        module: what is kept.
        twin: the same as ``__init__`` made it.

    Raises:
        StateError: it holds something that is no data and that the twin lacks.
    """
    tensors: dict[str, Tensor] = {}
    values: Values = {}
    parts, others = dict(module.named_modules()), dict(twin.named_modules())
    if strange := sorted(parts.keys() ^ others.keys()):
        raise StateError(f"{strange[0]!r} must be a part from __init__ on, was made or removed by fit instead")
    for path, part in parts.items():
        for name, value in _held(part):
            where = f"{path}.{name}" if path else name
            try:
                values[where] = _encoded(value, where, tensors)
            except StateError:
                if not (isinstance(value, torch.Generator) or hasattr(others[path], name)):
                    raise
    return values, tensors


def restore(twin: nn.Module, values: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Give a ``twin``, as ``__init__`` made it, the state that ``dump`` found.

    Args:
        twin: what the state is for.
        values: what ``dump`` returned.
        tensors: the same.
        device: where its tensors are to be.

    Raises:
        StateError: the state is none of such a module.
    """
    parts = dict(twin.named_modules())
    missing = {f"{path}.{name}" if path else name for path, part in parts.items() for name in part._parameters}
    for where, encoded in values.items():
        path, _, name = where.rpartition(".")
        if path not in parts or name in _OF_TORCH or name in parts[path]._modules:
            raise StateError(f"{where!r} is no part of it")
        missing.discard(where)
        _put(parts[path], name, _decoded(encoded, where, tensors, device), where)
    if missing:
        raise StateError(f"{min(missing)!r} is missing")


def _held(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name -> value of all that a part holds itself."""
    yield from part._parameters.items()
    yield from part._buffers.items()
    yield from ((name, value) for name, value in vars(part).items() if name not in _OF_TORCH)


def _put(part: nn.Module, name: str, value: Any, where: str) -> None:
    if (parameter := part._parameters.get(name)) is not None:
        if not isinstance(value, Tensor) or value.shape != parameter.shape or value.dtype != parameter.dtype:
            raise StateError(f"{where!r} must be of shape {tuple(parameter.shape)} and {parameter.dtype}")
        parameter.data = value
    elif name in part._buffers:
        if not (value is None or isinstance(value, Tensor)):
            raise StateError(f"{where!r} must be a tensor")
        part._buffers[name] = value
    else:
        vars(part)[name] = value


def _encoded(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` in JSON: numbers, texts and None as they are, all else as a dict of one entry that says what it is."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
        order = sorted(range(value.ndim), key=value.stride, reverse=True)  # of the dimensions in memory
        tensors[where] = value.detach().cpu().permute(order).clone(memory_format=torch.contiguous_format)
        return {"tensor": order}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
        tensors[where] = torch.from_numpy(np.array(value, order="C"))
        return {"array": []}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_encoded(each, f"{where}.{place}", tensors) for place, each in enumerate(value)]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _encoded(each, f"{where}.{key}", tensors) for key, each in value.items()}}
    raise StateError(
        f"{where!r} must be a tensor, an array, a number, a text, or a tuple, list or dict of them to be kept, or be "
        f"made by __init__, got {type(value).__name__} instead"
    )


def _decoded(encoded: Any, where: str, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if encoded is None or type(encoded) in (bool, int, float, str):
        return encoded
    try:
        ((kind, content),) = encoded.items()
        if kind == "tensor":
            # A copy of its own: what is read from a file may lie anywhere in memory, on which sums may depend.
            return tensors[where].clone().to(device).permute(np.argsort(content).tolist())
        if kind == "array":
            return tensors[where].numpy().copy()[()]
        if kind == "dict":
            return {key: _decoded(each, f"{where}.{key}", tensors, device) for key, each in content.items()}
        parts = [_decoded(each, f"{where}.{place}", tensors, device) for place, each in enumerate(content)]
        return {"tuple": tuple, "list": list}[kind](parts)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        raise StateError(f"{where!r} is garbled") from None
