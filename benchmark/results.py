"""Results: what one run leaves behind, as one JSON file that is written atomically and validated when read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from benchmark.api import Config
from benchmark.registry import InputError

Protocol = Literal["strict", "literature"]


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` as they will be read back: lists for tuples; NaN, which JSON does not know, is refused."""
    loaded: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return loaded


#: The version of the result files that are written.
SCHEMA_VERSION = 1
#: Version -> what makes the content of such a file that of the next version: old files load for ever. A change that
#: old files are valid under (a new optional field) needs no new version; a new setting must leave old keys alone, as
#: ``Spec.key`` does with ``tuned``.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

JsonDict = Annotated[dict[str, Any], AfterValidator(_as_json)]


class Spec(Config):
    """What was run: all that two runs must share for their figures to be comparable, but for the seed.

    Attributes:
        protocol: ``strict``, or ``literature`` (epoch and gamma chosen on test).
        split: ``proposed``, or ``random-<i>``, the i-th seeded partition of the classes.
        dataset: the data set's name.
        simulated: it is a simulated stand-in.
        features: the feature set.
        revision: a digest of the data.
        method: the method's name.
        loss: the attribute-regression loss's name.
        hparams: the method's complete settings.
        loss_parameters: the loss's complete settings.
        dataset_options: what the user set of the data set.
        hparam_overrides: what the user set of the method; the rest are the suite's defaults.
        loss_overrides: what the user set of the loss.
        tuned: the trials of the search that the method's settings are the best of; 0 for settings of another origin.
    """

    protocol: Protocol
    split: str = Field(pattern=r"^(proposed|random-\d+)$")
    dataset: str
    simulated: bool
    features: str
    revision: str
    method: str
    loss: str
    hparams: JsonDict
    loss_parameters: JsonDict
    dataset_options: JsonDict = Field(default_factory=dict)
    hparam_overrides: JsonDict = Field(default_factory=dict)
    loss_overrides: JsonDict = Field(default_factory=dict)
    tuned: int = Field(0, ge=0)

    @property
    def key(self) -> str:
        """12 hex digits that identify the complete settings, however the user gave them.

        Tuned ones stay apart: a search may end at the defaults, and is a row of its own all the same.
        """
        content = self.model_dump(exclude={"dataset_options", "hparam_overrides", "loss_overrides"})
        if not self.tuned:
            del content["tuned"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def method_label(self) -> str:
        """The method and what the user set of it: ``ale``, ``ale tuned``, or ``ale:lr=0.1``."""
        return _label(self.method, self.hparam_overrides) + (" tuned" if self.tuned else "")

    @property
    def loss_label(self) -> str:
        """The loss as the user would type it: ``remse``, or ``remse:scale=mean_one``."""
        return _label(self.loss, self.loss_overrides)


class Metrics(Config):
    """The protocol's figures, in percent, but for gamma (in units of the method's scores)."""

    T1: float
    U: float
    S: float
    H: float
    U_calibrated: float
    S_calibrated: float
    H_calibrated: float
    gamma: float
    AUSUC: float


class ClassAccuracy(Config):
    """Accuracies class by class, in percent; None for a class without test images, and T1 for a seen class."""

    name: str
    seen: bool
    T1: float | None
    gzsl: float | None
    calibrated: float | None


class SemanticErrors(Config):
    """How evenly one group of classes' semantics were predicted; see ``benchmark.imbalance`` for definitions."""

    mean: float
    std: float
    spread: float | None
    r: float | None
    worst_decile: float


class ImbalanceReport(Config):
    """The imbalance of the predicted semantics on test images, and the error matrix that it was read from.

    Attributes:
        seen: of the seen classes.
        unseen: of the unseen classes.
        errors: the encoded (C, A) matrix; None for simulated data, where the figures above are what anyone compares,
            hundreds of runs are committed, and a run is made anew within seconds.
    """

    seen: SemanticErrors
    unseen: SemanticErrors
    errors: dict[str, Any] | None = None


class CurvePoints(Config):
    """The seen-unseen curve in at most 64 points, U rising and S falling, in percent: ``metrics.Curve.thinned``."""

    unseen: list[float]
    seen: list[float]


class Evaluation(Config):
    """All figures of a fitted method on one set of held-out images; older results have no ``curve``."""

    metrics: Metrics
    per_class: list[ClassAccuracy]
    imbalance: ImbalanceReport | None
    curve: CurvePoints | None = None


class Selection(Config):
    """What was chosen, on which images and by what.

    Attributes:
        on: ``validation``, or ``test`` in the literature protocol.
        criterion: the figure that was maximised.
        value: its best value, in percent.
        choice: the number of the chosen epoch or candidate.
        gamma: the calibration that maximised H on the same images.
        history: a row for each epoch or candidate of the selecting fit.
    """

    on: Literal["validation", "test"]
    criterion: str
    value: float
    choice: int
    gamma: float
    history: list[dict[str, float]]


class Cost(Config):
    """What a run took: seconds of wall time to select and refit, and to evaluate; peak memory in MiB."""

    fit_s: float
    evaluate_s: float
    peak_memory_mib: float


class Result(Config):
    """One run; ``evaluation``, ``selection`` and ``cost`` are there when ``status`` is ok, else ``error`` says why."""

    schema_version: Literal[1] = 1
    spec: Spec
    seed: int = Field(ge=0)
    status: Literal["ok", "failed", "skipped"]
    evaluation: Evaluation | None = None
    selection: Selection | None = None
    refit_history: list[dict[str, float]] = Field(default_factory=list)
    cost: Cost | None = None
    provenance: JsonDict = Field(default_factory=dict)
    error: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _migrated(cls, content: Any) -> Any:
        """Content of any older version as that of the present one."""
        while isinstance(content, dict) and (migrate := MIGRATIONS.get(content.get("schema_version", SCHEMA_VERSION))):
            content = migrate(content)
        return content

    @model_validator(mode="after")
    def _has_what_its_status_says(self) -> Result:
        if (self.status == "ok") != all((self.evaluation, self.selection, self.cost)):
            raise ValueError("evaluation, selection and cost must be there if and only if status is ok")
        return self


class Store:
    """The folder of result files: ``<dataset>/<method>+<loss>/<key>-s<seed>.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, spec: Spec, seed: int) -> Path:
        """Where the result of a run lies."""
        return self.folder / spec.dataset / f"{spec.method}+{spec.loss}" / f"{spec.key}-s{seed}.json"

    def save(self, result: Result) -> Path:
        """Write a result, whole or not at all.

        Raises:
            InputError: the file cannot be written (disk full, no permission); older results are untouched.
        """
        path = self.path(result.spec, result.seed)
        write_atomic(path, result.model_dump_json(indent=1) + "\n")
        return path

    def load(self, spec: Spec, seed: int) -> Result | None:
        """The stored result of a run, or None."""
        path = self.path(spec, seed)
        return read_result(path) if path.is_file() else None

    def __iter__(self) -> Iterator[Result]:
        """All stored results, in the order of their paths."""
        for path in sorted(self.folder.glob("*/*/*.json")):
            yield read_result(path)


def read_result(path: Path) -> Result:
    """Read and validate a result file.

    Raises:
        InputError: it cannot be read, is no result of a known schema, or lies under a name that is not its own.
    """
    try:
        result = Result.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path}: not a result file: {key or 'content'}: {first['msg']}; restore or delete it"
        ) from None
    expected = Store(Path()).path(result.spec, result.seed)
    if path.parts[-len(expected.parts) :] != expected.parts:
        raise InputError(f"{path}: its content belongs at {expected}: edited or moved by hand; restore or delete it")
    return result


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that ``path`` holds the old content or the new, never a part.

    Raises:
        InputError: it cannot be written.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    except BaseException:  # an interrupt, too, must leave no part of a file
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise


def _label(name: str, overrides: dict[str, Any]) -> str:
    return name + (":" + ",".join(f"{k}={v}" for k, v in sorted(overrides.items())) if overrides else "")
