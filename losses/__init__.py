"""Attribute-regression losses: one file a loss; ``build`` makes one by name."""

from typing import Any

from benchmark.api import RegressionLoss
from benchmark.config import resolve
from benchmark.registry import Registry, subclass_check

LOSSES: Registry[type[RegressionLoss]] = Registry("loss", "losses", subclass_check(RegressionLoss))


def build(name: str, *, n_classes: int, n_attributes: int, **parameters: Any) -> RegressionLoss:
    """The loss ``name`` for data of ``n_classes`` classes and ``n_attributes`` semantics.

    Call it as ``loss(predicted, target, labels)`` with (B, A), (B, A) and (B,) tensors; it returns a scalar.

    Args:
        name: a registered loss, see ``python -m benchmark.run --list``.
        n_classes: the number of classes that ``labels`` index.
        n_attributes: the number of semantics A.
        parameters: fields of the loss's ``Config``, for instance ``alpha=0.1, beta=0.75, window="batch"``.

    Raises:
        InputError: the name is unknown, or a parameter is unknown, of a wrong type or out of range.
    """
    loss = LOSSES[name].obj
    return loss(n_classes, n_attributes, resolve(loss.Config, {f"loss {name}": parameters}))
