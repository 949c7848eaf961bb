"""Settings in layers, last wins: class default < YAML hparams < its datasets < its losses < the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from benchmark.api import Config
from benchmark.registry import InputError, did_you_mean

C = TypeVar("C", bound=Config)
Layer = Mapping[str, Any]


class Range(Config):
    """A hyper-parameter's range for search: an interval (optionally on a log scale), or choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list[Any] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> Range:
        interval = self.low is not None and self.high is not None and self.low < self.high
        if (self.choices is None) != interval or (self.choices is not None and (self.low, self.high) != (None, None)):
            raise ValueError("choices, or low below high")
        if self.log and not (self.low and self.low > 0):
            raise ValueError("above 0 with log: low and high")
        return self


class Published(Config):
    """Figures from the literature, shown beside ours and never used to tune: per data set T1, U, S, H in percent."""

    source: str
    features: str
    status: str = "sourced"
    note: str = ""
    results: dict[str, dict[str, float | None]]


class LossLayer(Config):
    """A method's overrides for one loss: its own hyper-parameters, and the loss's parameters."""

    hparams: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)


class ConfigFile(Config):
    """The YAML beside a method or a loss. A method's ``datasets`` may name features of a data set too: ``cub:vit``."""

    hparams: dict[str, Any] = Field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    losses: dict[str, LossLayer] = Field(default_factory=dict)
    search: dict[str, Range] = Field(default_factory=dict)
    published: list[Published] = Field(default_factory=list)


def load_file(path: Path) -> ConfigFile:
    """Read and validate a YAML file; an absent one is empty.

    Raises:
        InputError: it cannot be read, is not YAML, or has an unknown key or a wrong type.
    """
    return validate(ConfigFile, read_yaml(path), str(path)) if path.is_file() else ConfigFile()


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty one.

    Raises:
        InputError: it cannot be read, is not YAML, or is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: a date such as 2020-13-45
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping, got {type(content).__name__} instead")
    return content or {}


def resolve(schema: type[C], layers: Mapping[str, Layer], hint: Mapping[str, str] | None = None) -> C:
    """Merge ``layers`` in order, each named by where it comes from, and validate each as it is laid on.

    Args:
        schema: the class of the result.
        layers: where -> values; later ones win.
        hint: key -> where else that key would be right, for the message about an unknown one.

    Raises:
        InputError: names the layer and key of the first thing wrong.
    """
    merged: dict[str, Any] = {}
    for where, layer in layers.items():
        merged.update(layer)
        validate(schema, merged, where, hint)
    return validate(schema, merged, "defaults")


def validate(schema: type[C], values: Mapping[str, Any], where: str, hint: Mapping[str, str] | None = None) -> C:
    """``schema`` built from ``values``; raises ``InputError`` with one line about the first problem."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            tail = (hint or {}).get(key) or did_you_mean(key, list(schema.model_fields))
            # What is known deeper down, pydantic does not say.
            raise InputError(
                f"{where}: unknown key {key!r}" + (f"; {tail}" if len(first["loc"]) == 1 else "")
            ) from None
        if first["type"] == "missing":
            raise InputError(f"{where}: {key} is missing") from None
        wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise InputError(f"{where}: {key} must be {wanted}, got {first['input']!r} instead") from None


def parse_assignments(text: list[str], where: str) -> dict[str, Any]:
    """``["lr=0.1", "seeds=[1, 2]"]`` -> values, each read as YAML.

    Raises:
        InputError: one lacks a ``=`` or a key, or repeats a key.
    """
    values: dict[str, Any] = {}
    for item in text:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"{where}: {item!r} must be key=value")
        if key.strip() in values:
            raise InputError(f"{where}: {key.strip()!r} is given twice")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(f"{where}: {item!r} has a value that is not YAML") from error
    return values


def parse_spec(text: str, where: str) -> tuple[str, dict[str, Any]]:
    """``"remse:alpha=0.1,scale=mean_one"`` -> ``("remse", {"alpha": 0.1, "scale": "mean_one"})``."""
    name, colon, rest = text.partition(":")
    return name, parse_assignments(rest.split(","), where) if colon else {}
