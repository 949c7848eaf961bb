"""What is to be run: cells of a grid, each with its complete settings, and the plan of those that are not stored."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.api import Dataset, LossConfig, Method, MethodConfig, RegressionLoss
from benchmark.config import load_file, resolve
from benchmark.provenance import digests
from benchmark.registry import InputError, load_plugin
from benchmark.results import Protocol, Result, Spec, Store
from benchmark.tuned import layer
from datasets import DATASETS
from datasets import resolve as resolve_dataset
from losses import LOSSES
from methods import METHODS

Named = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One configuration with its seeds: what one process loads data for once and runs.

    Attributes:
        spec: the complete settings.
        seeds: the seeds to run.
        data_root: the folder of real data, if any.
        device: a torch device, for instance ``cpu`` or ``cuda``.
        plugins: files to import before anything is looked up, in a new process too.
    """

    spec: Spec
    seeds: tuple[int, ...]
    data_root: Path | None
    device: str
    plugins: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """What progress bars and messages call it."""
        spec = self.spec
        split = "" if spec.split == "proposed" else f" {spec.split}"
        return f"{spec.method_label}+{spec.loss_label} {spec.dataset}{split}"

    def dataset(self) -> Dataset:
        """The data set that it runs on."""
        return resolve_dataset(self.spec.dataset, self.spec.dataset_options, self.data_root)

    def method_config(self) -> MethodConfig:
        """The validated settings of the method."""
        return resolve(METHODS[self.spec.method].obj.Config, {"hparams": self.spec.hparams})

    def build_loss(self, n_classes: int, n_attributes: int) -> RegressionLoss | None:
        """The loss, or None where it is the absent one."""
        loss = LOSSES[self.spec.loss].obj
        if loss.absent:
            return None
        return loss(n_classes, n_attributes, resolve(loss.Config, {"loss": self.spec.loss_parameters}))

    def sources(self) -> dict[str, Path]:
        """Role -> file of the method and the loss, and of what the method shares with others of its package."""
        method = METHODS[self.spec.method]
        return {"method": method.file, "loss": LOSSES[self.spec.loss].file} | _shared(method.obj)


@dataclass(frozen=True)
class Plan:
    """What a grid comes to: ``todo`` cells with their missing seeds, ``stored`` results, and ``warnings``."""

    todo: list[Cell]
    stored: list[Result]
    warnings: list[str]

    @property
    def n_runs(self) -> int:
        """The number of runs to do."""
        return sum(len(cell.seeds) for cell in self.todo)


def load_plugins(paths: Sequence[Path]) -> None:
    """Import ``paths``, after our own classes: a plug-in that takes one of their names is then the one to blame.

    Raises:
        InputError: a file is missing or its import failed.
    """
    for registry in (METHODS, LOSSES, DATASETS):
        registry.names()
    for path in paths:
        load_plugin(path)


def make_spec(
    method: str,
    overrides: dict[str, Any],
    loss: Named,
    dataset: Dataset,
    options: dict[str, Any],
    split: str,
    protocol: Protocol,
    tuned: Path | None = None,
) -> Spec:
    """The complete settings of one cell.

    Args:
        method: the method's name.
        overrides: what ``--set`` gives.
        loss: the loss's name and what the user set of it.
        dataset: the data set.
        options: what the user set of it.
        split: ``proposed`` or ``random-<i>``.
        protocol: ``strict`` or ``literature``.
        tuned: the folder of tuned settings to lay over the defaults; None: the defaults.

    Raises:
        InputError: a name, key or value is wrong, or there are no tuned settings for the cell.
    """
    loss_name, loss_overrides = loss
    method_entry, loss_entry = METHODS[method], LOSSES[loss_name]
    spec = Spec(
        protocol=protocol,
        split=split,
        dataset=dataset.name,
        simulated=dataset.simulated,
        features=dataset.features,
        revision=dataset.revision,
        method=method,
        loss=loss_name,
        hparams=_method_config(method, overrides, loss_name, dataset).model_dump(),
        loss_parameters=_loss_config(method_entry.config_file, loss_entry.config_file, loss, dataset.name).model_dump(),
        dataset_options=options,
        hparam_overrides=overrides,
        loss_overrides=loss_overrides,
    )
    if tuned is None:
        return spec
    where, found, trials = layer(tuned, spec)
    return with_layer(spec, where, found, trials)


