"""Fetching, verifying and unpacking the official xlsa17 archive, as ``datasets.download`` describes it.

It is not left to pooch, which cannot go on with a download that broke off.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

from pydantic import ValidationError
from tqdm import tqdm

from benchmark.config import Config
from benchmark.errors import InputError, printable
from datasets import matfiles
from datasets.disk import reason, require_space, write_all, writing

try:
    import fcntl
except ImportError:  # not a POSIX system: two downloads into one folder are then not told apart
    fcntl = None  # type: ignore[assignment]

#: The files without which a data set is not there, and the variables that each must hold.
REQUIRED = {
    "res101.mat": {"features", "labels"},
    "att_splits.mat": {"att", "trainval_loc", "test_seen_loc", "test_unseen_loc"},
}
_CHUNK = 1 << 20
_MOST = (1 << 30, 100)  # bytes that an archive may unpack to: these, and so many times its own; deflate reaches 1,032
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


def download(root: Path, names: Sequence[str], url: str, sha256: str | None = None) -> None:
    """Make ``<root>/<name>/`` hold the files of each named data set; those already there are left as they are.

    Args:
        root: the data root; created where it is missing.
        names: their folders in the archive.
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
    return reason(cause) if isinstance(cause, BaseException) else printable(cause)


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
                members = _select(bundle.infolist(), names)
                _refuse_bomb(members.values(), archive.seek(0, os.SEEK_END))
                _unpack(bundle, members, staging)
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
                raise _Unusable(f"the archive holds {printable(member.filename)!r} twice")
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
            name = printable(member.filename)
            raise _Unusable(f"{name!r} in the archive must be stored or deflated, is packed otherwise")
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
    raise _Unusable(f"the archive is refused, its member {printable(member.filename)!r} is {problem}")


def _refuse_bomb(members: Iterable[zipfile.ZipInfo], size: int) -> None:
    """Raise ``_Unusable`` if ``members`` of an archive of ``size`` bytes unpack to more than data do."""
    total = sum(member.file_size for member in members)
    if total > _MOST[0] + _MOST[1] * size:
        sizes = [tqdm.format_sizeof(number, "B") for number in (size, total)]
        raise _Unusable(f"the archive is refused, its {sizes[0]} would unpack to {sizes[1]}")


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
        found = matfiles.shapes(file)
    except InputError as error:
        problem = str(error).removeprefix(f"{file}: ")
        raise _Unusable(f"{where} is not a readable .mat file ({problem})") from error
    if lacking := sorted(REQUIRED[file.name] - found.keys()):
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
