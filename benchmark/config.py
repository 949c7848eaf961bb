"""Settings in layers, last wins: class default < YAML hparams < its profile < its losses < the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from benchmark.errors import InputError, did_you_mean
from benchmark.files import read_bytes

Layer = Mapping[str, Any]
#: A named budget of settings, the same word for every method: the authors' own; what one CPU core trains within a few
#: minutes; or the same with larger networks, which generating methods have.
Profile = Literal["published", "small", "medium"]


class Config(BaseModel):
    """Validated settings: an unknown key, a wrong type or a value out of range is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``lr=true``, which would become 1.0 without a word."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in (int, float):
            raise ValueError("a number")
        return value


C = TypeVar("C", bound=Config)


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
    """What papers report, never used to tune: per data set T1, U, S, H in percent.

    Attributes:
        source: where it was read.
        features: of what images and classes. Boards show the figures where this is the name of their own features,
            ``res101``, which has the semantics in it where they are others than the attributes: ``res101+sent``.
        status: how near the source is to those who ran it.
        note: what sets the figures apart from others.
        results: data set -> T1, U, S and H.
    """

    source: str
    features: str
    status: str = "sourced"
    note: str = ""
    results: dict[str, dict[str, float | None]]


class LossLayer(Config):
    """A method's overrides for one loss: its own hyper-parameters, and the loss's parameters."""

    hparams: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)


class ProfileLayer(Config):
    """The settings of one profile, and what differs from them by data set, with its features or without.

    Attributes:
        hparams: settings for every data set.
        datasets: ``cub``, or ``cub:res101`` -> settings for it.
    """

    hparams: dict[str, Any] = Field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = Field(default_factory=dict)


class ConfigFile(Config):
    """The YAML beside a method or a loss; see ``ProfileLayer`` for its profiles."""

    hparams: dict[str, Any] = Field(default_factory=dict)
    profiles: dict[Profile, ProfileLayer] = Field(default_factory=dict)
    losses: dict[str, LossLayer] = Field(default_factory=dict)
    search: dict[str, Range] = Field(default_factory=dict)
    published: list[Published] = Field(default_factory=list)

    def profile_of(self, dataset: str, features: str) -> Profile:
        """``published`` where the authors' settings are for this very data set and these features, else ``small``."""
        published = self.profiles.get("published", ProfileLayer()).datasets
        return "published" if published.keys() & {dataset, f"{dataset}:{features}"} else "small"

    def profile_layers(self, profile: Profile, dataset: str, features: str) -> dict[str, Layer]:
        """Place in the file -> settings, of a profile for a data set and its features; later ones win.

        ``medium`` lies over ``small``, and says what is larger.
        """
        found = self.profiles.get(profile, ProfileLayer())
        layers = self.profile_layers("small", dataset, features) if profile == "medium" else {}
        layers[f"profiles.{profile}.hparams"] = found.hparams
        for name in (dataset, f"{dataset}:{features}"):
            if name in found.datasets:
                layers[f"profiles.{profile}.datasets.{name}"] = found.datasets[name]
        return layers


def load_file(path: Path) -> ConfigFile:
    """Read and validate a YAML file, once while its content stays the same; an absent one is empty.

    Raises:
        InputError: it cannot be read, is not YAML, or has an unknown key or a wrong type.
    """
    return _parse_file(path, read_bytes(path)) if path.is_file() else ConfigFile()


@cache
def _parse_file(path: Path, content: bytes) -> ConfigFile:
    hint = {"datasets": "it belongs into a profile: profiles: {small: {datasets: ...}}"}
    return validate(ConfigFile, _parse(path, content), str(path), hint)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty one.

    Raises:
        InputError: it cannot be read, is not YAML, or is no mapping.
    """
    return _parse(path, read_bytes(path))


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would keep the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return node


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        found = yaml.load(content.decode(), _EachKeyOnce)
    except (ValueError, yaml.YAMLError) as error:  # ValueError: a date such as 2020-13-45, or no UTF-8
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if found is not None and not isinstance(found, dict):
        raise InputError(f"{path}: must be a mapping, got {type(found).__name__} instead")
    return found or {}


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
    return name, parse_assignments(_split(rest), where) if colon else {}


def assignments(values: Mapping[str, Any]) -> list[str]:
    """``key=value`` as ``parse_assignments`` reads it, sorted by key."""
    # A list around the value makes YAML write it on one line.
    return [
        f"{key}={yaml.safe_dump([value], default_flow_style=True, width=sys.maxsize).strip()[1:-1]}"
        for key, value in sorted(values.items())
    ]


def _split(text: str) -> list[str]:
    """The parts between commas, but for commas inside of a value: a part ends where its value is whole YAML."""
    parts: list[str] = []
    for piece in text.split(","):
        if parts and not _whole(parts[-1]):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    return parts


def _whole(part: str) -> bool:
    try:
        yaml.safe_load(part.partition("=")[2])
    except (ValueError, yaml.YAMLError):
        return False
    return True
