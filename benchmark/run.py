"""``python -m benchmark.run``: train and evaluate a grid of methods, losses, data sets and seeds."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmark.cli.grid import (
    RUNS,
    TUNED,
    add_grid_options,
    add_launcher_options,
    check_grid,
    check_launcher,
    grid,
    launching,
    warm_up,
)
from benchmark.cli.options import add_config_options, parse, words
from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code
from benchmark.registries import DATASETS, LAUNCHERS, LOSSES, METHODS, TRACKERS, load_plugins

if TYPE_CHECKING:
    from benchmark.boards.collection import Results
    from benchmark.config import Profile
    from benchmark.engine.jobs import RunJob
    from benchmark.engine.plan import Plan
    from benchmark.results.record import Protocol, Result
    from benchmark.results.store import Store

#: Names, in the folder of results, the data sets whose boards lack some of them; gone once they are rendered.
UNRENDERED = ".unrendered"

EXAMPLES = """examples:
  python -m benchmark.run --method ale --loss remse
  python -m benchmark.run --method ale eszsl --loss none mse remse remse:scale=mean_one --seeds 0-4
  python -m benchmark.run --method ale --loss mse --dataset cub:attributes=original_att --data-root xlsa17/data
  python -m benchmark.run --method ale --loss mse remse --dataset awa1 --data-root xlsa17/data --tuned
  torchrun --nproc-per-node 4 -m benchmark.run --method attentionnet --loss remse --dataset cub:features=images448 ...
  python -m benchmark.run --plugin my_method.py --method mine --loss mse --set lr=0.01 --dry-run
