"""Fine-tuned features: what they are, that no image trains what is judged by it, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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
from torch import nn

from benchmark import run
from benchmark.api import derive_seed
from benchmark.engine.prepared import Source, selection, trainval
from benchmark.files import ROOT
from benchmark.models.images import Extraction
from benchmark.registries import DATASETS
from datasets.features import extract, extraction, finetune

CLASSES = ("ant", "bee", "cow", "dog", "elk", "fox")
SEEN, VALIDATION = ("ant", "bee", "cow", "elk"), "bee"
PER_CLASS = 6
NAME = "net-fine-tuned"
MADE = (f"{NAME}.mat", f"{NAME}_selection.mat", f"{NAME}.safetensors")
RECIPE = finetune.Recipe()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, the data set ZOO of them, and its fine-tuned features."""
    work = tmp_path_factory.mktemp("finetune")
    rng = np.random.default_rng(0)
    for c, name in enumerate(CLASSES):
        (work / "photos" / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            blocks = rng.integers(0, 256, (3 + c, 4, 3), dtype=np.uint8)
            Image.fromarray(blocks).resize((70, 66)).save(work / "photos" / name / f"{i}.png")
    rows = [f"{name},{c},{c % 3},1\n" for c, name in enumerate(CLASSES)]
    (work / "table.csv").write_text("class,legs,wings,eyes\n" + "".join(rows))
    roles = [
        f"{name},{'validation' if name == VALIDATION else 'seen' if name in SEEN else 'unseen'}" for name in CLASSES
    ]
    (work / "split.csv").write_text("\n".join(["class,split", *roles]) + "\n")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(timm.create_model("test_efficientnet").state_dict(), work / "weights.pth")
    described = ["--attributes", str(work / "table.csv"), "--split", str(work / "split.csv")]
    assert extract.main([*arguments(work), *described]) == 0
    assert extract.main([*arguments(work), "--finetune"]) == 0
    return work


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(made, tmp_path / "work")


def arguments(work: Path) -> list[str]:
    where = ["ZOO", "--images", str(work / "photos"), "--data-root", str(work / "data"), "--features", "net"]
    network = ["--backbone", "test_efficientnet", "--weights", str(work / "weights.pth"), "--size", "64"]
    return [*where, *network, "--workers", "0"]


def again(work: Path) -> dict[str, bytes]:
    """The content of the files, made anew."""
    for name in MADE:
        (work / "data" / "ZOO" / name).unlink(missing_ok=True)
    assert extract.main([*arguments(work), "--finetune"]) == 0
    return contents(work)


def contents(work: Path) -> dict[str, bytes]:
    return {name: (work / "data" / "ZOO" / name).read_bytes() for name in MADE}


def stored(work: Path, name: str) -> dict[str, Any]:
    return dict(scipy.io.loadmat(work / "data" / "ZOO" / name))


def features(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) those to test on and those to select on."""
    found = [stored(work, name)["features"].T for name in MADE[:2]]
    return found[0], found[1]


def source(work: Path) -> Source:
    dataset = DATASETS.resolve("zoo", {"features": NAME}, work / "data")
    return Source(dataset, type(dataset), "zoo", dataset.revision, work / "data", "proposed", None)


def refusal(work: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What a run says that ends with 2, in one line."""
    capsys.readouterr()
    command = ["--method", "ale", "--loss", "mse", "--seeds", "0", "--dataset", f"zoo:features={NAME}", *more]
    code = run.main([*command, "--data-root", str(work / "data"), "--out", str(work / "runs")])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1, error
    return error


def noise(file: Path, seed: int = 1) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (66, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def trained_by_hand(work: Path, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, D) features after a plain training of the whole network, of which all but the last blocks stand still."""
    model: Any = timm.create_model("test_efficientnet", num_classes=0).eval().requires_grad_(False)
    model.load_state_dict(torch.load(work / "weights.pth", weights_only=True), strict=False)
    files = sorted((work / "photos").rglob("*.png"))
    config = resolve_model_data_config(model, {"input_size": (3, 64, 64)})
    transform = create_transform(**config, is_training=False)
    x = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    classes = np.unique(labels[images])
    head = nn.Linear(model(x[:1]).shape[1], len(classes))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    body = [model.blocks[-1], model.conv_head, model.bn2]
    trained = [p for part in body for p in part.requires_grad_(True).parameters()]
    optimiser = torch.optim.AdamW(
        [{"params": trained, "lr": RECIPE.lr}, {"params": head.parameters(), "lr": RECIPE.head_lr}],
        weight_decay=RECIPE.weight_decay,
    )
    rng, step = torch.Generator().manual_seed(derive_seed("fine-tuning")), 0
    n_steps = RECIPE.epochs * int(np.ceil(len(images) / RECIPE.batch))
    for _ in range(RECIPE.epochs):
        order = torch.randperm(len(images), generator=rng).numpy()
        for start in range(0, len(images), RECIPE.batch):
            batch = images[order[start : start + RECIPE.batch]]
            targets = torch.tensor([int(np.flatnonzero(classes == labels[i])[0]) for i in batch])
            for group, lr in zip(optimiser.param_groups, (RECIPE.lr, RECIPE.head_lr), strict=True):
                group["lr"] = lr * (1 + np.cos(np.pi * step / n_steps)) / 2
            log_p = torch.log_softmax(head(model(x[batch])), dim=1)
            optimiser.zero_grad()
            (-log_p[torch.arange(len(batch)), targets].mean()).backward()
            optimiser.step()
            step += 1
    with torch.no_grad():
        return model(x).numpy()


def test_both_sets_are_what_a_plain_training_gives(made: Path) -> None:
    split = DATASETS.resolve("zoo", {"features": NAME}, made / "data").load()
    files = [file.parent.name for file in sorted((made / "photos").rglob("*.png"))]
    labels = np.array([CLASSES.index(name) for name in files])
    assert np.array_equal(split.labels, labels)
    tested, selected = features(made)
    assert split.fine_tuned is not None
    assert np.array_equal(split.fine_tuned.trained_on, split.trainval)
    chosen = split.fine_tuned.to_select_trained_on
    assert len(split.trainval) == 20
    assert {files[i] for i in chosen} == {"ant", "cow", "elk"}  # no image of the validation class
    assert np.array_equal(np.bincount(labels[chosen])[[0, 2, 4]], [4, 4, 4])  # one of five is held out
    plain = stored(made, "net.mat")["features"].T
    differences = [np.abs(tested - plain).max(), np.abs(selected - plain).max(), np.abs(tested - selected).max()]
    close = 0.01 * min(differences)
    assert close > 1e-6
    assert np.allclose(tested, trained_by_hand(made, split.trainval, labels), rtol=0, atol=close)
    assert np.allclose(selected, trained_by_hand(made, chosen, labels), rtol=0, atol=close)


def test_provenance_and_weights(made: Path) -> None:
    """The provenance says what was trained how, and the weights beside the features make them of images."""
    tested, _ = features(made)
    origin = DATASETS.resolve("zoo", {"features": NAME}, made / "data").origin["features"]
    tuning = origin["fine_tuning"]
    assert tuning["parts"] == ["blocks.4.0", "conv_head", "bn2"]
    assert (tuning["epochs"], tuning["lr"], tuning["pretrained"]) == (RECIPE.epochs, RECIPE.lr, "weights.pth")
    assert (tuning["n_images"], tuning["n_classes"]) == (20, 4)
    assert len(tuning["pretrained_sha256"]) == len(origin["weights_sha256"]) == 64
    assert tuning["pretrained_sha256"] != origin["weights_sha256"]
    assert str(made) not in json.dumps(origin)
    pictures = sorted((made / "photos").rglob("*.png"))
    weights = str(made / "data" / "ZOO" / origin["weights"])
    again = Extraction(origin, "global", weights)(pictures, torch.device("cpu"))
    plain = stored(made, "net.mat")["features"].T
    assert np.allclose(again.numpy(), tested, rtol=0, atol=0.01 * np.abs(tested - plain).max())


def test_the_protocol_selects_on_one_set_and_tests_on_the_other(made: Path) -> None:
    (tested, selected), cpu = features(made), torch.device("cpu")
    of = source(made)
    refit = trainval(of, "none", cpu)
    assert np.array_equal(refit.data.features.numpy(), tested[refit.stage.train])
    training, held_out = selection(of, "none", cpu)
    stage = training.stage
    assert np.array_equal(training.data.features.numpy(), selected[stage.train])
    assert np.array_equal(held_out.seen_features.numpy(), selected[stage.held_out_seen])
    assert np.array_equal(held_out.unseen_features.numpy(), selected[stage.held_out_unseen])


@pytest.mark.parametrize("which", ["selection", "test"])
def test_no_held_out_image_trains(work: Path, which: str) -> None:
    """Other pictures in their places leave the features of all others as they are, to the bit; the control does not."""
    split, before = source(work).load(), features(work)
    assert split.fine_tuned is not None
    images = split.fine_tuned.to_select_trained_on if which == "selection" else split.fine_tuned.trained_on
    files = sorted((work / "photos").rglob("*.png"))
    others = np.setdiff1d(np.arange(len(files)), images)
    for i in others:
        noise(files[i], seed=int(i))
    again(work)
    old, new = (found[which == "selection"] for found in (before, features(work)))
    assert np.array_equal(new[images], old[images])
    assert (np.abs(new[others] - old[others]).max(axis=1) > 1e-3).all()

    noise(files[images[0]])
    again(work)
    assert (np.abs(features(work)[which == "selection"][images[1:]] - old[images[1:]]).max(axis=1) > 0).all()


def test_twice_the_same_bits_whatever_the_global_random_state(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, train, drew = contents(work), finetune.train, []

    def watched(*given: Any) -> None:
        state = torch.get_rng_state()
        train(*given)
        drew.append(not torch.equal(torch.get_rng_state(), state))

    monkeypatch.setattr(finetune, "train", watched)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert again(work) == before
    assert drew == [False, False]


def test_an_interrupted_training_leaves_nothing_half_written(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(work)
    for name in MADE:
        (work / "data" / "ZOO" / name).unlink()
    train, calls = finetune.train, []

    def interrupted(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        train(*given)

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "train", interrupted)
        assert extract.main([*arguments(work), "--finetune"]) == 130
    assert not (work / "data" / "ZOO" / MADE[0]).exists()
    with monkeypatch.context() as patch:  # what the blocks before them make of the images is there already
        patch.setattr(extraction._Pixels, "__getitem__", lambda *_: pytest.fail("read again"))
        assert extract.main([*arguments(work), "--finetune"]) == 0
    assert contents(work) == before
    assert not list((work / "data" / "ZOO").glob(".*"))


def test_as_a_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe it says one line; a second time it finds all there."""
    for name in MADE:
        (work / "data" / "ZOO" / name).unlink()
    command = [sys.executable, "-m", "datasets.features.extract", *arguments(work), "--finetune"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    folder = work / "data" / "ZOO"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"36 images: {MADE[0]} in {folder}\n", "")
    assert extract.main(command[3:]) == 0
    assert capsys.readouterr().out == f"{MADE[0]}: present in {folder}\n"


def test_boards_say_fine_tuned(work: Path) -> None:
    options = ["--method", "ale", "--loss", "mse", "--seeds", "0", "--data-root", str(work / "data")]
    assert run.main([*options, "--dataset", f"zoo:features={NAME}", "--out", str(work / "runs")]) == 0
    boards = "".join(file.read_text() for file in (work / "runs").rglob("*.md"))
    assert NAME in boards


def test_another_partition_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(work, capsys, "--splits", "random:1")
    assert "zoo partition 0: fine-tuned features must come from training on images of trainval_loc, got" in said
    (work / "data" / "ZOO" / "valclasses1.txt").write_text("cow\n")
    said = refusal(work, capsys)
    assert "zoo proposed: fine-tuned features to select on must come from training on its" in said
    (work / "data" / "ZOO" / "valclasses1.txt").unlink()  # drawn: elk
    assert "they fit the validation classes alone that they were made for" in refusal(work, capsys)
    splits = {key: value for key, value in stored(work, "att_splits.mat").items() if not key.startswith("__")}
    splits["trainval_loc"], splits["test_seen_loc"] = (
        np.concatenate([splits["trainval_loc"][1:], splits["test_seen_loc"][:1]]),
        np.concatenate([splits["test_seen_loc"][1:], splits["trainval_loc"][:1]]),
    )
    scipy.io.savemat(work / "data" / "ZOO" / "att_splits.mat", splits)
    assert "they fit the split alone that they were made for" in refusal(work, capsys)


def test_the_files_belong_together(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = work / "data" / "ZOO"
    tested, to_select, _ = (folder / name for name in MADE)
    whole = to_select.read_bytes()
    to_select.write_bytes(whole[: len(whole) // 2])
    assert f"{to_select}: cannot be read" in refusal(work, capsys)
    to_select.unlink()
    assert f"{to_select}: no such file" in refusal(work, capsys)
    variables = {key: value for key, value in stored(work, MADE[0]).items() if not key.startswith("__")}
    told = json.loads(str(variables["provenance"][0])) | {"key": "0" * 12}
    scipy.io.savemat(to_select, variables | {"provenance": json.dumps(told)})
    assert f"{to_select}: must have been made along with {MADE[0]}" in refusal(work, capsys)
    to_select.write_bytes(whole)
    shutil.copy(tested, folder / "net2.mat")
    said = refusal(work, capsys, "--dataset", "zoo:features=net2")
    assert "net2.mat: has fine-tuned features, so that its name must end in -fine-tuned.mat" in said
    assert "no features" in refusal(work, capsys, "--dataset", f"zoo:features={NAME}_selection")


def test_the_revision_stands_for_both_files(work: Path) -> None:
    def revision() -> str:
        return DATASETS.resolve("zoo", {"features": NAME}, work / "data").revision

    before, to_select = revision(), work / "data" / "ZOO" / MADE[1]
    variables = {key: value for key, value in stored(work, MADE[1]).items() if not key.startswith("__")}
    scipy.io.savemat(to_select, variables | {"features": variables["features"] + 1})
    assert revision() != before


def test_what_cannot_be_fine_tuned(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*more: str, name: str = "ZOO") -> str:
        capsys.readouterr()
        assert extract.main([name, *arguments(work)[1:], "--finetune", *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "--finetune: makes global features, got --write local instead" in said("--write", "local")
    assert "which --finetune needs; extract features without it first" in said(name="OTHER")
    assert "must be a file's name, and not end in _splits, -fine-tuned" in said("--features", NAME)
    weights = ["--weights", str(work / "data" / "ZOO" / MADE[2])]
    assert "must be of other images than this data set's, got those behind" in said(*weights)
    assert extract.main([*arguments(work), *weights, "--features", "leak"]) == 2
    assert "is there already and was made otherwise" in said("--size", "96")
    with torch.random.fork_rng():
        torch.save(timm.create_model("regnety_002").state_dict(), work / "regnet.pth")
    regnet = ["--backbone", "regnety_002", "--weights", str(work / "regnet.pth"), "--features", "other"]
    assert "must have a backbone of timm that ends in a chain of blocks, got timm:regnety_002 instead" in said(*regnet)
    (work / "photos" / "ant" / "0.png").write_bytes(b"")
    assert extract.main([*arguments(work), "--finetune", "--features", "other"]) == 2
    assert "error: 1 of 36 images cannot be read: ant/0.png" in capsys.readouterr().err
