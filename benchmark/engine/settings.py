"""The complete settings of a cell: what its method, loss and data set default to, and what the user set of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.api import AUTO, Dataset, LossConfig, MethodConfig
from benchmark.config import Layer, Profile, load_file, resolve
from benchmark.engine.tuned import found_for
from benchmark.errors import InputError
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.results.record import Protocol, Spec

#: A name, and what the user set of what it names.
Named = tuple[str, dict[str, Any]]
#: Profiles that not every method has -> what one without it lacks.
LACKING = {"published": "no settings of its authors", "medium": "no larger networks"}


def make_spec(
    method: str,
    overrides: dict[str, Any],
    loss: Named,
    dataset: Dataset,
    options: dict[str, Any],
    partition: str,
    protocol: Protocol,
    tuned: Path | None = None,
    profile: Profile | None = None,
) -> Spec:
    """The complete settings of one cell.

    Args:
        method: the method's name.
        overrides: what ``--set`` gives.
        loss: the loss's name and what the user set of it.
        dataset: the data set.
        options: what the user set of it.
        partition: ``proposed`` or ``random-<i>``.
        protocol: ``strict`` or ``literature``.
        tuned: the folder of tuned settings to lay over the defaults; None: the defaults.
        profile: the budget; None: ``published`` where the authors' settings are for the data set, else ``small``.

    Raises:
        InputError: a name, key or value is wrong, or there are no tuned settings for the cell.
    """
    loss_name, loss_overrides = loss
    file = load_file(METHODS[method].config_file)
    if profile in LACKING and profile not in file.profiles:
        raise InputError(f"--profile {profile}: {method} has {LACKING[profile]}; --profile small is for all")
    profile = profile or file.profile_of(dataset.name, dataset.feature_set)
    spec = Spec(
        protocol=protocol,
        partition=partition,
        dataset=dataset.name,
        simulated=dataset.name in DATASETS and DATASETS[dataset.name].simulated,
        features=dataset.features,
        revision=dataset.revision,
        method=method,
        loss=loss_name,
        hparams=_method_settings(method, overrides, loss_name, dataset, profile),
        loss_parameters=_loss_config(method, loss, dataset, profile).model_dump(),
        dataset_options=options,
        hparam_overrides=overrides,
        loss_overrides=loss_overrides,
        profile=profile,
    )
    if tuned is None:
        return spec
    where, found = found_for(spec, tuned)
    return with_layer(spec, where, found.hparams, found.loss_parameters, tuned=len(found.trials))


def with_layer(
    spec: Spec, where: str, hparams: dict[str, Any], loss_parameters: dict[str, Any], *, tuned: int = 0
) -> Spec:
    """``spec`` with a layer of settings between the defaults of its method and loss and what the user set of them.

    Args:
        spec: complete settings.
        where: where the layer comes from, for messages.
        hparams: the layer over the method's settings.
        loss_parameters: the one over the loss's.
        tuned: the trials of the search that chose it; 0 if none did.

    Raises:
        InputError: a key or value is wrong.
    """
    layers = {"defaults": spec.hparams, where: hparams, f"--set of {spec.method}": spec.hparam_overrides}
    of_loss = {"defaults": spec.loss_parameters, where: loss_parameters, f"--loss {spec.loss}": spec.loss_overrides}
    settings = {
        "hparams": _merge(METHODS[spec.method].obj.Config, layers),
        "loss_parameters": resolve(LOSSES[spec.loss].obj.Config, of_loss).model_dump(),
    }
    return Spec(**{**spec.model_dump(), **settings, "tuned": tuned})


def _method_settings(
    method: str, overrides: dict[str, Any], loss: str, dataset: Dataset, profile: Profile
) -> dict[str, Any]:
    entry = METHODS[method]
    file = load_file(entry.config_file)
    layers: dict[str, Layer] = {f"{entry.config_file}: hparams": file.hparams}
    for where, found in file.profile_layers(profile, dataset.name, dataset.feature_set).items():
        layers[f"{entry.config_file}: {where}"] = found
    if loss in file.losses:
        layers[f"{entry.config_file}: losses.{loss}.hparams"] = file.losses[loss].hparams
    layers[f"--set of {method}"] = overrides
    parameters = LOSSES[loss].obj.Config.model_fields
    hint = {key: f"it is a parameter of the loss: --loss {loss}:{key}=VALUE" for key in parameters}
    return _merge(entry.obj.Config, layers, hint)


def _merge(
    schema: type[MethodConfig], layers: Mapping[str, Layer], hint: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """As ``resolve`` does, for the settings of a method: complete values, ``auto`` where the data are to tell."""
    config = resolve(schema, {where: schema.fixed(values) for where, values in layers.items()}, hint)
    merged = {name: value for values in layers.values() for name, value in values.items()}
    return config.model_dump() | dict.fromkeys(schema.automatic(merged), AUTO)


def _loss_config(method: str, loss: Named, dataset: Dataset, profile: Profile) -> LossConfig:
    name, overrides = loss
    loss_file, method_file = LOSSES[name].config_file, METHODS[method].config_file
    file, of_method = load_file(loss_file), load_file(method_file).losses
    layers: dict[str, Layer] = {f"{loss_file}: hparams": file.hparams}
    for where, found in file.profile_layers(profile, dataset.name, dataset.feature_set).items():
        layers[f"{loss_file}: {where}"] = found
    if name in of_method:
        layers[f"{method_file}: losses.{name}.parameters"] = of_method[name].parameters
    layers[f"--loss {name}"] = overrides
    return resolve(LOSSES[name].obj.Config, layers)
