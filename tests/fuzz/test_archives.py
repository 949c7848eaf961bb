"""Broken and hostile archives: one line says what is wrong, or the data set lies in its folder; nothing else does."""

from __future__ import annotations

import io
import shutil
import stat
import tempfile
import warnings
import zipfile
from functools import cache
from pathlib import Path

import pytest
import scipy.io
from hypothesis import HealthCheck, event, given, seed, settings
from hypothesis import strategies as st

from benchmark.errors import InputError
from datasets.archive import REQUIRED, download
from tests.reference.mutations import NUMBERS, Damage, damages
from tests.reference.xlsa17 import cache_folder, toy_features, toy_splits

__all__ = ["cache_folder"]  # a fixture

pytestmark = pytest.mark.filterwarnings("error")

FOLDER = "xlsa17/data/CUB/"
NAMES = st.one_of(
    st.sampled_from(
        [
            *("../evil", "a/../../evil", f"{FOLDER}../../../../evil", f"{FOLDER}..", f"{FOLDER}.", "..", "/", ""),
            *("/tmp/evil", "//evil", "\\evil", "..\\evil", f"{FOLDER}..\\..\\evil", "C:\\evil", "C:evil", "c:/evil"),
            *(f"{FOLDER}res101.mat", f"{FOLDER}res101.mat/evil", f"{FOLDER}att_splits.mat", "CUB/res101.mat"),
            *(f"{FOLDER}evil\nfile", f"{FOLDER}\x1b[31mevil", f"{FOLDER}{'long' * 100}", f"{FOLDER}evil\x00.txt"),
            *(f"{FOLDER}con.txt", f"{FOLDER} ", f"{FOLDER}~", f"{FOLDER}-rf", "long" * 500),
        ]
    ),
    st.text(max_size=20).map(FOLDER.__add__),
)
KINDS = [0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK]
#: Where a local header and an entry of the directory have their fields: flags, packing, CRC, sizes, lengths of names.
FIELDS = {b"PK\x03\x04": (6, 8, 14, 18, 22, 26, 28), b"PK\x01\x02": (8, 10, 16, 20, 24, 28, 30, 32, 38, 42)}


@cache
def sound() -> dict[str, bytes]:
    files = {}
    for name, variables in (("res101.mat", toy_features()), ("att_splits.mat", toy_splits())):
        stream = io.BytesIO()
        scipy.io.savemat(stream, variables, do_compression=True)
        stream.seek(0)
        stream.write(b"MATLAB 5.0 MAT-file".ljust(116))  # SciPy's own holds the time of writing
        files[FOLDER + name] = stream.getvalue()
    return files | {f"{FOLDER}allclasses.txt": b"class 1\n" * 100, "xlsa17/README.txt": b"read me"}


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Archives with odd members, with headers that lie, with broken bytes, or with all of it."""
    members = st.lists(st.tuples(NAMES, st.sampled_from(KINDS), st.binary(max_size=30)), max_size=2)
    odd = draw(st.just([]) | members)
    content = pack(odd, draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        signature = draw(st.sampled_from(sorted(FIELDS)))
        field, number = draw(st.sampled_from(FIELDS[signature])), draw(st.sampled_from(NUMBERS))
        content = lie(content, signature, draw(st.integers(0, 9)), field, number)
    damage: Damage | None = draw(st.none() | damages())
    return damage(content) if damage else content


def pack(odd: list[tuple[str, int, bytes]], packing: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as bundle, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        for name, data in sound().items():
            bundle.writestr(zipfile.ZipInfo(name), data, packing)
        for name, kind, data in odd:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr = name, (kind | 0o777) << 16
            bundle.writestr(info, data, packing)
    return stream.getvalue()


def lie(content: bytes, signature: bytes, header: int, field: int, number: bytes) -> bytes:
    """The archive with another number in one field of one header."""
    starts = [at for at in range(len(content)) if content.startswith(signature, at)]
    at = starts[header % len(starts)] + field if starts else len(content)
    return content[:at] + number + content[at + len(number) :]


def check(folder: Path, content: bytes) -> None:
    """The archive is refused in one line, or its data set is there; and nothing is anywhere else."""
    root, archive, refusal = folder / "deep" / "root", folder / "archive.zip", ""
    archive.write_bytes(content)
    try:
        download(root, ["CUB"], archive.as_uri())
    except InputError as error:
        refusal = str(error)
    if refusal:
        event("refused")
        assert refusal.isprintable()
        assert len(refusal) < 3 * len(str(folder)) + 600
        assert list(root.iterdir()) == []
    else:
        event("taken")
        assert list(root.iterdir()) == [root / "CUB"]
        found = list((root / "CUB").iterdir())
        assert {file.name for file in found} >= REQUIRED.keys()
        assert all(stat.S_ISREG(file.lstat().st_mode) for file in found)
    assert sorted(folder.iterdir()) == [archive, folder / "deep"]
    assert list((folder / "deep").iterdir()) == [root]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all inputs, each of which gets one of its own in it."""
    return tmp_path_factory.mktemp("fuzz")


def try_input(folders: Path, content: bytes) -> None:
    folder = Path(tempfile.mkdtemp(dir=folders))
    try:
        check(folder, content)
    finally:
        shutil.rmtree(folder)
    assert not list(folders.iterdir())


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@seed(1)
@settings(max_examples=100, database=None, suppress_health_check=QUIET)
@given(content=archives())
def test_some(folders: Path, content: bytes) -> None:
    try_input(folders, content)


@pytest.mark.fuzz
@seed(2)
@settings(max_examples=10_000, database=None, suppress_health_check=QUIET)
@given(content=archives())
def test_many(folders: Path, content: bytes) -> None:
    try_input(folders, content)
