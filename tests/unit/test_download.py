"""The downloader against a real HTTP server on loopback: honest, broken off, lying, and hostile."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import pty
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from benchmark.errors import InputError
from datasets.archive import download
from datasets.download import NAMES, main
from tests.reference.processes import interruptible

REPOSITORY = Path(__file__).parents[2]
LISTS = {"trainclasses1.txt": b"a\nb\n", "testclasses.txt": b"c\n"}
Files = dict[str, bytes]


def mat(**variables) -> bytes:
    buffer: Any = io.BytesIO()
    savemat(buffer, variables, do_compression=True)
    return bytes(buffer.getvalue())


def dataset(seed: int) -> Files:
    rng = np.random.default_rng(seed)
    return {
        "res101.mat": mat(features=rng.random((16, 60)), labels=np.repeat([1, 2, 3], 20)[:, None]),
        "att_splits.mat": mat(
            att=rng.random((4, 3)),
            allclasses_names=np.array([["a"], ["b"], ["c"]], dtype=object),
            trainval_loc=np.arange(1, 31),
            test_seen_loc=np.arange(31, 41),
            test_unseen_loc=np.arange(41, 61),
        ),
        **LISTS,
    }


CONTENT = {name: dataset(seed) for seed, name in enumerate(NAMES)}


def members(content: dict[str, Files] = CONTENT) -> Files:
    files = {f"xlsa17/data/{name}/{file}": data for name, files in content.items() for file, data in files.items()}
    return {"xlsa17/README.txt": b"read me", "__MACOSX/xlsa17/data/CUB/._res101.mat": b"fork", **files}


def pack(files: Files, links: Files | None = None) -> bytes:
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("xlsa17/data/CUB/", b"")
            for name, data in files.items():
                bundle.writestr(name, data)
            for name, data in (links or {}).items():
                info = zipfile.ZipInfo(name)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                bundle.writestr(info, data)
        return buffer.getvalue()


ARCHIVE = pack(members())


class Server(ThreadingHTTPServer):
    """Serves ``body`` on any path, as honestly as its switches say, and writes down what it was asked and sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = ARCHIVE
        self.status = 200
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.break_after: int | None = None  # bytes of a body, then the connection is cut
        self.stated_less: int | None = 0  # how much Content-Length falls short of the body; None: it is not sent
        self.ranges = "honest"  # or: ignored, unsatisfiable, shifted, unconditional
        self.stall = False  # after break_after bytes, keep the connection open until go_on
        self.go_on = threading.Event()
        self.asked: list[SimpleNamespace] = []
        self.url = f"http://127.0.0.1:{self.server_port}/xlsa17.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, start = self.server, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        validators = [server.headers.get("ETag"), server.headers.get("Last-Modified")]
        entry = SimpleNamespace(range=self.headers["Range"], if_range=self.headers["If-Range"], sent=0)
        server.asked.append(entry)
        if wanted and server.ranges == "unsatisfiable":
            self.send_error(416)
            return
        same = self.headers["If-Range"] in validators or server.ranges == "unconditional"
        if wanted and server.ranges != "ignored" and same:
            start = int(wanted[1]) - (1 if server.ranges == "shifted" else 0)
        self.send_response(206 if start else server.status)
        end = len(server.body) - (server.ranges == "shifted" and start > 0)  # as many bytes as asked for, but others
        if start:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(server.body)}")
        for name, value in server.headers.items():
            self.send_header(name, value)
        if server.stated_less is not None:
            self.send_header("Content-Length", str(end - start - server.stated_less))
        self.end_headers()
        rest = server.body[start:end][: server.break_after]
        self.wfile.write(rest)
        entry.sent = len(rest)
        self.wfile.flush()
        if server.stall:
            server.go_on.wait()
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def tree(root: Path) -> Files:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def expected(*names: str) -> Files:
    return {f"{name}/{file}": data for name in names for file, data in CONTENT[name].items()}


def refused(root: Path, server: Server, **options) -> str:
    """The one-line message of a download that fails; ``root`` holds no data set afterwards."""
    with pytest.raises(InputError) as caught:
        download(root, ["CUB"], server.url, **options)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert [file for file in tree(root) if not file.startswith(".xlsa17.zip.part")] == []
    assert not [path for path in root.iterdir() if path.is_dir()]
    return message


def partial(root: Path) -> bytes:
    return (root / ".xlsa17.zip.part").read_bytes()


