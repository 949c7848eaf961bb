"""What the commands share: the options that describe a grid of cells, and the cells that they describe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch

import datasets
from benchmark.config import parse_assignments, parse_spec
from benchmark.jobs import Cell, make_spec, parse_seeds, parse_splits
from benchmark.registry import InputError
from benchmark.results import Protocol
from methods import METHODS

REAL, STAND_INS = ["cub", "sun", "awa2"], ["cub-sim", "sun-sim", "awa2-sim"]


def add_grid_options(parser: argparse.ArgumentParser, seeds: str) -> None:
    """Add what describes a grid; ``seeds`` is the default of ``--seeds``."""
    add = parser.add_argument
    add("--method", nargs="+", metavar="NAME", default=[], help="methods; see benchmark.run --list")
    add(
        "--loss",
        nargs="+",
        metavar="NAME[:KEY=VALUE,...]",
        default=["none"],
        help="attribute-regression losses, with parameters; see benchmark.run --list (default: none)",
    )
    add(
        "--dataset",
        nargs="+",
        metavar="NAME[:KEY=VALUE,...]",
        default=[],
        help="data sets, or folders under the data root, with options such as features=NAME, size=full (default: "
        "those of cub, sun and awa2 that are under the data root, else the simulated stand-ins)",
    )
    add("--seeds", nargs="+", metavar="N|N-M", default=[seeds], help=f"seeds and ranges of seeds (default: {seeds})")
    add("--set", nargs="+", metavar="KEY=VALUE", default=[], action="extend", help="hyper-parameters of the methods")
    add("--splits", metavar="proposed|random:K", default="proposed", help="the published split, or K seeded partitions")
    add("--data-root", type=Path, metavar="DIR", help="folder of the xlsa17 data sets (default: $ZSL_DATA)")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="where to train (default: auto)")
    add(
        "--plugin",
        type=Path,
        nargs="+",
        metavar="FILE",
        default=[],
        help="Python files that register their own classes",
    )


def grid(arguments: argparse.Namespace, protocol: Protocol, tuned: Path | None) -> list[Cell]:
    """The cells that the options describe.

    Args:
        arguments: what ``add_grid_options`` added, parsed; its plug-ins are loaded.
        protocol: of all cells.
        tuned: the folder of tuned settings; None: the defaults.

    Raises:
        InputError: an option is wrong.
    """
    if not arguments.method:
        raise InputError(f"--method is missing; known: {', '.join(METHODS.names())}")
    data_root = arguments.data_root or datasets.default_data_root()
    if arguments.data_root and not arguments.data_root.is_dir():
        raise InputError(f"--data-root {arguments.data_root}: must be a folder, and there is none")
    names = arguments.dataset or datasets.available(REAL, data_root) or STAND_INS
    sets = [
        (datasets.resolve(name, options, data_root), options)
        for name, options in (parse_spec(text, "--dataset") for text in names)
    ]
    losses = [parse_spec(text, "--loss") for text in arguments.loss]
    overrides = parse_assignments(arguments.set, "--set")
    seeds, device = parse_seeds(arguments.seeds), choose_device(arguments.device)
    return [
        Cell(
            make_spec(method, overrides, loss, dataset, options, split, protocol, tuned),
            seeds,
            data_root,
            device,
            tuple(arguments.plugin),
        )
        for (dataset, options), method, loss, split in product(
            sets, arguments.method, losses, parse_splits(arguments.splits)
        )
    ]


def exit_code(command: Callable[[], int], unit: str) -> int:
    """The exit code of ``command``; bad input makes one line and 2, an interrupt one line and 130.

    Args:
        command: what to run.
        unit: what is stored as it is finished, for the line about an interrupt: runs, trials.
    """
    try:
        return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: finished {unit} are stored; the same command goes on with the rest", file=sys.stderr)
        return 130


def choose_threads() -> None:
    """One thread unless the user chose: these models are small, and more threads cost more than they bring."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def choose_device(name: str) -> str:
    """The device that ``--device`` names; ``auto`` is a CUDA GPU where there is one.

    Raises:
        InputError: it cannot be used here.
    """
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if usable["cuda"] else "cpu"
    if not usable[name]:
        raise InputError(
            f"--device {name} is not usable here; usable: {', '.join(d for d, ok in usable.items() if ok)}"
        )
    return name
