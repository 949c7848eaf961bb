"""``python -m benchmark.predict``: the classes of images, or of features, by a model that a run kept."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code
from benchmark.registries import load_plugins

if TYPE_CHECKING:
    from benchmark.models import Model, Predictions

EXAMPLES = """examples:
  python -m benchmark.predict MODEL.safetensors --images photos --top 3
  python -m benchmark.predict MODEL.safetensors --features res101.mat --among unseen
  python -m benchmark.predict MODEL.safetensors --images photos --classes new.csv --among new zebra
"""
#: The most images that the table shows.
SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return exit_code(lambda: _command(_parser().parse_args(argv)), "predictions")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmark.predict",
        description="Predict classes with a model that benchmark.run --keep-models left; writes a CSV file.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="a model file; see benchmark.models list")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", type=Path, metavar="DIR", help="a folder of images, which go through its backbone")
    what.add_argument("--features", type=Path, metavar="FILE.mat", help="features that were made as the model's were")
    add(
        "--among",
        nargs="+",
        metavar="CLASS",
        default=["all"],
        help="unseen, seen, new (those of --classes) or all classes, or names of classes (default: all)",
    )
    add(
        "--classes",
        type=Path,
        metavar="CSV",
        help="further classes: class,<attribute>,... or, where the model's semantics come from texts, "
        "class,description",
    )
    add("--top", type=int, metavar="K", default=1, help="the K likeliest classes of each image (default: 1)")
    add("--out", type=Path, metavar="CSV", default=Path("predictions.csv"), help="default: predictions.csv")
    add("--weights", metavar="FILE", help="the backbone's weights, where they were those of a file")
    add("--packages", type=Path, metavar="DIR", default=Path("packages"), help="where the encoder of texts lies")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="cpu", help="where to compute (default: cpu)")
    add("--plugin", type=Path, nargs="+", metavar="FILE", default=[], help="Python files that register its method")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    if arguments.top < 1:
        raise InputError(f"--top must be at least 1, got {arguments.top} instead")
    load_plugins(arguments.plugin)
    from benchmark import models  # what is wrong so far was said before this takes its seconds
    from benchmark.toolkit.devices import choose_device

    device = choose_device(arguments.device)
    model = models.load(arguments.model, device, arguments.weights)
    if arguments.classes:
        _add_classes(model, arguments.classes, arguments.packages)
    model.chosen(arguments.among)  # a wrong name is refused before images are looked at
    names, given = _given(model, arguments)
    found = model.predict(given, arguments.among)
    _write(arguments.out, names, found, arguments.top)
    _print(names, found, arguments.top)
    print(f"{len(names)} images by {model.card.title}, among {len(found.classes)} classes: {arguments.out}")
    return 0


def _add_classes(model: Model, file: Path, packages: Path) -> None:
    from datasets.features.more import read_classes

    names, semantics = read_classes(file, model.card.origin.get("semantics", {}), packages)
    try:
        model.add_classes(names, semantics)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _given(model: Model, arguments: argparse.Namespace) -> tuple[Sequence[str], Any]:
    """The names of the images, and their features or files."""
    from datasets.features.more import images_in, read_features

    if arguments.features:
        features = read_features(arguments.features, model.card.origin.get("features", {}))
        return features.names, features.values
    names = images_in(arguments.images)
    return names, [arguments.images / name for name in names]


def _write(file: Path, names: Sequence[str], found: Predictions, k: int) -> None:
    from benchmark.files import write_whole

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "score"])
    for name, best in zip(names, found.top(k), strict=True):
        writer.writerows([name, rank, label, repr(score)] for rank, (label, score) in enumerate(best, start=1))
    write_whole(file, text.getvalue())


def _print(names: Sequence[str], found: Predictions, k: int) -> None:
    from tabulate import tabulate

    rows = [
        [name, *(f"{label} ({score:.3g})" for label, score in best)]
        for name, best in zip(names[:SHOWN], found.top(k), strict=False)
    ]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True))
    if len(names) > SHOWN:
        print(f"... and {len(names) - SHOWN} more")


if __name__ == "__main__":
    sys.exit(main())
