"""What a command does for its folder beside running: boards that show all results, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

from benchmark import run
from benchmark.results.store import Store
from tests.reference.faults import leave_claim
from tests.reference.toy import make_result


def test_boards_show_what_was_stored_after_another_command_removed_its_notes(tmp_path: Path):
    store = Store(tmp_path / "results")
    result = make_result()
    store.save(result)
    run._render(tmp_path, store, [])
    board = tmp_path / f"{result.spec.dataset}.md"
    before = board.read_text()
    new = make_result(seed=1)
    store.save(new)
    run._render(tmp_path, store, [new])
    assert board.read_text() != before
    whole = tmp_path / "whole"
    for each in store:
        Store(whole / "results").save(each)
    run._render(whole, Store(whole / "results"), [])
    assert board.read_text() == (whole / board.name).read_text()


def test_the_claim_of_a_command_that_was_killed_after_it_rendered_is_removed(tmp_path: Path):
    store = Store(tmp_path / "results")
    store.save(make_result())
    run._render(tmp_path, store, [])
    left = sorted(store.folder.iterdir())
    leave_claim(store.folder / run.UNRENDERED)
    run._render(tmp_path, store, [])
    assert sorted(store.folder.iterdir()) == left
