"""The compact form of results in published boards: JSON Lines, a line a run, small enough to clone and to review.

``<data set>/<method>.jsonl`` has all runs of a method on a data set, in lines of four kinds, sorted so that git merges
what two branches add. What is said once is named by 12 hex digits, a digest of its content.

- ``settings``: ``id``; the ``spec`` of a run as ``benchmark.results.record.Spec`` has it, without what is at its
  default; and what was ``derived`` from the data.
- ``provenance``: ``id`` and ``provenance``: code, machine and libraries of a command.
- ``errors``: the ``matrix`` of the errors of classes and semantics of the runs with these ``settings``, their mean, in
  8 bits (``benchmark.results.error_matrix.encode_coarsely``). There is one where a report draws it.
- ``run``: its ``settings`` and ``provenance``, ``seed``, ``started``; ``status`` and ``error`` where it is not ok;
  ``deterministic`` where every other seed comes to the same; ``metrics``, ``imbalance``, ``curve`` and ``cost`` as in
  ``benchmark.results.record``; ``hits``: how many test images of each class are right, for ``T1`` (unseen classes
  alone), ``gzsl`` and ``calibrated``; ``selection``, with its ``history`` by columns, of the epochs or candidates 1, 2,
  ..., in two decimals for the criterion and four digits for other terms, which are kept where a report draws them;
  ``refit``: the epoch or candidate at which the refit ended.

``<data set>/classes/<revision>.jsonl`` has a line a ``split`` of that revision of the data: the ``seen`` and then the
``unseen`` classes in the order of ``hits``, with their numbers of test images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from benchmark.errors import InputError
from benchmark.results.error_matrix import decode, encode_coarsely, is_coarse
from benchmark.results.record import (
    ClassAccuracy,
    Cost,
    CurvePoints,
    Evaluation,
    ImbalanceReport,
    JsonDict,
    Metrics,
    PublishedResult,
    Record,
    Result,
    Selection,
    Spec,
)
from benchmark.results.store import Stored

#: What of a provenance is a run's own, and stands in its line or, of a model and of repetitions, nowhere.
_OF_RUN = ("started", "deterministic", "repeats_seed", "model")


class Classes(Record):
    """The classes of one split of a revision of the data, with their numbers of test images."""

    split: str
    seen: list[tuple[str, Annotated[int, Field(ge=0)]]]
    unseen: list[tuple[str, Annotated[int, Field(ge=0)]]]


#: (revision, split) -> its classes.
Divisions = Mapping[tuple[str, str], Classes]


class Settings(Record):
    """What runs share that differ in the seed alone."""

    kind: Literal["settings"] = "settings"
    id: str
    spec: Spec
    derived: JsonDict = Field(default_factory=dict)


class Provenance(Record):
    """Where runs of one command come from."""

    kind: Literal["provenance"] = "provenance"
    id: str
    provenance: JsonDict


class Errors(Record):
    """The mean error matrix of the runs with some settings."""

    kind: Literal["errors"] = "errors"
    settings: str
    matrix: JsonDict


class Hits(Record):
    """How many test images of each class are right; of unseen classes alone for T1."""

    T1: list[int]
    gzsl: list[int]
    calibrated: list[int]


class History(Record):
    """The rows of a history by columns; None where a row has no such value."""

    unit: Literal["epoch", "candidate"]
    columns: dict[str, list[float | None]]


class Choice(Record):
    """``benchmark.results.record.Selection`` with its history by columns."""

    on: Literal["validation", "test"]
    criterion: str
    value: float
    choice: int
    gamma: float
    history: History


class Run(Record):
    """One run; see the docstring of this file."""

    kind: Literal["run"] = "run"
    settings: str
    provenance: str
    seed: int = Field(ge=0)
    started: str | None = None
    deterministic: bool = False
    status: Literal["ok", "failed", "skipped"] = "ok"
    error: str | None = None
    metrics: Metrics | None = None
    hits: Hits | None = None
    imbalance: ImbalanceReport | None = None
    curve: CurvePoints | None = None
    selection: Choice | None = None
    refit: int | None = None
    cost: Cost | None = None


Line = Settings | Provenance | Errors | Run
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])
_CLASSES = TypeAdapter(Classes)


# Writing


def dump(results: Iterable[Result], divisions: Divisions) -> str:
    """The file of the runs of one method on one data set; equal results in any order make equal files.

    Raises:
        InputError: an accuracy is no share of a class's test images.
    """
    settings: dict[str, Settings] = {}
    origins: dict[str, Provenance] = {}
    matrices: dict[str, list[Mapping[str, Any] | None]] = {}
    runs: dict[tuple[Any, ...], Run] = {}
    for result in results:
        spec, shared = result.spec, {k: v for k, v in result.provenance.items() if k not in _OF_RUN}
        of_spec = _settings(spec, result.derived)
        origin = Provenance(id=_digest(shared), provenance=shared)
        settings[of_spec.id], origins[origin.id] = of_spec, origin
        place = (spec.loss_label, spec.key, spec.partition_index or 0, result.seed)
        runs[place] = _run(result, of_spec.id, origin.id, divisions)
        if result.evaluation:
            report = result.evaluation.imbalance
            matrices.setdefault(of_spec.id, []).append(report.errors if report else None)
    by_loss = sorted(settings.values(), key=lambda found: (found.spec.loss_label, found.id))
    lines: list[Line] = [*by_loss, *(origin for _, origin in sorted(origins.items()))]
    lines += [Errors(settings=name, matrix=mean) for name, of in sorted(matrices.items()) if (mean := _mean(of))]
    lines += [run for _, run in sorted(runs.items(), key=lambda item: item[0])]
    return "".join(_text(line) for line in lines)


def dump_classes(divisions: Iterable[Classes]) -> str:
    """The file of the classes of one revision."""
    return "".join(_text(classes) for classes in sorted(divisions, key=lambda classes: classes.split))


def _text(line: Record) -> str:
    content = line.model_dump(mode="json", exclude_defaults=True)
    content = {"kind": line.kind, **content} if isinstance(line, Line) else content
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _settings(spec: Spec, derived: dict[str, Any]) -> Settings:
    return Settings(id=_digest([spec.model_dump(mode="json"), derived]), spec=spec, derived=derived)


def _mean(matrices: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The mean error matrix of runs, where all have one; one that all share stays as it is."""
    known = [matrix for matrix in matrices if matrix]
    if len(known) < len(matrices):
        return None
    if is_coarse(known[0]) and all(matrix == known[0] for matrix in known):
        return dict(known[0])
    return encode_coarsely(np.mean([decode(matrix) for matrix in known], axis=0))


