"""Results from elsewhere: a file that was forged, edited, copied or mixed up is refused, with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from benchmark.boards.files import check, schema, write_boards
from benchmark.errors import InputError
from benchmark.leaderboard import main
from benchmark.measures.imbalance import summarise
from benchmark.results import record
from benchmark.results.audit import audit, read_all
from benchmark.results.error_matrix import decode, encode
from benchmark.results.published import Published
from benchmark.results.record import Result
from benchmark.results.store import Store, Stored, read_result

ROOT = Path(__file__).resolve().parents[2]
#: Two files of version 1 as runs wrote them; never rewritten, because old files load for ever.
GOLDEN = ROOT / "tests" / "golden" / "results"
FILES = sorted(GOLDEN.glob("*/*/*.json"))
Content = dict[str, Any]


def changed(file: Path, edit: Callable[[Content], object]) -> Stored:
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    return Stored(Path("a.json"), Result.model_validate(content))


def set_(path: str, value: object) -> Callable[[Content], None]:
    def edit(content: Content) -> None:
        *parents, last = path.split(".")
        for name in parents:
            content = content[int(name) if isinstance(content, list) else name]
        content[last] = value(content[last]) if callable(value) else value

    return edit


def of(name: str) -> Path:
    (file,) = (file for file in FILES if name in str(file))
    return file


@pytest.mark.parametrize("factor", [1, 2])
def test_an_override_counts_as_the_settings_hold_it(factor: int) -> None:
    """``--set lr=1e-3`` gives YAML's text "1e-3", which the settings have as a number."""

    def edit(content: Content) -> None:
        content["spec"]["hparam_overrides"] = {"lr": f"{factor * content['spec']['hparams']['lr']:e}"}

    found = audit([changed(of("ale+"), edit)])
    assert [line for line in found if "hparam_overrides" in line] == found[: factor - 1]


@pytest.mark.parametrize(("precision", "wrong"), [("float32", 0), ("bfloat16", 1)])
def test_an_override_that_settings_leave_out_is_their_default(precision: str, wrong: int) -> None:
    found = audit([changed(of("ale+"), set_("spec.hparam_overrides", {"precision": precision}))])
    assert len([line for line in found if "hparam_overrides" in line]) == wrong


# Versions -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_files_of_version_1_load_for_ever(file: Path) -> None:
    result, content = read_result(file), json.loads(file.read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    assert result.evaluation
    assert result.evaluation.metrics.model_dump() == content["evaluation"]["metrics"]
    assert result.spec.key == file.name.partition("-")[0]
    assert audit([Stored(file, result)]) == []
    jsonschema.validate(content, json.loads(schema()))


@pytest.mark.parametrize("edit", [{"seed": "x"}, {"what": 1}, {"status": "fine"}, {"evaluation": {"metrics": {}}}])
def test_the_schema_refuses_what_the_suite_refuses(edit: Content) -> None:
    content = json.loads(FILES[0].read_text(encoding="utf-8")) | edit
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json.loads(schema()))
    with pytest.raises(ValueError, match="validation error"):
        Result.model_validate(content)


def test_older_versions_are_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(content: Content) -> Content:
        return {
            **{k: v for k, v in content.items() if k != "number"},
            "schema_version": 0,
            "random_seed": content["number"],
        }

    def renamed_again(content: Content) -> Content:
        kept = {k: v for k, v in content.items() if k != "random_seed"}
        return {**kept, "schema_version": 1, "seed": content["random_seed"]}

    monkeypatch.setattr(record, "MIGRATIONS", {-1: renamed, 0: renamed_again})
    file = FILES[0]
    expected = read_result(file)
    old = json.loads(file.read_text(encoding="utf-8")) | {"schema_version": -1, "number": expected.seed}
    del old["seed"]
    copy = tmp_path / file.relative_to(GOLDEN)
    copy.parent.mkdir(parents=True)
    copy.write_text(json.dumps(old))
    assert read_result(copy) == expected
    copy.write_text(json.dumps(old | {"schema_version": 2}))
    with pytest.raises(InputError, match="schema_version"):
        read_result(copy)


