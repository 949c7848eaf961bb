"""Images through a backbone, into the feature files that ``datasets.features.extract`` describes."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from benchmark.api import Split
from benchmark.errors import InputError, one_line
from benchmark.files import write_whole
from benchmark.toolkit.backbones import Backbone, features
from datasets import matfiles
from datasets.features.images import ImageFolder, Table, make_split
from datasets.features.rows import Rows
from datasets.xlsa17 import FINE_TUNED, SPLITS, feature_sets

LIBRARIES = ("torch", "torchvision", "timm", "pillow")

_logger = logging.getLogger(__name__)

Geometry = Callable[[Image.Image], Image.Image]
Make = Callable[[Tensor], dict[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Loading:
    """How images are read and sent through the backbone."""

    device: torch.device
    batch_size: int
    workers: int


@dataclass(frozen=True)
class _Batch:
    """``rows`` (B,) and their ``pixels`` (B, H, W, 3) uint8; rows that could not be read, with the reason."""

    rows: list[int]
    pixels: Tensor
    unreadable: dict[int, str]


class _Pixels(Dataset[tuple[int, Any]]):
    """The images of ``rows``, resized and cropped; the reason, as text, where one cannot be read."""

    def __init__(self, folder: ImageFolder, rows: Sequence[int], geometry: Geometry):
        self.folder, self.rows, self.geometry = folder, rows, geometry

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, npt.NDArray[np.uint8] | str]:
        row = self.rows[index]
        try:
            with Image.open(self.folder.base / self.folder.files[row]) as image:
                return row, np.array(self.geometry(image.convert("RGB")))
        except Exception as error:  # Pillow raises nearly anything over a broken file
            return row, one_line(error).replace(f"{self.folder.base}/", "")


def _collate(items: list[tuple[int, Any]]) -> _Batch:
    read = [(row, pixels) for row, pixels in items if not isinstance(pixels, str)]
    pixels = torch.from_numpy(np.stack([pixels for _, pixels in read])) if read else torch.empty(0)
    return _Batch([row for row, _ in read], pixels, {row: text for row, text in items if isinstance(text, str)})


@dataclass(frozen=True)
class Order:
    """The images of a data set in its order.

    Attributes:
        folder: the images.
        labels: (N,) from 1.
        split: what describes the classes of a new data set, with the table it was made of; None where there is one.
        features: the feature set that tells the order; None in a new data set.
    """

    folder: ImageFolder
    labels: npt.NDArray[np.int64]
    split: tuple[Table, Path] | None = None
    features: str | None = None


def published_order(images: ImageFolder, folder: Path) -> Order:
    """The images as the feature files in ``folder`` number them.

    Raises:
        InputError: none of them tells its images, or some are not there.
    """
    for name in sorted(feature_sets(folder), key=lambda name: (name != "res101", name.endswith(FINE_TUNED))):
        file = folder / f"{name}.mat"
        try:
            content = matfiles.load(file, "image_files", "labels")
        except InputError:
            continue
        files = matfiles.names(content["image_files"], f"{file}: image_files")
        labels = content["labels"].ravel().astype(np.int64)
        if len(labels) != len(files):
            raise InputError(f"{file}: image_files must be one for each of the {len(labels)} labels, got {len(files)}")
        return Order(images.in_order_of(files, str(file)), labels, features=name)
    raise InputError(
        f"{folder / SPLITS} numbers the images in an order that no feature file there tells by image_files, and any "
        f"other order would not fit it: python -m datasets.download gets the official res101.mat; or give another "
        f"NAME, with --attributes and --split"
    )


def extract(
    order: Order, folder: Path, name: str, kinds: Sequence[str], backbone: Backbone, loading: Loading, strict: bool
) -> None:
    """Write the feature files of all images, and the split where it is new; see ``datasets.features.extract``.

    Args:
        order: the images.
        folder: the data set's, made where it is missing.
        name: what the global feature set is called.
        kinds: some of ``global``, ``local`` and ``images``.
        backbone: the network.
        loading: how the images go through it.
        strict: leave no image out.

    Raises:
        InputError: an image cannot be read and cannot be left out, a feature file is there already and holds something
            else, features are not finite or too large for float16, or the disk is full.
    """
    backbone = backbone.to(loading.device)
    shapes, files = _outputs(backbone, name, kinds, loading.device)
    provenance = provenance_of(
        backbone, "float16 where autocast takes it" if loading.device.type == "cuda" else "float32"
    )
    if list(kinds) == ["images"]:  # whose pixels no weights have touched
        for absent in ("weights", "weights_sha256", "precision"):
            del provenance[absent]
    key = provenance["key"] = key_of(provenance, order.folder.files, sorted(kinds))
    if order.split is None and is_present([folder / f"{file}.mat" for file in files.values()], key):
        print(f"{', '.join(f'{file}.mat' for file in files.values())}: present in {folder}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with Rows(folder / f".extract-{key}", len(order.labels), shapes) as rows:
        geometry = backbone.preprocessing.geometry
        unreadable = fill(
            rows, order.folder, geometry, lambda pixels: features(backbone, pixels, kinds, loading.device), loading
        )
        if strict or order.split is None:
            require_all(unreadable, len(order.labels))
        kept = np.array([i for i, file in enumerate(order.folder.files) if file not in unreadable], np.int64)
        _publish(rows, kept, order, folder, files, provenance | {"left_out": unreadable})
    shutil.rmtree(rows.folder)
    left_out = f", {len(unreadable)} left out" if unreadable else ""
    print(f"{len(kept)} images{left_out}: {', '.join(f'{file}.mat' for file in files.values())} in {folder}")


def provenance_of(backbone: Backbone, precision: str) -> dict[str, Any]:
    """What a feature file says of how it was made."""
    return {
        **backbone.provenance,
        "preprocessing": backbone.preprocessing.description,
        "precision": precision,
        "libraries": {library: version(library) for library in LIBRARIES},
    }


def key_of(*identity: Any) -> str:
    """12 hexadecimal digits that stand for all that features are made of."""
    content = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _outputs(
    backbone: Backbone, name: str, kinds: Sequence[str], device: torch.device
) -> tuple[dict[str, tuple[tuple[int, ...], Any]], dict[str, str]]:
    """Kind -> shape and type of an image's row, and kind -> name of its feature set."""
    pixels = torch.from_numpy(np.array(backbone.preprocessing.geometry(Image.new("RGB", (300, 200)))))[None]
    arrays = features(backbone, pixels, kinds, device)
    names = {"global": name, "local": f"{name}-grid", "images": f"images{pixels.shape[2]}"}
    return {kind: (array.shape[1:], array.dtype) for kind, array in arrays.items()}, {
        kind: names[kind] for kind in kinds
    }