def break_off(root: Path, server: Server, after: int = 3000) -> None:
    server.break_after = after
    assert f"broke off after {after} of the stated {len(server.body)} bytes" in refused(root, server)
    assert partial(root) == server.body[:after]
    server.break_after = None


# ----------------------------------------------------------------------------------------------------- honest servers


def test_wanted_data_sets_and_nothing_else_are_laid_out(server, tmp_path, capsys):
    root = tmp_path / "new" / "root"
    assert main(["--data-root", str(root), "--url", server.url, "cub", "APY", "CUB"]) == 0
    assert tree(root) == expected("CUB", "APY")
    assert {path.name for path in root.iterdir()} == {"CUB", "APY"}
    assert loadmat(root / "CUB" / "res101.mat")["features"].shape == (16, 60)
    out, err = capsys.readouterr()
    assert hashlib.sha256(ARCHIVE).hexdigest() in out
    assert err == ""  # no progress bar where there is no terminal
    assert [(entry.range, entry.sent) for entry in server.asked] == [(None, len(ARCHIVE))]


def test_the_data_root_and_the_names_have_defaults(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ZSL_DATA", str(tmp_path))
    assert main(["--url", server.url]) == 0
    assert tree(tmp_path) == expected("CUB", "SUN", "AWA2")


def test_present_data_sets_are_neither_downloaded_nor_touched(server, tmp_path, capsys):
    download(tmp_path, ["CUB"], server.url)
    (tmp_path / "CUB" / "res101.mat").write_bytes(b"mine")
    download(tmp_path, ["CUB"], server.url)
    assert len(server.asked) == 1
    assert "CUB: present" in capsys.readouterr().out
    download(tmp_path, ["CUB", "SUN"], server.url)
    assert tree(tmp_path) == expected("CUB", "SUN") | {"CUB/res101.mat": b"mine"}


def test_an_incomplete_data_set_is_completed(server, tmp_path):
    (tmp_path / "CUB").mkdir()
    (tmp_path / "CUB" / "att_splits.mat").write_bytes(CONTENT["CUB"]["att_splits.mat"])
    (tmp_path / "CUB" / "mine.mat").write_bytes(b"mine")
    download(tmp_path, ["CUB"], server.url)
    assert tree(tmp_path) == expected("CUB") | {"CUB/mine.mat": b"mine"}


def test_a_file_that_differs_is_not_overwritten_and_the_download_not_lost(server, tmp_path):
    (tmp_path / "CUB").mkdir()
    (tmp_path / "CUB" / "testclasses.txt").write_bytes(b"other")
    with pytest.raises(InputError, match=r"CUB/testclasses.txt: differs from the archive's file; move it away"):
        download(tmp_path, ["CUB"], server.url)
    assert set(tree(tmp_path)) == {"CUB/testclasses.txt", ".xlsa17.zip.part", ".xlsa17.zip.part.json"}
    (tmp_path / "CUB" / "testclasses.txt").unlink()
    download(tmp_path, ["CUB"], server.url)
    assert tree(tmp_path) == expected("CUB")
    assert len(server.asked) == 1


def test_a_required_digest(server, tmp_path):
    assert "sha256 must be " + "0" * 64 in refused(tmp_path, server, sha256="0" * 64)
    assert tree(tmp_path) == {}
    download(tmp_path, ["CUB"], server.url, sha256=hashlib.sha256(ARCHIVE).hexdigest().upper())
    assert tree(tmp_path) == expected("CUB")


def test_an_archive_on_this_machine_is_read_in_place(tmp_path):
    mine = tmp_path / "my archive.zip"
    mine.write_bytes(ARCHIVE)
    download(tmp_path / "root", ["SUN"], mine.as_uri())
    assert tree(tmp_path / "root") == expected("SUN")
    assert mine.read_bytes() == ARCHIVE
    mine.write_bytes(ARCHIVE[:-100])
    with pytest.raises(InputError, match="not a whole zip archive"):
        download(tmp_path / "root", ["CUB"], mine.as_uri())
    assert mine.read_bytes() == ARCHIVE[:-100]
    mine.unlink()
    with pytest.raises(InputError, match=r"my%20archive.zip: No such file"):
        download(tmp_path / "root", ["CUB"], mine.as_uri())


# ------------------------------------------------------------------------------------------- broken off and resumed


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": '"one"'}, '"one"'),
        ({"Last-Modified": "Thu, 19 Sep 2019 14:46:48 GMT"}, "Thu, 19 Sep 2019 14:46:48 GMT"),
        ({"ETag": 'W/"x"', "Last-Modified": "Thu, 19 Sep 2019 14:46:48 GMT"}, "Thu, 19 Sep 2019 14:46:48 GMT"),
    ],
)
def test_a_broken_download_is_resumed_without_fetching_a_byte_twice(server, tmp_path, headers, validator):
    server.headers = headers
    break_off(tmp_path, server, 3000)
    server.break_after = 2000
    assert "go on from there" in refused(tmp_path, server)
    server.break_after = None
    download(tmp_path, ["CUB"], server.url)
    assert [(entry.range, entry.if_range) for entry in server.asked] == [
        (None, None),
        ("bytes=3000-", validator),
        ("bytes=5000-", validator),
    ]
    assert sum(entry.sent for entry in server.asked) == len(ARCHIVE)
    assert tree(tmp_path) == expected("CUB")