# Figures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (set_("evaluation.metrics.T1", 99.0), "T1 must be the mean over classes"),
        (set_("evaluation.metrics.H", 50.0), "H must be 2US / (U + S)"),
        (set_("evaluation.metrics.H_calibrated", 50.0), "H_calibrated must be 2US / (U + S)"),
        (set_("evaluation.metrics.AUSUC", 90.0), "AUSUC must be in "),
        (set_("evaluation.metrics.AUSUC", 0.1), "AUSUC must be in "),
        (set_("evaluation.metrics.gamma", 9.0), "gamma must be the selected one"),
        (set_("evaluation.per_class.49.T1", 101.0), "must be a percentage in 0..100, got 101"),
        (set_("evaluation.per_class.0.T1", 5.0), "is a seen class, which has no T1"),
        (set_("evaluation.per_class.0.gzsl", lambda v: v / 2 + 20), "S must be the mean over classes"),
        (
            set_("evaluation.per_class.49.calibrated", lambda v: v / 2 + 20),
            "U_calibrated must be the mean over classes",
        ),
        (set_("evaluation.per_class", lambda v: v[:40] + v[41:]), "must be the mean over classes"),
        (set_("evaluation.imbalance.unseen.std", 1e-9), "imbalance.unseen.spread must be std / mean"),
        (set_("evaluation.imbalance.seen.r", 1.5), "imbalance.seen.r must be in -1..1"),
        (
            set_("evaluation.imbalance.errors.shape", [49, 85]),
            "imbalance.errors: error matrix must be as encode wrote it",
        ),
        (set_("selection.value", 99.0), "selection must be the best of its history"),
        (set_("selection.choice", 99), "selection.choice must be one of the "),
        (set_("selection.on", "test"), "selection.on must not be test in the strict protocol"),
        (set_("refit_history", []), "refit_history must end at the choice"),
        (set_("spec.protocol", "literature"), "selection.on must not be validation in the literature protocol"),
        (set_("spec.simulated", True), "spec.simulated is True"),
        (set_("spec.hparam_overrides", {"lr": 7}), "spec.hparam_overrides has lr=7"),
        (set_("cost.fit_s", -1.0), "cost must not be negative"),
        (set_("provenance.commit", None), "provenance.commit must be that of the code"),
        (set_("provenance.dirty", True), "provenance.dirty must be false"),
        (set_("provenance.libraries", {}), "provenance.libraries must have the versions"),
        (set_("provenance.sources", {}), "provenance.sources must have the digests"),
    ],
)
def test_a_forged_file_is_refused(edit: Callable[[Content], None], reason: str) -> None:
    lines = audit([changed(of("awa1"), edit)])
    assert any(reason in line for line in lines), lines
    assert all(line.startswith("a.json: ") for line in lines)


def test_memory_that_the_system_did_not_tell_is_no_fault() -> None:
    assert audit([changed(of("awa1"), set_("cost.peak_memory_mib", None))]) == []


def test_figures_of_another_error_matrix_are_refused() -> None:
    def scaled(content: Content) -> None:
        for name in ("mean", "std", "worst_decile"):
            content["evaluation"]["imbalance"]["unseen"][name] *= 0.8

    lines = audit([changed(of("awa1"), scaled)])
    assert [line.partition(" must")[0] for line in lines] == [f"a.json: imbalance.unseen.{n}" for n in ("mean", "std")]


def test_an_error_matrix_may_leave_out_semantics_but_no_single_error() -> None:
    def blanked(rows: slice) -> Callable[[Content], None]:
        def edit(content: Content) -> None:
            imbalance = content["evaluation"]["imbalance"]
            errors = torch.from_numpy(decode(imbalance["errors"]))
            errors[rows, 3] = torch.nan
            seen = torch.tensor([c["seen"] for c in content["evaluation"]["per_class"]])
            for part, which in (("seen", seen), ("unseen", ~seen)):
                kept = errors[which][:, torch.arange(errors.shape[1]) != 3]
                imbalance[part] |= vars(summarise(kept, kept)) | {"r": None}
            imbalance["errors"] = encode(errors.numpy())

        return edit

    assert audit([changed(of("awa1"), blanked(slice(None)))]) == []
    assert "imbalance.seen.mean must be that of the error matrix" in audit([changed(of("awa1"), blanked(slice(1)))])[0]


# Context --------------------------------------------------------------------------------------------------------------


