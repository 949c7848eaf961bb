"""Tuned settings: the YAML layer that a search leaves behind for one method, loss and data set, with its provenance."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ConfigDict, Field

from benchmark.config import Config, Profile, read_yaml, validate
from benchmark.errors import InputError
from benchmark.files import write_whole
from benchmark.results.record import JsonDict, Spec


class Trial(Config):
    """One trial of a search.

    Attributes:
        hparams: what it drew for the method; empty for the first, which takes the defaults.
        loss_parameters: what it drew for the loss.
        value: the criterion on validation, in percent, averaged over the seeds; None where a run failed.
        seconds: the wall time that it took.
        error: why it failed.
    """

    hparams: JsonDict
    loss_parameters: JsonDict = Field(default_factory=dict)
    value: float | None
    seconds: float
    error: str | None = None


class Tuned(Config):
    """What a search found.

    Attributes:
        method: the method's name.
        loss: the loss as the user typed it.
        dataset: the data set's name.
        features: its feature set.
        revision: a digest of its data.
        partition: the division of the classes; ``split`` in files.
        profile: the budget that the settings lie over; None in files from before there were any.
        overrides: what the user set of the method, which was not searched.
        hparams: the layer: what the best trial drew for the method.
        loss_parameters: and for the loss; empty in files from before any were searched.
        value: that trial's criterion.
        criterion: what was maximised.
        seeds: the seeds that every trial was run with.
        trials: all trials, in order.
        provenance: code, machine and libraries of the last session.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    schema_version: Literal[1] = 1
    method: str
    loss: str
    dataset: str
    features: str
    revision: str
    partition: str = Field(alias="split")
    profile: Profile | None = None
    overrides: JsonDict = Field(default_factory=dict)
    hparams: JsonDict
    loss_parameters: JsonDict = Field(default_factory=dict)
    value: float
    criterion: str
    seeds: list[int]
    trials: list[Trial] = Field(min_length=1)
    provenance: JsonDict = Field(default_factory=dict)

    def mismatch(self, spec: Spec) -> str | None:
        """What tells the search from a run of ``spec``, or None."""
        for name in ("method", "dataset", "features", "revision", "partition"):
            if (ours := getattr(self, name)) != (theirs := getattr(spec, name)):
                return f"{name} {ours} instead of {theirs}"
        if self.profile not in (None, spec.profile):
            return f"profile {self.profile} instead of {spec.profile}"
        return None if self.loss == spec.loss_label else f"loss {self.loss} instead of {spec.loss_label}"


def path(folder: Path, dataset: str, method: str, loss_label: str) -> Path:
    """Where the settings for a data set, method and loss lie."""
    return folder / dataset / f"{method}+{re.sub('[^A-Za-z0-9_.=,-]', ',', loss_label)}.yaml"


def load(file: Path) -> Tuned | None:
    """The tuned settings in ``file``, or None where there is no such file.

    Raises:
        InputError: it is broken.
    """
    return validate(Tuned, read_yaml(file), str(file)) if file.is_file() else None


def save(file: Path, tuned: Tuned) -> None:
    """Write ``file``, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    content = yaml.safe_dump(tuned.model_dump(), sort_keys=False, width=120)
    write_whole(file, f"# written by python -m benchmark.search\n{content}")


def found_for(spec: Spec, folder: Path) -> tuple[str, Tuned]:
    """Where the settings for runs of ``spec`` come from, and what was found there.

    Raises:
        InputError: there are none, or they are for something else.
    """
    file = path(folder, spec.dataset, spec.method, spec.loss_label)
    tuned = load(file)
    if tuned is None:
        command = shlex.join(spec.options)
        raise InputError(f"--tuned: {file} does not exist; python -m benchmark.search {command} makes it")
    if problem := tuned.mismatch(spec):
        raise InputError(f"{file}: was searched for {problem}; search anew with another --tuned folder")
    return str(file), tuned
