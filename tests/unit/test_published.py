"""Published results: nothing shown is lost, git merges what two branches add, no broken line or kill costs others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.boards.files import check, export_runs, take_in, write_boards
from benchmark.errors import InputError
from benchmark.files import complete, write_together
from benchmark.leaderboard import main
from benchmark.results import compact
from benchmark.results.published import Published
from benchmark.results.record import PublishedResult, Result
from benchmark.results.store import Store
from tests.reference.leaderboards import repeated, result

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "results"
Tree = dict[str, bytes]


def nothing(_results: Sequence[Result]) -> set[str]:
    return set()


def everything(results: Sequence[Result]) -> set[str]:
    return {run.spec.key for run in results if not run.spec.simulated}


def publish(folder: Path, results: Sequence[Result], in_detail: Callable[..., set[str]] = nothing) -> dict[Path, bytes]:
    changed = Published(folder / "results").merged(results, in_detail)
    write_together(folder, changed)
    return changed


def tree(folder: Path) -> Tree:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def figures(run: Result) -> tuple[Any, ...]:
    """What boards and page show of a run."""
    evaluation = run.evaluation
    assert evaluation
    assert run.selection
    classes = [(c.name, c.seen, c.T1, c.gzsl, c.calibrated) for c in evaluation.per_class]
    imbalance = evaluation.imbalance and (evaluation.imbalance.seen, evaluation.imbalance.unseen)
    chosen = run.selection.criterion, run.selection.choice, run.selection.value
    return run.spec, run.seed, evaluation.metrics, classes, imbalance, evaluation.curve, run.cost, run.derived, chosen


@pytest.fixture
def golden() -> list[Result]:
    """Runs of real and of simulated data as files of the first version have them: without numbers of images."""
    return list(Store(GOLDEN))


@pytest.mark.parametrize("in_detail", [nothing, everything])
def test_what_is_shown_is_read_back_to_the_last_bit(tmp_path: Path, golden: list[Result], in_detail: Any) -> None:
    publish(tmp_path, golden, in_detail)
    read = list(Published(tmp_path / "results"))
    assert list(map(figures, read)) == list(map(figures, golden))
    assert all(isinstance(run, PublishedResult) for run in read)
    for run in read:
        assert run.selection
        assert run.evaluation
        assert run.evaluation.imbalance
        detailed = in_detail is everything and not run.spec.simulated
        assert bool(run.evaluation.imbalance.errors) == detailed
        terms = {name for row in run.selection.history for name in row} - {"epoch", "candidate"}
        assert (len(terms) > 1) == detailed
    assert max(len(line) for path in tmp_path.rglob("*.jsonl") for line in path.open() if '"run"' in line) < 4000


def test_the_same_runs_change_nothing_and_other_ones_their_own_files(tmp_path: Path, golden: list[Result]) -> None:
    publish(tmp_path, golden)
    assert publish(tmp_path, golden) == {}
    other = golden[0].model_copy(update={"spec": golden[0].spec.model_copy(update={"method": "mine"})})
    changed = publish(tmp_path, [other])
    assert list(changed) == [tmp_path / "results" / other.spec.dataset / "mine.jsonl"]


def test_the_first_of_two_runs_stays_and_a_failed_one_does_not(tmp_path: Path) -> None:
    failed, first, second = result(status="failed", error="boom"), result(T1=40.0), result(T1=41.0)
    publish(tmp_path, [failed])
    publish(tmp_path, [first])
    assert publish(tmp_path, [second]) == {}
    (read,) = Published(tmp_path / "results")
    assert figures(read) == figures(first)


def test_runs_that_repeat_one_are_one_run(tmp_path: Path) -> None:
    publish(tmp_path, repeated(3, "eszsl", "mse"))
    (read,) = Published(tmp_path / "results")
    assert (read.seed, read.deterministic) == (0, True)
    assert publish(tmp_path, [result("eszsl", seed=7, provenance={**read.provenance, "deterministic": True})]) == {}


def test_export_and_import_come_to_the_same_bytes(tmp_path: Path, golden: list[Result]) -> None:
    one = golden[0].model_copy(update={"provenance": {**golden[0].provenance, "deterministic": True}})
    for name, runs in (("a", golden), ("b", [one, *golden[1:]])):
        out, exported, again = (tmp_path / name / part for part in ("out", "runs", "again"))
        publish(out, runs, everything)
        write_boards(out)
        assert export_runs(out, exported) == len(runs)
        again.mkdir()
        assert take_in([exported], again, nothing, only_check=False) == []
        assert tree(again) == tree(out)
        assert check(again) == []
        with pytest.raises(InputError, match="holds results already"):
            export_runs(out, exported)


def test_numbers_of_images_are_told_or_follow_from_accuracies(tmp_path: Path) -> None:
    def run(seed: int, gzsl: float, images: int | None) -> Result:
        content = result(seed=seed).model_dump()
        for c in content["evaluation"]["per_class"]:
            c |= {"T1": None if c["seen"] else 50.0, "gzsl": gzsl, "calibrated": 100.0, "images": images}
        return Result.model_validate(content)

    publish(tmp_path, [run(0, 25.0, None), run(1, 100 / 6, None)])
    (file,) = (tmp_path / "results" / "awa1" / "classes").iterdir()
    assert {size for _, size in json.loads(file.read_text())["seen"]} == {12}
    (tmp_path / "told").mkdir()
    publish(tmp_path / "told", [run(0, 25.0, 24)])
    (file,) = (tmp_path / "told" / "results" / "awa1" / "classes").iterdir()
    assert {size for _, size in json.loads(file.read_text())["seen"]} == {24}
    with pytest.raises(InputError, match=r"per_class True -2: the number of its images must be one, 24, .* got 168"):
        publish(tmp_path / "told", [run(1, 100 / 7, None)])


# Broken files ---------------------------------------------------------------------------------------------------------


def edited(**changes: Any) -> Callable[[str], str]:
    def edit(text: str) -> str:
        content = json.loads(text)
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = content
            for name in parents:
                place = place[name]
            place[last] = value
        return json.dumps(content)

    return edit


HOSTILE: dict[str, tuple[str, Callable[[str], str], str]] = {
    "no JSON": ("run", lambda _: "{", "Invalid JSON"),
    "half a line": ("run", lambda text: text[: len(text) // 2], "Invalid JSON"),
    "a conflict of git": ("run", lambda _: "<<<<<<< HEAD", "Invalid JSON"),
    "no object": ("run", lambda _: "[1]", "line: "),
    "an empty line": ("run", lambda _: "", "Invalid JSON"),
    "another kind": ("run", edited(kind="runs"), "does not match any of the expected tags"),
    "an unknown field": ("run", edited(mine=1), "mine: Extra inputs are not permitted"),
    "a number as text": ("run", edited(seed="0"), "seed: Input should be a valid integer"),
    "NaN": ("run", lambda text: text.replace('"gamma":', '"gamma":NaN,"x":', 1), "gamma"),
    "settings that are not there": ("run", edited(settings="0" * 12), "nothing above has the name '000000000000'"),
    "code that is not there": ("run", edited(provenance="0" * 12), "nothing above has the name '000000000000'"),
    "too many hits": ("run", edited(hits__gzsl=[10**6] * 6), "must be in 0.."),
    "too few classes": ("run", edited(hits__T1=[1]), "hits must be of 3 seen and 3 unseen classes"),
    "columns of two lengths": (
        "run",
        edited(selection__history__columns={"held-out AUSUC": [1.0], "loss": []}),
        "columns of selection.history must have one length",
    ),
    "metrics alone": ("run", edited(cost=None), "evaluation, selection and cost must be there"),
    "other settings": ("settings", edited(spec__tuned=5), "id must be the digest of the content"),
    "another method": ("settings", edited(spec__method="mine"), "id must be the digest of the content"),
    "other code": ("provenance", edited(provenance__commit="f" * 40), "id must be the digest of the content"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_broken_line_is_named_in_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind, edit, message = HOSTILE[case]
    publish(tmp_path, [result(seed=0), result(seed=1)])
    file = tmp_path / "results" / "awa1" / "ale.jsonl"
    lines = file.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == kind)
    lines[number] = edit(lines[number])
    file.write_text("\n".join(lines) + "\n")
    for arguments in ([], ["--check"], ["--format", "csv"]):
        assert main([*arguments, "--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith(f"error: {file}:{number + 1}: not a published result: ")
        assert message in error


def test_a_run_that_is_there_twice_and_one_in_anothers_file_are_named(tmp_path: Path) -> None:
    publish(tmp_path, [result()])
    file = tmp_path / "results" / "awa1" / "ale.jsonl"
    text = file.read_text()
    file.write_text(text + text.splitlines()[-1] + "\n")
    with pytest.raises(InputError, match=r"ale\.jsonl:4: .*the run of seed 0 is there twice"):
        list(Published(tmp_path / "results"))
    file.with_name("mine.jsonl").write_text(text)
    file.unlink()
    with pytest.raises(InputError, match=r"mine\.jsonl:1: .*runs of ale on awa1 belong elsewhere"):
        list(Published(tmp_path / "results"))


def test_broken_classes_are_named(tmp_path: Path) -> None:
    publish(tmp_path, [result()])
    (file,) = (tmp_path / "results" / "awa1" / "classes").iterdir()
    file.write_text(file.read_text().replace("100", "-1", 1))
    with pytest.raises(InputError) as error:
        list(Published(tmp_path / "results"))
    assert str(error.value).startswith(f"{file}:1: not a published result: seen.0.1: Input should be greater")


def test_the_docstring_names_every_field_of_a_line() -> None:
    for form in (compact.Settings, compact.Errors, compact.Run, compact.Classes, compact.Hits, compact.Provenance):
        for name in form.model_fields:
            assert f"``{name}``" in str(compact.__doc__) or name == "kind", name


# Deaths and rivals ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="it forks")
def test_a_killed_import_leaves_all_old_or_all_new(tmp_path: Path) -> None:
    """A process is ended before each of its renamings in turn."""
    old, new = {"a/x": b"old", "b": b"old"}, {"a/x": b"new", "a/y": b"new", "b": b"new"}
    outcomes = []
    for death in range(1, 2 * len(new) + 2):
        folder = tmp_path / str(death)
        for name, content in old.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        if (child := os.fork()) == 0:
            _die_at(death)
            write_together(folder, {folder / name: content for name, content in new.items()})
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        seen = {name: content for name, content in tree(folder).items() if not name.startswith(".")}
        if (folder / ".incoming").exists():
            with pytest.raises(InputError, match="an import was cut off; python -m"):
                list(Published(folder / "results"))
        else:
            assert seen == old
        complete(folder)
        after = {name: content for name, content in tree(folder).items() if not name.startswith(".")}
        assert after in (old, new)
        outcomes.append(after == new)
        write_together(folder, {folder / name: content for name, content in new.items()})
        assert tree(folder) == new
    assert outcomes == sorted(outcomes), "old before the decision, new after it"
    assert set(outcomes) == {False, True}


def _die_at(n: int) -> None:
    """End this process instead of its n-th renaming."""
    rename, counter = Path.replace, iter(range(1, n + 1))

    def dying(self: Path, target: Path) -> Path:
        if next(counter) == n:
            os._exit(9)
        return rename(self, target)

    Path.replace = dying  # type: ignore[method-assign,assignment]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_git_merges_what_two_branches_add(tmp_path: Path, golden: list[Result]) -> None:
    def of(method: str) -> list[Result]:
        return [run.model_copy(update={"spec": run.spec.model_copy(update={"method": method})}) for run in golden]

    git(tmp_path, "init", "-q", "-b", "main")
    publish(tmp_path, of("a"))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    for method in ("b", "c"):
        git(tmp_path, "checkout", "-qb", method, "main")
        publish(tmp_path, of(method))
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-qm", method)
        changed = git(tmp_path, "diff", "--name-only", "main").split()
        assert {Path(name).name for name in changed} == {f"{method}.jsonl"}
    git(tmp_path, "merge", "-q", "b", "-m", "both")
    both = Published(tmp_path / "results")
    assert {run.spec.method for run in both} == {"a", "b", "c"}
    assert both.merged([*of("c"), *of("b"), *of("a")], nothing) == {}, "as if all had been published at once"


def test_results_are_not_run_into_a_folder_of_published_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark.run import main as run

    publish(tmp_path, [result()])
    before = tree(tmp_path)
    assert run(["--method", "ale", "--dataset", "awa2-sim", "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path}: holds published results" in capsys.readouterr().err
    assert tree(tmp_path) == before
