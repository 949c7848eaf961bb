"""Claims: which process is at work on something, told by files that a shared file system makes once only, NFS too.

The claims of ``<name>`` are files ``<name>.claim-<generation>``, of which the highest counts. It says whose it is, and
its holder touches it every few seconds. A claim is void when its process is dead, if that ran on this machine, or when
it was not touched for a while, by the clock of whoever watches: clocks of several machines, and their jumps, play no
part. After a void claim the next generation may be made, by one process alone, since a file is made once only. The
holder removes all of them when it is done. Whoever holds a claim looks first whether another one has done the work.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path

from benchmark.errors import InputError

#: Seconds between two touches.
BEAT = 10.0
#: Seconds without a touch after which a claim is void: more than what NFS takes to tell of one.
EXPIRY = 120.0
#: Seconds between two looks at what others hold.
LOOK = 0.5
#: What a claim says that nobody holds: it voids the one before it.
_NOBODY = "nobody"


class Held(Exception):
    """Another process holds the claim.

    Attributes:
        name: what is claimed.
    """

    def __init__(self, name: Path) -> None:
        super().__init__(name)  # which makes it whole again on its way from another process
        self.name = name


@contextmanager
def hold(name: Path) -> Iterator[None]:
    """Hold the claim of ``name`` while this is entered.

    Raises:
        Held: another process holds it.
        InputError: no claim can be written there.
    """
    claim = _claim(name)
    stop = threading.Event()
    beat = threading.Thread(target=_touch, args=(claim, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        for _, path in _claims(name):  # the own one last: it counts as long as it is there
            path.unlink(missing_ok=True)


@contextmanager
def hold_after_others(name: Path) -> Iterator[None]:
    """Hold the claim of ``name`` while this is entered, once nobody else does.

    Raises:
        InputError: no claim can be written there.
    """
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold(name))
                break
            except Held:
                wait_for_any([name])
        yield


def claimed(folder: Path) -> set[Path]:
    """What is claimed below ``folder``: some process is at it, or was killed before it could put things in order."""
    return {file.with_name(file.name.rpartition(".claim-")[0]) for file in folder.rglob("*.claim-*")}


def wait_for_any(names: Sequence[Path]) -> None:
    """Return when nobody holds one of ``names``: its holder is done, is dead, or was silent for ``EXPIRY``."""
    seen: dict[Path, tuple[int, float]] = {}
    while not any(_is_free(name, seen) for name in names):
        time.sleep(LOOK)


def _is_free(name: Path, seen: dict[Path, tuple[int, float]]) -> bool:
    """Whether nobody holds ``name``; a claim that was silent is voided, for whoever comes next."""
    found = _claims(name)
    if not found or _is_void(found[-1][1]):
        return True
    generation, path = found[-1]
    with suppress(OSError):
        touched, now = path.stat().st_mtime_ns, time.monotonic()
        if seen.get(path, (None,))[0] != touched:
            seen[path] = (touched, now)
        elif now - seen[path][1] > EXPIRY:
            _make(_path(name, generation + 1), _NOBODY)
    return False


def _claim(name: Path) -> Path:
    """A new claim of ``name``, this process's."""
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        found = _claims(name)
        if found and not _is_void(found[-1][1]):
            raise Held(name)
        path = _path(name, found[-1][0] + 1 if found else 0)
        if not _make(path, _identity(os.getpid())):
            raise Held(name)
    except OSError as error:
        raise InputError(f"{name.parent}: cannot be written: {error.strerror}") from error
    return path


def _claims(name: Path) -> list[tuple[int, Path]]:
    """(generation, file), the highest last."""
    files = name.parent.glob(f"{escape(name.name)}.claim-*")
    return sorted((int(file.name.rpartition("-")[2]), file) for file in files)


def _path(name: Path, generation: int) -> Path:
    return name.with_name(f"{name.name}.claim-{generation}")


def _make(path: Path, content: str) -> bool:
    """Make a file that says ``content``; False where there is one."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _is_void(path: Path) -> bool:
    """Whether a claim says that nobody holds it, or a process that is dead on this machine."""
    try:
        holder = path.read_text(encoding="utf-8")
    except FileNotFoundError:  # its holder is done
        return True
    if holder == _NOBODY:
        return True
    machine, _, process = holder.partition(" ")
    return machine == _machine() != "" and holder != _identity(int(process.partition(" ")[0]))


def _identity(process: int) -> str:
    """``machine process start``: of a process that lives, unlike that of any other on any machine."""
    try:
        start = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        start = ""
    return f"{_machine()} {process} {start}"


@cache
def _machine() -> str:
    """What processes share that can see each other: a boot of a machine, and a space of process numbers.

    Empty where the system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _touch(claim: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with suppress(OSError):  # a file system that is away for a moment
            os.utime(claim)
