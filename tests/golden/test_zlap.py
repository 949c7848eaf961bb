"""ZLAP's objectives against loops from its formulas, and that a short training does what it is for."""

from __future__ import annotations

from functools import partial

import pytest

from methods.generative.zlap import ZLAP
from tests.reference.generative import make_batch
from tests.reference.toy import class_slot
from tests.reference.wgan import check_wgan, make_wgan, short_accuracy, slow_cycle


@pytest.mark.parametrize("weight", [None, 2.5])
def test_every_objective_and_its_gradient(weight: float | None):
    data, batch = make_batch()
    method = make_wgan(ZLAP, data)
    slot = class_slot(data, weight)
    check_wgan(method, data, batch, partial(method.prepare, data, slot), partial(slow_cycle, method, batch, weight))


@pytest.mark.parametrize(("classifier", "n_generated"), [("zla", 10), ("softmax", 50)])
def test_unseen_classes_are_recognised(classifier: str, n_generated: int):
    assert short_accuracy(ZLAP, None, classifier=classifier, n_generated=n_generated) > 0.8


def test_it_is_selected_by_h_unless_its_classifier_is_another():
    assert ZLAP.selected_by({}) == "H"
    assert ZLAP.selected_by({"classifier": "softmax"}) == "AUSUC"