def fill(rows: Rows, folder: ImageFolder, geometry: Geometry, make: Make, loading: Loading) -> dict[str, str]:
    """Extract what is missing; returns the files that cannot be read, with the reasons.

    Args:
        rows: where to; those of images that cannot be read stay missing.
        folder: the images.
        geometry: what is done to each before ``make``.
        make: what there is to extract, by the names of ``rows``, of (B, H, W, 3) uint8 images.
        loading: how images are read.

    Raises:
        InputError: there is too little memory, or the disk is full.
    """
    missing, unreadable = rows.missing, {}
    loader: DataLoader[Any] = DataLoader(
        _Pixels(folder, missing, geometry),
        batch_size=loading.batch_size,
        num_workers=loading.workers,
        collate_fn=_collate,
        pin_memory=loading.device.type == "cuda",
    )
    clock = _Clock()
    bar = tqdm(total=rows.n, initial=rows.n - len(missing), unit=" images", desc="extract", disable=None)
    try:
        with bar:
            for batch in clock.waiting_for(loader):
                if batch.rows:
                    rows.write(batch.rows, make(batch.pixels))
                for row, reason in batch.unreadable.items():
                    unreadable[folder.files[row]] = reason
                    bar.write(f"{folder.files[row]}: cannot be read: {reason}", file=sys.stderr)
                bar.set_postfix_str(f"waiting for images {clock.share:.0%}", refresh=False)
                bar.update(len(batch.rows))
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(f"--batch-size {loading.batch_size}: too large for the GPU's memory; give less") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a process that reads images was ended, for want of memory maybe; give less --workers"
        ) from error
    if clock.share > 0.5:
        _logger.warning(
            "Reading was the bottleneck: the backbone waited for images %.0f %% of the time; more --workers than %d "
            "would help where there are cores for them",
            100 * clock.share,
            loading.workers,
        )
    return unreadable


