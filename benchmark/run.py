"""``python -m benchmark.run``: train and evaluate a grid of methods, losses, data sets and seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import datasets
from benchmark import parallel
from benchmark.cli import add_grid_options, choose_threads, exit_code, grid
from benchmark.jobs import Plan, load_plugins, plan
from benchmark.launch import LAUNCHERS, Launcher
from benchmark.leaderboard import DEFAULT_OUT, terminal_table, write_boards
from benchmark.registry import InputError
from benchmark.results import Result, Store
from benchmark.tuned import DEFAULT_FOLDER
from losses import LOSSES
from methods import METHODS

EXAMPLES = """examples:
  python -m benchmark.run --method ale --loss remse
  python -m benchmark.run --method ale eszsl --loss none mse remse remse:scale=mean_one --seeds 0-4
  python -m benchmark.run --method ale --loss mse --dataset cub:attributes=original_att --data-root xlsa17/data
  python -m benchmark.run --method ale --loss mse remse --dataset awa1 --data-root xlsa17/data --tuned
  torchrun --nproc-per-node 4 -m benchmark.run --method attentionnet --loss remse --dataset cub:features=images448 ...
  python -m benchmark.run --plugin my_method.py --method mine --loss mse --set lr=0.01 --dry-run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    with parallel.processes():
        return exit_code(lambda: _run(arguments), "runs")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.run",
        description="Train and evaluate zero-shot-learning methods; several values of an option make a grid.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_grid_options(parser, seeds="0-2")
    add(
        "--protocol",
        choices=["strict", "literature"],
        default="strict",
        help="strict: everything is chosen on validation; literature: epoch and gamma are chosen on test, for "
        "comparison with papers (default: strict)",
    )
    add(
        "--tuned",
        type=Path,
        metavar="DIR",
        nargs="?",
        const=DEFAULT_FOLDER,
        help="use the settings that benchmark.search left in DIR (default of DIR: leaderboards/tuned)",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        default=DEFAULT_OUT,
        help="folder of results and boards (default: leaderboards)",
    )
    add("--launcher", metavar="NAME", default="inline", help="inline: this process; local: a process for each cell")
    add("--force", action="store_true", help="run what is stored already anew")
    add("--dry-run", action="store_true", help="say what would be run, and stop")
    add("--list", action="store_true", help="list methods, losses, data sets and launchers, and stop")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    load_plugins(arguments.plugin)
    if arguments.list:
        _print_lists()
        return 0
    cells = grid(arguments, arguments.protocol, arguments.tuned)
    choose_threads()
    store = Store(arguments.out / "results")
    todo = plan(cells, store, arguments.force)
    if parallel.size() > 1 and arguments.launcher != "inline":
        raise InputError(f"--launcher {arguments.launcher}: torchrun takes inline only")
    parallel.wait_for_all()  # what one process stores, the others must not take for stored before
    if parallel.rank():  # the first process alone writes and prints
        for _ in () if arguments.dry_run else LAUNCHERS["inline"].obj(todo.todo):
            pass
        return 0
    for warning in todo.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.dry_run:
        _print_plan(todo)
        return 0
    results = todo.stored + _launch(todo, LAUNCHERS[arguments.launcher].obj, store)
    write_boards(arguments.out)
    print(terminal_table([r for r in results if r.status == "ok"], store))
    return _report(results, todo, arguments.out)


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