@pytest.mark.parametrize("ranges", ["ignored", "unsatisfiable", "shifted"])
def test_a_server_without_proper_ranges_gives_a_clean_restart(server, tmp_path, ranges):
    break_off(tmp_path, server)
    server.ranges = ranges
    download(tmp_path, ["CUB"], server.url)
    assert server.asked[1].range == "bytes=3000-"
    assert tree(tmp_path) == expected("CUB")


@pytest.mark.parametrize("ranges", ["honest", "unconditional"])
def test_a_file_that_changed_between_tries_is_fetched_anew(server, tmp_path, ranges):
    break_off(tmp_path, server)
    server.ranges, server.headers = ranges, {"ETag": '"two"'}
    server.body = pack(replaced("testclasses.txt", b"d\n"))
    assert len(server.body) == len(ARCHIVE)  # so that nothing but the ETag tells them apart
    download(tmp_path, ["CUB"], server.url)
    assert [entry.range for entry in server.asked] == [None, "bytes=3000-", None][: 2 + (ranges == "unconditional")]
    assert server.asked[-1].sent == len(server.body)
    assert tree(tmp_path) == expected("CUB") | {"CUB/testclasses.txt": b"d\n"}


def test_without_a_validator_or_with_another_address_nothing_is_resumed(server, tmp_path):
    server.headers = {}
    server.break_after = 3000
    assert "start anew" in refused(tmp_path, server)
    server.headers = {"ETag": '"one"'}
    refused(tmp_path, server)
    server.break_after, server.url = None, server.url + "?other"
    download(tmp_path, ["CUB"], server.url)
    assert [entry.range for entry in server.asked] == [None] * 3
    assert tree(tmp_path) == expected("CUB")


@pytest.mark.parametrize("note", [b"", b"{}", b"\xff", b'{"url": "x", "validator": "", "length": "many"}'])
def test_a_damaged_note_gives_a_clean_restart(server, tmp_path, note):
    break_off(tmp_path, server)
    (tmp_path / ".xlsa17.zip.part.json").write_bytes(note)
    download(tmp_path, ["CUB"], server.url)
    assert tree(tmp_path) == expected("CUB")


@pytest.mark.parametrize("status", [200, 404, 503])
def test_an_error_page_does_not_cost_what_was_fetched(server, tmp_path, status):
    break_off(tmp_path, server)
    honest = server.body
    server.status, server.body, server.ranges = status, b"<!DOCTYPE html>sorry", "ignored"
    refused(tmp_path, server)
    server.status, server.body, server.ranges = 200, honest, "honest"
    download(tmp_path, ["CUB"], server.url)
    assert server.asked[-1].range == "bytes=3000-"
    assert tree(tmp_path) == expected("CUB")


def test_two_downloads_into_one_folder(server, tmp_path):
    server.stall, server.break_after = True, 3000
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(main, ["--data-root", str(tmp_path), "--url", server.url])
        wait_for(tmp_path / ".xlsa17.zip.part", 3000)
        with pytest.raises(InputError, match="another download is at work here"):
            download(tmp_path, ["CUB"], server.url)
        server.go_on.set()
        assert first.result() == 2
    assert partial(tmp_path) == ARCHIVE[:3000]
    assert len(server.asked) == 1


def wait_for(path: Path, size: int) -> None:
    for _ in range(3000):
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} never had {size} bytes")


# ------------------------------------------------------------------------------------- liars, wrong and hostile files


