"""Broken and hostile ``.mat`` files: whatever their bytes are, one line says what is wrong, or the data are valid."""

from __future__ import annotations

import io
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, event, given, seed, settings
from hypothesis import strategies as st

from benchmark.api import LARGEST
from benchmark.errors import InputError
from tests.reference.mutations import Damage, damages
from tests.reference.xlsa17 import cache_folder, toy, toy_features, toy_splits, write_v73

__all__ = ["cache_folder"]  # a fixture

pytestmark = pytest.mark.filterwarnings("error")

FILES = ("res101.mat", "att_splits.mat")
FORMS = ("packed", "plain", "v73", "repacked")


@cache
def sound(name: str, form: str) -> bytes:
    """The file of TOY in one of the forms that a ``.mat`` file has; ``repacked`` is packed after it was damaged."""
    variables = {"res101.mat": toy_features, "att_splits.mat": toy_splits}[name]()
    if form == "v73":
        pytest.importorskip("h5py")
        with tempfile.TemporaryDirectory() as folder:
            write_v73(Path(folder) / name, variables)
            return (Path(folder) / name).read_bytes()
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=form == "packed")
    stream.seek(0)
    stream.write(b"MATLAB 5.0 MAT-file".ljust(116))  # SciPy's own holds the time of writing, and the seed must tell all
    return stream.getvalue()


def elements(content: bytes) -> Iterator[bytes]:
    """The variables of a file that is not packed."""
    at = 128
    while at < len(content):
        size = 8 + struct.unpack_from("<I", content, at + 4)[0]
        yield content[at : at + size]
        at += size


def damaged(name: str, form: str, damage: Damage, number: int) -> bytes:
    content = sound(name, form)
    if form != "repacked":
        return damage(content)
    found = list(elements(content))
    found[number % len(found)] = damage(found[number % len(found)])
    packed = map(zlib.compress, found)
    return content[:128] + b"".join(struct.pack("<II", 15, len(part)) + part for part in packed)


def check(folder: Path) -> None:
    """The data set is refused in one line that names the file, or valid."""
    before = {file: file.read_bytes() for file in folder.iterdir()}
    dataset, refusal = toy(folder.parent), ""
    try:
        split = dataset.load()
        assert len(dataset.revision) == 12
    except InputError as error:
        refusal = str(error)
    if refusal:
        event(found[0] if (found := re.findall("ended by .*", refusal)) else "refused")
        assert refusal.startswith(str(folder))
        assert refusal.isprintable()
        assert len(refusal) < len(str(folder)) + 400
    else:
        event("valid")
        split.check()
        assert np.abs(split.features).max() <= LARGEST
        assert all(name.isprintable() for name in split.class_names)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all inputs, each of which gets one of its own in it: the cache knows a file by its path."""
    return tmp_path_factory.mktemp("fuzz")


def try_inputs(folders: Path, name: str, form: str, damage: Damage, number: int) -> None:
    folder = Path(tempfile.mkdtemp(dir=folders)) / "TOY"
    folder.mkdir()
    for file in FILES:
        (folder / file).write_bytes(sound(file, "packed"))
    (folder / name).write_bytes(damaged(name, form, damage, number))
    try:
        check(folder)
    finally:
        shutil.rmtree(folder.parent)
    assert not list(folders.iterdir())


INPUTS = given(name=st.sampled_from(FILES), form=st.sampled_from(FORMS), damage=damages(), number=st.integers(0, 7))
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@seed(1)
@settings(max_examples=100, database=None, suppress_health_check=QUIET)
@INPUTS
def test_some(folders: Path, name: str, form: str, damage: Damage, number: int) -> None:
    try_inputs(folders, name, form, damage, number)


@pytest.mark.fuzz
@seed(2)
@settings(max_examples=10_000, database=None, suppress_health_check=QUIET)
@INPUTS
def test_many(folders: Path, name: str, form: str, damage: Damage, number: int) -> None:
    try_inputs(folders, name, form, damage, number)
