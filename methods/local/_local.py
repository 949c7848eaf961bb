"""What the methods on local features share: regions, vectors of attribute names, training, and maps over the grid."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark import parallel
from benchmark.api import FeatureKind, Incompatible, Meta, Method, MethodConfig, Run, Slot, TrainData
from benchmark.config import Config
from benchmark.toolkit import minimise
from methods.local._backbone import BackboneConfig, TrainedBackbone

_NO_VECTORS = "needs vectors of the names of attributes; python -m datasets.features.vectors makes them for att"


class RegionSettings(Config):
    """How a method on local features is trained, beside what ``GradientConfig`` says.

    Attributes:
        backbone: the network that makes local features of images and is trained along; none for features that are
            local already.
        episodes: batches of an epoch; 0: as many as the training set holds.
        decay_every: epochs after which the learning rates are multiplied by ``decay``, again and again; 0: never.
        decay: what they are multiplied by.
    """

    backbone: BackboneConfig | None = None
    episodes: int = Field(0, ge=0)
    decay_every: int = Field(0, ge=0)
    decay: float = Field(0.1, gt=0, le=1)


class LocalMethod(Method):
    """A method that sees an image as R regions of D channels, the cells of a grid.

    Shapes: regions (B, R, D); what belongs to a region and a semantic (B, R, A).

    Args:
        meta: see ``Method``.
        config: a ``GradientConfig`` that is a ``RegionSettings`` too.
        rng: see ``Method``.

    Attributes:
        vectors_are: what becomes of the vectors of the attributes' names, each scaled to unit norm: ``unused``, an
            input that stays ``fixed``, or the start of parameters that are ``trained``.
        vectors: (A, V).
        backbone: what makes regions of images; None for data that are regions.
        grid: rows and columns of the regions.
        n_channels: D.
        attributes: (C, A) of all classes, seen ones first.
        n_seen: the number of seen classes.
    """

    accepts: ClassVar[tuple[FeatureKind, ...]] = ("local", "images")
    vectors_are: ClassVar[Literal["unused", "fixed", "trained"]]
    attributes: Tensor
    n_seen: int

    def __init__(self, meta: Meta, config: MethodConfig, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self._settings = settings = cast(RegionSettings, config)
        if meta.grid is None:
            raise Incompatible("needs local features")
        if (meta.kind == "images") != (settings.backbone is not None):
            raise Incompatible("images need a backbone, as in --set backbone='{name: resnet50}', and nothing else does")
        self.backbone = TrainedBackbone(settings.backbone, meta.grid) if settings.backbone else None
        self.grid, self.n_channels = meta.grid, meta.n_features
        if self.backbone:
            self.grid, self.n_channels = self.backbone.grid, self.backbone.n_channels
        self._draws: torch.Generator | None = None
        if self.vectors_are != "unused":
            if not meta.n_vector:
                raise Incompatible(_NO_VECTORS)
            empty = torch.zeros(meta.n_attributes, meta.n_vector)
            self.vectors = nn.Parameter(empty, requires_grad=self.vectors_are == "trained")

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.attributes, self.n_seen = data.attributes, data.n_seen
        if self.vectors_are != "unused":
            if data.attribute_vectors is None:
                raise Incompatible(_NO_VECTORS)
            self.vectors.data.copy_(F.normalize(data.attribute_vectors, dim=1))
        self._draws = run.rng(f"augmentation {parallel.rank()}")
        minimise(
            self,
            lambda x, y: self.objective(self.regions(x), y, slot),
            data,
            slot,
            run,
            groups=self._parameter_groups(),
            n_batches=self._settings.episodes,
            schedule=self._schedule if self._settings.decay_every else None,
        )

    @abstractmethod
    def objective(self, regions: Tensor, y: Tensor, slot: Slot) -> Tensor:
        """The scalar that is minimised, of (B, R, D) regions of images of classes ``y`` (B,)."""

    @abstractmethod
    def predict(self, regions: Tensor) -> Tensor:
        """(B, A) the attributes of images, of their (B, R, D) regions."""

    @abstractmethod
    def maps(self, regions: Tensor) -> Tensor:
        """(B, R, A) how much each attribute looks at each of (B, R, D) regions, at least 0."""

    def semantics(self, x: Tensor) -> Tensor:
        return self.predict(self.regions(x))

    def attention(self, x: Tensor) -> Tensor:
        maps: Tensor = self.maps(self.regions(x)).transpose(1, 2).unflatten(2, self.grid)
        return maps

    def regions(self, x: Tensor) -> Tensor:
        """(B, R, D) regions of (B, h, w, D) local features or of images, in the precision of the attributes."""
        regions: Tensor = self.backbone(x, self._draws) if self.backbone else x
        return regions.flatten(1, 2).to(self.attributes)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """All that is trained; the backbone at its own learning rate."""
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        own = [p for name, p in trained.items() if not name.startswith("backbone.")]
        if self.backbone is None:
            return [{"params": own}]
        tuned = [p for name, p in trained.items() if name.startswith("backbone.")]
        return [{"params": own}, {"params": tuned, "lr": self.backbone.config.lr}]

    def _schedule(self, optimiser: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.StepLR(optimiser, self._settings.decay_every, self._settings.decay)


def project(regions: Tensor, *matrices: Tensor) -> Tensor:
    """(B, R, D) regions times a chain of matrices, (D, K), (K, L), ..., multiplied in the cheapest order."""
    rows = regions.flatten(0, 1)
    # In mixed precision some matrices are products themselves, of another type.
    chain = [rows, *(matrix.to(rows.dtype) for matrix in matrices)]
    projected: Tensor = torch.linalg.multi_dot(chain).unflatten(0, regions.shape[:2])
    return projected


def name_maps(regions: Tensor, matrix: Tensor, vectors: Tensor) -> Tensor:
    """(B, R, A) v_j W f_r of regions f_r, a matrix W (V, D) and the (A, V) vectors v_j of the attributes' names."""
    return project(regions, matrix.T, vectors.T)


def compactness(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, A) sum over regions of (B, R, A) maps times the squared distance, in cells, to the map's peak."""
    # |r - p|^2 = |r|^2 - 2 <r, p> + |p|^2: three sums over regions for each map, instead of a distance for each entry.
    # They cancel, so that autocast must not round them.
    with torch.autocast(maps.device.type, enabled=False):
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        rows, columns = (torch.arange(n, device=maps.device) for n in grid)
        places = torch.cartesian_prod(rows, columns).to(maps.dtype)
        peaks, moments = places[maps.argmax(1)], maps.transpose(1, 2)
        squares, total = moments @ places.square().sum(1), maps.sum(1)
        return squares - 2 * (moments @ places * peaks).sum(-1) + peaks.square().sum(-1) * total
