"""The network that makes local features of images and is trained along with the method that reads them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.config import Config
from benchmark.errors import InputError
from benchmark.toolkit.backbones import PYPI_LITE0, Backbone, load, loading_without_weights

#: The folder of weight files; settings hold the files' names alone, as results are public and folders are not.
WEIGHTS = "ZSL_WEIGHTS"


class BackboneConfig(Config):
    """A network and how it is fine-tuned.

    Attributes:
        name: timm's name of it, for instance ``resnet101.tv_in1k``, or ``torchvision:`` and torchvision's.
        weights: ``pretrained`` downloads those that the library has for this name; ``random`` has none;
            ``pypi:efficientnet-lite0`` are those of that package; any other value is the file of a state dict in the
            folder that $ZSL_WEIGHTS names.
        lr: its own learning rate.
        frozen: parts that keep their weights, by the start of their parameters' names, such as ``layer1.``.
        crop: the side of the square that is cut from an image, in pixels: from a random place in training, where the
            image is also mirrored half the time, from the centre otherwise. 0: the whole image.
        checkpointing: compute activations again in the backward pass instead of keeping them; of timm's networks.
        amp: compute in bfloat16 where that is safe (automatic mixed precision).
    """

    name: str
    weights: str = "pretrained"
    lr: float = Field(1e-4, ge=0)
    frozen: tuple[str, ...] = ()
    crop: int = Field(0, ge=0)
    checkpointing: bool = False
    amp: bool = False


class TrainedBackbone(nn.Module):
    """Images to regions. The statistics of batch normalisation stay those of the pretrained weights.

    Args:
        config: which network.
        size: height and width of the images.

    Attributes:
        grid: rows and columns of the regions.
        n_channels: the number of channels of each region.

    Raises:
        InputError: there is no such network, its weights cannot be had or do not fit, or the images are too small.
    """

    def __init__(self, config: BackboneConfig, size: tuple[int, int]) -> None:
        super().__init__()
        if config.crop > min(size):
            raise InputError(f"backbone.crop must be at most {min(size)}, the images' side, got {config.crop} instead")
        if not config.crop and size[0] != size[1]:
            raise InputError(f"backbone.crop must be given for images that are not square, which are {size}")
        self.config = config
        self.network = _load(config, config.crop or size[0])
        for name, parameter in self.network.model.named_parameters():
            parameter.requires_grad_(not name.startswith(config.frozen))
        with torch.no_grad():
            rows, columns, self.n_channels = self(torch.zeros(1, *size, 3, dtype=torch.uint8), None).shape[1:]
        self.grid = (rows, columns)

    def train(self, mode: bool = True) -> TrainedBackbone:
        """Switch dropout and the like, but never batch normalisation, which stays in eval mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor, rng: torch.Generator | None) -> Tensor:
        """(B, h, w, D) float32 regions of (B, H, W, 3) uint8 images; in training ``rng`` places the crops."""
        images = crop(images, self.config.crop, rng if self.training else None)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.amp):
            regions: Tensor = self.network(images)[1]
        return regions


def crop(images: Tensor, side: int, rng: torch.Generator | None) -> Tensor:
    """(B, side, side, C) squares of (B, H, W, C) images: at random and mirrored at random, or else the central ones.

    A ``side`` of 0 leaves the whole image.
    """
    (n, height, width), device = images.shape[:3], images.device
    sides = (side or height, side or width)
    # Numbers that stay on the host: sent to a GPU, they would be waited for.
    spare = (height - sides[0], width - sides[1])
    if rng is None:
        start = [torch.full((n,), places // 2, device=device) for places in spare]
        mirrored = torch.zeros(n, dtype=torch.bool, device=device)
    else:
        draws = torch.rand(n, 3, generator=rng, device=device)
        start = [(draws[:, i] * (places + 1)).long() for i, places in enumerate(spare)]
        mirrored = draws[:, 2] < 0.5
    rows, columns = (start[i][:, None] + torch.arange(sides[i], device=device) for i in (0, 1))
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return images[torch.arange(n, device=device)[:, None, None], rows[:, :, None], columns[:, None]]


def _load(config: BackboneConfig, size: int) -> Backbone:
    weights: str | None = config.weights
    if weights in ("pretrained", "random"):
        weights = None
    elif weights != PYPI_LITE0 and not loading_without_weights():
        folder = os.environ.get(WEIGHTS)
        if folder is None or Path(config.weights).name != weights:
            choices = f"pretrained, random, {PYPI_LITE0} or the name of a file in the folder ${WEIGHTS}"
            raise InputError(f"backbone.weights must be {choices}, got {weights!r} instead")
        weights = str(Path(folder) / config.weights)
    network = load(config.name, weights, size, pretrained=config.weights == "pretrained")
    if config.checkpointing:
        enable = getattr(network.model, "set_grad_checkpointing", None)
        if enable is None:
            raise InputError(f"backbone.checkpointing: {config.name} has none; timm's networks have")
        enable()
    return network
