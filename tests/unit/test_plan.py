"""The plan of what is still to run: what is stored, what failed, and what other code made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.engine.jobs import RunJob
from benchmark.engine.plan import plan
from benchmark.errors import InputError
from benchmark.results.record import Result
from benchmark.results.store import Store
from tests.reference.cells import cell_of, register_toys, spec_of
from tests.reference.faults import leave_claim
from tests.reference.toy import make_result


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return register_toys(monkeypatch, tmp_path)


class TestPlan:
    @pytest.fixture
    def store(self, tmp_path: Path, toys: Path) -> Store:
        return Store(tmp_path / "results")

    def save(self, store: Store, seed: int, status: Any = "ok", sources: Any = None) -> Result:
        cell = cell_of(spec_of())
        provenance = {"sources": cell.sources() if sources is None else sources}
        result = make_result(cell.spec, seed, status, provenance=provenance)
        store.save(result)
        return result

    def test_what_is_stored_is_skipped_and_failures_are_retried(self, store: Store):
        kept = self.save(store, 1)
        self.save(store, 2, "failed")
        self.save(store, 9)  # a seed that is not asked for
        found = plan([cell_of(spec_of(), (0, 1, 2, 3))], store, force=False)
        assert [cell.seeds for cell in found.todo] == [(0, 2, 3)]
        assert found.todo[0].spec == spec_of()
        assert found.stored == [kept]
        assert found.warnings == []
        assert found.n_runs == 3

    def test_of_a_complete_cell_nothing_is_left(self, store: Store):
        kept = [self.save(store, seed) for seed in (0, 1)]
        found = plan([cell_of(spec_of(), (0, 1))], store, force=False)
        assert (found.todo, found.stored, found.n_runs) == ([], kept, 0)

    def test_force_runs_all_even_beside_a_broken_file(self, store: Store):
        self.save(store, 0)
        store.path(spec_of(), 1).write_text("broken")
        found = plan([cell_of(spec_of(), (0, 1))], store, force=True)
        assert [cell.seeds for cell in found.todo] == [(0, 1)]
        assert (found.stored, found.warnings) == ([], [])
        with pytest.raises(InputError, match=r"-s1\.json: not a result file"):
            plan([cell_of(spec_of(), (0, 1))], store, force=False)

    def test_what_a_killed_process_left_beside_stored_runs_is_cleared_up(self, store: Store):
        kept = [self.save(store, seed) for seed in (0, 1)]
        before = set(store.path(spec_of(), 0).parent.iterdir())
        for seed in (0, 1):
            store.checkpoint(spec_of(), seed, "refit").write_bytes(b"")
        leave_claim(store.cell(spec_of()))
        found = plan([cell_of(spec_of(), (0, 1))], store, force=False)
        assert [cell.seeds for cell in found.todo] == [(0, 1)]
        assert list(RunJob(found.todo[0], store.folder).run()) == kept, "it is not run again"
        assert set(store.path(spec_of(), 0).parent.iterdir()) == before
        assert plan([cell_of(spec_of(), (0, 1))], store, force=False).todo == []

    def test_of_a_cell_that_was_left_in_part_the_rest_is_to_do_and_old_checkpoints_go(self, store: Store):
        self.save(store, 0)
        self.save(store, 1, "failed")
        for seed in (0, 1):
            store.checkpoint(spec_of(), seed, "refit").write_bytes(b"")
        leave_claim(store.cell(spec_of()))
        found = plan([cell_of(spec_of(), (0, 1))], store, force=False)
        assert [cell.seeds for cell in found.todo] == [(1,)]
        assert store.superfluous_checkpoints(spec_of()) == [store.checkpoint(spec_of(), 0, "refit")]

    def test_other_settings_do_not_count(self, store: Store):
        self.save(store, 0)
        cells = [cell_of(spec_of({"lr": 0.7}), (0,)), cell_of(spec_of(protocol="literature"), (0,))]
        cells.append(cell_of(spec_of(partition="random-0"), (0,)))
        found = plan(cells, store, force=False)
        assert found.n_runs == 3
        assert found.stored == []

    def test_two_spellings_of_one_configuration_run_once(self, store: Store):
        cells = [cell_of(spec_of(overrides), (0,)) for overrides in ({}, {"lr": 0.1}, {"lr": 0.2})]
        found = plan(cells, store, force=False)
        assert [cell.spec.hparams["lr"] for cell in found.todo] == [0.1, 0.2]

    @pytest.mark.parametrize("role", ["method", "loss", "engine", "benchmark.api"])
    def test_results_of_other_code_are_kept_with_a_warning(self, store: Store, role: str):
        other = cell_of(spec_of()).sources() | {role: "another digest"}
        self.save(store, 0, sources=other)
        self.save(store, 1, sources=other)
        self.save(store, 2)
        found = plan([cell_of(spec_of(), (0, 1, 2, 3))], store, force=False)
        assert [result.seed for result in found.stored] == [0, 1, 2]
        assert [cell.seeds for cell in found.todo] == [(3,)]
        assert found.warnings == [
            "toy-method+toy-loss toy: 2 stored runs were made by other code; --force runs them anew"
        ]

    def test_failures_of_other_code_need_no_warning(self, store: Store):
        self.save(store, 0, "failed", {"method": "another digest", "loss": "another digest"})
        assert plan([cell_of(spec_of(), (0,))], store, force=False).warnings == []

    def test_neither_device_nor_data_root_matters(self, store: Store, tmp_path: Path):
        self.save(store, 0)
        cell = replace(cell_of(spec_of(), (0,)), device="cuda", data_root=tmp_path, plugins=(tmp_path / "x.py",))
        assert plan([cell], store, force=False).n_runs == 0
