"""The options that describe a grid of cells and how it is worked on, and the cells that they describe.

Nothing heavy is imported before the options are known to be right: torch alone takes longer than an answer should.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import InputError
from benchmark.registries import DATASETS, LAUNCHERS, LOSSES, METHODS, default_data_root, load_plugins

if TYPE_CHECKING:
    from benchmark.engine.plan import Cell
    from benchmark.engine.settings import Named
    from benchmark.launchers import Launcher, Resources
    from benchmark.results.record import Protocol

#: Folders in the working folder: of runs, of the settings that searches found, and of what is published.
RUNS = Path("runs")
TUNED = RUNS / "tuned"
BOARDS = Path("leaderboards")


def add_grid_options(parser: argparse.ArgumentParser, seeds: str) -> None:
    """Add what describes a grid; ``seeds`` is the default of ``--seeds``."""
    parser.set_defaults(launcher=None)  # of commands that have none
    add = parser.add_argument
    add("--method", nargs="+", metavar="NAME", default=[], help="methods; see benchmark.run --list")
    add(
        "--loss",
        nargs="+",
        metavar="NAME[:KEY=VALUE,...]",
        default=[LOSSES.absent],
        help="attribute-regression losses, with parameters; see benchmark.run --list (default: %(default)s)",
    )
    add(
        "--dataset",
        nargs="+",
        metavar="NAME[:KEY=VALUE,...]",
        default=[],
        help="data sets, or folders under the data root, with options such as features=NAME, size=full (default: "
        f"those of {', '.join(DATASETS.imitated())} that are under the data root, else their simulated stand-ins)",
    )
    add("--seeds", nargs="+", metavar="N|N-M", default=[seeds], help=f"seeds and ranges of seeds (default: {seeds})")
    add("--set", nargs="+", metavar="KEY=VALUE", default=[], action="extend", help="hyper-parameters of the methods")
    add(
        "--profile",
        choices=["published", "small", "medium"],
        help="published: the authors' settings; small: what one CPU core trains within minutes, on data of any shape; "
        "medium: generating methods with larger networks, up to five minutes a run "
        "(default: published where the authors' are for the data set and its features, else small)",
    )
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


def add_launcher_options(parser: argparse.ArgumentParser) -> None:
    """Add what says where and how many at once the cells of a grid are worked on."""
    add = parser.add_argument
    add(
        "--launcher",
        metavar="NAME",
        help="inline: this process; local: several on this machine; slurm: jobs of a cluster (default: local where "
        "there are several cells and cores, else inline)",
    )
    add("--jobs", type=int, metavar="N", help="local: cells at once (default: a core each; on GPUs, what those take)")
    add("--jobs-per-gpu", type=int, metavar="N", help="local: cells at once on a GPU (default: 1)")
    add("--timeout", metavar="TIME", help="local: end a cell that takes longer, for instance 90s, 30m or 2h")
    add(
        "--slurm",
        metavar="KEY=VALUE,...",
        help="slurm: what jobs are submitted with, for instance partition=gpu,time=2:00:00,gpus=1,mem=16G,"
        "array_parallelism=50",
    )


def check_launcher(arguments: argparse.Namespace) -> None:
    """Assert that what ``add_launcher_options`` added names a launcher that heeds it.

    Raises:
        InputError: an option is wrong.
    """
    load_plugins(arguments.plugin)
    for option in ("jobs", "jobs_per_gpu"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            raise InputError(f"{_flag(option)} must be at least 1, got {value} instead")
    _ = arguments.timeout and parse_seconds(arguments.timeout)
    chosen = "inline" if _is_torchrun() else arguments.launcher
    if arguments.launcher not in (None, chosen):
        raise InputError(f"--launcher {arguments.launcher}: torchrun takes inline only")
    entry = LAUNCHERS[chosen or "local"]
    if arguments.slurm:
        _slurm(arguments)
    for option in ("jobs", "jobs_per_gpu", "timeout", "slurm"):
        if getattr(arguments, option) is not None and option not in entry.takes:
            raise InputError(f"{_flag(option)}: is not for the launcher {entry.name}")


def launching(arguments: argparse.Namespace, n_jobs: int) -> tuple[Launcher, Resources]:
    """The launcher that ``add_launcher_options`` chose for ``n_jobs`` jobs, and what it may use."""
    from benchmark.launchers import Resources

    timeout = None if arguments.timeout is None else parse_seconds(arguments.timeout)
    resources = Resources(arguments.jobs, arguments.jobs_per_gpu or 1, timeout, _slurm(arguments))
    return LAUNCHERS[_launcher(arguments, n_jobs)].obj, resources


def warm_up(arguments: argparse.Namespace) -> None:
    """Start what the launcher of a grid will need, before the command imports what takes seconds."""
    n_cells = len(arguments.method) * len(arguments.loss) * max(1, len(arguments.dataset))
    if _launcher(arguments, n_cells) == "local":
        from benchmark.launchers import local

        local.warm_up()


def _launcher(arguments: argparse.Namespace, n_jobs: int) -> str:
    """The name of the launcher: the user's choice, else ``local`` where there are several jobs and cores."""
    from benchmark.launchers import machine

    if arguments.launcher or _is_torchrun():
        return arguments.launcher or "inline"
    several = n_jobs > 1 and (arguments.jobs or machine.cores()) > 1
    return "local" if several or arguments.timeout else "inline"


