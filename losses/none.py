"""No attribute regression."""

from benchmark.api import RegressionLoss
from benchmark.registries import LOSSES


@LOSSES.register(
    "none",
    title="no regression",
    family="none",
    year=2023,
    source="the method without an attribute-regression term, as published where it has none",
    absent=True,
)
class NoLoss(RegressionLoss):
    """There is no loss: the slot of the method is absent. This has a name and settings, and is never built."""

    # There is nothing to compute, as a class that cannot be hashed has ``__hash__ = None``.
    forward = None  # type: ignore[assignment]
