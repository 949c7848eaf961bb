"""ICIS: weights of a softmax classifier are generated from attributes, by autoencoders that exchange their codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Meta, Method, Run, Slot, TrainData
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig, linear, minimise
from methods._condition import unit_mean_square
from methods._softmax import train_softmax


@METHODS.register(
    "icis",
    title="ICIS",
    family="embedding",
    year=2023,
    source="Christensen et al., Image-free Classifier Injection for Zero-Shot Classification, ICCV 2023, arXiv "
    "2308.10599",
    unseen_semantics={"include_unseen": True},
)
class ICIS(Method):
    """A classifier of seen classes gets rows for unseen ones, which are read from their attributes without images.

    The classifier, linear softmax on images of seen classes, has a row w_c of weights and bias for each of them. From
    there on classes are the samples. Two autoencoders with one hidden layer, of attributes (E_a, D_a) and of rows
    (E_w, D_w), have codes of one size, and each decoder reads both codes:

        C(D_a E_a a, a) + C(D_a E_w w, a) + C(D_w E_w w, w) + C(D_w E_a a, w),   C = 1 - cosine, averaged over classes

    An unseen class has the row D_w E_a a; seen ones keep their own.

    The attribute-regression slot is in the place of the first two terms, whose samples are classes: ``none`` is as
    published. A normalised squared error times half the number of attributes has the gradient of C. ``semantics`` is a
    probe, which nothing was trained for: an image x is read as if it were the row of a classifier, D_a E_w [x - m; 0],
    m being the mean of the training images.

    Ours against the release (ExplainableML/ImageFreeZSL):

    =================  ==========================================  =====================================================
    item               release                                     ours (option), effect where measured
    =================  ==========================================  =====================================================
    unseen attributes  in the first term, in published settings,   the same there (``include_unseen``), drawn beside the
                       shuffled among those of seen classes        seen ones of a batch, else left out; validation AUSUC
                                                                   with them 34.5 -> 35.3 and 33.1 -> 33.9
    inputs             attributes and rows as they are             unit norm times the root of their number; with
                                                                   "start", below
    norm of new rows   free; over ten times their mean norm by     free, or that of seen ones (``norm``; ``small``):
                       option                                      validation AUSUC 21.9 -> 34.5 and 22.5 -> 33.1, AWA1
                                                                   6.1 -> 7.4 and 5.8 -> 6.5
    features           as they are, fine-tuned on seen classes     as they are, or standardised (``small``): validation
                                                                   AUSUC 32.0 -> 34.5 and 30.8 -> 33.1, AWA1 8.1 -> 7.4
                                                                   and 7.2 -> 6.5
    start              weights N(0, 0.02)                          normal, of deviation 1/sqrt(inputs); with "inputs",
                                                                   below
    base classifier    its best epoch on test images of seen       its last one; not measured
                       classes
    selection          the last epoch, by the slope of the loss    AUSUC on validation
    =================  ==========================================  =====================================================

    Figures are of CUB2010 unless AWA1 is named, ``none``, ``small``, seeds 0 and 1.

    The release's autoencoders, trained on our classifier of seen classes, differ by inputs, start and batches with
    unseen classes alone. Both had unseen attributes, features as they are, 256 units and lr 1e-3, and were scored on
    test after the last epoch (100 on CUB2010, 200 on CUB50; means of seeds 0 and 1, in percent):

    =======  =====  =======  ====  ====  ====  ====  =====
    data     norm   code     T1    U     S     H     AUSUC
    =======  =====  =======  ====  ====  ====  ====  =====
    CUB2010  free   release  38.6  20.9  58.7  30.8  22.2
    CUB2010  free   ours     39.3  19.6  61.9  29.8  22.0
    CUB2010  match  release  41.3  18.1  72.6  28.9  27.2
    CUB2010  match  ours     41.0  21.3  71.1  32.8  27.2
    CUB50    free   release  49.6  10.1  81.7  17.9  35.7
    CUB50    free   ours     49.9  15.2  79.5  25.0  33.4
    CUB50    match  release  55.8  9.9   84.9  17.7  43.0
    CUB50    match  ours     59.0  3.9   86.2  7.2   46.3
    =======  =====  =======  ====  ====  ====  ====  =====

    The seeds of a row are up to 8 points of T1 apart, and up to 10 of U. With a free norm the scale of the generated
    rows is that of the untrained decoder, on CUB2010 3.7 times that of seen rows here and a sixteenth of it in the
    release, and calibration cannot undo what differs from image to image.
    """

    class Config(GradientConfig):
        """Settings.

        Attributes:
            hidden: units of a code.
            norm: of the generated rows: ``free``, to which the objective is blind, or that of the seen rows, in the
                mean (``match``).
            include_unseen: attributes of unseen classes join the first term, as published.
            base_epochs: epochs of the classifier of seen classes.
            base_lr: its learning rate.
            base_batch_size: images in a batch of it.
        """

        lr: float = Field(1e-5, gt=0)
        batch_size: int = Field(16, ge=1)
        hidden: int = Field(2048, ge=1)
        norm: Literal["free", "match"] = "free"
        include_unseen: bool = False
        base_epochs: int = Field(100, ge=1)
        base_lr: float = Field(1e-4, gt=0)
        base_batch_size: int = Field(16, ge=1)

    config: Config
    rows: Tensor
    centre: Tensor

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        a, d, h = meta.n_attributes, meta.n_features, config.hidden
        self.attribute_encoder, self.attribute_decoder = linear(a, h, rng), linear(h, a, rng)
        self.row_encoder, self.row_decoder = linear(d + 1, h, rng), linear(h, d + 1, rng)
        self.register_buffer("rows", torch.zeros(meta.n_seen, d + 1))
        self.register_buffer("centre", torch.zeros(d))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:  # noqa: D102
        config, slot = self.config, slot.or_else(distance, 1.0)
        base = train_softmax(
            data.features,
            data.labels,
            data.n_seen,
            epochs=config.base_epochs,
            lr=config.base_lr,
            batch_size=config.base_batch_size,
            rng=run.rng("base"),
            betas=(0.9, 0.999),
        )
        self.rows = torch.cat([base.weight, base.bias[:, None]], dim=1)
        self.centre = data.features.mean(0)
        self.attributes = unit_mean_square(data.attributes)
        noise = run.rng("unseen classes")

        def objective(w: Tensor, y: Tensor) -> Tensor:
            of_attributes, of_rows = self.attribute_code(self.attributes[y]), self.row_code(w)
            known, codes = y, of_attributes
            if config.include_unseen:
                # As many for the batch as they are for all seen classes.
                n = -(-len(y) * self.meta.n_unseen // data.n_seen)
                drawn = torch.randperm(self.meta.n_unseen, generator=noise, device=y.device)[:n] + data.n_seen
                known, codes = torch.cat([y, drawn]), torch.cat([codes, self.attribute_code(self.attributes[drawn])])
            of_semantics = slot(self.attribute_decoder(codes), known) + slot(self.attribute_decoder(of_rows), y)
            return of_semantics + distance(self.row_decoder(of_rows), w) + distance(self.row_decoder(of_attributes), w)

        minimise(self, objective, replace(data, features=self.rows, labels=data.seen), slot, run)

    def attribute_code(self, attributes: Tensor) -> Tensor:
        """(B, H) E_a of (B, A) attributes with a mean square of 1."""
        return F.relu(self.attribute_encoder(attributes))

    def row_code(self, rows: Tensor) -> Tensor:
        """(B, H) E_w of (B, D + 1) rows of any norm."""
        return F.relu(self.row_encoder(unit_mean_square(F.normalize(rows, dim=1))))

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        made = self.row_decoder(self.attribute_code(self.attributes[self.meta.n_seen :]))
        if self.config.norm == "match":
            made = F.normalize(made, dim=1) * self.rows.norm(dim=1).mean()
        rows = torch.cat([self.rows, made])[classes]
        return x @ rows[:, :-1].T + rows[:, -1]

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        predicted: Tensor = self.attribute_decoder(self.row_code(F.pad(x - self.centre, (0, 1))))
        return predicted

    def take_classes(self, attributes: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002, D102
        self.attributes = unit_mean_square(attributes)


def distance(predicted: Tensor, target: Tensor) -> Tensor:
    """The mean of 1 - cosine over (B, K) rows."""
    return 1 - F.cosine_similarity(predicted, target, dim=1).mean()
