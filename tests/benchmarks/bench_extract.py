"""Images per second of ``datasets.features.extract`` and of a plain loop over timm, on the same pictures in one run."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch.utils.data import DataLoader

from benchmark.toolkit import backbones
from datasets.features import extraction
from datasets.features.images import ImageFolder, find

N, BATCH, WORKERS, NETWORK = 192, 32, 1, "tf_efficientnet_lite0"


class Plain(torch.utils.data.Dataset):
    def __init__(self, folder: ImageFolder, transform) -> None:
        self.files = [folder.base / file for file in folder.files]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


@pytest.fixture
def images(tmp_path: Path) -> ImageFolder:
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for i in range(N):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(tmp_path / "photos" / "a" / f"{i:03}.jpg")
    return find(tmp_path / "photos")


def plain_loop(images: ImageFolder, device: torch.device) -> None:
    model = timm.create_model(NETWORK, num_classes=0).eval().to(device)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    features = []
    with torch.inference_mode(), torch.autocast(device.type, enabled=device.type == "cuda"):
        for x in DataLoader(Plain(images, transform), batch_size=BATCH, num_workers=WORKERS):
            features.append(model(x.to(device)).cpu())
    assert torch.cat(features).shape == (N, 1280)


def ours(images: ImageFolder, device: torch.device, folder: Path, kinds: list[str]) -> None:
    backbone = backbones.load(NETWORK, pretrained=False)
    order = extraction.Order(images, np.ones(N, np.int64), None)
    extraction.extract(order, folder, "net", kinds, backbone, extraction.Loading(device, BATCH, WORKERS), strict=True)


@pytest.mark.benchmark
def test_images_per_second(images: ImageFolder, tmp_path: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = {
        "plain loop, global": lambda turn: plain_loop(images, device),
        "extract, global": lambda turn: ours(images, device, tmp_path / f"global{turn}", ["global"]),
        "extract, all three": lambda turn: ours(images, device, tmp_path / f"all{turn}", ["global", "local", "images"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(3):  # taken in turns, so that a busy machine slows all of them
        for name, run in runs.items():
            start = time.perf_counter()
            run(turn)
            seconds[name].append(time.perf_counter() - start)
    print(f"\n{NETWORK}, {device.type}, batches of {BATCH}, {WORKERS} worker, start included, best of 3:")
    for name, values in seconds.items():
        print(f"  {name:20} {N / min(values):7.1f} images/s")
