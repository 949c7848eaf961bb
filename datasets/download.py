"""Fetch the official xlsa17 archive and lay out its data sets: ``python -m datasets.download [names ...]``.

The archive is the "Proposed Splits" release of Xian et al., Zero-Shot Learning - A Comprehensive Evaluation of the
Good, the Bad and the Ugly (arXiv 1707.00600): ``xlsa17/data/<NAME>/{res101.mat, att_splits.mat, class lists}``.

What is verified. No checksum of the archive or of its members is known to have been published, so none is pinned here.
Checked instead are: the number of bytes against the server's Content-Length; on resuming, that the server still holds
the same file (If-Range with its ETag or Last-Modified); the CRC-32 of every extracted member; and that the two .mat
files of each data set open and hold the variables that the reader needs. The archive's sha256 is printed, and
``--sha256`` requires one.

A download that breaks off stays as ``<root>/.xlsa17.zip.part`` (with a note of the server's statements beside it), and
the same command goes on from there. Data sets appear in ``<root>`` only once all of them are unpacked and checked.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import os
import re
import shutil
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

from pydantic import ValidationError
from scipy.io import whosmat
from tqdm import tqdm

from benchmark.api import Config
from benchmark.registry import InputError, did_you_mean
from datasets._disk import require_space, write_all, writing

try:
    import fcntl
except ImportError:  # not a POSIX system: two downloads into one folder are then not told apart
    fcntl = None  # type: ignore[assignment]

URL = "http://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip"
NAMES = ("APY", "AWA1", "AWA2", "CUB", "SUN")
DEFAULT_NAMES = ("CUB", "SUN", "AWA2")
#: The files without which a data set is not there, and the variables that each must hold.
REQUIRED = {
    "res101.mat": {"features", "labels"},
    "att_splits.mat": {"att", "allclasses_names", "trainval_loc", "test_seen_loc", "test_unseen_loc"},
}
_CHUNK = 1 << 20
_STALL_SECONDS = 60
# All that zipfile is known to raise on damaged input; OSError because damaged offsets end in impossible seeks.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError, OSError)


class _Unusable(Exception):
    """The address gave no usable archive; its text is the reason."""


class _Stated(Config):
    """What the server stated about the file that a partial download belongs to."""

    url: str
    validator: str
    length: int


def download(root: Path, names: Sequence[str] = DEFAULT_NAMES, url: str = URL, sha256: str | None = None) -> None:
    """Make ``<root>/<name>/`` hold the files of each named data set; those already there are left as they are.

    Args:
        root: the data root; created where it is missing.
        names: some of ``NAMES``.
        url: where the archive is: http, https, or file for one that is on this machine (read in place).
        sha256: the hexadecimal digest that the archive must have, if known.

    Raises:
        InputError: the archive could not be had, is not what it should be, does not fit the disk, or would overwrite a
            file that differs. What was downloaded is kept, unless it is itself the problem.
        OSError: the file system refuses something else.
    """
    missing = [name for name in names if not all((root / name / file).is_file() for file in REQUIRED)]
    for name in names:
        if name not in missing:
            print(f"{name}: present in {root / name}")
    if not missing:
        return
    root.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(root / ".xlsa17.zip.part") as part:
            if urlsplit(url).scheme == "file":
                with _local(url) as archive:
                    _install(archive, root, missing, sha256)
            else:
                _fetch(url, part)
                try:
                    _install(part, root, missing, sha256)
                except _Unusable:
                    part.truncate(0)
                    raise
            part.truncate(0)
    except _Unusable as error:
        raise InputError(
            f"{url}: {error}; or get the archive elsewhere and give it by --url (a mirror, or "
            f"file:///path/xlsa17.zip), or unpack it so that {root / missing[0] / 'res101.mat'} exists"
        ) from error
    for name in missing:
        print(f"{name}: ready in {root / name}")


# ---------------------------------------------------------------------------------------------------- the download


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """The partial download, open and ours alone; when left empty, it and its note vanish."""
    with path.open("a+b", buffering=0) as part:  # unbuffered: what write() took is in the file, whatever comes next
        if fcntl is not None:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{path}: another download is at work here; wait until it ends") from None
            except OSError:  # a file system without locks
                pass
        try:
            yield part
        finally:
            if not part.seek(0, os.SEEK_END):
                path.unlink(missing_ok=True)
                _note(path).unlink(missing_ok=True)


def _note(path: Path) -> Path:
    """Where the server's statements about the partial download ``path`` are kept."""
    return path.with_name(f"{path.name}.json")


