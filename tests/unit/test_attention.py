"""The command that draws attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from benchmark.attention import main
from tests.unit.toy import make_split

pytest.importorskip("matplotlib")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with local features and pixels of the same images, and vectors of the attributes."""
    split, folder, rng = make_split(), tmp_path / "TOY", np.random.default_rng(0)
    folder.mkdir()
    names = np.empty((len(split.class_names), 1), dtype=object)
    names[:, 0] = split.class_names
    parts: dict[str, Any] = {f"{part}_loc": getattr(split, part)[:, None] + 1 for part in ("trainval", "test_seen")}
    parts |= {"test_unseen_loc": split.test_unseen[:, None] + 1, "allclasses_names": names, "att": split.attributes.T}
    scipy.io.savemat(folder / "att_splits.mat", parts)
    scipy.io.savemat(folder / "attribute_vectors.mat", {"vectors": rng.random((7, split.attributes.shape[1]))})
    local = np.repeat(split.features[:, None, None], 2, axis=1).repeat(3, axis=2).astype(np.float16)
    pixels = rng.integers(0, 256, (len(split.labels), 8, 8, 3), dtype=np.uint8)
    for name, features in (("grid", local), ("pixels", pixels)):
        scipy.io.savemat(folder / f"{name}.mat", {"labels": split.labels[:, None] + 1})
        np.save(folder / f"{name}.npy", features)
    return tmp_path


def run(root: Path, out: Path, *more: str) -> int:
    grid = ["--dataset", "toy:features=grid", "--data-root", str(root), "--set", "epochs=1", "--out", str(out)]
    return main(["--method", "attentionnet", *grid, *more])


def test_a_picture_for_each_image(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "maps"
    assert run(root, out, "--pixels", "pixels", "--images", "2", "5", "--loss", "mse", "remse") == 0
    assert sorted(path.name for path in out.iterdir()) == ["toy-2.png", "toy-5.png"]
    assert capsys.readouterr().out.split() == [str(out / "toy-2.png"), str(out / "toy-5.png")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pixels", "grid"], "--pixels grid: must be images"),
        (["--pixels", "pixels", "--images", "0"], "--images must be in 1..108, got 0 instead"),
    ],
)
def test_wrong_input_is_one_line(
    root: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, tmp_path / "maps", *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
