"""What is said of a kept model: confusions, their order, and neighbours, against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from benchmark.errors import InputError
from benchmark.models.model import Model, describe
from benchmark.models.preprocessing import Preprocessing
from benchmark.report import inside
from benchmark.report.inside import Inside, look_inside
from tests.reference.toy import ToyMethod, make_spec, make_split, make_train, seeded

SPLIT = make_split()


def fitted() -> Model:
    data, held = make_train(SPLIT)
    method = ToyMethod(data.meta, ToyMethod.Config(), seeded(0))
    method.means = torch.rand(len(data.attributes), data.meta.n_features, generator=seeded(1))
    about = {"class_names": list(held.class_names), "origin": {}, "provenance": {}}
    return describe(method, Preprocessing("none"), data.attributes, 0.25, spec=make_spec(), seed=0, **about)


def test_a_confusion_is_the_share_of_a_class_s_images() -> None:
    model = fitted()
    found = look_inside(model, SPLIT)
    names = np.array(SPLIT.class_names)[SPLIT.labels]
    images = np.isin(names, found.names)
    names, predicted = names[images], [best[0][0] for best in model.predict(SPLIT.features[images], "unseen").top()]
    expected = 100 * confusion_matrix(names, predicted, labels=found.names, normalize="true")
    np.testing.assert_allclose(found.confusion, expected)
    assert sorted(found.names) == sorted(model.class_names[model.n_seen :])


def test_confused_classes_stand_beside_each_other() -> None:
    confusion = np.eye(6) * 60 + 1
    for a, b in ((0, 4), (1, 5), (2, 3)):
        confusion[a, b] = confusion[b, a] = 40
    order = inside._neighbours(confusion).tolist()
    for a, b in ((0, 4), (1, 5), (2, 3)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_maps_show_the_classes_of_the_largest_confusions() -> None:
    rng, n = np.random.default_rng(0), inside.SHOWN + 5
    confusion = rng.permutation(n * n).reshape(n, n).astype(float)
    wrong = sorted(((confusion[a, b], a, b) for a in range(n) for b in range(n) if a != b), reverse=True)
    expected: list[int] = []
    for _, *pair in wrong:
        expected += [c for c in pair if c not in expected]
    assert inside._most_confused(confusion) == tuple(sorted(expected[: inside.SHOWN]))
    assert inside._most_confused(np.array([[100.0]])) == (0,)


def test_generated_features_stand_in_the_map_of_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of the classes' own images lie where those are, and are of the class of the nearest one."""

    def copies(self: ToyMethod, attributes: torch.Tensor, labels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        names = [SPLIT.class_names.index(model.class_names[c]) for c in labels]
        taken = {c: iter(np.flatnonzero(SPLIT.labels == c)) for c in set(names)}
        return torch.from_numpy(SPLIT.features[[next(taken[c]) for c in names]])

    model = fitted()
    without = look_inside(model, SPLIT)
    assert [panel.title for panel in without.panels] == ["real features, by t-SNE"]
    assert not without.shared
    monkeypatch.setattr(ToyMethod, "synthesise", copies)
    found: Inside = look_inside(model, SPLIT)
    real, generated = found.panels
    assert found.shared
    assert np.array_equal(real.labels, generated.labels)
    extent = np.ptp(real.points, axis=0).max()
    assert np.abs(real.points - generated.points).max() < 0.05 * extent
    assert "of the same class for 100 %" in found.reading
    assert "of what is generated is 1.00 times that of what is real" in found.reading


def test_too_few_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "FEWEST", 10**6)
    with pytest.raises(InputError, match=r"needs 1000000 images of unseen classes to show, got \d+$"):
        look_inside(fitted(), SPLIT)
