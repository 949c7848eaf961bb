"""Attribute-regression losses: one file a loss, registered in ``benchmark.registries.LOSSES``."""

from typing import Any

from benchmark.api import RegressionLoss
from benchmark.config import resolve
from benchmark.errors import InputError
from benchmark.registries import LOSSES


def build(name: str, *, n_classes: int, n_attributes: int, **parameters: Any) -> RegressionLoss:
    """The loss ``name`` for data of ``n_classes`` classes and ``n_attributes`` semantics.

    Call it as ``loss(predicted, target, labels)`` with (B, A), (B, A) and (B,) tensors; it returns a scalar.

    Args:
        name: a registered loss, see ``python -m benchmark.run --list``.
        n_classes: the number of classes that ``labels`` index.
        n_attributes: the number of semantics A.
        parameters: fields of the loss's ``Config``, for instance ``alpha=0.1, beta=0.75, window="batch"``.

    Raises:
        InputError: the name is unknown or stands for no loss, or a parameter is unknown, of a wrong type or out of
            range.
    """
    if LOSSES[name].absent:
        raise InputError(f"loss {name}: it stands for no loss, so there is none to build")
    loss = LOSSES[name].obj
    return loss(n_classes, n_attributes, resolve(loss.Config, {f"loss {name}": parameters}))
