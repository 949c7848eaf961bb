"""What the methods on local features share: regions, vectors of attribute names, training, and maps over the grid."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import parallel
from benchmark.api import FeatureKind, Incompatible, Meta, Method, RegressionLoss, Run, TrainData
from benchmark.train import GradientConfig, fit
from methods.local._backbone import Backbone, BackboneConfig


class LocalConfig(GradientConfig):
    """What the methods on local features can be set to: how they are trained.

    Attributes:
        backbone: the network that makes local features of images and is trained along; none for features that are
            local already.
        episodes: batches of an epoch; 0: as many as the training set holds.
        decay_every: epochs after which the learning rates are multiplied by ``decay``, again and again; 0: never.
        decay: see there.
    """

    backbone: BackboneConfig | None = None
    episodes: int = Field(0, ge=0)
    decay_every: int = Field(0, ge=0)
    decay: float = Field(0.1, gt=0, le=1)


class LocalMethod(Method):
    """A method that sees an image as R regions of D channels, the cells of a grid.

    Shapes: regions (B, R, D); what belongs to a region and a semantic (B, R, A).

    Attributes:
        vectors_are: what becomes of the vectors of the attributes' names, each scaled to unit norm: ``unused``, an
            input that stays ``fixed``, or the start of parameters that are ``trained``.
        vectors: (A, V).
        backbone: what makes regions of images; None for data that are regions.
        grid: rows and columns of the regions.
        n_channels: D.
    """

    Config = LocalConfig
    accepts: ClassVar[tuple[FeatureKind, ...]] = ("local", "images")
    vectors_are: ClassVar[Literal["unused", "fixed", "trained"]]

    def __init__(self, meta: Meta, config: Any, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        if meta.grid is None:
            raise Incompatible("needs local features")
        if (meta.kind == "images") != (config.backbone is not None):
            raise Incompatible("images need a backbone, as in --set backbone='{name: resnet50}', and nothing else does")
        self.backbone = Backbone(config.backbone, meta.grid) if config.backbone else None
        self.grid, self.n_channels = meta.grid, meta.n_features
        if self.backbone:
            self.grid, self.n_channels = self.backbone.grid, self.backbone.n_channels
        self._augmentation: torch.Generator | None = None
        if self.vectors_are != "unused":
            if not meta.n_vector:
                raise Incompatible("needs attribute vectors; python -m datasets.vectors makes them")
            empty = torch.zeros(meta.n_attributes, meta.n_vector)
            self.vectors = nn.Parameter(empty, requires_grad=self.vectors_are == "trained")

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:
        self.attributes, self.n_seen = data.attributes, data.n_seen
        if self.vectors_are != "unused":
            if data.attribute_vectors is None:
                raise Incompatible("needs attribute vectors; python -m datasets.vectors makes them")
            self.vectors.data.copy_(F.normalize(data.attribute_vectors, dim=1))
        if self.backbone:
            self._augmentation = run.generator(f"augmentation {parallel.rank()}")
        fit(
            self,
            lambda x, y: self.objective(self.regions(x), y, loss),
            data,
            loss,
            run,
            groups=self._parameter_groups(),
            n_batches=self.config.episodes,
            schedule=self._schedule if self.config.decay_every else None,
        )

    def regions(self, x: Tensor) -> Tensor:
        """(B, R, D) regions of (B, h, w, D) local features or of images, in the precision of the attributes."""
        x = self.backbone(x, self._augmentation) if self.backbone else x
        return x.flatten(1, 2).to(self.attributes.dtype)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """All that is trained; the backbone at its own learning rate."""
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        own = [p for name, p in trained.items() if not name.startswith("backbone.")]
        if self.backbone is None:
            return [{"params": own}]
        tuned = [p for name, p in trained.items() if name.startswith("backbone.")]
        return [{"params": own}, {"params": tuned, "lr": self.backbone.config.lr}]

    def _schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.StepLR(optimizer, self.config.decay_every, self.config.decay)

    @abstractmethod
    def objective(self, regions: Tensor, y: Tensor, loss: RegressionLoss | None) -> Tensor:
        """The scalar that is minimised, of (B, R, D) regions of images of classes ``y`` (B,)."""

    def regression(self, predicted: Tensor, y: Tensor, loss: RegressionLoss) -> Tensor:
        """The weighted regression of (B, A) predictions on the attributes of classes ``y``."""
        value: Tensor = self.config.regression_weight * loss(predicted, self.attributes[y], y)
        return value

    def cosines(self, predicted: Tensor, classes: Tensor) -> Tensor:
        """(B, len(classes)) cosines of (B, A) predictions and the attributes of ``classes``, times ``config.scale``."""
        attributes = F.normalize(self.attributes[classes], dim=1)
        return self.config.scale * F.normalize(predicted, dim=1) @ attributes.T

    def over_grid(self, maps: Tensor) -> Tensor:
        """(B, A, h, w) maps of (B, R, A)."""
        return maps.transpose(1, 2).unflatten(2, self.grid)


def project(regions: Tensor, *matrices: Tensor) -> Tensor:
    """(B, R, D) regions times a chain of matrices, (D, K), (K, L), ..., multiplied in the cheapest order."""
    return torch.linalg.multi_dot([regions.flatten(0, 1), *matrices]).unflatten(0, regions.shape[:2])


def compactness(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, A) sum over regions of (B, R, A) maps times the squared distance, in cells, to the map's peak."""
    rows, columns = (torch.arange(n, device=maps.device) for n in grid)
    places = torch.cartesian_prod(rows, columns).to(maps.dtype)
    # |r - p|^2 = |r|^2 - 2 <r, p> + |p|^2: three sums over regions for each map, instead of a distance for each entry.
    peaks, moments = places[maps.argmax(1)], maps.transpose(1, 2)
    squares, total = moments @ places.square().sum(1), maps.sum(1)
    return squares - 2 * (moments @ places * peaks).sum(-1) + peaks.square().sum(-1) * total
