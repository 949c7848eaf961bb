"""``python -m datasets.check``: what it says of a folder, and what it finds wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from datasets.check.__main__ import main
from tests.reference.xlsa17 import A, cache_folder, root, toy_features, toy_splits, write

__all__ = ["cache_folder", "root"]  # fixtures


def said(capsys: pytest.CaptureFixture[str], folder: Path, code: int) -> tuple[str, list[str]]:
    """What the command prints of ``folder``, and the lines of its errors."""
    assert main([str(folder)]) == code
    out, err = capsys.readouterr()
    return out, err.splitlines()


def test_says_what_a_data_set_holds(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = toy_splits()
    scipy.io.savemat(root / "TOY" / "sent_splits.mat", {k: splits[k] for k in ("att", "allclasses_names")})
    out, err = said(capsys, root / "TOY", 0)
    assert err == []
    assert "--dataset toy" in out
    assert "res101: global, 7 an image" in out
    assert "4 seen, 2 unseen" in out
    assert "16 trainval, 4 test_seen, 10 test_unseen; 0 in none of them" in out
    assert [name for name in ("att", "original_att", "sent") if f"{name}: {A} a class" not in out] == []
    assert re.search(r"[0-9a-f]{64}  att_splits\.mat", out)
    assert "train_loc and val_loc hold 4 of the 4 images of test_seen_loc" in out


def test_a_folder_of_data_sets_is_all_of_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root / "CUB", toy_features(), toy_splits())
    out, _ = said(capsys, root, 0)
    assert "--dataset toy" in out
    assert "--dataset cub" in out
    assert "unlike the Proposed Split" in out


def test_the_split_has_a_digest_that_its_order_does_not_change(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def digest() -> str:
        found = re.search(r"split +([0-9a-f]{12})$", said(capsys, root / "TOY", 0)[0], re.MULTILINE)
        assert found
        return found[1]

    before, splits = digest(), toy_splits()
    splits["trainval_loc"] = splits["trainval_loc"][::-1]
    write(root / "TOY", None, splits)
    assert digest() == before
    splits["trainval_loc"] = splits["trainval_loc"][1:]
    write(root / "TOY", None, splits)
    assert digest() != before


def test_every_fault_is_a_line_and_the_rest_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = toy_features()
    broken["features"][0, 3] = np.nan
    scipy.io.savemat(root / "TOY" / "broken.mat", broken)
    scipy.io.savemat(root / "TOY" / "odd_splits.mat", {"att": np.ones((2, 2))})
    out, err = said(capsys, root / "TOY", 2)
    assert "res101: global" in out
    assert len(err) == 2
    assert "broken.mat: features must be finite" in err[0]
    assert "odd_splits.mat: allclasses_names is missing" in err[1]


def test_a_data_set_without_features_is_said_to_have_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "TOY" / "res101.mat").unlink()
    _, err = said(capsys, root / "TOY", 2)
    assert len(err) == 1
    assert "no features" in err[0]


def test_says_how_to_make_a_data_set_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "1.png")
    _, err = said(capsys, tmp_path / "photos", 2)
    assert len(err) == 1
    assert "images of 2 classes" in err[0]
    assert "datasets.features.extract" in err[0]


def test_what_is_no_data_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        _, err = said(capsys, folder, 2)
        assert len(err) == 1
        assert str(folder) in err[0]
