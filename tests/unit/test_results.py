"""Result files: nothing is lost on the way to disk and back, and a broken file or disk costs no older one."""

from __future__ import annotations

import errno
import json
import os
import resource
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.errors import InputError
from benchmark.files import write_whole
from benchmark.results.record import (
    ClassAccuracy,
    Cost,
    CurvePoints,
    Evaluation,
    ImbalanceReport,
    Metrics,
    Protocol,
    Result,
    Selection,
    SemanticErrors,
    Spec,
)
from benchmark.results.store import Store, read_result
from tests.reference.toy import make_result, make_spec

# Any result -----------------------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
settings_of = st.dictionaries(texts, plain, max_size=3)
rows = st.lists(st.dictionaries(texts, numbers, max_size=3), max_size=3)
errors = st.builds(
    SemanticErrors,
    mean=numbers,
    std=numbers,
    spread=st.none() | numbers,
    r=st.none() | numbers,
    worst_decile=numbers,
)
specs = st.builds(
    Spec,
    protocol=st.sampled_from(get_args(Protocol)),
    split=st.just("proposed") | st.integers(0, 99).map("random-{}".format),
    dataset=st.just("toy"),
    method=st.just("m"),
    loss=st.just("l"),
    hparams=settings_of,
    loss_parameters=settings_of,
    dataset_options=settings_of,
    hparam_overrides=settings_of,
    loss_overrides=settings_of,
)
evaluations = st.builds(
    Evaluation,
    metrics=st.builds(Metrics, **dict.fromkeys(Metrics.model_fields, numbers)),
    per_class=st.lists(
        st.builds(ClassAccuracy, T1=st.none() | numbers, gzsl=st.none() | numbers, calibrated=st.none() | numbers),
        max_size=2,
    ),
    imbalance=st.none() | st.builds(ImbalanceReport, seen=errors, unseen=errors, errors=settings_of),
    curve=st.none() | st.builds(CurvePoints, seen=st.lists(numbers, max_size=2), unseen=st.lists(numbers, max_size=2)),
)
selections = st.builds(
    Selection,
    on=st.sampled_from(["validation", "test"]),
    value=numbers,
    choice=st.integers(1, 1000),
    gamma=numbers,
    history=rows,
)
costs = st.builds(Cost, **dict.fromkeys(Cost.model_fields, numbers))
common: dict[str, Any] = {
    "spec": specs,
    "seed": st.integers(0, 2**63),
    "refit_history": rows,
    "provenance": settings_of,
}
results = st.builds(
    Result, status=st.just("ok"), evaluation=evaluations, selection=selections, cost=costs, error=st.none(), **common
) | st.builds(Result, status=st.sampled_from(["failed", "skipped"]), evaluation=st.none(), error=texts, **common)