def _read_note(path: Path, url: str) -> _Stated | None:
    """What ``url``'s server stated about ``path``; None where that is not known, whatever the cause."""
    try:
        stated = _Stated.model_validate_json(_note(path).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return stated if stated.url == url else None


def _local(url: str) -> BinaryIO:
    try:
        return Path(url2pathname(urlsplit(url).path)).open("rb")
    except OSError as error:
        raise _Unusable(_reason(error)) from error


def _fetch(url: str, part: BinaryIO) -> None:
    """Make ``part`` the whole file at ``url``, going on from what it holds where the server allows."""
    path = Path(part.name)
    stated, have = _read_note(path, url), part.seek(0, os.SEEK_END)
    if stated and have == stated.length:
        return
    try:
        response = _ask(url, stated, have)
        resumed = response.status == 206
        head = b"" if resumed else response.read(16)
    except (OSError, HTTPException, ValueError) as error:
        raise _Unusable(_reason(error)) from error
    with response:
        if not resumed:
            # Looked at before the partial download is given up: an error page must not cost what was fetched.
            if not head.startswith(b"PK\x03\x04"):
                raise _Unusable(f"not a zip archive: it starts with {head!r}")
            if not (length := response.headers.get("Content-Length", "")).isdecimal():
                raise _Unusable("the server does not state the length, so a download could not be verified")
            stated = _Stated(url=url, validator=_validator(response.headers), length=int(length))
            have = len(head)
            with writing(path):
                # In this order: a kill in between leaves an empty file, or a note that does not parse. Both start anew.
                part.truncate(0)
                _note(path).write_text(stated.model_dump_json(), encoding="utf-8")
                write_all(part, head)
        assert stated is not None
        require_space(path.parent, stated.length - have, "the rest of the archive")
        _receive(response, part, have, stated)


def _ask(url: str, stated: _Stated | None, have: int) -> HTTPResponse:
    """The server's answer: status 206 if it is exactly what is missing, else the whole file."""
    if stated and stated.validator and 0 < have < stated.length:
        request = Request(url, headers={"Range": f"bytes={have}-", "If-Range": stated.validator})
        try:
            response: HTTPResponse = urlopen(request, timeout=_STALL_SECONDS)
        except HTTPError as error:
            if error.code != 416:
                raise
        else:
            if response.status == 200 or _fits(response, stated, have):
                return response
            response.close()
    whole: HTTPResponse = urlopen(url, timeout=_STALL_SECONDS)
    if whole.status != 200:
        raise HTTPException(f"HTTP status must be 200, got {whole.status} instead")
    return whole


def _fits(response: HTTPResponse, stated: _Stated, have: int) -> bool:
    """Whether a partial answer is the missing rest of the same file."""
    return (
        response.status == 206
        and response.headers["Content-Range"] == f"bytes {have}-{stated.length - 1}/{stated.length}"
        and response.headers["Content-Length"] == str(stated.length - have)
        and _validator(response.headers) in ("", stated.validator)  # some servers ignore If-Range
    )


def _validator(headers: Message) -> str:
    """What identifies a version of the file; weak ETags do not, byte for byte."""
    etag = headers["ETag"] or "W/"
    return headers["Last-Modified"] or "" if etag.startswith("W/") else etag


def _receive(response: HTTPResponse, part: BinaryIO, have: int, stated: _Stated) -> None:
    again = "go on from there" if stated.validator else "start anew"
    with tqdm(total=stated.length, initial=have, unit="B", unit_scale=True, desc="download", disable=None) as bar:
        while have < stated.length:
            try:
                # read1, not read: bytes that came before a broken connection are kept.
                chunk = response.read1(min(_CHUNK, stated.length - have))
                problem = "the server closed the connection"
            except (OSError, HTTPException) as error:
                chunk, problem = b"", _reason(error)
            if not chunk:
                raise _Unusable(
                    f"broke off after {have} of the stated {stated.length} bytes ({problem}); "
                    f"give the same command to {again}"
                )
            with writing(Path(part.name)):
                write_all(part, chunk)
            have += len(chunk)
            bar.update(len(chunk))


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return " ".join(text.split()) or type(cause).__name__


# ------------------------------------------------------------------------------------------------- the archive


def _install(archive: BinaryIO, root: Path, names: Sequence[str], sha256: str | None) -> None:
    """Verify ``archive`` and move the named data sets into ``root``, all or none.

    Raises:
        _Unusable: the archive is at fault.
        InputError: something on this machine is.
    """
    digest = _sha256(archive)
    if sha256 and digest != sha256.lower():
        raise _Unusable(f"sha256 must be {sha256.lower()}, got {digest} instead")
    print(f"archive sha256 {digest}")
    staging = root / ".xlsa17.unpacking"
    with ExitStack() as cleanup:
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        cleanup.callback(shutil.rmtree, staging, ignore_errors=True)
        try:
            with zipfile.ZipFile(archive) as bundle:
                _unpack(bundle, _select(bundle.infolist(), names), staging)
        except _DAMAGE as error:
            size = archive.seek(0, os.SEEK_END)
            raise _Unusable(f"the {size} bytes are not a whole zip archive ({_reason(error)})") from error
        for file in (staging / name / file for name in names for file in REQUIRED):
            _check_variables(file)
        _place(staging, root)


def _sha256(archive: BinaryIO) -> str:
    digest = hashlib.sha256()
    size = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    with tqdm(total=size, unit="B", unit_scale=True, desc="sha256", disable=None) as bar:
        while chunk := archive.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _select(members: list[zipfile.ZipInfo], names: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """``<NAME>/<file>`` -> member, for all files that lie directly in the named data sets' folders."""
    folders: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for member in members:
        _refuse_unsafe(member)
        folder, _, file = member.filename.rpartition("/")
        if file:
            if file in folders.setdefault(folder, {}):
                raise _Unusable(f"the archive holds {member.filename!r} twice")
            folders[folder][file] = member
    selected: dict[str, zipfile.ZipInfo] = {}
    for name in names:
        fitting = [f for path, f in folders.items() if f"/{path}".endswith(f"/{name}") and REQUIRED.keys() <= f.keys()]
        if len(fitting) != 1:
            wanted = f"one folder {name} with {' and '.join(REQUIRED)}"
            raise _Unusable(f"the archive must hold {wanted}, got {len(fitting)} instead")
        selected |= {f"{name}/{file}": member for file, member in fitting[0].items()}
    for member in selected.values():
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Unusable(f"{member.filename!r} in the archive must be stored or deflated, is packed otherwise")
    return selected


def _refuse_unsafe(member: zipfile.ZipInfo) -> None:
    """Raise ``_Unusable`` if extracting ``member`` could write outside the target."""
    path = member.filename.replace("\\", "/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if path.startswith("/") or re.match("[A-Za-z]:", path):
        problem = "an absolute path"
    elif ".." in path.split("/"):
        problem = "a path that climbs out of the archive"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        problem = "a link or a device"
    else:
        return
    raise _Unusable(f"the archive is refused, its member {member.filename!r} is {problem}")


def _unpack(bundle: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], staging: Path) -> None:
    """Extract ``members`` to ``staging``; zipfile checks each CRC-32 and never gives more than the declared size."""
    total = sum(member.file_size for member in members.values())
    require_space(staging.parent, total, "the unpacked data sets")
    with tqdm(total=total, unit="B", unit_scale=True, desc="unpack", disable=None) as bar:
        for name, member in members.items():
            target = staging / name
            with ExitStack() as files:
                source = files.enter_context(bundle.open(member))
                with writing(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    sink = files.enter_context(target.open("xb", buffering=0))
                while chunk := source.read(_CHUNK):
                    with writing(target):
                        write_all(sink, chunk)
                    bar.update(len(chunk))
                with writing(target):
                    os.fsync(sink)


def _check_variables(file: Path) -> None:
    where = f"{file.parent.name}/{file.name} in the archive"
    try:
        found = {name for name, _, _ in whosmat(file)}
    except Exception as error:  # scipy raises whatever the damage leads to
        raise _Unusable(f"{where} is not a readable .mat file ({_reason(error)})") from error
    if lacking := sorted(REQUIRED[file.name] - found):
        raise _Unusable(f"{where} lacks the variable {lacking[0]!r}")


def _place(staging: Path, root: Path) -> None:
    """Move all files from ``staging`` to ``root``, unless one would replace a different one."""
    # The required files last: a data set counts as present by them, so a kill in between is mended by the next run.
    files = sorted(staging.glob("*/*"), key=lambda file: (file.name in REQUIRED, file))
    for file in files:
        target = root / file.relative_to(staging)
        if target.exists() and not filecmp.cmp(file, target, shallow=False):
            raise InputError(f"{target}: differs from the archive's file; move it away, or give another --data-root")
    for file in files:
        target = root / file.relative_to(staging)
        target.parent.mkdir(exist_ok=True)
        file.replace(target)


# ---------------------------------------------------------------------------------------------------- command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m datasets.download",
        description="Download the official xlsa17 archive, verify it and unpack data sets; resumes.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        default=DEFAULT_NAMES,
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: {' '.join(DEFAULT_NAMES)})",
    )
    parser.add_argument("--data-root", metavar="DIR", default=os.environ.get("ZSL_DATA"), help="default: $ZSL_DATA")
    parser.add_argument("--url", default=URL, help="a mirror, or file:///path/xlsa17.zip (default: %(default)s)")
    parser.add_argument("--sha256", metavar="HEX", help="the digest that the archive must have")
    args = parser.parse_args(argv)
    args.names = list(dict.fromkeys(name.upper() for name in args.names))
    for name in args.names:
        if name not in NAMES:
            raise InputError(f"unknown data set {name!r}; {did_you_mean(name, list(NAMES))}")
    if not args.data_root:
        raise InputError("no data root: give --data-root DIR, or set the environment variable ZSL_DATA")
    if urlsplit(args.url).scheme not in ("http", "https", "file"):
        raise InputError(f"--url must start with http://, https:// or file:///, got {args.url!r} instead")
    if args.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", args.sha256):
        raise InputError(f"--sha256 must be 64 hexadecimal digits, got {args.sha256!r} instead")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 after one line about what is wrong, or 130 after Ctrl-C."""
    try:
        args = _parse(argv)
        download(Path(args.data_root), args.names, args.url, args.sha256)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; give the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