def test_a_stated_length_beyond_the_body(server, tmp_path):
    server.stated_less = -5
    message = refused(tmp_path, server)
    assert f"broke off after {len(ARCHIVE)} of the stated {len(ARCHIVE) + 5} bytes" in message
    assert tree(tmp_path).keys() == {".xlsa17.zip.part", ".xlsa17.zip.part.json"}
    server.stated_less = 0  # the resumed request cannot be satisfied: there are no more bytes
    server.ranges = "unsatisfiable"
    download(tmp_path, ["CUB"], server.url)
    assert tree(tmp_path) == expected("CUB")


def test_a_stated_length_short_of_the_body(server, tmp_path):
    server.stated_less = 5
    assert f"the {len(ARCHIVE) - 5} bytes are not a whole zip archive" in refused(tmp_path, server)
    assert tree(tmp_path) == {}


def test_a_lie_about_the_length_of_the_rest(server, tmp_path):
    break_off(tmp_path, server)
    server.stated_less = 5
    assert "not a whole zip archive" in refused(tmp_path, server)
    assert [entry.range for entry in server.asked] == [None, "bytes=3000-", None]
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("length", [None, "many", "-5"])
def test_an_unstated_length(server, tmp_path, length):
    server.stated_less = None
    server.headers |= {"Content-Length": length} if length else {}
    assert "does not state the length" in refused(tmp_path, server)
    assert tree(tmp_path) == {}


def without(file: str) -> Files:
    return {name: data for name, data in members().items() if name != f"xlsa17/data/CUB/{file}"}


def replaced(file: str, data: bytes) -> Files:
    return members() | {f"xlsa17/data/CUB/{file}": data}


def flipped(archive: bytes, file: str) -> bytes:
    """The archive with one bit of the packed ``file`` turned."""
    with zipfile.ZipFile(io.BytesIO(archive)) as bundle:
        info = bundle.getinfo(f"xlsa17/data/CUB/{file}")
    at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    return archive[:at] + bytes([archive[at] ^ 8]) + archive[at + 1 :]


def stating(size: int, archive: bytes, file: str) -> bytes:
    """The archive whose directories give the unpacked size of ``file`` as ``size`` bytes."""
    patched, name = bytearray(archive), f"xlsa17/data/CUB/{file}".encode()
    for size_at in (archive.index(name) - 30 + 22, archive.rindex(name) - 46 + 24):
        patched[size_at : size_at + 4] = struct.pack("<L", size)
    return bytes(patched)


def bzipped() -> bytes:
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as bundle:
            for name, data in members().items():
                bundle.writestr(name, data)
        return buffer.getvalue()


def doubled() -> bytes:
    with io.BytesIO(ARCHIVE) as buffer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(buffer, "a") as bundle:
            bundle.writestr("xlsa17/data/CUB/res101.mat", b"another")
        return buffer.getvalue()


WRONG = {
    "html": (b"<!DOCTYPE html><title>moved</title>", r"not a zip archive: it starts with b'<!DOCTYPE html>"),
    "empty": (b"", r"not a zip archive: it starts with b''"),
    "only the magic": (b"PK\x03\x04", r"the 4 bytes are not a whole zip archive"),
    "truncated zip": (ARCHIVE[:-500], r"are not a whole zip archive \(File is not a zip file\)"),
    "another zip": (pack({"a/b.txt": b"x"}), r"must hold one folder CUB with res101.mat and att_splits.mat, got 0"),
    "no features": (pack(without("res101.mat")), r"must hold one folder CUB .*, got 0"),
    "no splits": (pack(without("att_splits.mat")), r"must hold one folder CUB .*, got 0"),
    "two CUBs": (pack(members() | {f"CUB/{f}": d for f, d in CONTENT["CUB"].items()}), r"one folder CUB .*, got 2"),
    "twice": (doubled(), r"holds 'xlsa17/data/CUB/res101.mat' twice"),
    "CRC": (flipped(ARCHIVE, "res101.mat"), r"not a whole zip archive"),
    "bomb": (stating(4_000_000_000, ARCHIVE, "res101.mat"), r"is refused, its [\d.]+kB would unpack to 4\.00GB"),
    "bomb in disguise": (stating(10, ARCHIVE, "res101.mat"), r"not a whole zip archive .*CRC-32"),
    "packed otherwise": (bzipped(), r"res101.mat' in the archive must be stored or deflated"),
    "not a mat": (pack(replaced("res101.mat", b"<html>")), r"CUB/res101.mat in the archive is not a readable .mat"),
    "half a mat": (pack(replaced("res101.mat", CONTENT["CUB"]["res101.mat"][:400])), r"res101.mat .* lacks the var"),
    "no labels": (pack(replaced("res101.mat", mat(features=np.eye(3)))), r"res101.mat .* lacks the variable 'labels'"),
    "no att": (pack(replaced("att_splits.mat", mat(x=1))), r"att_splits.mat in the archive lacks the variable 'att'"),
}  # fmt: skip