class TestRoundTrip:
    def test_a_file_from_before_curves_were_stored_loads(self, tmp_path: Path):
        path = Store(tmp_path).save(make_result())
        content = json.loads(path.read_text())
        del content["evaluation"]["curve"]
        path.write_text(json.dumps(content))
        assert read_result(path) == make_result()

    @settings(
        deadline=None,
        max_examples=80,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(result=results)
    def test_any_result_comes_back_as_it_was(self, result: Result, tmp_path: Path):
        store = Store(tmp_path)
        path = store.save(result)
        assert path == store.path(result.spec, result.seed)
        assert read_result(path) == result
        assert store.load(result.spec, result.seed) == result
        assert Result.model_validate_json(result.model_dump_json()) == result
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    def test_a_tuple_among_the_settings_comes_back_equal(self, tmp_path: Path):
        from benchmark.engine.settings import make_spec as real_spec
        from tests.reference.toy import ToyDataset

        spec = real_spec(
            "eszsl", {}, ("none", {}), ToyDataset("t", ToyDataset.Config(), None), {}, "proposed", "strict"
        )
        result = make_result(spec)
        assert read_result(Store(tmp_path).save(result)).spec == spec

    def test_what_is_saved_again_takes_the_place_of_what_was_read(self, tmp_path: Path):
        store = Store(tmp_path)
        store.save(make_result(status="failed"))
        assert [result.status for result in Store(tmp_path)] == ["failed"]
        assert [result.status for result in store] == ["failed"]
        store.save(make_result())
        assert [result.status for result in store] == ["ok"]
        found = store.load(make_result().spec, 0)
        assert found is not None
        assert found.status == "ok"

    def test_files_are_where_they_belong_and_in_order(self, tmp_path: Path):
        store = Store(tmp_path / "results")
        assert list(store) == []
        assert store.load(make_spec(), 0) is None
        kept = [
            make_result(make_spec(method=method, loss=loss, dataset=dataset), seed)
            for dataset in ("a", "b")
            for method, loss in (("m", "k"), ("m", "l"))
            for seed in (0, 1)
        ]
        for result in reversed(kept):
            path = store.save(result)
            spec = result.spec
            name = f"{spec.key}-s{result.seed}.json"
            assert path == tmp_path / "results" / spec.dataset / f"{spec.method}+{spec.loss}" / name
            assert len(spec.key) == 12
            assert set(spec.key) <= set("0123456789abcdef")
        (path.parent / ".half-written.tmp").write_text("{")
        assert list(store) == kept

    def test_saving_again_replaces(self, tmp_path: Path):
        store = Store(tmp_path)
        for status in ("failed", "ok"):
            store.save(make_result(None, 0, status))
        assert [result.status for result in store] == ["ok"]


METRICS = dict.fromkeys(Metrics.model_fields, 1.0)


class TestSchema:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_what_is_not_finite_cannot_be_stored(self, value: float):
        good = {"on": "test", "criterion": "x", "value": 1.0, "choice": 1, "gamma": 0.0, "history": [{"a": 1.0}]}
        Selection.model_validate(good)
        for name in Metrics.model_fields:
            with pytest.raises(ValidationError, match=name):
                Metrics.model_validate({**METRICS, name: value})
        for wrong in ({"value": value}, {"gamma": value}, {"history": [{"a": value}]}):
            with pytest.raises(ValidationError):
                Selection.model_validate({**good, **wrong})
        with pytest.raises(ValidationError):
            make_result(refit_history=[{"loss": value}])
        with pytest.raises(ValidationError):
            ClassAccuracy(name="c", seen=True, T1=value, gzsl=None, calibrated=None)
        with pytest.raises(ValidationError):
            Cost(fit_s=value, evaluate_s=0, peak_memory_mib=0)

    def test_nor_among_the_settings(self, tmp_path: Path):
        store = Store(tmp_path)
        with pytest.raises((ValidationError, ValueError)):
            store.save(make_result(make_spec(hparams={"x": float("nan")}), 0))

    @pytest.mark.parametrize(
        "changes",
        [{"protocol": "loose"}, {"split": "random"}, {"split": "random-x"}, {"split": "proposed "}, {"extra": 1}],
    )
    def test_a_spec_is_checked(self, changes: dict[str, Any]):
        with pytest.raises(ValidationError):
            make_spec(**changes)

    def test_labels_are_what_the_user_would_type(self):
        spec = make_spec(hparam_overrides={"lr": 0.1, "epochs": 2}, loss_overrides={"scale": "mean_one"})
        assert (spec.method_label, spec.loss_label) == ("toy:epochs=2,lr=0.1", "toy:scale=mean_one")
        assert (make_spec().method_label, make_spec().loss_label) == ("toy", "toy")


class TestReading:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return Store(tmp_path).save(make_result(None, 3))

    def refused(self, path: Path, message: str) -> None:
        with pytest.raises(InputError) as error:
            read_result(path)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(f"{path}: ")
        assert message in str(error.value)

    def test_a_truncated_one_at_any_byte(self, path: Path):
        content = path.read_bytes()
        for length in range(0, len(content) - 2, 7):
            path.write_bytes(content[:length])
            self.refused(path, "not a result file: content: Invalid JSON")

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            ({"schema_version": 2}, "not a result file: schema_version: Input should be 1"),
            ({"seed": -1}, "not a result file: seed: "),
            ({"status": "fine"}, "not a result file: status: "),
            ({"spec": {"protocol": "strict"}}, "not a result file: spec.split: Field required"),
            ({"what": 1}, "not a result file: what: Extra inputs are not permitted"),
        ],
    )
    def test_one_of_another_form(self, path: Path, edit: dict[str, Any], message: str):
        path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
        self.refused(path, message)

    @pytest.mark.parametrize("content", [b"[]", b"null", b"1", b"", b"\xff\xfe", b'{"a": NaN}'])
    def test_what_is_no_result_at_all(self, path: Path, content: bytes):
        path.write_bytes(content)
        self.refused(path, "not a result file: ")

    def test_a_renamed_one(self, path: Path):
        other = path.rename(path.with_name(path.name.replace("-s3", "-s4")))
        self.refused(other, "its content belongs at ")

    def test_one_with_an_edited_setting(self, path: Path):
        path.write_text(path.read_text().replace('"lr": 0.1', '"lr": 0.2').replace('"lr":0.1', '"lr":0.2'))
        self.refused(path, "by hand")

    def test_one_in_a_folder_that_is_not_its_own(self, path: Path, tmp_path: Path):
        other = tmp_path / "other" / path.parent.name / path.name
        other.parent.mkdir(parents=True)
        path.rename(other)
        self.refused(other, "its content belongs at ")

    def test_one_that_cannot_be_opened(self, path: Path, monkeypatch: pytest.MonkeyPatch):
        def refuse(_self: Path) -> bytes:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "read_bytes", refuse)
        self.refused(path, "cannot be read: Permission denied")


