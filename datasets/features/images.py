"""Folders of images: their order and classes, and attributes and a split where none are published.

Three official layouts are known by what they hold, and any other folder is one of class folders:

- CUB_200_2011: ``images.txt`` and ``images/<class>/<file>``; in the order of ``images.txt``;
- Animals_with_Attributes2: ``JPEGImages/<class>/<file>``;
- SUN attributes: ``images/<letter>/<scene>[/<part>]/<file>``, whose class is ``<scene>_<part>``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from benchmark.api import Split, derive_seed, n_held_out
from benchmark.errors import InputError, did_you_mean, one_line

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
PARTS = ("trainval", "test_seen", "test_unseen")
ROLES = ("seen", "unseen", "validation")

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageFolder:
    """Images in a fixed order.

    Attributes:
        base: the folder that ``files`` are relative to.
        files: paths with forward slashes.
    """

    base: Path
    files: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class of each image: the names of its folders, joined by ``_``; single letters (SUN) are left out."""
        folders = [PurePosixPath(file).parts[:-1] for file in self.files]
        letters = all(len(parts) > 1 and len(parts[0]) == 1 for parts in folders)
        return tuple("_".join(parts[1:] if letters else parts) for parts in folders)

    def in_order_of(self, names: Sequence[str], where: str) -> ImageFolder:
        """The images that ``names`` list, in that order; a name may have other folders in front, as in xlsa17.

        Raises:
            InputError: one of them is not in the folder.
        """
        here = set(self.files)
        found: list[str] = []
        missing: list[str] = []
        for name in names:
            parts = PurePosixPath(name.strip().replace("\\", "/")).parts
            tails = ("/".join(parts[start:]) for start in range(len(parts)))
            tail = next((tail for tail in tails if tail in here), None)
            if tail is None:
                missing.append(name.strip())
            else:
                found.append(tail)
        if missing:
            raise InputError(
                f"{self.base}: must hold the {len(names)} images of {where}, lacks {len(missing)} of them, the first "
                f"is {missing[0]}"
            )
        return ImageFolder(self.base, tuple(found))


@dataclass(frozen=True)
class Table:
    """Attributes (C, A) by the names of classes and attributes."""

    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    values: npt.NDArray[np.float32]