"""

#: The most cells that a line names.
NAMED = 6


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""
    return exit_code(lambda: _command(parse(_parser(), argv)), "runs")


def run(
    method: str | Sequence[str],
    loss: str | Sequence[str] = "none",
    dataset: str | Sequence[str] | None = None,
    *,
    seeds: int | Sequence[int] = 3,
    settings: Mapping[str, Any] | None = None,
    profile: Profile | None = None,
    splits: str = "proposed",
    protocol: Protocol = "strict",
    tuned: Path | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    plugin: Sequence[Path] = (),
    launcher: str = "inline",
    jobs: int | None = None,
    log: str | Sequence[str] = (),
    keep_models: bool = False,
    out: Path | None = None,
) -> Results:
    """Train and evaluate a grid of methods, losses, data sets and seeds, as the command line does.

    Nothing is written unless ``out`` is given; global random states and torch's number of threads are left alone. Bars
    show the progress in a notebook too.

    Args:
        method: names of methods.
        loss: names of losses, with parameters as ``"remse:scale=mean_one"``.
        dataset: names of data sets, with options as ``"cub:features=res101"``; None: as for the command line.
        seeds: how many seeds, from 0; or the seeds.
        settings: settings of the methods, as ``{"lr": 0.01}``.
        profile: ``published``, ``small`` or ``medium``; None: ``published`` where the authors' settings are for the
            data set, else ``small``.
        splits: ``proposed``, or ``random:K``.
        protocol: ``strict``, or ``literature``.
        tuned: the folder of the settings that searches found; None: the defaults.
        data_root: the folder of the xlsa17 data sets; None: ``$ZSL_DATA``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        plugin: files that register their own classes; what this process has registered need not be there.
        launcher: ``inline``, or ``local`` for several processes (in a script, below ``if __name__ == "__main__":``).
        jobs: of ``local``: cells at once.
        log: names of trackers that show the fits while they last, as ``tensorboard``; they write beside ``out``.
        keep_models: keep the fitted methods beside their results, in ``out``; see ``benchmark.models.load``.
        out: the folder of results and boards, as ``--out``; what is stored there is not run again.

    Returns:
        The results, of which some may have failed or been skipped (see their ``status``), in the order of the grid.

    Raises:
        InputError: an argument is wrong, or the data cannot be loaded.
    """
    import torch

    from benchmark.boards.collection import Results

    parser, numbers = _parser(), range(seeds) if isinstance(seeds, int) else seeds
    values = {
        "method": method,
        "loss": loss,
        "dataset": dataset,
        "seeds": [*numbers],
        "set": settings or None,
        "profile": profile,
        "splits": splits,
        "protocol": protocol,
        "tuned": tuned,
        "data_root": data_root,
        "device": device,
        "plugin": [*plugin] or None,
        "launcher": launcher,
        "jobs": jobs,
        "log": log or None,
        "keep_models": keep_models,
    }
    arguments = parser.parse_args(words(parser, values, "run"))
    if log and not out:
        raise InputError("log needs out, the folder of results, where trackers write beside them")
    n_threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, n_threads)
        arguments.out = out or Path(stack.enter_context(TemporaryDirectory()))
        check_launcher(arguments)
        check_grid(arguments)
        _require_trackers(arguments.log)
        todo, store = _plan(arguments)
        new, problem = _launch(_jobs(todo, arguments, store), arguments, store)
        if out:
            _render(out, store, new)
        if problem:
            raise problem
    position = {cell.spec.key: number for number, cell in enumerate(todo.cells)}
    return Results(sorted([*todo.stored, *new], key=lambda result: (position[result.spec.key], result.seed)))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmark.run",
        description="Train and evaluate zero-shot-learning methods; several values of an option make a grid.",
        epilog=EXAMPLES,
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
        const=TUNED,
        help="use the settings that benchmark.search left in DIR (default of DIR: runs/tuned)",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        default=RUNS,
        help="folder of results and their boards (default: runs)",
    )
    add(
        "--log",
        metavar="NAME",
        nargs="+",
        default=[],
        help="trackers that show fits while they last: tensorboard, whose files lie in the folder logs of --out, or "
        "those of plug-ins",
    )
    add_launcher_options(parser)
    add_config_options(parser)
    add(
        "--keep-models",
        action="store_true",
        help="keep the fitted methods beside their results, for benchmark.predict; what is stored without is run again",
    )
    add("--force", action="store_true", help="run what is stored already anew")
    add("--dry-run", action="store_true", help="say what would be run, and stop")
    add("--list", action="store_true", help="list methods, losses, data sets, launchers and trackers, and stop")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    if arguments.list:
        load_plugins(arguments.plugin)
        _print_lists()
        return 0
    check_launcher(arguments)
    check_grid(arguments)
    for name in arguments.log:
        _ = TRACKERS[name]
    if not arguments.dry_run:
        warm_up(arguments)
    from benchmark import parallel  # what is wrong so far was said before this takes its seconds

    with parallel.processes():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from benchmark import parallel

    _require_trackers(arguments.log)
    todo, store = _plan(arguments)
    jobs = _jobs(todo, arguments, store)
    parallel.wait_for_all()  # what one process stores, the others must not take for stored before
    if parallel.rank():  # the first process alone writes and prints
        for job in () if arguments.dry_run else jobs:
            with contextlib.suppress(InputError):
                for _ in job.run():
                    pass
        return 0
    for warning in todo.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.dry_run:
        _print_plan(todo)
        return 0
    new, problem = _launch(jobs, arguments, store)
    _render(arguments.out, store, new)
    _print_table([*todo.stored, *new], store)
    code = _report([*todo.stored, *new], todo, arguments.out)
    if arguments.keep_models:
        print(_kept([*todo.stored, *new], store))
    if problem:
        raise problem
    return code


def _require_trackers(names: Sequence[str]) -> None:
    for name in names:
        _ = TRACKERS[name].obj  # whose packages may be missing


def _plan(arguments: argparse.Namespace) -> tuple[Plan, Store]:
    """What is to be run and what is stored, and where."""
    from benchmark.engine.plan import plan
    from benchmark.launchers import prepare_process
    from benchmark.results.published import is_published
    from benchmark.results.store import Store

    cells = grid(arguments, arguments.protocol, arguments.tuned)
    prepare_process()
    store = Store(arguments.out / "results")
    if is_published(store.folder):
        raise InputError(
            f"--out {arguments.out}: holds published results; choose another folder and add its runs by "
            "python -m benchmark.leaderboard --import"
        )
    return plan(cells, store, arguments.force, arguments.keep_models), store


def _jobs(todo: Plan, arguments: argparse.Namespace, store: Store) -> list[RunJob]:
    from benchmark.engine.jobs import RunJob

    trackers = tuple(dict.fromkeys(arguments.log))
    return [RunJob(cell, store.folder, arguments.force, trackers, arguments.keep_models) for cell in todo.todo]


def _launch(
    jobs: Sequence[RunJob], arguments: argparse.Namespace, store: Store
) -> tuple[list[Result], InputError | None]:
    """The new results; and what the user gave wrong for cells that could not be run."""
    from tqdm.auto import tqdm

    from benchmark.launchers import Part, Started, follow

    results: list[Result] = []
    problems: list[str] = []
    with tqdm(total=sum(len(job.cell.seeds) for job in jobs), desc="runs", unit="run", disable=None) as bar:
        for event in follow(jobs, *launching(arguments, len(jobs)), bar):
            if isinstance(event, Started):
                _note_unrendered(store, event.job.cell.spec.dataset)
            elif isinstance(event, Part):
                results.append(event.part)
                bar.update()
            elif isinstance(event.problem, InputError):
                problems.append(str(event.problem))
    return results, InputError("\n".join(dict.fromkeys(problems))) if problems else None


def _note_unrendered(store: Store, dataset: str) -> None:
    """Remember, for whatever comes in between, that the boards of a data set lack stored results."""
    from benchmark.files import write_whole

    known = _unrendered(store)
    if dataset not in known:
        write_whole(store.folder / UNRENDERED, "\n".join([*known, dataset]) + "\n")


def _unrendered(store: Store) -> list[str]:
    file = store.folder / UNRENDERED
    return file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []


def _render(out: Path, store: Store, new: Iterable[Result]) -> None:
    """Render the boards of ``new`` results, and those that lack results of an earlier command that was killed.

    One command renders at a time, and reads what others stored meanwhile: the last one has all results, though another
    may have removed its notes.
    """
    from benchmark.boards.files import OVERVIEW, write_boards
    from benchmark.results.claims import claimed, hold_after_others

    notes = store.folder / UNRENDERED
    unrendered = sorted({*_unrendered(store), *(result.spec.dataset for result in new)})
    is_new = not (out / OVERVIEW).is_file()
    if unrendered or is_new or notes in claimed(store.folder):
        with hold_after_others(notes):
            write_boards(out, list(store), None if is_new else unrendered)
            notes.unlink(missing_ok=True)


def _print_table(results: Sequence[Result], store: Store) -> None:
    """The rows of these results, beside the reference's of the same methods."""
    from benchmark.boards.text import terminal_table

    done = [result for result in results if result.status == "ok"]
    beside = {(result.spec.dataset, result.spec.method) for result in done}
    print(terminal_table(done, [other for pair in sorted(beside) for other in store.of_method(*pair)]))


