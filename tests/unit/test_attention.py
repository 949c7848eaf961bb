"""The command that draws attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from benchmark.attention import main
from benchmark.report import attention
from tests.reference.data_root import write_folder
from tests.reference.toy import make_split

pytest.importorskip("matplotlib")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with local features and pixels of the same images, and vectors of the attributes."""
    split, folder, rng = make_split(), tmp_path / "TOY", np.random.default_rng(0)
    local = np.repeat(split.features[:, None, None], 2, axis=1).repeat(3, axis=2).astype(np.float16)
    pixels = rng.integers(0, 256, (len(split.labels), 8, 8, 3), dtype=np.uint8)
    write_folder(folder, split, {"grid": local, "pixels": pixels})
    scipy.io.savemat(folder / "attribute_vectors.mat", {"vectors": rng.random((7, split.attributes.shape[1]))})
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


def test_columns_are_called_by_the_file_of_names(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tmp_path / "attributes.txt"
    names.write_text("".join(f"{k} has_part::colour_{k}\n" for k in range(1, 9)))
    titles: list[str] = []
    monkeypatch.setattr(attention, "draw", lambda image, title, rows, above, file: titles.extend(above))
    more = ["--pixels", "pixels", "--images", "2", "--attributes", "3", "8", "--loss", "mse", "--names", str(names)]
    assert run(root, tmp_path / "maps", *more) == 0
    assert [title.partition("\n")[0] for title in titles] == ["part: colour 3", "part: colour 8"]


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