def _run(result: Result, settings: str, provenance: str, divisions: Divisions) -> Run:
    evaluation, selection = result.evaluation, result.selection
    report = evaluation.imbalance if evaluation else None
    refit = result.refit_history[-1] if result.refit_history else {}
    end = refit.get("epoch", refit.get("candidate"))
    return Run(
        settings=settings,
        provenance=provenance,
        seed=result.seed,
        started=result.provenance.get("started"),
        deterministic=result.deterministic,
        status=result.status,
        error=result.error,
        metrics=evaluation.metrics if evaluation else None,
        hits=_hits(evaluation, divisions[result.spec.revision, result.spec.partition]) if evaluation else None,
        imbalance=report.model_copy(update={"errors": None}) if report else None,
        curve=evaluation.curve if evaluation else None,
        selection=_choice(selection) if selection else None,
        refit=None if end is None else int(end),
        cost=result.cost,
    )


def _hits(evaluation: Evaluation, classes: Classes) -> Hits:
    found: dict[str, list[int]] = {"T1": [], "gzsl": [], "calibrated": []}
    for c, (name, images) in zip(evaluation.per_class, chain(classes.seen, classes.unseen), strict=True):
        for column, hits in found.items():
            if column == "T1" and c.seen:
                continue
            accuracy = getattr(c, column)
            hits.append(0 if accuracy is None else round(accuracy * images / 100))
            if accuracy != _percent(hits[-1], images):
                raise InputError(f"per_class {name}: {column} must be a share of {images} images, got {accuracy}")
    return Hits(**found)


def _percent(hits: int, images: int) -> float | None:
    return 100 * hits / images if images else None


def _choice(selection: Selection) -> Choice:
    rows, criterion = selection.history, f"held-out {selection.criterion}"
    names = dict.fromkeys(name for row in rows for name in row)
    unit: Literal["epoch", "candidate"] = "epoch" if "epoch" in names else "candidate"
    columns = {
        name: [None if (value := row.get(name)) is None else _rounded(value, name == criterion) for row in rows]
        for name in names
        if name != unit
    }
    kept = selection.model_dump(exclude={"history"})
    return Choice(**kept, history=History(unit=unit, columns=columns))


def _rounded(value: float, percent: bool) -> float:
    return round(value, 2) if percent else float(f"{value:.4g}")


# Reading


def parse(path: Path, content: bytes, divisions: Divisions) -> list[Stored]:
    """The runs in a file of one method on one data set, each with its place.

    Raises:
        InputError: a line is none that ``dump`` writes, with the file and the line's number.
    """
    settings: dict[str, Settings] = {}
    origins: dict[str, Provenance] = {}
    matrices: dict[str, Errors] = {}
    seen: set[tuple[str, int]] = set()
    found = []
    for place, line in _lines(path, content, _LINE):
        try:
            if isinstance(line, Run):
                name = settings[line.settings].spec.key, line.seed
                if name in seen:
                    raise ValueError(f"the run of seed {line.seed} is there twice")
                seen.add(name)
                errors = matrices.get(line.settings)
                result = _result(line, settings[line.settings], origins[line.provenance], errors, divisions)
                found.append(Stored(place, result))
            elif isinstance(line, Errors):
                matrices[line.settings] = line
            elif isinstance(line, Settings):
                _check_settings(line, path)
                settings[line.id] = line
            elif line.id != _digest(line.provenance):
                raise ValueError("id must be the digest of the content: edited by hand")
            else:
                origins[line.id] = line
        except (KeyError, ValueError) as error:
            raise _broken(place, error) from None
    return found