def _report(results: Sequence[Result], todo: Plan, out: Path) -> int:
    problems: dict[str, list[int]] = {}
    for result in results:
        if result.status != "ok":
            spec = result.spec
            what = f"{result.status}: {spec.method_label}+{spec.loss_label} on {spec.dataset}: {result.error}"
            problems.setdefault(what, []).append(result.seed)
    for what, seeds in problems.items():
        print(f"{what} (seeds {', '.join(map(str, seeds))})", file=sys.stderr)
    if ended := _at_the_last_epoch(results):
        print(ended)
    count = {status: sum(r.status == status for r in results) for status in ("ok", "failed", "skipped")}
    print(
        f"{len(results)} runs: {count['ok']} ok ({len(todo.stored)} of them stored before), {count['failed']} failed, "
        f"{count['skipped']} skipped; boards in {out}"
    )
    return 1 if count["failed"] else 0


def _kept(results: Sequence[Result], store: Store) -> str:
    """A line about the models that were kept."""
    kept = [about for result in results if (about := result.provenance.get("model"))]
    size, seconds = (sum(about[name] for about in kept) for name in ("bytes", "seconds"))
    return f"{len(kept)} models kept in {store.folder}: {size / 2**20:.1f} MiB, written in {seconds:.1f} s"


def _at_the_last_epoch(results: Sequence[Result]) -> str:
    """A line about the runs that chose the last epoch they were allowed; empty where none did.

    Closed forms choose among candidates, of which the last is as good as any other.
    """
    by_epoch = [result for result in results if result.selection and "epoch" in (result.selection.history or [{}])[-1]]
    cells = Counter(
        f"{result.spec.method_label}+{result.spec.loss_label} {result.spec.dataset}"
        for result in by_epoch
        if result.selection and result.selection.choice == result.settings.get("epochs")
    )
    if not cells:
        return ""
    named = [f"{cell}: {count}" for cell, count in cells.most_common(NAMED)]
    if len(cells) > NAMED:
        named.append(f"and {len(cells) - NAMED} more")
    return (
        f"{cells.total()} of {len(by_epoch)} runs chose the last epoch that they were allowed ({', '.join(named)}): "
        "more epochs may help, --set epochs=N"
    )


def _print_plan(todo: Plan) -> None:
    for cell in todo.todo:
        print(f"run  {cell.title}  seeds {','.join(map(str, cell.seeds))}  key {cell.spec.key}")
    print(f"{todo.n_runs} runs to do, {len(todo.stored)} stored")


def _print_lists() -> None:
    for registry in (METHODS, LOSSES, DATASETS, LAUNCHERS, TRACKERS):
        print(f"{registry.kind}s:")
        for entry in registry:
            print(f"  {entry.name:14} {entry.family:12} {entry.year}  {entry.title}: {entry.source}")


if __name__ == "__main__":
    sys.exit(main())
