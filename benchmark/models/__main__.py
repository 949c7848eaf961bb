"""``python -m benchmark.models``: what models were kept, what one of them is, and a copy to pass on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.grid import RUNS
from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code

EXAMPLES = """examples:
  python -m benchmark.models list --out my-leaderboards
  python -m benchmark.models show MODEL.safetensors
  python -m benchmark.models export MODEL.safetensors birds.safetensors
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return exit_code(lambda: _command(_parser().parse_args(argv)), "models")


def _command(arguments: argparse.Namespace) -> int:
    return {"list": _list, "show": _show, "export": _export}[arguments.command](arguments)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmark.models",
        description="The models that benchmark.run --keep-models left.",
        epilog=EXAMPLES,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listed = commands.add_parser("list", help="list the models in a folder of results")
    listed.add_argument("--out", type=Path, metavar="DIR", default=RUNS, help="default: runs")
    commands.add_parser("show", help="what a model is, as JSON").add_argument("model", type=Path, metavar="MODEL")
    exported = commands.add_parser("export", help="copy a sound model, with what it is as JSON beside it")
    exported.add_argument("model", type=Path, metavar="MODEL")
    exported.add_argument("to", type=Path, metavar="FILE.safetensors")
    return parser


def _list(arguments: argparse.Namespace) -> int:
    from tabulate import tabulate

    from benchmark.files import MODEL_SUFFIX
    from benchmark.models.file import read

    if not arguments.out.is_dir():
        raise InputError(f"--out {arguments.out}: must be a folder of results, and there is none")
    rows, problems = [], []
    for file in sorted(arguments.out.rglob(f"*{MODEL_SUFFIX}")):
        try:
            card = read(file).card
        except InputError as error:
            problems.append(str(error))
        else:
            rows.append([card.title, card.spec.features, f"{file.stat().st_size / 2**20:.2f} MiB", file])
    print(tabulate(rows, tablefmt="plain", disable_numparse=True) if rows else f"no models in {arguments.out}")
    if problems:
        raise InputError("\n".join(problems))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    print(_described(arguments.model))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from benchmark.files import MODEL_SUFFIX, read_bytes, write_whole

    if arguments.to.suffix != MODEL_SUFFIX:
        raise InputError(f"{arguments.to}: must be a name that ends in {MODEL_SUFFIX}")
    description, content = _described(arguments.model), read_bytes(arguments.model)
    write_whole(arguments.to, content)
    write_whole(arguments.to.with_suffix(".json"), f"{description}\n")
    print(f"{arguments.to}: {len(content) / 2**20:.2f} MiB")
    return 0


def _described(file: Path) -> str:
    """What a sound model file says of itself, and its digest, as JSON."""
    import json

    from benchmark.models.file import read

    content = read(file)
    return json.dumps({"sha256": content.sha256, **content.card.model_dump(mode="json")}, indent=1)


if __name__ == "__main__":
    sys.exit(main())
