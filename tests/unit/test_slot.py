"""The slot: a loss, its weight and the classes' attributes in one object, and what takes a loss's place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmark.api import Incompatible, Slot
from tests.reference.toy import ToyLoss, seeded

ATTRIBUTES = torch.rand(4, 3, generator=seeded(0))
LABELS = torch.tensor([2, 0, 2])
PREDICTED = torch.rand(3, 3, generator=seeded(1), requires_grad=True)


def loss() -> ToyLoss:
    return ToyLoss(4, 3, ToyLoss.Config())


def squared(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).square().sum()


def test_a_loss_is_weighted_and_compared_with_the_attributes_of_the_labels():
    slot = Slot(ATTRIBUTES, loss(), 2.5)
    error = (PREDICTED - ATTRIBUTES[LABELS]).square().mean()
    assert not slot.absent
    assert slot.error(PREDICTED, LABELS).item() == error.item()
    assert torch.equal(slot(PREDICTED, LABELS), 2.5 * error)
    assert slot.or_else(squared) is slot


def test_without_a_loss_it_is_nothing():
    slot = Slot(ATTRIBUTES, None, 2.5)
    assert slot.absent
    for value in (slot(PREDICTED, LABELS), slot.error(PREDICTED, LABELS)):
        assert value.item() == 0
        assert not value.requires_grad
    assert slot.parameter_groups() == []
    assert slot(PREDICTED.half(), LABELS).dtype == torch.float16


@pytest.mark.parametrize(("weight", "expected"), [(None, 2.5), (1.0, 1.0)])
def test_an_error_of_the_methods_own_takes_the_place_of_no_loss(weight: float | None, expected: float):
    slot = Slot(ATTRIBUTES, None, 2.5).or_else(squared, weight)
    error = squared(PREDICTED, ATTRIBUTES[LABELS])
    assert not slot.absent
    assert slot.loss is None
    assert slot.weight == expected
    assert slot.error(PREDICTED, LABELS).item() == error.item()
    assert torch.equal(slot(PREDICTED, LABELS), expected * error)
    assert slot.parameter_groups() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_element_weights_are_those_of_the_loss_in_the_precision_of_the_prediction(dtype: torch.dtype):
    predicted = PREDICTED.detach().to(dtype)
    found = Slot(ATTRIBUTES, loss(), 2.5).element_weights(predicted, LABELS)
    assert found.dtype == dtype
    assert torch.equal(found, 1 / (0.3 + (predicted - ATTRIBUTES.to(dtype)[LABELS]).abs()))


def test_a_loss_without_a_least_squares_form_says_so():
    class Formless(ToyLoss):
        def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> None:  # type: ignore[override]
            return None

    slot = Slot(ATTRIBUTES, Formless(4, 3, ToyLoss.Config()), 1.0)
    with pytest.raises(Incompatible, match="Formless has no least-squares form, which a closed-form method needs"):
        slot.element_weights(PREDICTED, LABELS)
