"""Extraction: what it writes, kills, images that cannot be read, and full disks; with a small network of timm."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from benchmark.registries import DATASETS
from datasets.features import extract, extraction
from datasets.features.rows import Rows

N = 24
GOOD = "cow/2.png"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Pictures of four classes, their attributes and split, and weights of ``test_resnet``."""
    rng = np.random.default_rng(0)
    for c, name in enumerate(("ant", "bee", "cow", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(N // 4):
            blocks = rng.integers(0, 256, (3 + c, 4, 3), dtype=np.uint8)
            Image.fromarray(blocks).resize((90, 70)).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "table.csv").write_text("class,legs,wings\nant,6,0\nbee,6,1\ncow,4,0\ndog,4,0.5\n")
    (tmp_path / "split.csv").write_text("class,split\nant,seen\nbee,validation\ncow,seen\ndog,unseen\n")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    return tmp_path


def arguments(work: Path, *more: str, new: bool = True) -> list[str]:
    described = ["--attributes", str(work / "table.csv"), "--split", str(work / "split.csv")] if new else []
    command = ["ZOO", "--images", str(work / "photos"), "--data-root", str(work / "data"), "--backbone", "test_resnet"]
    options = ["--weights", str(work / "weights.pth"), "--size", "64", "--features", "net", "--workers", "0"]
    return [*command, *options, "--batch-size", "5", *described, *more]


def load(work: Path, features: str):
    return DATASETS.resolve("zoo", {"features": features}, work / "data").load()


def provenance(work: Path, name: str) -> dict:
    return json.loads(str(scipy.io.loadmat(work / "data" / "ZOO" / f"{name}.mat")["provenance"][0]))


def test_a_new_data_set(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All three kinds are read back, and hold what a plain loop over timm gives."""
    assert extract.main(arguments(work, "--write", "local", "images", "global")) == 0
    pooled, local, images = (load(work, name) for name in ("net", "net-grid", "images64"))
    assert (pooled.kind, local.kind, images.kind) == ("global", "local", "images")

    model: Any = timm.create_model("test_resnet", num_classes=0).eval()
    model.load_state_dict(torch.load(work / "weights.pth", weights_only=True), strict=False)
    config = resolve_model_data_config(model, {"input_size": (3, 64, 64)})
    transform = create_transform(**config, is_training=False)
    files = sorted((work / "photos").rglob("*.png"))
    assert len(files) == N
    for row, file in enumerate(files):
        with torch.inference_mode():
            maps = model.forward_features(transform(Image.open(file).convert("RGB"))[None])
        assert np.allclose(pooled.features[row], maps.mean((2, 3))[0], atol=1e-4)
        assert np.allclose(local.features[row], maps[0].permute(1, 2, 0), atol=1e-2)
        assert pooled.class_names[pooled.labels[row]] == file.parent.name
    assert images.features.shape == (N, 64, 64, 3)
    assert np.allclose(
        pooled.attributes,
        np.array([[6.0, 0.0], [6.0, 1.0], [4.0, 0.0], [4.0, 0.5]]) / np.sqrt([[36.0], [37.0], [16.0], [16.25]]),
    )
    assert pooled.validation_classes is not None
    assert (work / "data" / "ZOO" / "attributes.txt").read_text() == "1 legs\n2 wings\n"
    said = provenance(work, "net-grid")
    assert said["backbone"] == "timm:test_resnet"
    assert said["weights"] == "weights.pth"
    assert len(said["weights_sha256"]) == 64
    assert said["preprocessing"]["input_size"] == [3, 64, 64]
    assert said["libraries"]["timm"] == timm.__version__
    assert str(work) not in json.dumps(said)
    written = {f"{name}.mat" for name in ("net", "net-grid", "images64", "att_splits")}
    written |= {"net-grid.npy", "images64.npy", "attributes.txt", "valclasses1.txt"}
    assert {path.name for path in (work / "data" / "ZOO").iterdir()} == written

    # A further feature set follows the order of the first, whatever the folder's is, and a second time does nothing.
    (work / "photos" / "ant" / "0a.png").write_bytes((work / "photos" / "ant" / "0.png").read_bytes())
    again = arguments(work, "--features", "other", new=False)
    assert extract.main(again) == 0
    assert np.allclose(load(work, "other").features, pooled.features, atol=1e-5)
    capsys.readouterr()
    assert extract.main(again) == 0
    assert "other.mat: present" in capsys.readouterr().out
    assert extract.main([*again, "--size", "96"]) == 2
    assert "was made otherwise; delete it, or give another --features" in capsys.readouterr().err


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are written from here on."""
    written: list[int] = []
    write = Rows.write

    def counting(self: Rows, rows: list[int], arrays: dict) -> None:
        write(self, rows, arrays)
        written.extend(rows)

    monkeypatch.setattr(Rows, "write", counting)
    return written


KILLED = """
import os, signal, sys
from datasets.features import extract, rows
rows._SAVE_SECONDS, save, times = -1.0, rows.Rows.save, []
def save_then_die(self):
    save(self)
    times.append(1)
    if len(times) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
rows.Rows.save = save_then_die
extract.main(sys.argv[1:])
"""


def test_killed_and_resumed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, *arguments(work, "--write", "global", "local")]
    # As many threads as here: the order of sums depends on them.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=300)
    assert killed.returncode == -9
    assert not (work / "data" / "ZOO" / "att_splits.mat").exists()
    written = counted(monkeypatch)
    assert extract.main(arguments(work, "--write", "global", "local")) == 0
    assert written == list(range(10, N))  # two batches of five were kept
    resumed = load(work, "net-grid").features.copy()
    assert extract.main(arguments(work, "--write", "local", "--features", "again", new=False)) == 0
    assert np.array_equal(load(work, "again-grid").features, resumed)


def test_an_image_that_cannot_be_read_is_left_out(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (work / "photos" / GOOD).read_bytes()
    (work / "photos" / GOOD).write_bytes(whole[: len(whole) // 2])
    assert extract.main(arguments(work, "--strict", "--write", "global", "local")) == 2
    assert f"1 of {N} images cannot be read: {GOOD} (OSError: " in capsys.readouterr().err
    assert not (work / "data" / "ZOO" / "att_splits.mat").exists()

    assert extract.main(arguments(work, "--write", "global", "local")) == 0
    output = capsys.readouterr()
    assert f"{GOOD}: cannot be read" in output.err
    assert "23 images, 1 left out" in output.out
    assert list(provenance(work, "net")["left_out"]) == [GOOD]
    pooled, local = load(work, "net"), load(work, "net-grid")
    assert len(local.features) == N - 1
    assert np.array_equal(np.bincount(pooled.labels), [6, 6, 5, 6])
    for split in (pooled, local):
        assert len(split.trainval) + len(split.test_seen) + len(split.test_unseen) == N - 1


def test_with_a_split_no_image_may_be_left_out(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract.main(arguments(work)) == 0
    whole = (work / "photos" / GOOD).read_bytes()
    (work / "photos" / GOOD).write_bytes(b"")
    other = arguments(work, "--features", "other", new=False)
    assert extract.main(other) == 2
    assert f"1 of {N} images cannot be read: {GOOD}" in capsys.readouterr().err
    (work / "photos" / GOOD).write_bytes(whole)
    written = counted(monkeypatch)
    assert extract.main(other) == 0
    assert written == [14]  # the mended one alone
    assert np.allclose(load(work, "other").features, load(work, "net").features, atol=1e-5)


def test_a_full_disk(work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write, limit = Rows.write, 64 * 64 * 3 * 12

    def limited(self: Rows, rows: list[int], arrays: dict) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # writing beyond fails as on a full disk
        write(self, rows, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "write", limited)
        try:
            assert extract.main(arguments(work, "--write", "images")) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = capsys.readouterr().err
    assert "cannot be written (File too large); once that is mended, the same command goes on from there" in message
    written = counted(monkeypatch)
    assert extract.main(arguments(work, "--write", "images")) == 0
    assert written == list(range(10, N))
    assert load(work, "images64").features.any(axis=(1, 2, 3)).all()


def test_the_loader_is_named_where_it_is_the_bottleneck(
    work: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = extraction._Pixels.__getitem__

    def slow(self: extraction._Pixels, index: int):
        time.sleep(0.2)
        return read(self, index)

    monkeypatch.setattr(extraction._Pixels, "__getitem__", slow)
    assert extract.main(arguments(work)) == 0
    assert "Reading was the bottleneck" in caplog.text
    assert "--workers than 0" in caplog.text


def test_wrong_input(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*given: str, new: bool = True) -> str:
        assert extract.main(arguments(work, *given, new=new)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "a new data set needs --attributes and --split" in refusal(new=False)
    assert "must be a folder that exists" in refusal("--images", "nowhere")
    assert "must be a file's name" in refusal("--features", "a/b")
    assert "cannot be read as a state dict" in refusal("--weights", "nowhere.pth")
    assert extract.main(arguments(work)) == 0
    assert "is there already; leave --attributes and --split out" in refusal()
    (work / "data" / "ZOO" / "net.mat").unlink()
    assert "python -m datasets.download gets the official res101.mat" in refusal(new=False)
