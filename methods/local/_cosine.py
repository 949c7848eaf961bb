"""Classification by the cosines of predicted attributes and the classes' (AttentionNet, GEM-ZSL)."""

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


def cosines(predicted: Tensor, attributes: Tensor, scale: float) -> Tensor:
    """(B, C) cosines of (B, A) predictions and the (C, A) attributes of classes, times ``scale``."""
    return scale * F.normalize(predicted, dim=1) @ F.normalize(attributes, dim=1).T
