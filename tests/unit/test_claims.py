"""Claims: one holder at a time, dead and silent holders, and nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from benchmark.errors import InputError
from benchmark.results import claims
from benchmark.results.claims import Held, hold, hold_after_others, wait_for_any


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_there_is_one_holder_and_nothing_is_left_behind(tmp_path: Path):
    name = tmp_path / "sub" / "cell"
    with hold(name):
        with pytest.raises(Held) as error, hold(name):
            pass
        assert error.value.name == name
        with hold(tmp_path / "sub" / "cell-2"):
            assert left(name.parent) == ["cell-2.claim-0", "cell.claim-0"]
    assert left(name.parent) == []
    with hold(name):
        pass
    with pytest.raises(ZeroDivisionError), hold(name):
        _ = 1 / 0
    assert left(name.parent) == []


def claim_and_die(name: Path) -> None:
    with hold(name):
        os._exit(1)


def test_the_claim_of_a_dead_process_of_this_machine_is_void_at_once(tmp_path: Path):
    name = tmp_path / "cell"
    process = multiprocessing.get_context("fork").Process(target=claim_and_die, args=(name,))
    process.start()
    process.join()
    assert left(tmp_path) == ["cell.claim-0"]
    wait_for_any([name])
    with hold(name):
        assert left(tmp_path) == ["cell.claim-0", "cell.claim-1"]
        with pytest.raises(Held), hold(name):
            pass
    assert left(tmp_path) == []


def test_another_process_of_the_same_number_is_not_the_holder(tmp_path: Path):
    name = tmp_path / "cell"
    machine, process, _ = claims._identity(os.getpid()).split(" ")
    (tmp_path / "cell.claim-0").write_text(f"{machine} {process} 1")
    with hold(name):
        pass


def elsewhere(path: Path) -> Path:
    """A claim of a process on another machine, whose life cannot be looked at."""
    path.write_text("elsewhere:pid:[1] 7 1234")
    return path


def test_a_claim_of_another_machine_is_void_once_it_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By the clock of who watches: the time that the file shows may be of any clock."""
    monkeypatch.setattr(claims, "EXPIRY", 0.3)
    monkeypatch.setattr(claims, "LOOK", 0.02)
    name, claim = tmp_path / "cell", elsewhere(tmp_path / "cell.claim-0")
    os.utime(claim, (4e9, 4e9))  # a clock far ahead
    with pytest.raises(Held), hold(name):
        pass
    beats = 0

    def beat() -> None:
        nonlocal beats
        for beats in range(1, 11):
            os.utime(claim, (beats, beats))  # a clock far behind
            time.sleep(0.1)

    holder = threading.Thread(target=beat)
    holder.start()
    wait_for_any([name])
    assert beats == 10
    holder.join()
    with hold(name), pytest.raises(Held), hold(name):
        pass
    assert left(tmp_path) == []


def test_a_holder_is_never_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    with hold(tmp_path / "cell"):
        os.utime(tmp_path / "cell.claim-0", (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / "cell.claim-0").stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "cell.claim-0").stat().st_mtime > 1


def compete(name: Path, diary: Path) -> None:
    for _ in range(20):
        with hold_after_others(name), diary.open("a") as file:
            file.write("in ")
            file.flush()
            file.write("out\n")


def test_processes_that_compete_never_hold_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims, "LOOK", 0.001)
    name, diary = tmp_path / "claims" / "cell", tmp_path / "diary"
    claim_of_nobody = tmp_path / "claims" / "cell.claim-7"
    claim_of_nobody.parent.mkdir()
    claim_of_nobody.write_text(claims._NOBODY)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=compete, args=(name, diary)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert diary.read_text() == "in out\n" * 80
    assert left(tmp_path / "claims") == []


def test_what_cannot_be_claimed_is_said_in_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"cannot be written: (Not a directory|File exists)$"),
        hold(tmp_path / "file" / "cell"),
    ):
        pass
