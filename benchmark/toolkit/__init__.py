"""What authors of methods use: training by gradient descent, and layers whose weights come from a given source.

``benchmark.toolkit.backbones`` has the networks that turn images into features.
"""

from benchmark.toolkit.layers import dropout, linear
from benchmark.toolkit.training import (
    BUDGETED_IMAGES,
    MOST_EPOCHS,
    SHOWN,
    GradientConfig,
    Precision,
    arithmetic,
    build_optimizer,
    descend,
    draw_batches,
    minimise,
    power_of_two,
)

__all__ = [
    "BUDGETED_IMAGES",
    "MOST_EPOCHS",
    "SHOWN",
    "GradientConfig",
    "Precision",
    "arithmetic",
    "build_optimizer",
    "descend",
    "draw_batches",
    "dropout",
    "linear",
    "minimise",
    "power_of_two",
]
