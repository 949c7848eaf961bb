"""``python -m benchmark.attention``: where a method looks for each attribute, drawn over test images as PNG files.

Each cell of the grid is fitted anew, as ``benchmark.run`` would fit it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.cli.grid import add_grid_options, check_grid, grid
from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code

if TYPE_CHECKING:
    from benchmark.api import Split
    from benchmark.engine.plan import Cell
    from benchmark.report.attention import Maps

EXAMPLE = """example:
  python -m benchmark.attention --method attentionnet --loss mse remse --dataset cub:features=res101-grid \\
      --pixels images448 --names xlsa17/data/CUB/attributes.txt --out maps
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    return exit_code(lambda: _command(_parser().parse_args(argv)), "pictures")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmark.attention",
        description="Fit each cell for its first seed and draw its attention: a picture an image, a row a cell.",
        epilog=EXAMPLE,
    )
    add = parser.add_argument
    add_grid_options(parser, seeds="0")
    add("--pixels", metavar="NAME", required=True, help="the feature set that holds the images, in the same order")
    add("--images", type=int, nargs="+", metavar="N", default=[], help="numbers of images, from 1 (default: 3 of test)")
    add(
        "--attributes",
        type=int,
        nargs="+",
        metavar="N",
        default=[],
        help="numbers of attributes, from 1 (default: the 5 that set the image's class most apart from the others)",
    )
    add("--names", type=Path, metavar="FILE", help="names of the attributes, one a line")
    add("--out", type=Path, metavar="DIR", default=Path("attention"), help="folder of pictures (default: attention)")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    if find_spec("matplotlib") is None:
        raise InputError("benchmark.attention needs matplotlib; pip install '.[report]'")
    check_grid(arguments)
    return _draw(arguments)  # what is wrong so far was said before this imports what takes seconds


def _draw(arguments: argparse.Namespace) -> int:
    import numpy as np

    from benchmark.launchers import prepare_process
    from benchmark.registries import DATASETS
    from benchmark.report.attention import distinctive, draw, first_of_classes

    cells = grid(arguments, "strict", None)
    if len({cell.spec.dataset for cell in cells}) != 1:
        raise InputError("--dataset must be one: all cells are drawn over the same images")
    prepare_process()
    split = cells[0].dataset().load()
    pixels = DATASETS.resolve(cells[0].spec.dataset, {"features": arguments.pixels}, cells[0].data_root).load()
    if pixels.kind != "images" or not np.array_equal(pixels.labels, split.labels):
        raise InputError(f"--pixels {arguments.pixels}: must be images, of the same classes in the same order")
    images = _numbers(arguments.images, len(split.labels), "--images") or first_of_classes(split, 3)
    fixed = _numbers(arguments.attributes, split.attributes.shape[1], "--attributes")
    names = _names(arguments.names, split.attributes.shape[1])
    maps = {cell.title: _maps(cell, split, images) for cell in cells}
    for place, image in enumerate(images):
        label = int(split.labels[image])
        attributes = fixed or distinctive(split, label, 5)
        titles = [f"{names[a]}\nlabel value {split.attributes[label, a]:.2f}" for a in attributes]
        rows = {title: found[place, attributes] for title, found in maps.items()}
        file = arguments.out / f"{cells[0].spec.dataset}-{image + 1}.png"
        draw(pixels.features[image], f"{split.class_names[label]}, image {image + 1}", rows, titles, file)
        print(file)
    return 0


def _maps(cell: Cell, split: Split, images: list[int]) -> Maps:
    """(len(images), A, h, w) attention of the fitted method."""
    import torch

    from benchmark.engine.experiment import fit_cell

    method, transform = fit_cell(cell, cell.seeds[0])
    with torch.no_grad():
        found = method.eval().attention(transform(torch.from_numpy(split.features[images]).to(cell.device)))
    if found is None:
        raise InputError(f"--method {cell.spec.method}: has no attention to draw")
    return found.float().cpu().numpy()


def _numbers(numbers: list[int], n: int, where: str) -> list[int]:
    """Numbers from 1 as indices from 0."""
    if strange := [number for number in numbers if not 1 <= number <= n]:
        raise InputError(f"{where} must be in 1..{n}, got {strange[0]} instead")
    return [number - 1 for number in numbers]


def _names(file: Path | None, n: int) -> list[str]:
    """What the attributes are called, by the file where there is one."""
    if file is None:
        return [f"attribute {number + 1}" for number in range(n)]
    from datasets.features.name_vectors import read_names, readable

    names = [readable(name) for name in read_names(file)]
    if len(names) != n:
        raise InputError(f"{file}: must name the {n} attributes, got {len(names)} names instead")
    return names


if __name__ == "__main__":
    sys.exit(main())