def test_splits_that_do_not_name_the_classes_are_taken(server, tmp_path):
    parts = {part: np.arange(1, 31) for part in ("trainval_loc", "test_seen_loc", "test_unseen_loc")}
    server.body = pack(replaced("att_splits.mat", mat(att=np.ones((4, 3)), **parts)))
    download(tmp_path, ["CUB"], server.url)
    assert "allclasses_names" not in loadmat(tmp_path / "CUB" / "att_splits.mat")


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_and_not_kept(server, tmp_path, case):
    server.body, reason = WRONG[case]
    message = refused(tmp_path, server)
    assert re.search(reason, message)
    assert server.url in message
    assert f"unpack it so that {tmp_path}/CUB/res101.mat exists" in message
    assert tree(tmp_path) == {}
    server.body = ARCHIVE
    download(tmp_path, ["CUB"], server.url)
    assert tree(tmp_path) == expected("CUB")


@pytest.mark.parametrize(
    "name",
    ["../evil", "xlsa17/data/CUB/../../../evil", "/tmp/evil", "..\\evil", "\\evil", "C:\\evil", "c:evil", "a/.."],
)
def test_an_archive_with_a_path_that_leads_outside_is_refused(server, tmp_path, name):
    server.body = pack(members() | {name: b"evil"})
    assert f"the archive is refused, its member {name!r} is a" in refused(tmp_path / "deep" / "root", server)
    assert tree(tmp_path) == {}


def test_what_an_archive_says_of_itself_is_shown_printable_and_cut(server, tmp_path):
    """Fuzzing found messages of 64 KiB, and some that write to the terminal."""
    server.body = pack(members() | {"../\x1b[31mevil" + "x" * 5000: b"evil"})
    message = refused(tmp_path, server)
    assert "its member '../?[31mevilxxx" in message
    assert message.isprintable()
    assert len(message) < 800
    name = b"xlsa17/data/CUB/res101.mat"
    lengthened = bytearray(ARCHIVE)
    at = ARCHIVE.index(name) - 30 + 26
    lengthened[at : at + 2] = struct.pack("<H", 3000)
    server.body = bytes(lengthened)
    message = refused(tmp_path, server)
    assert "not a whole zip archive (File name in directory" in message
    assert message.isprintable()
    assert len(message) < 800


@pytest.mark.parametrize("name", ["xlsa17/data/CUB/allclasses.txt", "elsewhere"])
def test_an_archive_with_a_link_is_refused(server, tmp_path, name):
    server.body = pack(members(), links={name: b"/etc/passwd"})
    assert f"its member {name!r} is a link or a device" in refused(tmp_path, server)
    assert tree(tmp_path) == {}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4), st.booleans()
)
def test_a_damaged_archive_is_refused_or_harmless(tmp_path, damage, in_directory):
    """Whatever bytes are changed: one clear refusal, or the right content."""
    broken = bytearray(ARCHIVE)
    first = ARCHIVE.index(b"PK\x01\x02") if in_directory else 0
    for where, value in damage:
        broken[first + int(where * (len(broken) - first))] = value
    (tmp_path / "broken.zip").write_bytes(broken)
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    refusal = ""
    try:
        download(root, ["CUB"], (tmp_path / "broken.zip").as_uri())
    except InputError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        assert tree(root) == {}
    else:
        got, right = tree(root), expected("CUB")
        assert got.keys() >= {"CUB/res101.mat", "CUB/att_splits.mat"}
        assert all(got[file] == right[file] for file in got.keys() & right.keys())


# ------------------------------------------------------------------------------------------ this machine's limits


