"""Group DRO: the groups of images, or the semantics, with the largest loss count more."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import errors


@LOSSES.register(
    "group-dro",
    title="Group DRO",
    family="re-weighted",
    year=2020,
    source="Sagawa et al., Distributionally Robust Neural Networks for Group Shifts, ICLR 2020, arXiv 1911.08731",
)
class GroupDRO(RegressionLoss):
    """sum over groups g of q_g L_g, with L_g the mean squared error of the group in the batch and q held constant.

    With M_g a moving average of L_g over the batches that g was in, and its mean M over the groups seen so far,
    q_g is proportional to exp(eta M_g / M), and sums to 1 over the groups of the batch. Of ReMSE's two factors, groups
    of classes leave the one over semantics out, and groups of semantics the one over classes.

    Departures from the paper, whose q_g grows by a factor exp(eta L_g) at every step (its eta is 0.01):

    - Squared errors of unit rows are about 0.0025, so that q would still be uniform within 7 % after 3,300 steps.
      Divided by their mean, growth without end leaves one group alone. Hence the q above, which depends on the present
      errors; ``exponentiated`` is the paper's with that division.
    - The paper's q sums to 1 over all groups, and the loss of an absent one is 0: its scale depends on which classes
      were drawn. Here the mean of the weights over a batch is 1, whatever the settings, and there is no ``scale``.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            groups: the ``classes``, or the ``semantics``.
            update: ``tilt``: q from the moving averages alone; ``exponentiated``: each step multiplies q by
                exp(eta L_g / M).
            eta: how much a group's loss counts; 0 gives all groups the same. For ``exponentiated`` 0.01 is published.
            momentum: the share of the old average that is kept.
        """

        groups: Literal["classes", "semantics"] = "classes"
        update: Literal["tilt", "exponentiated"] = "tilt"
        eta: float = Field(1.0, ge=0)
        momentum: float = Field(0.9, ge=0, lt=1)

    config: Config
    average: Tensor  # M_g, 0 for groups that were not seen yet
    seen: Tensor
    exponents: Tensor  # log q_g of the last step, of ``exponentiated`` alone

    def __init__(self, n_classes: int, n_attributes: int, config: Config) -> None:
        super().__init__(n_classes, n_attributes, config)
        n_groups = n_classes if config.groups == "classes" else n_attributes
        self.register_buffer("average", torch.zeros(n_groups))
        self.register_buffer("seen", torch.zeros(n_groups, dtype=torch.bool))
        self.register_buffer("exponents", torch.zeros(n_groups))

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The weighted squared error of (B, A) predictions; in training mode, this batch enters the averages."""
        squared = errors(predicted, target, self.config.normalize).square()
        return (self._element_weights(squared, labels, keep=self.training) * squared).mean()

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """(B, A) weights q_g / share of g in the batch, as in ``forward``, but the averages stay as they are.

        A closed form, which takes all images at once, hence gets the weights of its present errors.
        """
        squared = errors(predicted, target, self.config.normalize).square()
        return self._element_weights(squared, labels, keep=False)

    @torch.no_grad()
    def _element_weights(self, squared: Tensor, labels: Tensor, *, keep: bool) -> Tensor:
        losses, images = self._group_losses(squared, labels)
        present, known = images > 0, self.average.to(losses.dtype)
        moved = torch.where(self.seen, torch.lerp(losses, known, self.config.momentum), losses)
        average, seen = torch.where(present, moved, known), self.seen | present
        mean = (average.sum() / seen.sum()).clamp_min(torch.finfo(average.dtype).tiny)
        if self.config.update == "tilt":
            exponents = self.config.eta * average / mean
        else:
            exponents = (self.exponents + self.config.eta * losses / mean).log_softmax(0)
        if keep:
            self.average, self.seen, self.exponents = average, seen, exponents
        shares = exponents.masked_fill(~present, -torch.inf).softmax(0)
        if self.config.groups == "semantics":
            return (self.n_attributes * shares).expand_as(squared)
        return (shares * len(labels) / images)[labels, None].expand_as(squared)

    def _group_losses(self, squared: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(G,) the mean of the (B, A) squared errors of each group, 0 where it is absent, and its number of images."""
        if self.config.groups == "semantics":
            return squared.mean(0), torch.full_like(squared[0], len(squared))
        zeros = squared.new_zeros(self.n_classes)
        images = zeros.index_add(0, labels, torch.ones_like(squared[:, 0]))
        return zeros.index_add(0, labels, squared.mean(1)) / images.clamp_min(1), images
