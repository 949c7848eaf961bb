"""What is wrong with stored results beyond their form: what was edited, mixed up, copied or cannot be traced.

A run fulfils all of this exactly. It is what keeps a forged or spoilt file off a board, not a proof: only the commands
on the boards, run again, are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.registry import Registry
from benchmark.results.error_matrix import decode, is_coarse
from benchmark.results.record import ClassAccuracy, Evaluation, ImbalanceReport, Result, Selection, SemanticErrors, Spec
from benchmark.results.store import Stored, read_result

#: Measures that are the same but for the order of a sum differ by less, in percentage points.
_ROUNDING = 1e-6
#: What the encoded error matrix may differ from its measures by, as a part of them: it is kept in float16.
_PRECISION = 0.01
#: The same of the matrix of the mean errors of several runs, which is kept in 8 bits.
_COARSELY = 0.03
#: Errors that are smaller are rounding, and the encoded matrix may hold them as 0: those of a single semantic are.
_LEAST_ERROR = 4e-9
#: What a thinned curve may lack of its area, in percentage points.
_THINNED = 0.5


def read_all(paths: Iterable[Path]) -> tuple[list[Stored], list[str]]:
    """The results in files and, however deep, in folders; and a line for each file that is none.

    Raises:
        InputError: a path does not exist, or there is no result file in a folder.
    """
    found, refused = [], []
    for path in paths:
        files = sorted(path.glob("**/*-s*.json")) if path.is_dir() else [path]
        if not files or not path.exists():
            raise InputError(f"{path}: must be a result file or a folder of them (<key>-s<seed>.json)")
        for file in files:
            try:
                found.append(Stored(file, read_result(file)))
            except InputError as error:
                refused.append(str(error))
    return found, refused


def audit(results: Sequence[Stored], boards: Sequence[Result] | None = None) -> list[str]:
    """What is wrong with ``results``: a line for each file and reason.

    Args:
        results: what to look at; they must agree with each other too.
        boards: the results of the boards that they are to be added to, which are taken to be right; None where they
            are the boards.
    """
    context = _Context(boards or [])
    lines = []
    for place, result in results:
        problems = [*_of_spec(result.spec), *_of_provenance(result), *_of_measures(result), *context.of_place(result)]
        if boards is not None:
            problems += context.of_data(result.spec)
        lines += [f"{place}: {problem}" for problem in problems]
    return lines + _of_mean_errors(results)


def _of_spec(spec: Spec) -> Iterator[str]:
    for registry, name, given, settings in (
        (METHODS, spec.method, "hparam_overrides", spec.hparams),
        (LOSSES, spec.loss, "loss_overrides", spec.loss_parameters),
    ):
        for key, value in getattr(spec, given).items():
            held = settings[key] if key in settings else _default(registry, name, key)
            if not _holds(held, value):
                yield f"spec.{given} has {key}={value}, and the settings have {held}"
    if spec.dataset in DATASETS and DATASETS[spec.dataset].simulated != spec.simulated:
        yield f"spec.simulated is {spec.simulated}, which {spec.dataset} is not"


def _default(registry: Registry[Any], name: str, key: str) -> Any:
    """The default of a setting that was added after a run: what the run had; None of a plug-in that is not here."""
    field = registry[name].obj.Config.model_fields.get(key) if name in registry else None
    return field and field.default


def _holds(held: Any, given: Any) -> bool:
    """Whether a setting holds what was given: all of it, a part of a nested one, or the number that a text writes.

    YAML reads ``1e-3`` as a text.
    """
    if isinstance(held, Mapping) and isinstance(given, Mapping):
        return all(name in held and _holds(held[name], value) for name, value in given.items())
    if isinstance(held, float) and isinstance(given, str):
        with suppress(ValueError):
            return float(given) == held
    return bool(held == given)


def _of_provenance(result: Result) -> Iterator[str]:
    found = result.provenance
    if not re.fullmatch(r"[0-9a-f]{40,64}", str(found.get("commit"))):
        yield f"provenance.commit must be that of the code, got {found.get('commit')!r} instead"
    if found.get("dirty") is not False:
        yield "provenance.dirty must be false: run it from a clean checkout, so that the commit is all of the code"
    libraries = found.get("libraries")
    if not (isinstance(libraries, dict) and libraries.get("torch")):
        yield "provenance.libraries must have the versions of the libraries"
    if not {"method", "loss"} <= set(found.get("sources") or ()):
        yield "provenance.sources must have the digests of the method's and the loss's file"


def _of_measures(result: Result) -> Iterator[str]:
    if not (result.evaluation and result.selection and result.cost):
        return
    yield from _of_evaluation(result.evaluation)
    yield from _of_selection(result, result.selection, result.evaluation)
    costs = result.cost.model_dump().values()
    if any(value is not None and value < 0 for value in costs):
        yield "cost must not be negative"


def _of_evaluation(evaluation: Evaluation) -> Iterator[str]:
    metrics, per_class = evaluation.metrics, evaluation.per_class
    for name, value in metrics.model_dump(exclude={"gamma"}).items():
        if not _is_percent(value):
            yield f"{name} must be a percentage in 0..100, got {value:g} instead"
    parts: dict[tuple[bool, str], list[float]] = {place: [] for place in _MEANS.values()}
    for c in per_class:
        for column, percent in (("T1", c.T1), ("gzsl", c.gzsl), ("calibrated", c.calibrated)):
            if percent is None:
                continue
            if not _is_percent(percent):
                yield f"per_class {c.name} {column} must be a percentage in 0..100, got {percent:g} instead"
            if (c.seen, column) in parts:
                parts[c.seen, column].append(percent)
            else:
                yield f"per_class {c.name} is a seen class, which has no {column}"
    for suffix in ("", "_calibrated"):
        u, s, h = (getattr(metrics, f"{name}{suffix}") for name in "USH")
        harmonic = 2 * u * s / (u + s) if u + s else 0.0  # the measure's own code needs torch, whose import takes long
        if abs(harmonic - h) > _ROUNDING:
            yield f"H{suffix} must be 2US / (U + S) = {harmonic:.4f}, got {h:.4f} instead"
        # The curve passes through (U, S), and S never rises with U.
        low, high = u * s / 100, (100 * u + (100 - u) * s) / 100
        if not low - _ROUNDING <= metrics.AUSUC <= high + _ROUNDING:
            yield f"AUSUC must be in {low:.2f}..{high:.2f} with such U{suffix} and S{suffix}, got {metrics.AUSUC:.2f}"
    for name, place in _MEANS.items():
        mean, stated = sum(parts[place]) / max(len(parts[place]), 1), getattr(metrics, name)
        if abs(mean - stated) > _ROUNDING:
            yield f"{name} must be the mean over classes, {mean:.4f}, got {stated:.4f} instead"
    if evaluation.curve:
        curve = evaluation.curve
        same_length = len(curve.seen) == len(curve.unseen)
        area = _area(curve.unseen, curve.seen) / 100 if same_length else np.nan
        if not abs(area - metrics.AUSUC) <= _THINNED:
            yield f"the area under the curve must be AUSUC, {metrics.AUSUC:.2f}, got {area:.2f} instead"
    if evaluation.imbalance:
        yield from _of_imbalance(evaluation.imbalance, np.array([c.seen for c in evaluation.per_class]))


def _area(x: Sequence[float], y: Sequence[float]) -> float:
    """The area under straight lines between points, by the trapezoidal rule."""
    return float(np.diff(x) @ (np.array(y[1:]) + y[:-1]) / 2)


def _is_percent(value: float) -> bool:
    return -_ROUNDING <= value <= 100 + _ROUNDING


#: Metric -> whether it is of seen classes, and the column of ``ClassAccuracy`` that it is the mean of.
_MEANS = {
    "T1": (False, "T1"),
    "U": (False, "gzsl"),
    "S": (True, "gzsl"),
    "U_calibrated": (False, "calibrated"),
    "S_calibrated": (True, "calibrated"),
}


def _of_imbalance(report: ImbalanceReport, seen: npt.NDArray[np.bool_]) -> Iterator[str]:
    parts: dict[str, SemanticErrors] = {"seen": report.seen, "unseen": report.unseen}
    for part, found in parts.items():
        spread = found.std / found.mean if found.mean else None
        if found.mean < 0 or found.std < 0 or (spread is None) != (found.spread is None):
            yield f"imbalance.{part} must have a mean and std of at least 0, and their quotient as spread"
        elif spread is not None and abs(spread - (found.spread or 0)) > _ROUNDING * max(spread, 1):
            yield f"imbalance.{part}.spread must be std / mean = {spread:.4f}, got {found.spread} instead"
        if found.r is not None and not abs(found.r) <= 1 + _ROUNDING:
            yield f"imbalance.{part}.r must be in -1..1, got {found.r:g} instead"
    if report.errors is None or is_coarse(report.errors):
        return
    try:
        errors = decode(report.errors)
    except ValueError as error:
        yield f"imbalance.errors: {error}"
        return
    if len(errors) != len(seen):
        yield f"imbalance.errors must have a row for each of {len(seen)} classes, got {len(errors)} instead"
        return
    for part, per_semantic in _per_semantic(errors, seen).items():
        for name, value in (("mean", per_semantic.mean()), ("std", per_semantic.std())):
            stated = getattr(parts[part], name)
            tolerance = _LEAST_ERROR + _PRECISION * max(abs(stated), float(per_semantic.mean()))
            if not abs(value - stated) <= tolerance:
                yield f"imbalance.{part}.{name} must be that of the error matrix, {value:.3g}, got {stated:.3g} instead"


def _per_semantic(errors: npt.NDArray[np.float64], seen: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[np.float64]]:
    """The mean error of each semantic over the classes of a part that have images."""
    errors = errors[:, ~np.isnan(errors).all(axis=0)]
    parts = {"seen": errors[seen], "unseen": errors[~seen]}
    return {part: rows[~np.isnan(rows).all(axis=1)].mean(axis=0) for part, rows in parts.items()}


def _of_mean_errors(results: Sequence[Stored]) -> list[str]:
    """A line for each matrix of the mean errors of several runs that is not theirs."""
    cells: dict[str, list[tuple[Path | str, Evaluation, ImbalanceReport]]] = {}
    for place, result in results:
        evaluation = result.evaluation
        if evaluation and (report := evaluation.imbalance) and report.errors and is_coarse(report.errors):
            cells.setdefault(result.spec.key, []).append((place, evaluation, report))
    lines = []
    for cell in cells.values():
        place, evaluation, first = cell[0]
        seen = np.array([c.seen for c in evaluation.per_class])
        try:
            errors = decode(first.errors or {})
            if len(errors) != len(seen):
                raise ValueError(f"must have a row for each of {len(seen)} classes, got {len(errors)} instead")
        except ValueError as error:
            lines.append(f"{place}: imbalance.errors: {error}")
            continue
        for part, per_semantic in _per_semantic(errors, seen).items():
            stated = float(np.mean([getattr(report, part).mean for _, _, report in cell]))
            value = float(per_semantic.mean())
            if not abs(value - stated) <= _LEAST_ERROR + _COARSELY * max(value, stated):
                lines.append(f"{place}: the error matrix must have the runs' {part} mean {stated:.3g}, got {value:.3g}")
    return lines


def _of_selection(result: Result, selection: Selection, evaluation: Evaluation) -> Iterator[str]:
    strict = result.spec.protocol == "strict"
    if selection.on != ("validation" if strict else "test"):
        yield f"selection.on must not be {selection.on} in the {result.spec.protocol} protocol"
    if selection.gamma != evaluation.metrics.gamma:
        yield f"gamma must be the selected one, {selection.gamma:g}, got {evaluation.metrics.gamma:g} instead"
    units = [row.get("epoch", row.get("candidate")) for row in selection.history]
    if units != list(range(1, 1 + len(units))):
        yield "selection.history must number its epochs or candidates from 1"
    values = [row.get(f"held-out {selection.criterion}", -np.inf) for row in selection.history]
    if not values or not 1 <= selection.choice <= len(values):
        yield f"selection.choice must be one of the {len(values)} rows of its history, got {selection.choice} instead"
    elif not selection.value == max(values) == values[selection.choice - 1]:
        yield (
            f"selection must be the best of its history, {max(values):.4f}, got {selection.value:.4f} at "
            f"{selection.choice} instead"
        )
    refit = result.refit_history[-1] if result.refit_history else {}
    if strict and selection.choice not in (refit.get("epoch"), refit.get("candidate")):
        yield f"refit_history must end at the choice, {selection.choice}"
    tested = getattr(evaluation.metrics, selection.criterion, np.inf)
    if not strict and abs(selection.value - tested) > _ROUNDING:
        yield f"{selection.criterion} must be the selected value in the literature protocol"


class _Context:
    """What earlier results, and those of the boards, say of a later one."""

    def __init__(self, boards: Sequence[Result]) -> None:
        self._classes: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._rows: dict[tuple[str, ...], dict[int, Result]] = {}
        self._revisions: dict[tuple[str, str, str], set[str]] = {}
        for result in boards:
            spec = result.spec
            self._revisions.setdefault(_data(spec), set()).add(spec.revision)
            list(self.of_place(result))

    def of_place(self, result: Result) -> Iterator[str]:
        """Whether it is the only one of its kind, no copy, and of the same classes as others of its data."""
        spec = result.spec
        row = self._rows.setdefault((spec.dataset, spec.method, spec.loss, spec.key), {})
        if (earlier := row.get(result.seed)) and earlier.status == "ok":
            if _content(earlier) != _content(result):
                yield (
                    "a run with these settings and seed is there already, with other content; what is published first "
                    "stays"
                )
            return
        original = result.provenance.get("repeats_seed")
        if result.cost and original is None:
            for seed, other in row.items():
                if other.cost == result.cost and "repeats_seed" not in other.provenance:
                    yield f"it has the times of seed {seed} to the last digit: a copy"
        repeated = next((other for other in row.values() if other.deterministic or other.seed == original), None)
        row[result.seed] = result
        if result.evaluation is None:
            return
        if repeated and (result.deterministic or repeated.deterministic) and _measures(repeated) != _measures(result):
            yield f"it must repeat seed {repeated.seed}, as no random number was drawn, and has other measures"
        per_class = result.evaluation.per_class
        for partition, classes in (("", _names(per_class)), (spec.partition, _division(per_class))):
            known = self._classes.setdefault((spec.dataset, spec.revision, partition), classes)
            if known != classes:
                yield (
                    f"per_class must have the {len(known)} classes of {spec.dataset}, revision {spec.revision}, split "
                    f"{spec.partition}, each seen or unseen and in its place as in other runs; got {len(classes)} that "
                    "differ"
                )
                break

    def of_data(self, spec: Spec) -> Iterator[str]:
        """Whether its data are those that the boards know by that name."""
        known = self._revisions.get(_data(spec))
        if spec.simulated:
            try:
                known = {DATASETS.resolve(spec.dataset, spec.dataset_options, None).revision}
            except InputError as error:
                yield f"spec.dataset: {error}"
                return
        if known and spec.revision not in known:
            yield f"spec.revision {spec.revision} is not that of {spec.dataset} here, {' or '.join(sorted(known))}"


def _measures(result: Result) -> object:
    """What a run came to, but for what published boards leave out."""
    if (evaluation := result.evaluation) is None:
        return None
    return evaluation.metrics, [(c.name, c.T1, c.gzsl, c.calibrated) for c in evaluation.per_class]


def _content(result: Result) -> object:
    """What tells two runs of the same settings and seed apart."""
    return result.status, result.error, result.cost, result.provenance.get("started"), _measures(result)


def _data(spec: Spec) -> tuple[str, str, str]:
    return spec.dataset, spec.features, repr(sorted(spec.dataset_options.items()))


def _names(per_class: Sequence[ClassAccuracy]) -> tuple[str, ...]:
    return tuple(sorted(c.name for c in per_class))


def _division(per_class: Sequence[ClassAccuracy]) -> tuple[str, ...]:
    return tuple(f"{c.name} {c.seen}" for c in per_class)
