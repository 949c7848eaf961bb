"""The backbone inside a method: crops, what is trained at which rate, and frozen statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.api import Incompatible
from benchmark.engine.protocol import train_data
from benchmark.engine.runs import RefitRun
from benchmark.errors import InputError
from benchmark.toolkit.stages import evaluation_stage
from methods.local._backbone import BackboneConfig, TrainedBackbone, crop
from methods.local.attentionnet import AttentionNet
from tests.reference.toy import CPU, make_split, seeded, slot_for

SMALL = "test_resnet"  # timm's own network for tests


def numbered(n: int, height: int, width: int) -> torch.Tensor:
    """(n, height, width, 1) images whose pixels all differ."""
    return torch.arange(n * height * width).view(n, height, width, 1)


def test_a_crop_is_a_window_of_its_own_image_and_half_are_mirrored() -> None:
    images, side = numbered(400, 5, 6), 3
    found = crop(images, side, seeded(0))
    mirrored, places = 0, set()
    for image, window in zip(images, found, strict=True):
        for row in range(3):
            for column in range(4):
                expected = image[row : row + side, column : column + side]
                if torch.equal(window, expected) or torch.equal(window, expected.flip(1)):
                    mirrored += torch.equal(window, expected.flip(1))
                    places.add((row, column))
                    break
    assert len(places) == 12
    assert 160 < mirrored < 240
    assert torch.equal(crop(images, side, None), images[:, 1:4, 1:4])
    assert torch.equal(crop(images, 0, None), images)


def data(**kind: Any) -> Any:
    split, rng = make_split(), np.random.default_rng(0)
    features: Any = rng.integers(0, 256, (len(split.labels), 40, 40, 3), dtype=np.uint8)
    vectors = rng.standard_normal((split.attributes.shape[1], 7)).astype(np.float32)
    split = replace(split, features=kind.get("features", features), attribute_vectors=vectors)
    return train_data(split, evaluation_stage(split), "none", CPU)[0]


def test_only_what_is_not_frozen_moves_and_at_its_own_rate() -> None:
    torch.manual_seed(0)
    train = data()
    backbone = BackboneConfig(name=SMALL, weights="random", lr=0.0, crop=32, frozen=("conv1", "layer1"))
    own: dict[float, set[str]] = {}
    for lr in (0.0, 1e-2):
        config = AttentionNet.Config(
            backbone=backbone.model_copy(update={"lr": lr}), epochs=1, batch_size=16, episodes=2, attention_width=4
        )
        method = AttentionNet(train.meta, config, seeded(0))
        before = {name: value.clone() for name, value in method.state_dict().items()}
        method.fit(train, slot_for(method, train, None), RefitRun(CPU, 0, "", 1))
        moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
        assert "prototypes" in moved
        prefix = "backbone.network.model."
        own[lr] = {name.removeprefix(prefix) for name in moved if name.startswith(prefix)}
    assert own[0.0] == set()
    assert any(name.startswith("layer4.") for name in own[1e-2])
    assert not [name for name in own[1e-2] if name.startswith(("conv1", "layer1")) or "running" in name]
    scores = method.eval().scores(train.features[:3], train.seen)
    assert torch.equal(scores, method.scores(train.features[:3], train.seen))  # no random crop in a test


def test_checkpointing_changes_memory_alone() -> None:
    gradients = []
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=seeded(1))
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = BackboneConfig(name=SMALL, weights="random", checkpointing=checkpointing)
        network = TrainedBackbone(config, (32, 32)).train()
        network(images, seeded(0)).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_networks_of_torchvision_drop_no_layers_at_random() -> None:
    """Their stochastic depth draws from torch's global random numbers, which a run does not seed."""
    config = BackboneConfig(name="torchvision:efficientnet_b0", weights="random")
    backbone = TrainedBackbone(config, (32, 32))
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=seeded(1))
    with torch.no_grad():
        assert torch.equal(backbone.train().network(images)[1], backbone.eval().network(images)[1])


def test_amp_is_close_to_float32() -> None:
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=seeded(1))
    found = []
    for amp in (False, True):
        torch.manual_seed(0)
        network = TrainedBackbone(BackboneConfig(name=SMALL, weights="random", amp=amp), (32, 32)).eval()
        found.append(network(images, None))
    assert found[1].dtype == torch.float32
    assert not torch.equal(*found)
    torch.testing.assert_close(*found, rtol=0.1, atol=0.1 * found[0].abs().max().item())


def test_a_backbone_and_images_belong_together() -> None:
    config = AttentionNet.Config(attention_width=4)
    with pytest.raises(Incompatible, match="images need a backbone"):
        AttentionNet(data().meta, config, seeded(0))
    local = data(features=np.zeros((len(make_split().labels), 2, 2, 5), dtype=np.float16))
    with pytest.raises(Incompatible, match="images need a backbone"):
        AttentionNet(local.meta, AttentionNet.Config(backbone=BackboneConfig(name=SMALL)), seeded(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "../x.pth"}, r"^backbone.weights must be pretrained, random, .* got '../x.pth' instead$"),
        ({"weights": "random", "crop": 50}, r"^backbone.crop must be at most 40, the images' side, got 50 instead$"),
        ({"weights": "random", "name": "resnet51"}, "did you mean"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainedBackbone(BackboneConfig(**{"name": SMALL, **settings}), (40, 40))
