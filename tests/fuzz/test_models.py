"""Damaged and hostile model files: one line refuses them, or they are a model; what is in them never runs."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, seed, settings
from hypothesis import strategies as st
from safetensors import torch as safetensors
from torch import Tensor

from benchmark import models
from benchmark.errors import InputError
from benchmark.models.file import read, write
from benchmark.models.model import describe
from benchmark.models.preprocessing import Preprocessing
from benchmark.registries import METHODS
from benchmark.toolkit.backbones import digest
from tests.reference.mutations import damages
from tests.reference.toy import make_spec, make_train, seeded, tiny_config

pytestmark = pytest.mark.filterwarnings("error")

#: A closed form, one with a vote, one with several maps, one with several networks.
KEPT = ("eszsl", "dap", "latem", "vaegan")
TRAP = Path(tempfile.gettempdir()) / "a-model-file-ran"
#: What programs stumble over, where a number, a text, a list or a mapping is expected.
ODD = st.one_of(
    st.sampled_from([None, True, -1, 0, 1, 2**31, 10**6, 10**12, 10**400, 0.5, 1e308, "", "\x1b[2J\n", "x" * 500]),
    st.sampled_from([[], {}, [[]], {"tensor": [0]}, {"tensor": [5, -1]}, {"tuple": 3}, {"array": []}, {"list": [{}]}]),
    st.sampled_from(["eszsl", "none", "../evil", "os.system", "__class__", "auto"]),
    st.text(max_size=5),
)
KEYS = st.sampled_from(["method.__class__", "_modules", "method._forward_hooks", "forward", "a\nb", "\x1b[2J", ""])


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (TRAP,)


@cache
def sound(method: str) -> bytes:
    """The file of a small model, which need not be fitted for that."""
    data, held = make_train()
    config = tiny_config(METHODS[method])
    fitted = METHODS[method].obj(data.meta, config, seeded(0)).eval().requires_grad_(False)
    fitted.attributes = data.attributes
    about = {"class_names": list(held.class_names), "origin": {}, "provenance": {}}
    spec = make_spec(method=method)
    transform = Preprocessing(config.preprocess).fit(data.features)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        write(path, describe(fitted, transform, data.attributes, 0.25, spec=spec, seed=0, **about))
        return path.read_bytes()


@cache
def pickles() -> tuple[bytes, ...]:
    """What is unpickled where somebody is careless, alone and where other loaders would look for it."""
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save({"weight": Trap()}, file.name)
        zipped = Path(file.name).read_bytes()
    plain = pickle.dumps(Trap())
    return plain, zipped, sound("eszsl") + plain, len(plain).to_bytes(8, "little") + plain


@cache
def parts(method: str) -> tuple[str, dict[str, Tensor]]:
    """What the header of a sound file says, as JSON, and its tensors."""
    content = sound(method)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["zsl_model"]
    return header, safetensors.load(content)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A file whose digest is right, as whoever makes one on purpose can see to."""
    method = draw(st.sampled_from(KEPT))
    text, tensors = parts(method)
    header, tensors = json.loads(text), dict(tensors)
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            change_json(draw, draw(st.sampled_from([header["card"], header["values"]])))
        else:
            change_tensors(draw, tensors)
    header["sha256"] = draw(st.just("") | st.none()) if draw(st.integers(0, 19)) == 0 else sha256(header, tensors)
    return safetensors.save(tensors, {"zsl_model": json.dumps(header)})


def sha256(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(json.dumps([header["card"], header["values"], digest(tensors)]).encode()).hexdigest()


def change_json(draw: st.DrawFn, node: Any) -> None:
    """Change one entry, at any depth: another value, another key, none, or that of a neighbour."""
    while True:
        places = sorted(node) if isinstance(node, dict) else range(len(node))
        if not places:
            return
        place = draw(st.sampled_from(places))
        if not (isinstance(node[place], dict | list) and node[place] and draw(st.booleans())):
            break
        node = node[place]
    what = draw(st.sampled_from(["value", "value", "value", "gone", "key", "neighbour"]))
    if what == "value":
        node[place] = copy.deepcopy(draw(ODD))  # or else a later change would be one of what is drawn from
    elif what == "neighbour":
        node[place] = node[draw(st.sampled_from(places))]
    elif what == "key" and isinstance(node, dict):
        node[draw(KEYS)] = node.pop(place)
    else:
        del node[place]


def change_tensors(draw: st.DrawFn, tensors: dict[str, Tensor]) -> None:
    """Swap two, lose one, or make one of another shape, type or content."""
    names = sorted(tensors)
    if len(names) < 2:
        return
    a, b = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    what = draw(st.sampled_from(["swap", "gone", "shape", "empty", "type", "nan"]))
    if what == "swap":
        tensors[a], tensors[b] = tensors[b], tensors[a]
    elif what == "gone":
        del tensors[a]
    elif what == "shape":
        tensors[a] = tensors[a].reshape(-1, 1).clone()
    elif what == "empty":
        tensors[a] = tensors[a][:0].clone() if tensors[a].ndim else tensors[a]
    elif what == "type":
        tensors[a] = tensors[a].to(draw(st.sampled_from([torch.float16, torch.int64, torch.bool, torch.float64])))
    elif tensors[a].is_floating_point():
        tensors[a] = torch.full_like(tensors[a], float("nan"))


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Why it is no sound file, and its content."""
    kind = draw(st.sampled_from(["damaged", "damaged", "hostile", "hostile", "hostile", "pickle"]))
    if kind == "hostile":
        return kind, draw(hostile())
    if kind == "damaged":
        return kind, draw(damages())(sound(draw(st.sampled_from(KEPT))))
    content = draw(st.sampled_from(pickles()))
    return kind, draw(damages())(content) if draw(st.booleans()) else content


def check(path: Path, kind: str, content: bytes) -> None:
    path.write_bytes(content)
    refusal = ""
    try:
        models.load(path)
    except InputError as error:
        refusal = str(error)
    if refusal:
        event("refused")
        assert refusal.startswith(f"{path}: ")
        assert refusal.isprintable()
        assert len(refusal) < len(str(path)) + 400
    else:
        event(f"{kind}, taken")
        if kind != "hostile":
            path.with_name("sound").write_bytes(sound(read(path).card.spec.method))
            assert read(path).sha256 == read(path.with_name("sound")).sha256
    assert not TRAP.exists(), "what was in the file has run"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all inputs."""
    return tmp_path_factory.mktemp("fuzz") / "m.safetensors"


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@seed(1)
@settings(max_examples=100, database=None, suppress_health_check=QUIET)
@given(file=files())
def test_some(path: Path, file: tuple[str, bytes]) -> None:
    check(path, *file)


@pytest.mark.fuzz
@seed(2)
@settings(max_examples=10_000, database=None, suppress_health_check=QUIET)
@given(file=files())
def test_many(path: Path, file: tuple[str, bytes]) -> None:
    check(path, *file)
