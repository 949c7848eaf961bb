"""Data sets: the xlsa17 reader for real ones, and simulated stand-ins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark.api import Dataset
from benchmark.config import validate
from benchmark.registry import InputError, Registry, did_you_mean, subclass_check

DATASETS: Registry[type[Dataset]] = Registry("data set", "datasets", subclass_check(Dataset))


def default_data_root() -> Path | None:
    """The folder that ``$ZSL_DATA`` names; None where it is not set.

    Raises:
        InputError: it is not a folder.
    """
    value = os.environ.get("ZSL_DATA")
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        raise InputError(f"ZSL_DATA: must be a folder that exists, got {value!r} instead")
    return root


def resolve(name: str, options: Mapping[str, Any], data_root: Path | None) -> Dataset:
    """The data set ``name``: a registered one, else a folder of ``data_root`` in the xlsa17 format, in any case.

    Args:
        name: what the command line gave.
        options: settings of the data set's own ``Config``.
        data_root: the folder of the data files, or None where there is none.

    Raises:
        InputError: there is no such data set, or an option is wrong. Its files are not looked at yet.
    """
    # Imported here because that module imports this one, to register what it defines.
    from datasets.xlsa17 import Xlsa17, folders

    key = name if name in DATASETS else name.lower()
    found = folders(data_root)
    if key not in DATASETS and key not in found:
        raise InputError(f"unknown data set {name!r}; {did_you_mean(key, [*DATASETS.names(), *found])}")
    kind = DATASETS[key].obj if key in DATASETS else Xlsa17
    return kind(key, validate(kind.Config, options, f"--dataset {name}"), data_root)


def available(names: Iterable[str], data_root: Path | None) -> list[str]:
    """Those of ``names`` whose attributes, splits and features lie under ``data_root``.

    Raises:
        InputError: ``data_root`` is not a folder.
    """
    from datasets.xlsa17 import feature_sets, folders

    found = folders(data_root)
    return [name for name in names if name in found and feature_sets(found[name])]
