"""The file of a kept model: safetensors, whose header holds the card and all that is no tensor as JSON, and a digest.

Nothing in it is code, and reading it runs none of it: the method's own class is built from the settings, by the code
that is installed, and given the tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.errors import InputError, one_line, printable
from benchmark.files import read_bytes, write_whole
from benchmark.models.model import Card, Model
from benchmark.models.state import StateError, Values, dump, restore
from benchmark.registries import METHODS, MethodEntry
from benchmark.toolkit.backbones import digest

#: The entry of the header: one alone, as safetensors writes several in any order.
_ENTRY = "zsl_model"
#: Numbers in a tensor that are no reason to doubt a file: one image may give millions, in a layer or for all classes.
_AT_LEAST = 2**26
_LENGTH = 8  # bytes at the start of a file that say how long its header is


@dataclass(frozen=True)
class Content:
    """What a model file holds.

    Attributes:
        card: what the model says of itself.
        values: its state but for tensors.
        tensors: its tensors.
        sha256: the digest of all of this.
    """

    card: Card
    values: Values
    tensors: dict[str, Tensor]
    sha256: str


def write(path: Path, model: Model) -> str:
    """Keep a model, whole or not at all; returns the digest of what it holds.

    Raises:
        InputError: it holds what cannot be kept, or the file cannot be written.
    """
    try:
        values, tensors = dump(model, Model.untrained(model.card))
    except StateError as error:
        raise InputError(f"{model.card.title}: cannot be kept: {error}") from None
    card = json.loads(model.card.model_dump_json())
    sha256 = _digest(card, values, tensors)
    header = json.dumps({"sha256": sha256, "card": card, "values": values})
    write_whole(path, safetensors.save(tensors, {_ENTRY: header}))
    return sha256


def read(path: Path) -> Content:
    """What a model file holds, checked against its digest.

    Raises:
        InputError: it cannot be read, is no model file, or was damaged.
    """
    content = read_bytes(path)
    try:
        tensors = safetensors.load(content)
        size = int.from_bytes(content[:_LENGTH], "little")
        header = json.loads(json.loads(content[_LENGTH : _LENGTH + size])["__metadata__"][_ENTRY])
        card, values, found = header["card"], dict(header["values"]), header["sha256"]
        if found != _digest(card, values, tensors):
            raise InputError(f"{path}: was damaged: its content is not what its digest says; get it again")
        return Content(Card.model_validate_json(json.dumps(card)), values, tensors, found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = printable(f"{key}: {first['msg']}")
        raise InputError(f"{path}: not a model that this version can read: {reason}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a model file, or damaged: {printable(one_line(error))}") from None


def load(path: Path | str, device: str = "cpu", weights: str | None = None) -> Model:
    """The model that a file holds, ready to predict.

    Its method must be registered: that of a plug-in by ``benchmark.registries.load_plugins`` first. Where the code of
    the method has changed since it was fitted, a line on stderr says so.

    Args:
        path: a file that ``benchmark.run --keep-models`` wrote.
        device: where it is to compute.
        weights: the file of the weights of the backbone that its features came from, where they were those of a file;
            needed for images alone.

    Raises:
        InputError: the file is no sound model, or its method is not registered or another by now.
    """
    path = Path(path)
    content = read(path)
    name = content.card.spec.method
    if name not in METHODS:
        raise InputError(f"{path}: no method {name!r} here; where a plug-in defines it, give that by --plugin FILE")
    try:
        with _Bounded(max(tensor.numel() for tensor in content.tensors.values())):
            model = Model.untrained(content.card, weights)
            restore(model, content.values, content.tensors, torch.device(device))
            _probe(model)
    except InputError:
        raise
    except Exception as error:  # code that has changed since can raise anything over what it is given
        reason = printable(str(error) if isinstance(error, StateError) else one_line(error))
        raise InputError(f"{path}: does not fit the method {name!r} as it is here: {reason}") from None
    if changed := _changed(content.card.provenance, METHODS[name]):
        problem = f"the code of {name} has changed since it was fitted, and predictions may have: {', '.join(changed)}"
        print(f"warning: {path}: {problem}", file=sys.stderr)
    return model.eval()


def _changed(provenance: Mapping[str, Any], entry: MethodEntry) -> list[str]:
    """The modules of a method, and those that it shares with others of its kind, that are not what they were."""
    told, ours = provenance.get("sources"), entry.code
    if not isinstance(told, dict) or "method" not in told:
        return []
    then = {entry.module: told["method"], **told}
    kind = entry.module.partition(".")[0]
    return [name for name in ours if name.partition(".")[0] == kind and name in then and then[name] != ours[name]]


class _Bounded(TorchDispatchMode):
    """While this is entered, no tensor may be much larger than the ``largest`` of a file, whatever sizes it claims."""

    def __init__(self, largest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = max(_AT_LEAST, 8 * largest)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        sizes = args[0] if args else None
        if isinstance(sizes, list) and all(isinstance(size, int) for size in sizes):
            self._check(math.prod(sizes))  # what makes a tensor fills it too
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self._check(found.numel())
        return found

    def _check(self, n: int) -> None:
        if n > self._most:
            raise StateError(f"it claims sizes of which {n} numbers would follow")


def _probe(model: Model) -> None:
    """Let a model say something of an empty image: what does not fit together fails here, before it is used."""
    meta = model.method.meta
    kind = {"global": torch.float32, "local": torch.float16, "images": torch.uint8}[meta.kind]
    found = model.predict(torch.zeros(1, *(meta.grid or ()), meta.n_features, dtype=kind))
    if found.scores.shape != (1, len(model.card.class_names)) or len(model.attributes) != len(model.card.class_names):
        raise StateError(f"it scores {found.scores.shape[1]} classes and names {len(model.card.class_names)}")


def _digest(card: Any, values: Values, tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(json.dumps([card, values, digest(tensors)]).encode()).hexdigest()