class _Clock:
    """What share of the time is spent on waiting for batches, from the second on: the first starts the processes."""

    def __init__(self) -> None:
        self._waited = 0.0
        self._start: float | None = None

    @property
    def share(self) -> float:
        """Between 0 and 1; 0 before anything was measured."""
        return self._waited / (time.monotonic() - self._start) if self._start else 0.0

    def waiting_for(self, batches: Iterable[_Batch]) -> Iterator[_Batch]:
        """The batches, timed."""
        iterator = iter(batches)
        while True:
            before = time.monotonic()
            batch = next(iterator, None)
            after = time.monotonic()
            if batch is None:
                return
            if self._start is None:
                self._start = after
            else:
                self._waited += after - before
            yield batch


def is_present(files: Sequence[Path], key: str) -> bool:
    """Whether all feature files were made by the same job.

    Raises:
        InputError: one was made by another job, which is not replaced.
    """
    there = [file for file in files if file.is_file()]
    for file in there:
        try:
            made = matfiles.provenance(file).get("key")
        except InputError:
            made = None
        if made != key:
            raise InputError(f"{file}: is there already and was made otherwise; delete it, or give another --features")
    return len(there) == len(files)


def require_untrained(backbone: Backbone, folder: Path) -> None:
    """Assert that no images of the data set in ``folder`` trained the backbone, as far as its files tell.

    Raises:
        InputError: its weights are those behind fine-tuned features.
    """
    for file in (folder / f"{name}.mat" for name in feature_sets(folder) if name.endswith(FINE_TUNED)):
        if matfiles.provenance(file).get("weights_sha256") == backbone.provenance["weights_sha256"]:
            raise InputError(f"--weights: must be of other images than this data set's, got those behind {file}")


def require_all(unreadable: Mapping[str, str], n: int) -> None:
    """Assert that none of ``n`` images is unreadable.

    Raises:
        InputError: one is.
    """
    if unreadable:
        raise InputError(f"{len(unreadable)} of {n} images cannot be read: {_listed(unreadable)}")


def _publish(
    rows: Rows,
    kept: npt.NDArray[np.int64],
    order: Order,
    folder: Path,
    files: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> None:
    images = replace(order.folder, files=tuple(order.folder.files[i] for i in kept))
    made = make_split(images, *order.split) if order.split else None
    common = {
        "labels": (order.labels[kept] if made is None else made.labels + 1)[:, None],
        "image_files": matfiles.cells(images.files),
        "provenance": json.dumps(provenance, sort_keys=True, default=str),
    }
    for kind, file in files.items():
        features = {"features": rows.read(kind, kept).T} if kind == "global" else {}
        if kind != "global":
            rows.publish(kind, kept, folder / f"{file}.npy")
        matfiles.save(folder / f"{file}.mat", common | features)
    if made is not None and order.split is not None:
        _publish_split(made, order.split[0].attributes, folder)


def _publish_split(made: Split, attributes: Sequence[str], folder: Path) -> None:
    """The split's files, ``att_splits.mat`` last: with it the folder is a data set."""
    lines = [f"{number} {name}" for number, name in enumerate(attributes, start=1)]
    write_whole(folder / "attributes.txt", "\n".join(lines) + "\n")
    if made.validation_classes is not None:
        names = [made.class_names[c] for c in made.validation_classes]
        write_whole(folder / "valclasses1.txt", "\n".join(names) + "\n")
    original = made.attributes.T.astype(np.float64)
    variables = {
        "att": original / np.linalg.norm(original, axis=0),
        "original_att": original,
        "allclasses_names": matfiles.cells(made.class_names),
        "trainval_loc": made.trainval[:, None] + 1,
        "test_seen_loc": made.test_seen[:, None] + 1,
        "test_unseen_loc": made.test_unseen[:, None] + 1,
    }
    matfiles.save(folder / SPLITS, variables)


def _listed(unreadable: Mapping[str, str]) -> str:
    shown = [f"{file} ({reason})" for file, reason in list(unreadable.items())[:3]]
    return ", ".join(shown) + (f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else "")