@contextlib.contextmanager
def file_size_limit(limit: int):
    """Writes beyond ``limit`` fail in the kernel, in the middle of a file, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_full_during_the_download_keeps_what_was_fetched(server, tmp_path):
    with file_size_limit(10_000):
        message = refused(tmp_path, server)
    assert ".xlsa17.zip.part: cannot be written (File too large); once that is mended, the same" in message
    assert partial(tmp_path) == ARCHIVE[:10_000]
    download(tmp_path, ["CUB"], server.url)
    assert server.asked[-1].range == "bytes=10000-"
    assert tree(tmp_path) == expected("CUB")


def test_disk_full_while_unpacking_keeps_the_download(server, tmp_path):
    server.body = pack(members() | {"xlsa17/data/CUB/allclasses.txt": b"0" * 1_000_000})
    with file_size_limit(200_000):
        message = refused(tmp_path, server)
    assert "allclasses.txt: cannot be written (File too large)" in message
    assert partial(tmp_path) == server.body
    download(tmp_path, ["CUB"], server.url)
    assert len(server.asked) == 1
    assert tree(tmp_path) == expected("CUB") | {"CUB/allclasses.txt": b"0" * 1_000_000}


@pytest.mark.parametrize(("free", "what"), [(1000, "the rest of the archive"), (80_000, "the unpacked data sets")])
def test_too_little_space_is_said_before_it_is_used(server, tmp_path, monkeypatch, free, what):
    server.body = pack(members() | {"xlsa17/data/CUB/allclasses.txt": b"0" * 1_000_000})
    assert 1000 < len(server.body) < 80_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert f"{tmp_path}: {what} must have " in refused(tmp_path, server)
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    download(tmp_path, ["CUB"], server.url)
    assert sum(entry.sent for entry in server.asked) >= len(server.body)


def test_what_a_killed_run_left_is_swept_up(server, tmp_path):
    (tmp_path / ".xlsa17.unpacking" / "CUB").mkdir(parents=True)
    (tmp_path / ".xlsa17.unpacking" / "CUB" / "res101.mat").write_bytes(b"half")
    download(tmp_path, ["CUB"], server.url)
    assert tree(tmp_path) == expected("CUB")


# ---------------------------------------------------------------------------------------------------- the command line


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["cubb"], "unknown data set 'CUBB'; did you mean 'CUB'?"),
        (["--data-root", ""], "no data root: give --data-root DIR"),
        (["--url", "xlsa17.zip"], "--url must start with http://, https:// or file:///, got 'xlsa17.zip' instead"),
        (["--url", "ftp://127.0.0.1/x"], "--url must start with"),
        (["--url", f"http://127.0.0.1:{unused_port()}/xlsa17.zip"], "Connection refused; or get the archive elsewhere"),
        (["--url", "http://127.0.0.1:port/"], "nonnumeric port: 'port'"),
        (["--url", "file:///no/such/file.zip"], "No such file or directory"),
        (["--sha256", "abc"], "--sha256 must be 64 hexadecimal digits, got 'abc' instead"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--data-root", "/dev/null"], "File exists"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("ZSL_DATA", raising=False)
    assert main(["--data-root", str(tmp_path), "--url", "http://127.0.0.1:1/", *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "said"), [(404, "HTTP Error 404: Not Found"), (503, "HTTP Error 503"), (203, "203")]
)
def test_an_http_error_names_address_reason_and_the_way_by_hand(server, tmp_path, status, said):
    server.status = status
    message = refused(tmp_path, server)
    assert message.startswith(f"{server.url}: ")
    assert said in message
    assert "give it by --url (a mirror, or file:///path/xlsa17.zip)" in message
    assert tree(tmp_path) == {}


def command(*options: str, **popen) -> subprocess.Popen:
    environment = {**os.environ, "no_proxy": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "datasets.download", *options]
    return subprocess.Popen(line, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, **popen)


def test_as_a_command_an_error_is_one_line_without_traceback(server, tmp_path):
    server.status = 404
    process = command("--data-root", str(tmp_path), "--url", server.url, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert re.fullmatch(rb"error: http://127.0.0.1:\d+/xlsa17.zip: HTTP Error 404: Not Found; [^\n]*\n", err)


def test_as_a_command_ctrl_c_keeps_the_download_and_a_terminal_shows_progress(server, tmp_path):
    options = ("--data-root", str(tmp_path), "--url", server.url, "CUB")
    server.stall, server.break_after = True, 3000
    process = command(*options, stderr=subprocess.PIPE, **interruptible())
    wait_for(tmp_path / ".xlsa17.zip.part", 3000)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == b"interrupted; give the same command to go on\n"
    assert process.returncode == 130
    server.go_on.set()
    server.stall, server.break_after = False, None

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))  # a terminal of no width shows no bar
    process = command(*options, stderr=theirs)
    out = process.communicate()[0].decode()
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    assert f"CUB: ready in {tmp_path / 'CUB'}" in out
    assert re.search(r"download: 100%.*<00:00", shown)  # the time that is left
    assert server.asked[-1].range == "bytes=3000-"
    assert tree(tmp_path) == expected("CUB")
