"""The record of a run: what was run, on what, what came of it, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from benchmark.config import Profile, assignments

Protocol = Literal["strict", "literature"]


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` as they will be read back: lists for tuples; NaN, which JSON does not know, is refused."""
    loaded: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return loaded


#: The version of the result files that are written.
SCHEMA_VERSION = 1
#: Version -> what makes the content of such a file that of the next version: old files load for ever. A change that
#: old files are valid under (a new optional field) needs no new version; a new setting must leave old keys alone, as
#: ``Spec.key`` does with ``tuned``, and as a method's ``Config`` does with ``exclude_if`` (see ``GradientConfig``).
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

#: Where the settings lie that published runs were tuned to.
PUBLISHED_SETTINGS = "leaderboards/tuned"

JsonDict = Annotated[dict[str, Any], AfterValidator(_as_json)]


class Record(BaseModel):
    """What is stored of a run: unknown fields, wrong types and NaN are refused, and nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Spec(Record):
    """What was run: all that two runs must share for their measures to be comparable, but for the seed.

    Attributes:
        protocol: ``strict``, or ``literature`` (epoch and gamma chosen on test).
        partition: ``proposed``, or ``random-<i>``, the i-th seeded partition of the classes; ``split`` in files.
        dataset: the data set's name.
        simulated: it is a simulated stand-in.
        features: the feature set.
        revision: a digest of the data.
        method: the method's name.
        loss: the attribute-regression loss's name.
        hparams: the method's complete settings, ``auto`` where they are derived from the data; those that are younger
            than the first results are left out at their defaults.
        loss_parameters: the loss's complete settings.
        dataset_options: what the user set of the data set.
        hparam_overrides: what the user set of the method; the rest are the suite's defaults.
        loss_overrides: what the user set of the loss.
        tuned: the trials of the search that the method's settings are the best of; 0 for settings of another origin.
        profile: the budget that the settings are of; None for results from before there were any.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    protocol: Protocol
    partition: str = Field(pattern=r"^(proposed|random-\d+)$", alias="split")
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
    profile: Profile | None = None

    @cached_property
    def key(self) -> str:
        """12 hex digits that identify the complete settings, however the user gave them.

        Tuned ones stay apart: a search may end at the defaults, and is a row of its own all the same.
        """
        content = self.model_dump(exclude={"dataset_options", "hparam_overrides", "loss_overrides"})
        if not self.tuned:
            del content["tuned"]
        if not self.profile:
            del content["profile"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Spec:
        """A copy with a key of its own: a cached one would be copied along."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)
        return copied

    @property
    def options(self) -> list[str]:
        """The words of a command line that describe it, but for what it has in common with others: seeds, protocol."""
        words = ["--method", self.method, "--loss", _named(self.loss, self.loss_overrides)]
        words += ["--dataset", _named(self.dataset, self.dataset_options)]
        return words + (["--set", *assignments(self.hparam_overrides)] if self.hparam_overrides else [])

    def command(self, seeds: Iterable[int], last_partition: int | None = None) -> str:
        """What to type to get such runs.

        Args:
            seeds: the seeds of the runs.
            last_partition: the last random partition that is wanted, where it is of one; None: its own.
        """
        words = [*self.options, "--seeds", *_ranges(seeds)]
        if self.profile:
            words += ["--profile", self.profile]
        if self.tuned:
            words += ["--tuned", PUBLISHED_SETTINGS]
        if self.protocol != "strict":
            words += ["--protocol", self.protocol]
        if self.partition_index is not None:
            words += ["--splits", f"random:{1 + max(self.partition_index, last_partition or 0)}"]
        return "python -m benchmark.run " + shlex.join(words)

    @property
    def partition_index(self) -> int | None:
        """Which random partition it is, from 0; None for the proposed split."""
        kind, _, index = self.partition.partition("-")
        return int(index) if kind == "random" else None

    @property
    def method_label(self) -> str:
        """The method and what the user set of it: ``ale``, ``ale tuned``, ``ale:lr=0.1``, or ``dem published``."""
        profile = f" {self.profile}" if self.profile not in (None, "small") else ""
        return _label(self.method, self.hparam_overrides) + profile + (" tuned" if self.tuned else "")

    @property
    def loss_label(self) -> str:
        """The loss as the user would type it: ``remse``, or ``remse:scale=mean_one``."""
        return _label(self.loss, self.loss_overrides)


class Metrics(Record):
    """The measures of the protocol, in percent, but for gamma (in units of the method's scores)."""

    T1: float
    U: float
    S: float
    H: float
    U_calibrated: float
    S_calibrated: float
    H_calibrated: float
    gamma: float
    AUSUC: float


class ClassAccuracy(Record):
    """Accuracies class by class, in percent; None for a class without test images, and T1 for a seen class.

    ``images`` is the number of the class's test images; older results have none.
    """

    name: str
    seen: bool
    T1: float | None
    gzsl: float | None
    calibrated: float | None
    images: int | None = Field(None, ge=0)


class SemanticErrors(Record):
    """How evenly the semantics of one group of classes were predicted, as ``benchmark.measures.imbalance`` defines."""

    mean: float
    std: float
    spread: float | None
    r: float | None
    worst_decile: float


class ImbalanceReport(Record):
    """The imbalance of the predicted semantics on test images, and the error matrix that it was read from.

    Attributes:
        seen: the measures of the seen classes.
        unseen: the measures of the unseen classes.
        errors: the encoded (C, A) matrix; None for simulated data, where the measures above are what anyone compares,
            hundreds of runs are committed, and a run is made anew within seconds.
    """

    seen: SemanticErrors
    unseen: SemanticErrors
    errors: dict[str, Any] | None = None


class CurvePoints(Record):
    """The seen-unseen curve in at most 64 points, U rising and S falling, in percent: ``metrics.Curve.thinned``."""

    unseen: list[float]
    seen: list[float]


class Evaluation(Record):
    """All measures of a fitted method on one set of held-out images; older results have no ``curve``."""

    metrics: Metrics
    per_class: list[ClassAccuracy]
    imbalance: ImbalanceReport | None
    curve: CurvePoints | None = None


class Selection(Record):
    """What was chosen, on which images and by what.

    Attributes:
        on: ``validation``, or ``test`` in the literature protocol.
        criterion: the measure that was maximised.
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


class Cost(Record):
    """What a run took.

    Attributes:
        fit_s: seconds of wall time to select and refit.
        evaluate_s: seconds of wall time to evaluate.
        peak_memory_mib: the most memory in use, in MiB; None where the system does not tell.
    """

    fit_s: float
    evaluate_s: float
    peak_memory_mib: float | None


class Result(Record):
    """One run; ``evaluation``, ``selection`` and ``cost`` are there when ``status`` is ok, else ``error`` says why.

    ``derived`` holds what came of the settings that are ``auto``.
    """

    schema_version: Literal[1] = 1
    spec: Spec
    seed: int = Field(ge=0)
    status: Literal["ok", "failed", "skipped"]
    evaluation: Evaluation | None = None
    selection: Selection | None = None
    refit_history: list[dict[str, float]] = Field(default_factory=list)
    derived: JsonDict = Field(default_factory=dict)
    cost: Cost | None = None
    provenance: JsonDict = Field(default_factory=dict)
    error: str | None = None

    @property
    def command(self) -> str:
        """What to type to get it again, where its data and plug-ins are."""
        return self.spec.command([self.seed])

    @property
    def settings(self) -> dict[str, Any]:
        """The method's complete settings as it was run with them."""
        return {**self.spec.hparams, **self.derived}

    @property
    def deterministic(self) -> bool:
        """Whether every other seed comes to the same: no random number was drawn."""
        return bool(self.provenance.get("deterministic")) or "repeats_seed" in self.provenance

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


class PublishedResult(Result):
    """A run as published boards hold it, with what they, the page and reports use (``benchmark.results.compact``)."""


def without_repetitions(runs: Sequence[Result]) -> list[Result]:
    """The runs of a cell that are ok, or the one of them that the others repeat: it is ``deterministic`` then."""
    if not any(run.deterministic for run in runs):
        return list(runs)
    first = min(runs, key=lambda run: "repeats_seed" in run.provenance)
    return [first.model_copy(update={"provenance": {**first.provenance, "deterministic": True}})]


def _ranges(seeds: Iterable[int]) -> list[str]:
    """{0, 1, 2, 7} -> ["0-2", "7"]."""
    groups = groupby(enumerate(sorted(seeds)), lambda item: item[1] - item[0])
    runs = [[seed for _, seed in group] for _, group in groups]
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _named(name: str, options: dict[str, Any]) -> str:
    """``name:key=value,...`` as ``benchmark.config.parse_spec`` reads it."""
    return name + (":" + ",".join(assignments(options)) if options else "")


def _label(name: str, overrides: dict[str, Any]) -> str:
    return name + (":" + ",".join(f"{k}={v}" for k, v in sorted(overrides.items())) if overrides else "")