def with_layer(spec: Spec, where: str, hparams: dict[str, Any], tuned: int = 0) -> Spec:
    """``spec`` with a layer of settings between its method's defaults and what the user set.

    Args:
        spec: complete settings.
        where: where the layer comes from, for messages.
        hparams: the layer.
        tuned: the trials of the search that chose it; 0 if none did.

    Raises:
        InputError: a key or value is wrong.
    """
    layers = {"defaults": spec.hparams, where: hparams, f"--set of {spec.method}": spec.hparam_overrides}
    config = resolve(METHODS[spec.method].obj.Config, layers)
    return Spec(**{**dict(spec), "hparams": config.model_dump(), "tuned": tuned})


def plan(cells: Sequence[Cell], store: Store, force: bool) -> Plan:
    """Divide the runs of ``cells`` into stored and missing ones; with ``force`` all are missing.

    Failed runs count as missing. Results that other code made are kept, with a warning.
    """
    todo, stored, warnings = [], [], []
    for cell in _without_repeats(cells):
        found = [] if force else [store.load(cell.spec, seed) for seed in cell.seeds]
        done = [result for result in found if result and result.status == "ok"]
        missing = tuple(seed for seed in cell.seeds if seed not in {result.seed for result in done})
        if missing:
            todo.append(replace(cell, seeds=missing))
        sources = digests(cell.sources())
        if stale := sum(result.provenance.get("sources") != sources for result in done):
            warnings.append(
                f"{cell.title}: {stale} stored runs were made by other code of the method or loss; "
                "--force runs them anew"
            )
        stored += done
    return Plan(todo, stored, warnings)


def _shared(method: type[Method]) -> dict[str, Path]:
    """Name -> file of the private modules of the method's own distribution that its module takes something from."""
    module = sys.modules[method.__module__]
    root = f"{(module.__package__ or '').partition('.')[0]}."
    names = {getattr(value, "__module__", None) or "" for value in vars(module).values()}
    private = sorted(n for n in names if n.startswith(root) and n.rpartition(".")[2].startswith("_"))
    return {name: Path(str(sys.modules[name].__file__)) for name in private}


def _without_repeats(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.spec.key: cell for cell in cells}.values())


def _method_config(method: str, overrides: dict[str, Any], loss: str, dataset: Dataset) -> MethodConfig:
    entry = METHODS[method]
    file = load_file(entry.config_file)
    layers = {f"{entry.config_file}: hparams": file.hparams}
    for name in (dataset.name, f"{dataset.name}:{dataset.features}"):
        if name in file.datasets:
            layers[f"{entry.config_file}: datasets.{name}"] = file.datasets[name]
    if loss in file.losses:
        layers[f"{entry.config_file}: losses.{loss}.hparams"] = file.losses[loss].hparams
    layers[f"--set of {method}"] = overrides
    parameters = LOSSES[loss].obj.Config.model_fields
    hint = {key: f"it is a parameter of the loss: --loss {loss}:{key}=VALUE" for key in parameters}
    return resolve(entry.obj.Config, layers, hint)


def _loss_config(method_file: Path, loss_file: Path, loss: Named, dataset: str) -> LossConfig:
    name, overrides = loss
    file, of_method = load_file(loss_file), load_file(method_file).losses
    layers = {f"{loss_file}: hparams": file.hparams}
    if dataset in file.datasets:
        layers[f"{loss_file}: datasets.{dataset}"] = file.datasets[dataset]
    if name in of_method:
        layers[f"{method_file}: losses.{name}.parameters"] = of_method[name].parameters
    layers[f"--loss {name}"] = overrides
    return resolve(LOSSES[name].obj.Config, layers)


def parse_splits(text: str) -> list[str]:
    """``proposed`` -> itself; ``random:3`` -> random-0, random-1, random-2.

    Raises:
        InputError: it is neither.
    """
    if text == "proposed":
        return [text]
    kind, _, number = text.partition(":")
    if kind != "random" or not number.isdecimal() or int(number) < 1:
        raise InputError(f"--splits must be proposed or random:K with K of at least 1, got {text!r} instead")
    return [f"random-{index}" for index in range(int(number))]


def parse_seeds(items: Sequence[str]) -> tuple[int, ...]:
    """``["0-2", "7"]`` -> (0, 1, 2, 7).

    Raises:
        InputError: an item is neither a number nor an ascending range.
    """
    seeds: set[int] = set()
    for item in items:
        first, dash, last = item.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise InputError(f"--seeds must be numbers or ranges as 0-4, got {item!r} instead")
        seeds.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(seeds))