def parse_classes(path: Path, content: bytes) -> dict[tuple[str, str], Classes]:
    """The classes of each split of the revision that the file is named by.

    Raises:
        InputError: a line is none that ``dump_classes`` writes, with the file and the line's number.
    """
    return {(path.stem, classes.split): classes for _, classes in _lines(path, content, _CLASSES)}


class _Placed(NamedTuple):
    place: str
    line: Any


def _lines(path: Path, content: bytes, form: TypeAdapter[Any]) -> Iterable[_Placed]:
    for number, text in enumerate(content.splitlines(), 1):
        place = f"{path}:{number}"
        try:
            yield _Placed(place, form.validate_json(text))
        except ValidationError as error:
            raise _broken(place, error) from None


def _broken(place: str, error: Exception) -> InputError:
    problem = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}"
    elif isinstance(error, KeyError):
        problem = f"nothing above has the name {error}"
    return InputError(f"{place}: not a published result: {problem}; restore it")


def _check_settings(line: Settings, path: Path) -> None:
    if line.id != _settings(line.spec, line.derived).id:
        raise ValueError("id must be the digest of the content: edited by hand")
    if (line.spec.dataset, f"{line.spec.method}.jsonl") != (path.parent.name, path.name):
        raise ValueError(f"runs of {line.spec.method} on {line.spec.dataset} belong elsewhere")


def _result(
    run: Run, settings: Settings, origin: Provenance, errors: Errors | None, divisions: Divisions
) -> PublishedResult:
    own = {name: value for name, value in (("started", run.started), ("deterministic", run.deterministic)) if value}
    evaluation = selection = None
    refit: list[dict[str, float]] = []
    if run.metrics and run.hits:
        classes = divisions[settings.spec.revision, settings.spec.partition]
        imbalance = run.imbalance
        if imbalance and errors:
            imbalance = imbalance.model_copy(update={"errors": errors.matrix})
        evaluation = Evaluation(
            metrics=run.metrics, per_class=_per_class(run.hits, classes), imbalance=imbalance, curve=run.curve
        )
    if run.selection:
        selection = _selection(run.selection)
        refit = [] if run.refit is None else [{run.selection.history.unit: float(run.refit)}]
    return PublishedResult(
        spec=settings.spec,
        seed=run.seed,
        status=run.status,
        evaluation=evaluation,
        selection=selection,
        refit_history=refit,
        derived=settings.derived,
        cost=run.cost,
        provenance={**origin.provenance, **own},
        error=run.error,
    )


def _per_class(hits: Hits, classes: Classes) -> list[ClassAccuracy]:
    n_seen, every = len(classes.seen), [*classes.seen, *classes.unseen]
    found = []
    if not len(hits.gzsl) == len(hits.calibrated) == n_seen + len(hits.T1) == len(every):
        raise ValueError(f"hits must be of {n_seen} seen and {len(classes.unseen)} unseen classes")
    for c, ((name, images), gzsl, calibrated) in enumerate(zip(every, hits.gzsl, hits.calibrated, strict=True)):
        t1 = hits.T1[c - n_seen] if c >= n_seen else 0
        if not (0 <= t1 <= images and 0 <= gzsl <= images and 0 <= calibrated <= images):
            raise ValueError(f"hits of {name} must be in 0..{images}, the number of its images")
        found.append(_accuracy(name, c < n_seen, images, t1, gzsl, calibrated))
    return found


@cache  # runs have few different values of a class, and there are many runs
def _accuracy(name: str, seen: bool, images: int, t1: int, gzsl: int, calibrated: int) -> ClassAccuracy:
    return ClassAccuracy(
        name=name,
        seen=seen,
        T1=None if seen else _percent(t1, images),
        gzsl=_percent(gzsl, images),
        calibrated=_percent(calibrated, images),
        images=images,
    )


def _selection(choice: Choice) -> Selection:
    history, criterion = choice.history, f"held-out {choice.criterion}"
    lengths = {len(column) for column in history.columns.values()}
    if len(lengths) > 1:
        raise ValueError("columns of selection.history must have one length")
    rows: list[dict[str, float]] = [{history.unit: float(number)} for number in range(1, 1 + max(lengths, default=0))]
    for name, column in history.columns.items():
        for number, (row, value) in enumerate(zip(rows, column, strict=True), 1):
            if value is not None:
                # What was rounded up must not beat what was chosen.
                best = name == criterion and (number == choice.choice or value > choice.value)
                row[name] = choice.value if best else value
    return Selection(**choice.model_dump(exclude={"history"}), history=rows)
