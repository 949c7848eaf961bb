"""What is kept of any method is all that it predicts by: a loaded model equals the one that the run evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark import models
from benchmark.engine.evaluate import evaluate
from benchmark.engine.jobs import RunJob
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import held_out
from benchmark.engine.settings import make_spec
from benchmark.registries import DATASETS, METHODS
from benchmark.results.record import Result
from benchmark.toolkit.stages import evaluation_stage
from tests.contract.test_contract import VARIANTS, load, quick_settings, small_stand_in

CPU = torch.device("cpu")


def keep(method: str, loss: str, folder: Path, **settings: Any) -> tuple[Path, Result]:
    """The model that a run of ``method`` leaves in ``folder``, and its result."""
    source = DATASETS.resolve(small_stand_in(method), {}, None)
    spec = make_spec(method, settings, (loss, {}), source, {}, "proposed", "strict")
    (result,) = RunJob(Cell(spec, (0,), None, "cpu"), folder, keep=True).run()
    assert result.status == "ok", result.error
    (file,) = folder.rglob("*.safetensors")
    assert file.stat().st_size == result.provenance["model"]["bytes"]
    return file, result


@pytest.mark.parametrize(("method", "settings"), VARIANTS)
def test_a_loaded_model_evaluates_as_its_run_did_to_the_last_bit(
    method: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    file, result = keep(method, "remse", tmp_path, **quick_settings(method), **settings)
    model, split = models.load(file), load(small_stand_in(method))
    assert result.evaluation is not None
    assert result.selection is not None
    test = held_out(split, evaluation_stage(split), model.preprocessing, CPU)
    assert evaluate(model.method, test, model.card.gamma, keep_errors=False) == result.evaluation
    assert model.card.gamma == result.selection.gamma
    found = model.predict(split.features[split.test_unseen], "unseen")
    assert found.classes == test.class_names[test.n_seen :]
    names = np.array(split.class_names)[split.labels[split.test_unseen]]
    right = np.array([best[0][0] for best in found.top()]) == names
    t1 = np.mean([100 * right[names == name].mean() for name in found.classes])
    assert t1 == pytest.approx(result.evaluation.metrics.T1, abs=1e-9)
    assert found.semantics is not None
    assert found.semantics.shape == (len(names), split.attributes.shape[1])
    labels = torch.arange(len(model.class_names)).repeat(2)
    first, again = (model.method.synthesise(model.attributes, labels, torch.Generator().manual_seed(0)) for _ in "12")
    assert (first is None) is (METHODS[method].family != "generative")
    if first is not None and again is not None:
        assert first.shape == (len(labels), split.features.shape[1])
        assert torch.equal(first, again)


@pytest.mark.parametrize(("method", "settings"), VARIANTS)
def test_new_classes_are_recognised_without_images_of_them(
    method: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """One with the semantics of a known class scores as that does, but where classifiers of generated features vie."""
    file, _ = keep(method, "mse", tmp_path, **quick_settings(method), **settings)
    split, found = load(small_stand_in(method)), []
    x, n_unseen = split.features[split.test_unseen], len(split.unseen)
    for _ in range(2):
        model = models.load(file)
        model.add_classes(["twin"], model.attributes[model.n_seen][None].numpy())
        found.append([model.predict(x, among) for among in ("unseen", "all")])
    for first, second in zip(*found, strict=True):
        assert first.classes[-1] == "twin"
        assert np.array_equal(first.scores, second.scores), "the same numbers each time"
        if "n_generated" not in METHODS[method].obj.Config.model_fields:
            own = first.scores[:, -1 - n_unseen]
            assert np.allclose(first.scores[:, -1], own, rtol=1e-4, atol=1e-4 * np.abs(own).max())
