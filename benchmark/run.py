"""``python -m benchmark.run``: train and evaluate a grid of methods, losses, data sets and seeds."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

import datasets
from benchmark.config import parse_assignments, parse_spec
from benchmark.jobs import Cell, Plan, load_plugins, make_spec, parse_seeds, parse_splits, plan
from benchmark.launch import LAUNCHERS, Launcher
from benchmark.leaderboard import DEFAULT_OUT, terminal_table, write_boards
from benchmark.registry import InputError
from benchmark.results import Result, Store
from losses import LOSSES
from methods import METHODS

REAL, STAND_INS = ["cub", "sun", "awa2"], ["cub-sim", "sun-sim", "awa2-sim"]

EXAMPLES = """examples:
  python -m benchmark.run --method ale --loss remse
  python -m benchmark.run --method ale eszsl --loss none mse remse remse:scale=mean_one --seeds 0-4
  python -m benchmark.run --method ale --loss mse --dataset cub:attributes=original_att --data-root xlsa17/data
  python -m benchmark.run --plugin my_method.py --method mine --loss mse --set lr=0.01 --dry-run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished runs are stored; the same command goes on with the rest", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.run",
        description="Train and evaluate zero-shot-learning methods; several values of an option make a grid.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--method", nargs="+", metavar="NAME", default=[], help="methods; see --list")
    add(
        "--loss",
        nargs="+",
        metavar="NAME[:KEY=VALUE,...]",
        default=["none"],
        help="attribute-regression losses, with parameters; see --list (default: none)",
    )
    add(
        "--dataset",
        nargs="+",
        metavar="NAME[:KEY=VALUE,...]",
        default=[],
        help="data sets, or folders under the data root, with options such as features=NAME, size=full (default: "
        "those of cub, sun and awa2 that are under the data root, else the simulated stand-ins)",
    )
    add("--seeds", nargs="+", metavar="N|N-M", default=["0-2"], help="seeds and ranges of seeds (default: 0-2)")
    add("--set", nargs="+", metavar="KEY=VALUE", default=[], action="extend", help="hyper-parameters of the methods")
    add(
        "--protocol",
        choices=["strict", "literature"],
        default="strict",
        help="strict: everything is chosen on validation; literature: epoch and gamma are chosen on test, for "
        "comparison with papers (default: strict)",
    )
    add("--splits", metavar="proposed|random:K", default="proposed", help="the published split, or K seeded partitions")
    add("--data-root", type=Path, metavar="DIR", help="folder of the xlsa17 data sets (default: $ZSL_DATA)")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        default=DEFAULT_OUT,
        help="folder of results and boards (default: leaderboards)",
    )
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="where to train (default: auto)")
    add("--launcher", metavar="NAME", default="inline", help="inline: this process; local: a process for each cell")
    add(
        "--plugin",
        type=Path,
        nargs="+",
        metavar="FILE",
        default=[],
        help="Python files that register their own classes",
    )
    add("--force", action="store_true", help="run what is stored already anew")
    add("--dry-run", action="store_true", help="say what would be run, and stop")
    add("--list", action="store_true", help="list methods, losses, data sets and launchers, and stop")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    load_plugins(arguments.plugin)
    if arguments.list:
        _print_lists()
        return 0
    if not arguments.method:
        raise InputError(f"--method is missing; known: {', '.join(METHODS.names())}")
    if "OMP_NUM_THREADS" not in os.environ:
        # These models are small: on few cores more threads cost more than they bring.
        torch.set_num_threads(1)
    cells = _grid(arguments)
    store = Store(arguments.out / "results")
    todo = plan(cells, store, arguments.force)
    for warning in todo.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.dry_run:
        _print_plan(todo)
        return 0
    results = todo.stored + _launch(todo, LAUNCHERS[arguments.launcher].obj, store)
    write_boards(arguments.out)
    print(terminal_table([r for r in results if r.status == "ok"], store))
    return _report(results, todo, arguments.out)


def _grid(arguments: argparse.Namespace) -> list[Cell]:
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
    seeds, device = parse_seeds(arguments.seeds), _device(arguments.device)
    grid = product(sets, arguments.method, losses, parse_splits(arguments.splits))
    return [
        Cell(
            make_spec(method, overrides, loss, dataset, options, split, arguments.protocol),
            seeds,
            data_root,
            device,
            tuple(arguments.plugin),
        )
        for (dataset, options), method, loss, split in grid
    ]


def _device(name: str) -> str:
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if usable["cuda"] else "cpu"
    if not usable[name]:
        raise InputError(
            f"--device {name} is not usable here; usable: {', '.join(d for d, ok in usable.items() if ok)}"
        )
    return name


def _launch(todo: Plan, launcher: Launcher, store: Store) -> list[Result]:
    results = []
    with tqdm(total=todo.n_runs, desc="runs", unit="run", disable=None) as bar:
        for result in launcher(todo.todo):
            if result.status != "skipped":
                store.save(result)
            results.append(result)
            bar.update()
    return results


def _report(results: Sequence[Result], todo: Plan, out: Path) -> int:
    problems: dict[str, list[int]] = {}
    for result in results:
        if result.status != "ok":
            spec = result.spec
            what = f"{result.status}: {spec.method_label}+{spec.loss_label} on {spec.dataset}: {result.error}"
            problems.setdefault(what, []).append(result.seed)
    for what, seeds in problems.items():
        print(f"{what} (seeds {', '.join(map(str, seeds))})", file=sys.stderr)
    count = {status: sum(r.status == status for r in results) for status in ("ok", "failed", "skipped")}
    print(
        f"{len(results)} runs: {count['ok']} ok ({len(todo.stored)} of them stored before), {count['failed']} failed, "
        f"{count['skipped']} skipped; boards in {out}"
    )
    return 1 if count["failed"] else 0


def _print_plan(todo: Plan) -> None:
    for cell in todo.todo:
        print(f"run  {cell.title}  seeds {','.join(map(str, cell.seeds))}  key {cell.spec.key}")
    print(f"{todo.n_runs} runs to do, {len(todo.stored)} stored")


def _print_lists() -> None:
    for registry in (METHODS, LOSSES, datasets.DATASETS, LAUNCHERS):
        print(f"{registry.kind}s:")
        for entry in registry:
            print(f"  {entry.name:14} {entry.family:12} {entry.year}  {entry.title}: {entry.source}")


if __name__ == "__main__":
    sys.exit(main())
