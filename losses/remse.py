"""ReMSE, the rebalanced mean squared error, and its control ``mse-matched``.

The control lives here and not in a file of its own because it must run with ReMSE's settings: both read ``remse.yaml``.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import Scale, errors, scaled, smooth_abs


@LOSSES.register(
    "remse",
    title="ReMSE",
    family="re-weighted",
    year=2023,
    source="Ye et al., Rebalanced Zero-shot Learning, IEEE TIP 2023, arXiv 2210.07031",
    contrasts=(
        ("remse", "mse"),
        ("remse", "mse-matched"),
        ("remse:scale=mean_one", "mse"),
        ("mse-matched", "mse"),
    ),
)
class ReMSE(RegressionLoss):
    """mean over i, k of W[y_i,k] (p_ik - t_ik)^2, with weights that grow with the mean error of class and semantic.

    With E[c,k] the mean squared error of class c in semantic k, over the images of the batch (``error`` has another):

    - over classes:   W1[c,k] = (1 + log(E[c,k] / min of E[c',k] over c'))^alpha
    - over semantics: W2[c,k] = (1 + log(E[c,k] / min of E[c,k'] over k'))^beta

    and W = W1 * W2, held constant in the gradient. Minima run over positive entries; where E[c,k] = 0, W is 1. Hence
    W >= 1, and alpha = beta = 0 is MSE to the bit. On CUDA the sums over a class's images are added in any order
    unless ``torch.use_deterministic_algorithms`` is on.

    The paper's abstract speaks of tracking the mean and variance of error distributions: in the released code, and so
    here, no variance enters a weight.
    """

    class Config(LossConfig):
        """Settings. The defaults of alpha and beta are those published for CUB.

        Attributes:
            alpha: exponent of the weights over classes ("intra-semantic").
            beta: exponent of the weights over semantics ("inter-semantic").
            window: what E is taken from. ``batch``: the batch alone. ``running``: of each class the last batch that it
                was in. ``ema``: an exponential moving average over those batches, which starts at the first. In the
                last two, minima run over all classes seen so far; in eval mode the memory is read and not changed.
            momentum: for ``ema``, the share of the old average that is kept.
            scale: ``raw``, or ``mean_one``: W is divided by its mean over the batch, so that the loss is not also a
                larger regression weight.
            error: what is weighed and what E is the mean of: the ``squared`` error, or the ``absolute`` one, smooth at
                0 as sqrt(e^2 + 1e-10), which the released code calls RMSE.
            floor: 0 takes the minimum, an extreme value; otherwise this quantile (with linear interpolation) takes its
                place, and ratios below 1 count as 1.
        """

        alpha: float = Field(0.1, ge=0)
        beta: float = Field(0.75, ge=0)
        window: Literal["batch", "running", "ema"] = "batch"
        momentum: float = Field(0.9, ge=0, lt=1)
        scale: Scale = "raw"
        # Left out of the settings at its default, so that results from before it keep their keys.
        error: Literal["squared", "absolute"] = Field("squared", exclude_if=lambda error: error == "squared")
        floor: float = Field(0.0, ge=0, lt=1)

    config: Config
    log_errors: Tensor  # the memory: log E, -inf where E is 0 and for classes not seen yet
    seen: Tensor

    def __init__(self, n_classes: int, n_attributes: int, config: Config) -> None:
        super().__init__(n_classes, n_attributes, config)
        if config.window != "batch":
            self.register_buffer("log_errors", torch.full((n_classes, n_attributes), -torch.inf))
            self.register_buffer("seen", torch.zeros(n_classes, 1, dtype=torch.bool))

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The rebalanced error of (B, A) predictions; with a memory (``window``), this batch enters it."""
        weighed = self._weighed(predicted, target)
        return (self.element_weights(weighed, labels) * weighed).mean()

    @torch.no_grad()
    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """(B, A) weights W[y_i,k]; with a memory (``window``), this batch enters it as in ``forward``.

        For absolute errors, W[y_i,k] / (2 sqrt(e_ik^2 + 1e-10)).
        """
        weighed = self._weighed(predicted, target)
        weights = self.element_weights(weighed, labels)
        return weights if self.config.error == "squared" else 0.5 * weights / weighed

    @torch.no_grad()
    def element_weights(self, weighed: Tensor, labels: Tensor) -> Tensor:
        """(B, A) weights for the (B, A) errors that are weighed, of images of classes ``labels`` (B,)."""
        alpha, beta = self.config.alpha, self.config.beta
        if alpha == beta == 0:
            return torch.ones_like(weighed)
        rows, table = self._log_errors(weighed, labels)
        log_weights = torch.zeros_like(rows)
        if alpha:
            log_weights.add_(self._excess(rows, table, dim=0).log1p_(), alpha=alpha)
        if beta:
            log_weights.add_(self._excess(rows, rows, dim=1).log1p_(), alpha=beta)
        return scaled(log_weights.exp_(), self.config.scale)

    def _weighed(self, predicted: Tensor, target: Tensor) -> Tensor:
        error = errors(predicted, target, self.config.normalize)
        return error.square() if self.config.error == "squared" else smooth_abs(error)

    def _log_errors(self, weighed: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The log E of the images' classes (B, A), and of all classes in the window; -inf where E is 0 or unknown."""
        rows = _class_means(weighed, labels, self.n_classes)
        if self.config.window == "batch":
            rows = rows.log_()
            if self.config.floor == 0:
                return rows, rows  # for a minimum it does not matter that classes of several images are repeated
            return rows, rows.new_full((self.n_classes, self.n_attributes), -torch.inf).index_copy_(0, labels, rows)
        known = self.log_errors.to(rows.dtype)
        if self.config.window == "ema":
            averaged = torch.lerp(rows, known[labels].exp_(), self.config.momentum)
            rows = torch.where(self.seen[labels], averaged, rows)
        rows = rows.log_()
        table = known.index_copy(0, labels, rows)
        if self.training:
            self.log_errors, self.seen = table, self.seen.index_fill(0, labels, True)
        return rows, table

    def _excess(self, rows: Tensor, among: Tensor, dim: int) -> Tensor:
        """(B, A) log(E / lowest positive E of ``among`` over ``dim``) of log E, at least 0 and so 0 where E is 0."""
        if self.config.floor == 0:
            lowest = among.nan_to_num(neginf=torch.inf).amin(dim, keepdim=True)
        else:
            positive = among.nan_to_num(neginf=torch.nan).exp()
            lowest = positive.nanquantile(self.config.floor, dim, keepdim=True).log().nan_to_num(nan=torch.inf)
        return (rows - lowest).clamp_min_(0)


def _class_means(values: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """(B, A) for each row of ``values`` the mean over all rows with its label."""
    images = values.new_zeros(n_classes).index_add_(0, labels, values.new_ones(len(labels)))
    shares = values / images[labels, None]
    return values.new_zeros(n_classes, values.shape[1]).index_add_(0, labels, shares).index_select(0, labels)


@LOSSES.register(
    "mse-matched",
    title="MSE, matched to ReMSE",
    family="control",
    year=2023,
    source="Ye et al., Rebalanced Zero-shot Learning, IEEE TIP 2023, arXiv 2210.07031",
)
class MatchedMSE(ReMSE):
    """MSE times the mean weight that ReMSE would have used on this batch.

    ReMSE with ``scale: raw`` is also a larger regression weight; what it gains over this control it gains by
    rebalancing.
    """

    def element_weights(self, weighed: Tensor, labels: Tensor) -> Tensor:
        """(B, A) times the mean of ReMSE's weights."""
        weights = super().element_weights(weighed, labels)
        return weights.mean().expand_as(weights)