class TestWriting:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "folder" / "a.json"
        write_whole(file, "old")
        return file

    def intact(self, file: Path) -> None:
        assert file.read_text() == "old"
        assert list(file.parent.iterdir()) == [file]

    def test_replaces_the_whole_content(self, file: Path):
        write_whole(file, "new é")
        assert file.read_text(encoding="utf-8") == "new é"
        assert list(file.parent.iterdir()) == [file]
        assert file.stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("where", ["fsync", "replace", "fdopen"])
    def test_a_full_disk(self, file: Path, monkeypatch: pytest.MonkeyPatch, where: str):
        def full(*_arguments: object, **_options: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, where, full)
        with pytest.raises(InputError) as error:
            write_whole(file, "new")
        assert str(error.value) == f"{file}: cannot be written: No space left on device"
        self.intact(file)

    def test_a_write_that_the_system_refuses(self, file: Path):
        """A limit on the size of files makes a real write fail, in the middle of it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(InputError, match="cannot be written: File too large"):
                write_whole(file, "x" * 1_000_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.intact(file)

    def test_saving_a_result_says_which_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        store = Store(tmp_path)
        old = store.save(make_result())

        def full(_handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        for seed in (0, 1):
            with pytest.raises(InputError, match=rf"-s{seed}\.json: cannot be written: No space left on device"):
                store.save(make_result(None, seed, "failed"))
        assert [(result.seed, result.status) for result in store] == [(0, "ok")]
        assert list(old.parent.iterdir()) == [old]

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be written: "):
            write_whole(tmp_path / "file" / "inside" / "a.json", "new")

    @pytest.mark.parametrize("where", [(os, "fsync"), (os, "replace"), (tempfile, "mkstemp"), (Path, "mkdir")])
    def test_an_interrupt_is_passed_on_and_leaves_nothing(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
    ):
        def interrupt(*_arguments: object, **_options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(*where, interrupt)
            with pytest.raises(KeyboardInterrupt):
                write_whole(file, "new")
        self.intact(file)
