"""Classification by the cosines of what is predicted for images and what stands for classes."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from benchmark.config import Config


class CosineSettings(Config):
    """Settings of classification by cosine.

    Attributes:
        scale: the factor of the cosines inside the cross-entropy.
    """

    scale: float = Field(20.0, gt=0)


def cosines(predicted: Tensor, of_classes: Tensor, scale: float = 1.0) -> Tensor:
    """(B, C) cosines of (B, K) rows of images and (C, K) rows of classes, times ``scale``."""
    return scale * F.normalize(predicted, dim=1) @ F.normalize(of_classes, dim=1).T
