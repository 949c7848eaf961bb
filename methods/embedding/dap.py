"""DAP: direct attribute prediction, a probabilistic classifier for each attribute and a vote over all; closed form."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import Meta, Method, MethodConfig, Run, Slot, TrainData
from benchmark.registries import METHODS
from methods._least_squares import CentredLinear, CentredRidge

Ridge = Annotated[float, Field(gt=0)]
#: Newton steps of the logistic fit of two parameters, which needs about ten.
NEWTON_STEPS = 50
#: Halvings of a Newton step that would not lower the cost.
HALVINGS = 30


@METHODS.register(
    "dap",
    title="DAP",
    family="embedding",
    year=2009,
    source="Lampert et al., Learning To Detect Unseen Object Classes by Between-Class Attribute Transfer, CVPR 2009; "
    "TPAMI 2014",
)
class DAP(Method):
    """Class c is likely if its attributes are: sum over m of log p(a_m = b_cm | x) - log p(a_m = b_cm).

    Attributes are binary: b_cm says whether attribute m of class c is above its mean over the seen classes. The prior
    p(a_m) is the share of seen classes that have it. p(a_m | x) is a logistic function of a linear regressor's output,
    fitted on the training images (Platt 1999; the paper does so with the outputs of support vector machines).

    The regressors are the attribute-regression slot. ``none``: each is a ridge classifier of the binary attribute, as
    published but for the kind of classifier, and the expected attribute under p(a_m | x) is the predicted semantics.
    With a loss the attributes themselves are regressed by it, and that is the predicted semantics: with features X
    (N, D) (centred, and a constant column), targets T (N, A), ridge g and the loss's element weights W (N, A), V
    minimises

        ||sqrt(W) * (X V + mean(T) - T)||^2 + g mean(W) ||V||^2,

    exactly where W is constant, otherwise with W from the last residuals until the weights stay. A loss with
    ``normalize`` takes its weights from normalised predictions. There is no other term to weigh the regression against:
    ``regression_weight`` plays no role.

    Ours against a release (chcorbi/AttributeBasedTransferLearning, after the authors' code for AWA; that for other data
    sets was not found):

    =================  ==========================================  =====================================================
    item               release                                     ours (option), effect where measured
    =================  ==========================================  =====================================================
    classifiers        support vector machines (C = 10) or         ridge regression, ridge chosen by validation; not
                       logistic regression                         measured
    probabilities      Platt, on data that overlap the training    Platt, on the training images
                       images
    attributes         the binary matrix of AWA                    continuous ones above their mean over the seen
                                                                   classes; not measured
    prior              share of the classes trained on; 0 and 1    the same
                       become 0.5
    product            of probabilities in floating point          sum of logarithms; the same without underflow
    regression         none                                        the slot in place of the classifiers
    =================  ==========================================  =====================================================
    """

    class Config(MethodConfig):
        """Settings.

        Attributes:
            ridge: candidates of g; all are tried and validation chooses.
        """

        ridge: tuple[Ridge, ...] = Field(tuple(10.0**power for power in range(7)), min_length=1)

    config: Config
    slope: Tensor
    intercept: Tensor

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.regressors = CentredLinear(meta)
        self.register_buffer("slope", torch.zeros(meta.n_attributes))
        self.register_buffer("intercept", torch.zeros(meta.n_attributes))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:  # noqa: D102
        seen = data.attributes[: data.n_seen]
        self.signatures = self._signatures(data.attributes)
        present = self.signatures[: data.n_seen]
        share = present.mean(0)
        # An attribute that all seen classes share, or none has, says nothing about how likely it is.
        self.prior = torch.where((share == 0) | (share == 1), 0.5, share)
        # (2, A) the mean attribute of the seen classes without and with it.
        self.levels = torch.stack([_mean_where(seen, 1 - present), _mean_where(seen, present)])
        self.binary = slot.absent
        wanted = present[data.labels]
        regression = CentredRidge(data, wanted if self.binary else data.targets, slot, run)
        for ridge in run.candidates(self, self.config.ridge):
            solution, outputs = regression.solve(ridge)
            self.regressors.take(solution)
            slope, intercept = platt(outputs, wanted.to(outputs))
            self.slope, self.intercept = slope.to(data.features), intercept.to(data.features)
            run.log(ridge=ridge)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        logits, signatures = self._logits(x), self.signatures[classes]
        with_it = torch.nn.functional.logsigmoid(logits) - self.prior.log()
        without = torch.nn.functional.logsigmoid(-logits) - (1 - self.prior).log()
        return with_it @ signatures.T + without @ (1 - signatures).T

    def take_classes(self, attributes: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002, D102
        self.signatures = self._signatures(attributes)

    def _signatures(self, attributes: Tensor) -> Tensor:
        """(C, A) the b_cm of all classes, seen ones first."""
        return (attributes > attributes[: self.meta.n_seen].mean(0)).to(attributes)

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.binary:
            return torch.lerp(self.levels[0], self.levels[1], self._logits(x).sigmoid())
        attributes: Tensor = self.regressors(x)
        return attributes

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.slope * self.regressors(x) + self.intercept
        return logits


def platt(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each column the logistic function sigmoid(slope * output + intercept) that explains the labels best.

    Maximum likelihood with Platt's targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2), which keep it finite where the outputs
    separate the labels. Source: Platt, Probabilistic Outputs for Support Vector Machines, 1999; Newton's method with
    the damping of Lin et al., A note on Platt's probabilistic outputs, 2007.

    Args:
        outputs: (N, A).
        labels: (N, A) of 0 and 1.

    Returns:
        (A,) slopes and (A,) intercepts.
    """
    positive = labels.sum(0)
    targets = torch.where(labels > 0, (positive + 1) / (positive + 2), 1 / (len(labels) - positive + 2))
    # In standard units, so that one damping suits every column; what is constant but for rounding stays so.
    std, mean = outputs.std(0), outputs.mean(0)
    noise = len(outputs) * torch.finfo(outputs.dtype).eps * outputs.abs().amax(0)
    std = torch.where(std > noise, std, 1.0)
    z = (outputs - mean) / std

    def cost(slope: Tensor, intercept: Tensor) -> Tensor:
        logits = slope * z + intercept
        return -(targets * logits + torch.nn.functional.logsigmoid(-logits)).mean(0)

    slope, intercept = torch.zeros_like(mean), torch.logit(targets.mean(0))
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(slope * z + intercept)
        residual, curvature = (p - targets) / len(z), p * (1 - p) / len(z)
        by_slope, by_intercept = (residual * z).sum(0), residual.sum(0)
        if max(by_slope.abs().max(), by_intercept.abs().max()) < 1e-9:
            break
        # The 2 x 2 Hessian, damped, and its inverse written out.
        hss = (curvature * z.square()).sum(0) + 1e-9
        hii = curvature.sum(0) + 1e-9
        hsi = (curvature * z).sum(0)
        determinant = hss * hii - hsi.square()
        down = (hii * by_slope - hsi * by_intercept) / determinant
        across = (hss * by_intercept - hsi * by_slope) / determinant
        decrease = down * by_slope + across * by_intercept
        now, step = cost(slope, intercept), torch.ones_like(slope)
        for _ in range(HALVINGS):
            worse = cost(slope - step * down, intercept - step * across) > now - 1e-4 * step * decrease + 1e-15
            if not worse.any():
                break
            step = torch.where(worse, step / 2, step)
        slope, intercept = slope - step * down, intercept - step * across
    return slope / std, intercept - slope * mean / std


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """(A,) the mean of the (C, A) ``values`` where ``mask`` is 1; the mean of all where it never is."""
    count = mask.sum(0)
    return torch.where(count > 0, (values * mask).sum(0) / count.clamp(min=1), values.mean(0))