def find(root: Path) -> ImageFolder:
    """The images under ``root``, in one of the layouts above; sorted by path where nothing lists them.

    Raises:
        InputError: it is no folder, holds no images, or some are in no class folder.
    """
    if not root.is_dir():
        raise InputError(f"--images {root}: must be a folder that exists")
    base = next((root / name for name in ("JPEGImages", "images") if (root / name).is_dir()), root)
    found = sorted(path for path in base.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    files = tuple(path.relative_to(base).as_posix() for path in found)
    if not files:
        raise InputError(f"--images {root}: must hold images ({', '.join(SUFFIXES)}) in class folders, got none")
    if loose := [file for file in files if "/" not in file]:
        raise InputError(f"--images {root}: must hold class folders with images, got {loose[0]} in no class folder")
    listed = root / "images.txt"
    if base == root or not listed.is_file():
        return ImageFolder(base, files)
    names = [line.split(maxsplit=1)[-1] for line in _text(listed).splitlines() if line.strip()]
    return ImageFolder(base, files).in_order_of(names, str(listed))


def read_table(file: Path) -> Table:
    """The attribute table, a CSV file: ``class,<attribute>,...`` and then a line for each class.

    Raises:
        InputError: it cannot be read, repeats a name, lacks a value, or has one that is no finite number.
    """
    header, *rows = _csv(file)
    if len(header) < 2 or header[0] != "class" or not rows:
        raise InputError(f"{file}: must be a table class,<attribute>,... with a line for each class")
    values = np.empty((len(rows), len(header) - 1), np.float32)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InputError(f"{file}: line {number} must have {len(header)} fields, got {len(row)} instead")
        for column, text in enumerate(row[1:], start=1):
            try:
                value = np.float32(text)
            except ValueError:
                value = np.float32("nan")
            if not np.isfinite(value):
                raise InputError(f"{file}: line {number}: {header[column]} must be a finite number, got {text!r}")
            values[number - 2, column - 1] = value
    classes = tuple(row[0] for row in rows)
    for names in (classes, tuple(header[1:])):
        if len(set(names)) < len(names):
            raise InputError(f"{file}: must name each class and attribute once, got {max(names, key=names.count)!r}")
    if not values.any(axis=1).all():
        name = classes[int(values.any(axis=1).argmin())]
        raise InputError(f"{file}: must describe every class, got only zeros for {name!r} instead")
    return Table(classes, tuple(header[1:]), values)


def read_descriptions(file: Path) -> dict[str, str] | None:
    """Class -> its text, of a CSV file ``class,description``; None where its header is another.

    Raises:
        InputError: it cannot be read, names a class twice, or a line has no text.
    """
    header, *rows = _csv(file)
    if header != ["class", "description"]:
        return None
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or not all(row) or row[0] in found:
            raise InputError(f'{file}: line {number} must be a new class and its text (in "" if it has commas)')
        found[row[0]] = row[1]
    if not found:
        raise InputError(f"{file}: must describe a class, got none")
    return found


def make_split(folder: ImageFolder, table: Table, file: Path) -> Split:
    """Labels, attributes and split of images whose classes ``table`` describes; its features are empty.

    Args:
        folder: the images.
        table: the attributes; classes without an image are left out.
        file: a CSV file, either ``class,split`` with ``seen``, ``unseen`` or ``validation`` (a seen class that
            validates) for each class, or ``image,split`` with ``trainval``, ``test_seen`` or ``test_unseen`` for each
            image. With classes, ``n_held_out`` of a seen class's images are test_seen, drawn from a seed of its name.

    Raises:
        InputError: a class has no attributes, or ``file`` misses a class or image, or makes no valid split.
    """
    image_classes = folder.classes
    names = tuple(name for name in table.classes if name in set(image_classes))
    if unknown := sorted(set(image_classes) - set(names)):
        raise InputError(f"{folder.base}: {_no_such_class(unknown[0], table)} in the attribute table")
    labels = np.array([names.index(name) for name in image_classes], np.int64)
    header, *rows = _csv(file)
    if header == ["class", "split"]:
        roles = _assigned(file, rows, ROLES, sorted(set(image_classes)), table.classes)
        role = np.array([roles[name] for name in image_classes])
        test = _hold_out(image_classes, role != "unseen")
        masks = [(role != "unseen") & ~test, test, role == "unseen"]
        validation = np.array([i for i, name in enumerate(names) if roles[name] == "validation"], np.int64)
    elif header == ["image", "split"]:
        parts_of = _assigned(file, rows, PARTS, folder.files, None)
        part_of = np.array([parts_of[name] for name in folder.files])
        masks = [part_of == part for part in PARTS]
        validation = np.zeros(0, np.int64)
    else:
        raise InputError(f"{file}: must begin with class,split or image,split, got {','.join(header)} instead")
    attributes = table.values[[table.classes.index(name) for name in names]]
    empty = np.zeros((len(labels), 1), np.float32)
    trainval, test_seen, test_unseen = (np.flatnonzero(mask) for mask in masks)
    made = Split(
        empty,
        labels,
        attributes,
        names,
        trainval=trainval,
        test_seen=test_seen,
        test_unseen=test_unseen,
        validation_classes=validation if len(validation) else None,
    )
    made.check(str(file))
    return made


def _assigned(
    file: Path, rows: list[list[str]], values: Sequence[str], names: Sequence[str], known: Sequence[str] | None
) -> dict[str, str]:
    """Name -> value for all ``names``; ``known`` are further ones that may be there."""
    assigned: dict[str, str] = {}
    allowed = {*names, *(known or ())}
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or row[1] not in values:
            raise InputError(f"{file}: line {number} must end in {', '.join(values)}, got {','.join(row)!r} instead")
        if row[0] not in allowed:
            raise InputError(f"{file}: line {number}: no images of {row[0]!r}; {did_you_mean(row[0], list(names))}")
        if assigned.setdefault(row[0], row[1]) != row[1]:
            raise InputError(f"{file}: line {number}: {row[0]!r} was {assigned[row[0]]} before, is {row[1]} here")
    if missing := [name for name in names if name not in assigned]:
        raise InputError(f"{file}: must have all of {len(names)}, lacks {len(missing)}, the first is {missing[0]!r}")
    return assigned


def _hold_out(classes: Sequence[str], seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(N,) which images are test_seen: of each seen class as many as ``n_held_out`` says."""
    held_out = np.zeros(len(classes), bool)
    for name in sorted({name for name, wanted in zip(classes, seen, strict=True) if wanted}):
        images = np.flatnonzero(np.array(classes) == name)
        n = int(n_held_out(np.array(len(images))))
        held_out[np.random.default_rng(derive_seed("hold-out", name)).permutation(images)[:n]] = True
    return held_out


def _no_such_class(name: str, table: Table) -> str:
    return f"no class {name!r}; {did_you_mean(name, list(table.classes))}"


def _csv(file: Path) -> list[list[str]]:
    rows = [[field.strip() for field in row] for row in csv.reader(_text(file).splitlines())]
    filled = [row for row in rows if any(row)]
    if not filled:
        raise InputError(f"{file}: must be a CSV file with a header, got no lines instead")
    return filled


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {one_line(error)}") from error