def test_a_run_is_taken_once() -> None:
    one = changed(of("awa1"), lambda _: None)
    assert audit([one], [one.result]) == audit([one, one]) == []
    other = changed(of("awa1"), set_("cost.fit_s", 1.0))
    (line,) = audit([other], [one.result])
    assert line == (
        "a.json: a run with these settings and seed is there already, with other content; what is published first stays"
    )
    failed = one.result.model_copy(update={"status": "failed"})
    assert audit([other], [failed]) == []


def test_copies_under_another_seed_are_refused_unless_they_say_so() -> None:
    one = changed(of("awa2-sim"), lambda _: None)
    assert audit([one, changed(of("awa2-sim"), set_("seed", 7))]) == [
        "a.json: it has the times of seed 0 to the last digit: a copy"
    ]

    def repeats(content: Content) -> None:
        content["seed"], content["provenance"]["repeats_seed"] = 7, 0

    assert audit([one, changed(of("awa2-sim"), repeats)]) == []

    def otherwise(content: Content) -> None:
        repeats(content)
        content["evaluation"]["metrics"]["AUSUC"] += 1e-9

    assert audit([one, changed(of("awa2-sim"), otherwise)]) == [
        "a.json: it must repeat seed 0, as no random number was drawn, and has other measures"
    ]


def test_data_must_be_those_of_the_boards() -> None:
    real, simulated = (changed(of(name), lambda _: None).result for name in ("awa1", "awa2-sim"))
    (line,) = audit([changed(of("awa1"), set_("spec.revision", "0123456789ab"))], [real])
    assert f"spec.revision 0123456789ab is not that of awa1 here, {real.spec.revision}" in line
    assert audit([changed(of("awa1"), set_("spec.features", "vit"))], [real]) == []  # a new board
    (line,) = audit([changed(of("awa2-sim"), set_("spec.revision", "sim1-0123456789ab"))], [])
    assert f"is not that of awa2-sim here, {simulated.spec.revision}" in line
    (line,) = audit([changed(of("awa2-sim"), set_("spec.simulated", False))], [])
    assert "spec.simulated is False" in line


def test_classes_must_be_those_of_the_board() -> None:
    one = changed(of("awa2-sim"), lambda _: None).result

    def moved(content: Content) -> None:
        content["seed"], content["cost"]["fit_s"] = 7, 1.0
        content["evaluation"]["per_class"][0]["name"] = "another"

    (line,) = audit([changed(of("awa2-sim"), moved)], [one])
    assert "per_class must have the 50 classes of awa2-sim" in line


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "boards"
    folder.mkdir()
    write_boards(folder)
    return folder


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "theirs"))


def test_valid_results_are_added_and_shown(out: Path, theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(out), "--check", "--import", str(theirs)]) == 0
    assert list(Published(out / "results")) == []
    assert main(["--out", str(out), "--import", *map(str, theirs.glob("*/*/*.json"))]) == 0
    assert capsys.readouterr().out == f"valid\nadded to {out}\n"
    added, given = list(Published(out / "results")), list(Store(theirs))
    assert [(run.spec, run.seed, run.cost) for run in added] == [(run.spec, run.seed, run.cost) for run in given]
    assert "[awa1](awa1.md)" in (out / "README.md").read_text(encoding="utf-8")
    assert check(out) == []


def test_one_bad_file_keeps_all_out(out: Path, theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forged, broken, moved = (theirs / name for name in ("awa1", "x/y+z/0-s0.json", "awa2-sim"))
    (forged,) = forged.glob("*/*.json")
    forged.write_text(forged.read_text(encoding="utf-8").replace('"dirty": false', '"dirty": true'), encoding="utf-8")
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    moved.rename(theirs / "awa3-sim")
    assert main(["--out", str(out), "--import", str(theirs)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for reason in ("dirty must be false", "not a result file", "its content belongs at"):
        assert sum(line.startswith("refused: ") and reason in line for line in lines) == 1
    assert list(Published(out / "results")) == []


def test_check_audits_the_stored_results(out: Path) -> None:
    stored = changed(of("awa1"), set_("evaluation.metrics.T1", 99.0)).result
    path = Store(out / "results").save(stored)
    write_boards(out)
    (line,) = check(out)
    assert line.startswith(f"{path}: T1 must be the mean over classes")


def test_nothing_to_import_is_bad_input(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(out), "--import", str(tmp_path / "absent")]) == 2
    assert main(["--out", str(out), "--import", str(out)]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert "must be a result file or a folder of them" in line
    with pytest.raises(InputError):
        read_all([tmp_path / "absent"])