def parse_seconds(text: str) -> float:
    """``90``, ``90s``, ``1.5m`` or ``2h`` -> seconds.

    Raises:
        InputError: it is none of these, or not above 0.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"--timeout must be a time as 90s, 30m or 2h, got {text!r} instead")
    return seconds


def _slurm(arguments: argparse.Namespace) -> dict[str, Any]:
    """What Slurm jobs are submitted with."""
    from benchmark.launchers.slurm import parameters

    return parameters(arguments.slurm or "")


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _is_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def check_grid(arguments: argparse.Namespace) -> None:
    """Load the plug-ins, and assert that what ``add_grid_options`` added names things that there are.

    Raises:
        InputError: an option is wrong.
    """
    load_plugins(arguments.plugin)
    if not arguments.method:
        raise InputError(f"--method is missing; known: {', '.join(METHODS.names())}")
    for method in arguments.method:
        _ = METHODS[method]
    for loss in arguments.loss:
        _ = LOSSES[loss.partition(":")[0]]
    DATASETS.folders(_data_root(arguments))  # which a data root must be able to tell
    for dataset in arguments.dataset:
        DATASETS.check_name(dataset.partition(":")[0], _data_root(arguments))
    parse_seeds(arguments.seeds)
    parse_partitions(arguments.splits)
    _named_options(arguments)


def grid(arguments: argparse.Namespace, protocol: Protocol, tuned: Path | None) -> list[Cell]:
    """The cells that the options describe.

    Args:
        arguments: what ``add_grid_options`` added, parsed and checked by ``check_grid``.
        protocol: the protocol of all cells.
        tuned: the folder of tuned settings; None: the defaults.

    Raises:
        InputError: an option is wrong.
    """
    from benchmark.engine.plan import Cell
    from benchmark.engine.settings import make_spec

    data_root = _data_root(arguments)
    overrides, losses, named = _named_options(arguments)
    sets = [
        (DATASETS.resolve(name, options, data_root), options)
        for name, options in named or [(name, {}) for name in DATASETS.defaults(data_root)]
    ]
    seeds, device = parse_seeds(arguments.seeds), _device(arguments)
    return [
        Cell(
            make_spec(method, overrides, loss, dataset, options, partition, protocol, tuned, arguments.profile),
            seeds,
            data_root,
            device,
            tuple(arguments.plugin),
        )
        # Those that train on the same data follow each other: a process prepares it once.
        for (dataset, options), partition, method, loss in product(
            sets, parse_partitions(arguments.splits), arguments.method, losses
        )
    ]


def _device(arguments: argparse.Namespace) -> str:
    """The device of all cells; that of another machine is taken for granted."""
    from benchmark.toolkit.devices import choose_device

    if arguments.launcher != "slurm":
        return choose_device(arguments.device)
    has_gpus = any(str(name).startswith("gpu") or name == "gres" for name in _slurm(arguments))
    chosen: str = arguments.device
    return chosen if chosen != "auto" else "cuda" if has_gpus else "cpu"


def _named_options(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Named], list[Named]]:
    """What the user set of the methods, and the losses and data sets with what was set of them.

    Raises:
        InputError: something is no ``key=value``.
    """
    from benchmark.config import parse_assignments, parse_spec

    losses = [parse_spec(text, "--loss") for text in arguments.loss]
    datasets = [parse_spec(text, "--dataset") for text in arguments.dataset]
    return parse_assignments(arguments.set, "--set"), losses, datasets


def parse_partitions(text: str) -> list[str]:
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


def _data_root(arguments: argparse.Namespace) -> Path | None:
    root: Path | None = arguments.data_root
    return root or default_data_root()
