"""The network that makes local features of images and is trained along with the method that reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api import Config
from benchmark.registry import InputError, did_you_mean

#: The folder of weight files; settings hold the files' names alone, as results are public and folders are not.
WEIGHTS = "ZSL_WEIGHTS"


class BackboneConfig(Config):
    """A network of timm and how it is fine-tuned.

    Attributes:
        name: timm's name of it, for instance ``resnet101.tv_in1k``.
        weights: ``timm`` downloads those that timm has for this name; ``random`` has none; any other value is a state
            dict with timm's keys, a file in the folder that $ZSL_WEIGHTS names.
        lr: its own learning rate.
        frozen: parts that keep their weights, by the start of their parameters' names, such as ``layer1.``.
        crop: the side of the square that is cut from an image, in pixels: from a random place in training, where the
            image is also mirrored half the time, from the centre otherwise. 0: the whole image.
        checkpointing: compute activations again in the backward pass instead of keeping them.
        amp: compute in bfloat16 where that is safe (automatic mixed precision).
    """

    name: str
    weights: str = "timm"
    lr: float = Field(1e-4, ge=0)
    frozen: tuple[str, ...] = ()
    crop: int = Field(0, ge=0)
    checkpointing: bool = False
    amp: bool = False


class Backbone(nn.Module):
    """Images to regions. The statistics of batch normalisation stay those of the pretrained weights.

    Args:
        config: which network.
        size: height and width of the images.

    Raises:
        InputError: there is no such network, its weights cannot be had or do not fit, or the images are too small.
    """

    def __init__(self, config: BackboneConfig, size: tuple[int, int]) -> None:
        super().__init__()
        if config.crop > min(size):
            raise InputError(f"backbone.crop must be at most {min(size)}, the images' side, got {config.crop} instead")
        self.config = config
        self.model = _load(config)
        self.model.set_grad_checkpointing(config.checkpointing)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(config.frozen))
        statistics = [torch.tensor(self.model.pretrained_cfg[key]) for key in ("mean", "std")]
        self.mean, self.std = (nn.Buffer(255 * values, persistent=False) for values in statistics)
        with torch.no_grad():
            self.eval()
            *grid, channels = self(torch.zeros(1, *size, 3, dtype=torch.uint8), None).shape[1:]
            self.train()
        self.grid, self.n_channels = (grid[0], grid[1]), channels

    def train(self, mode: bool = True) -> Backbone:
        """Switch dropout and the like, but never batch normalisation, which stays in eval mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, h, w, D) float32 features of (B, H, W, 3) uint8 images; in training ``generator`` places the crops."""
        images = crop(images, self.config.crop, generator if self.training else None)
        x = ((images - self.mean) / self.std).permute(0, 3, 1, 2)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.amp):
            features = self.model.forward_features(x)
        return self._over_grid(features.float(), x.shape[2:])

    def _over_grid(self, features: Tensor, size: torch.Size) -> Tensor:
        """Features with the channels last; those of a transformer's patches lie on the patches' grid."""
        if features.ndim == 4:
            return features if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else features.permute(0, 2, 3, 1)
        grid = self.model.patch_embed.dynamic_feat_size(size)
        return features[:, self.model.num_prefix_tokens :].unflatten(1, grid)


def crop(images: Tensor, side: int, generator: torch.Generator | None) -> Tensor:
    """(B, side, side, C) squares of (B, H, W, C) images: at random and mirrored at random, or else the central ones.

    A ``side`` of 0 leaves the whole image.
    """
    n, height, width = images.shape[:3]
    sides = (side or height, side or width)
    spare = torch.tensor([height - sides[0], width - sides[1]], device=images.device)
    if generator is None:
        start, mirrored = (spare // 2).expand(n, 2), torch.zeros(n, dtype=torch.bool, device=images.device)
    else:
        draws = torch.rand(n, 3, generator=generator, device=images.device)
        start, mirrored = (draws[:, :2] * (spare + 1)).long(), draws[:, 2] < 0.5
    rows, columns = (start[:, i, None] + torch.arange(sides[i], device=images.device) for i in (0, 1))
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return images[torch.arange(n, device=images.device)[:, None, None], rows[:, :, None], columns[:, None]]


def _load(config: BackboneConfig) -> Any:
    if not timm.is_model(config.name):
        raise InputError(f"backbone.name: no network {config.name!r} in timm; {did_you_mean(config.name, _names())}")
    try:
        model = timm.create_model(config.name, pretrained=config.weights == "timm", num_classes=0)
    except Exception as error:  # the hub's own, of many kinds
        if config.weights != "timm":
            raise
        raise InputError(
            f"backbone {config.name}: its weights cannot be downloaded; get them elsewhere, put the file into a folder "
            f"that ${WEIGHTS} names, and set backbone.weights to the file's name"
        ) from error
    if config.weights not in ("timm", "random"):
        _read_weights(model, config.weights)
    return model


def _names() -> list[str]:
    return timm.list_models() + timm.list_pretrained()


def _read_weights(model: nn.Module, name: str) -> None:
    folder = os.environ.get(WEIGHTS)
    if folder is None or Path(name).name != name:
        raise InputError(f"backbone.weights: {name!r} must be timm, random or the name of a file in ${WEIGHTS}")
    file = Path(folder) / name
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything over a broken file
        raise InputError(f"{file}: cannot be read as a state dict: {' '.join(str(error).split())[:200]}") from error
    missing, _ = model.load_state_dict(state, strict=False)  # a classifier's weights may be there
    if missing:
        raise InputError(f"{file}: {len(missing)} weights of the network are missing, the first is {missing[0]}")
