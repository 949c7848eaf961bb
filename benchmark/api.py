"""The whole contract between the engine and what plugs into it: methods, regression losses and data sets.

A method learns from a ``TrainData`` in ``fit(data, slot, run)``: the ``Slot`` is where its regression of attributes
goes, with whatever loss the user chose, and the ``Run`` lends it random numbers and decides on validation how far it
goes.

Shapes use B samples in a batch, N images, D features, A attributes (semantics), C classes. Inside a ``TrainData`` the
classes are numbered with the seen ones first: 0..n_seen-1 are seen, n_seen..n_seen+n_unseen-1 are unseen.

Features are of one of three kinds, and shapes written as (N, D) below stand for all of them:

- ``global``: (N, D) float32, a vector for each image;
- ``local``: (N, h, w, D) float16, a vector for each region of a grid over the image;
- ``images``: (N, H, W, 3) uint8, the pixels themselves.
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.config import Config, validate
from benchmark.errors import InputError

T = TypeVar("T")
S = TypeVar("S", bound="MethodConfig")
FeatureKind = Literal["global", "local", "images"]
#: What selects epochs, candidates and hyper-parameters: the area under the curve, or H without calibration.
Criterion = Literal["AUSUC", "H"]
#: The largest feature or attribute: products of two larger ones are soon beyond float32.
LARGEST = 1e15
#: The value of a setting that is derived from the data, by a rule of its ``MethodConfig``.
AUTO = "auto"


def feature_kind(features: Tensor | npt.NDArray[Any]) -> FeatureKind:
    """The kind of features of such a shape and type."""
    if features.ndim == 2:
        return "global"
    return "images" if features.dtype.itemsize == 1 else "local"


def derive_seed(*names: object) -> int:
    """A 63-bit seed from a hash of ``names``, so that adding a draw somewhere moves no other."""
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Facts:
    """What settings are derived from: sizes and form of the images to train on, and no label of a held-out one.

    Attributes:
        n_images: N, the images that the last fit trains on.
        n_features: D.
        n_attributes: A.
        n_seen: the number of seen classes.
        n_unseen: the number of unseen classes.
        n_regions: cells of the grid of local features, 1 for a vector; pixels of images.
        signed: some feature is below 0, so that they come from no ReLU and from no histogram.
        alike: the mean of seen classes' semantics, each of unit norm, has three quarters of their mean square or more.
    """

    n_images: int
    n_features: int
    n_attributes: int
    n_seen: int
    n_unseen: int
    n_regions: int = 1
    signed: bool = False
    alike: bool = False

    @property
    def images_a_class(self) -> float:
        """The mean number of training images of a seen class."""
        return self.n_images / self.n_seen


#: Setting -> what derives it from the data, and from the settings that are complete by then.
Rules = Mapping[str, Callable[[Facts, Any], Any]]


class MethodConfig(Config):
    """What every method can be set to.

    A setting that has a rule may be ``auto``: it is then derived from the data before training, and the result tells
    what came of it.

    Attributes:
        preprocess: how features are scaled. ``minmax`` and ``standard`` are fitted on the training features alone, over
            all images and regions; ``scale``, fitted so too, divides all by one number that leaves a root mean square
            of 0.2, about that of ``minmax`` on features after a ReLU; ``l2`` gives each image, or each of its regions,
            unit norm. Pixels take ``none``.
        regression_weight: the weight (lambda) of the attribute-regression loss in the method's objective.
    """

    #: In the order in which they are followed: a rule is told what came of the ones before it. Methods of a kind share
    #: them; one for a setting that a method lacks plays no role there.
    rules: ClassVar[Rules] = {}

    preprocess: Literal["none", "l2", "minmax", "scale", "standard"] = "none"
    regression_weight: float = Field(1.0, ge=0)

    @classmethod
    def automatic(cls, settings: Mapping[str, Any]) -> list[str]:
        """Those of ``settings`` that are to be derived, in the order of the rules."""
        return [name for name in cls.rules if name in cls.model_fields and settings.get(name) == AUTO]

    @classmethod
    def fixed(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``settings`` that need not be derived."""
        automatic = cls.automatic(settings)
        return {name: value for name, value in settings.items() if name not in automatic}

    @classmethod
    def derive(cls: type[S], settings: Mapping[str, Any], facts: Facts) -> S:
        """Complete, validated settings.

        Args:
            settings: values, some of which may be ``auto``.
            facts: of the data.

        Raises:
            InputError: a value is wrong.
        """
        values = cls.fixed(settings)
        for name in cls.automatic(settings):
            values[name] = cls.rules[name](facts, validate(cls, values, "settings"))
        return validate(cls, values, "settings")


class DatasetConfig(Config):
    """What every data set can be set to: nothing, unless it says otherwise."""


class LossConfig(Config):
    """What every attribute-regression loss can be set to.

    Attributes:
        normalize: L2-normalise each row of the prediction and of the target before they are compared.
    """

    normalize: bool = True


@dataclass(frozen=True)
class Meta:
    """What a method needs to know of the data to build itself.

    Attributes:
        n_features: D; 3 for images.
        n_attributes: A.
        n_seen: the number of seen classes.
        n_unseen: the number of unseen classes.
        grid: (h, w) of local features, (H, W) of images.
        n_vector: V, the size of the attributes' name vectors; 0 where there are none.
        n_class_vector: the size of the classes' further vectors; 0 where there are none.
        kind: what the features are.
    """

    n_features: int
    n_attributes: int
    n_seen: int
    n_unseen: int
    grid: tuple[int, int] | None = None
    n_vector: int = 0
    n_class_vector: int = 0
    kind: FeatureKind = "global"


@dataclass(frozen=True)
class TrainData:
    """All that ``Method.fit`` may see: images of seen classes, and attributes of all classes (inductive setting).

    Attributes:
        features: (N, D) of any kind, preprocessed, on the run's device. Local features and images keep their narrow
            types there: a method converts a batch at a time.
        labels: (N,) int64, each in 0..n_seen-1.
        attributes: (n_seen + n_unseen, A) float32, seen classes first.
        n_seen: the number of seen classes.
        attribute_vectors: (A, V) float32, a vector of each attribute's name; None where the data set has none.
        class_vectors: (n_seen + n_unseen, V) float32, other semantics of each class, such as a vector of its name, for
            methods that take both; None where the user chose none.
    """

    features: Tensor
    labels: Tensor
    attributes: Tensor
    n_seen: int
    attribute_vectors: Tensor | None = None
    class_vectors: Tensor | None = None

    @property
    def meta(self) -> Meta:
        """The sizes of this data."""
        n_classes, n_attributes = self.attributes.shape
        _, *grid, n_features = self.features.shape
        return Meta(
            n_features,
            n_attributes,
            self.n_seen,
            n_classes - self.n_seen,
            grid=(grid[0], grid[1]) if grid else None,
            n_vector=0 if self.attribute_vectors is None else self.attribute_vectors.shape[1],
            n_class_vector=0 if self.class_vectors is None else self.class_vectors.shape[1],
            kind=feature_kind(self.features),
        )

    @property
    def targets(self) -> Tensor:
        """(N, A) the attributes of each image's class."""
        return self.attributes[self.labels]

    @property
    def class_counts(self) -> Tensor:
        """(n_seen,) the number of images of each seen class."""
        # Not bincount, for which a GPU has to tell the host the largest label.
        return self.labels.new_zeros(self.n_seen).index_add_(0, self.labels, torch.ones_like(self.labels))

    @property
    def seen(self) -> Tensor:
        """(n_seen,) the indices of the seen classes."""
        return torch.arange(self.n_seen, device=self.labels.device)

    @property
    def unseen(self) -> Tensor:
        """(n_unseen,) the indices of the unseen classes."""
        return torch.arange(self.n_seen, len(self.attributes), device=self.labels.device)


class RegressionLoss(nn.Module, ABC):
    """An attribute-regression loss; the benchmark swaps it inside any method.

    Args:
        n_classes: the number of classes that ``labels`` index, seen ones first. Labels are of unseen classes only where
            a method regresses features that it generated for them.
        n_attributes: the number of semantics.
        config: validated settings, an instance of the class's own ``Config``.
    """

    Config: ClassVar[type[LossConfig]] = LossConfig

    def __init__(self, n_classes: int, n_attributes: int, config: LossConfig) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.n_attributes = n_attributes
        self.config = config

    def prepare(self, attributes: Tensor, counts: Tensor) -> None:
        """Learn what is fixed for a training set, once before training.

        Args:
            attributes: (n_classes, A) the attributes of all classes.
            counts: (n_classes,) the number of training images of each; 0 for unseen ones.
        """

    @abstractmethod
    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The scalar loss of (B, A) predictions against the (B, A) attributes of classes ``labels`` (B,)."""

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor | None:  # noqa: ARG002
        """(B, A) element weights W, detached: mean(W * squared error), W held constant, has this loss's gradient.

        The squared errors are those of the rows as the loss compares them. Closed-form methods solve a weighted
        least-squares problem with W and iterate. None means that the loss has no such form; a closed-form method then
        refuses it through ``Incompatible``.
        """
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of parameters that the loss itself learns; none by default."""
        return []


class Slot:
    """The attribute-regression slot of a method: a loss, bound to its weight and to the attributes of the classes.

    A method calls ``slot(predicted, labels)`` wherever it regresses attributes, and adds what it returns to its
    objective, whether there is a loss or none. The product of loss and weight stands here and nowhere else.

    Args:
        attributes: (C, A) the attributes of all classes.
        loss: the attribute-regression loss; None: there is none.
        weight: the weight (lambda) of the loss in the method's objective.
        own: (predicted (B, A), target (B, A)) -> scalar, an error of the method's own in place of a loss.

    The first three are its attributes too.
    """

    def __init__(
        self,
        attributes: Tensor,
        loss: RegressionLoss | None = None,
        weight: float = 1.0,
        own: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.attributes = attributes
        self.loss = loss
        self.weight = weight
        self._own = own

    @property
    def absent(self) -> bool:
        """There is nothing to regress by: only for methods that solve another problem then, as closed forms do."""
        return self.loss is None and self._own is None

    def __call__(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """The weighted scalar error of (B, A) predictions for images of classes ``labels`` (B,); 0 where absent."""
        return predicted.new_zeros(()) if self.absent else self.weight * self.error(predicted, labels)

    def error(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """The same without the weight."""
        target = self.attributes[labels]
        if self.loss is not None:
            error: Tensor = self.loss(predicted, target, labels)
            return error
        return self._own(predicted, target) if self._own is not None else predicted.new_zeros(())

    def element_weights(self, predicted: Tensor, labels: Tensor) -> Tensor:
        """(B, A) the loss's weights of squared errors, without the weight of the slot; see ``RegressionLoss.weights``.

        Raises:
            Incompatible: the loss has no least-squares form.
        """
        if self.loss is None:
            raise Incompatible("an error of the method's own has no least-squares form, which a closed form needs")
        weights = self.loss.weights(predicted, self.attributes.to(predicted)[labels], labels)
        if weights is None:
            name = type(self.loss).__name__
            raise Incompatible(f"{name} has no least-squares form, which a closed-form method needs")
        return weights

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of the parameters that the loss itself learns."""
        return [] if self.loss is None else self.loss.parameter_groups()

    def or_else(self, own: Callable[[Tensor, Tensor], Tensor], weight: float | None = None) -> Slot:
        """This slot where it has a loss; else one with an error of the method's ``own``, as published.

        Args:
            own: (predicted (B, A), target (B, A)) -> scalar.
            weight: the weight of that error; None: the weight of this slot.
        """
        if not self.absent:
            return self
        return Slot(self.attributes, None, self.weight if weight is None else weight, own)


class Incompatible(Exception):
    """A method cannot be trained with the given loss or on the given data; they are skipped with this reason."""


class Stateful(Protocol):
    """What can tell its state and take it back: a schedule of learning rates, for instance."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and texts, in dictionaries and lists."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Be what ``state_dict`` told of."""
        ...


class Run(ABC):
    """What the engine lends a method during ``fit``: device, random numbers, selection on validation, a log.

    A run either selects (it scores the method on validation data after every choice and keeps the best) or refits (it
    goes straight through the choices that were selected). A method is written once and does not ask which.
    """

    device: torch.device

    @abstractmethod
    def rng(self, name: str) -> torch.Generator:
        """Random numbers on the run's device, seeded from the run's seed and ``name``: a new draw moves no other."""

    @abstractmethod
    def epochs(
        self,
        method: Method,
        n: int,
        patience: int,
        *,
        every: int = 1,
        ready: Mapping[str, Callable[[], None]] | None = None,
        state: Sequence[Stateful] | None = None,
    ) -> Iterator[int]:
        """Iterate over epochs 1..n; when the loop ends, ``method`` holds the state that was selected.

        Args:
            method: what is scored on validation and whose state is kept.
            n: the most epochs.
            patience: stop after this many evaluations without improvement.
            every: evaluate after every this many epochs.
            ready: name -> a way to get ready to score, for a method that has to. An evaluation calls each of them, and
                the method is as good as the best of them; that one is called at the end.
            state: what the loop's body changes beside the method, the slot's loss, the run's random numbers and
                optimisers, all of them made before the loop. Given, if only as ``()``, a fit whose process was killed
                goes on where a checkpoint was; None: it cannot, and begins anew.
        """

    @abstractmethod
    def candidates(self, method: Method, options: Sequence[T]) -> Iterator[T]:
        """Iterate over ``options``, each of which the loop body fits; ends as ``epochs`` does."""

    @abstractmethod
    def log(self, **values: Tensor | float) -> None:
        """Note scalars of this epoch in the result's history.

        Raises:
            FloatingPointError: a value is not finite; the run is recorded as failed, with its epoch.
        """


class Tracker(ABC):
    """Shows a fit while it lasts; one is made for each fit, in the process that does it.

    Args:
        name: what the fit is called, a path: data set, method and loss, run, ``select`` or ``refit``.
        settings: of its run: plain containers.
        folder: of this fit alone, for a tracker that writes files; those of an earlier process may be there.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path) -> None:
        self.name = name
        self.settings = settings
        self.folder = folder

    @abstractmethod
    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Show a row of the history: that of epoch or candidate ``number``.

        Where the method was scored it has the held-out value. A fit that goes on tells its earlier rows again.
        """

    @abstractmethod
    def close(self) -> None:
        """There is nothing more, because the fit ended well or badly."""


class Method(nn.Module, ABC):
    """A zero-shot-learning method.

    Args:
        meta: the sizes of the data.
        config: validated settings, an instance of the class's own ``Config``.
        rng: the source of the initial weights; global random state must not be used.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    #: The kinds of features that it can be trained on; the engine skips data sets of others.
    accepts: ClassVar[tuple[FeatureKind, ...]] = ("global",)
    #: Attribute regression is its only objective: the engine skips it where there is no loss.
    needs_loss: ClassVar[bool] = False
    #: Its semantics come from a part that the slot alone trains: without a loss the engine does not ask for them.
    semantics_need_loss: ClassVar[bool] = False
    #: What its epochs, candidates and hyper-parameters are selected by. The default is blind to a setting that merely
    #: moves along the seen-unseen curve: a method that has one chooses H, without calibration.
    criterion: ClassVar[Criterion] = "AUSUC"

    def __init__(self, meta: Meta, config: MethodConfig, rng: torch.Generator) -> None:  # noqa: ARG002
        super().__init__()
        self.meta = meta
        self.config = config

    @classmethod
    def selected_by(cls, settings: Mapping[str, Any]) -> Criterion:  # noqa: ARG003
        """The ``criterion`` under the given ``settings``, by name; those at their defaults may be absent."""
        return cls.criterion

    @abstractmethod
    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        """Train on ``data``; ``slot`` is where attributes are regressed.

        Raises:
            Incompatible: the method cannot be trained with the slot's loss, or on this data.
        """

    @abstractmethod
    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        """(B, len(classes)) compatibility of (B, D) features with ``classes``; higher is more likely.

        ``classes`` holds the unseen classes (ZSL), or all of them (GZSL), as rows of ``TrainData.attributes``.
        """

    @abstractmethod
    def semantics(self, x: Tensor) -> Tensor | None:
        """(B, A) the attributes predicted for (B, D) features; None where the method predicts none."""

    def take_classes(self, attributes: Tensor, rng: torch.Generator) -> None:  # noqa: ARG002
        """Score other unseen classes from now on, as a fitted method, without images of them.

        This does for methods that hold ``TrainData.attributes`` as ``attributes`` and derive nothing else from unseen
        classes. Others say what there is to do. By then ``meta`` counts the new classes.

        Args:
            attributes: (n_seen + K, A) of all classes, the seen ones first and as they were in training.
            rng: the source of random numbers.

        Raises:
            Incompatible: it cannot.
        """
        seen, held = attributes[: self.meta.n_seen], getattr(self, "attributes", None)
        held = held[: len(seen)] if isinstance(held, Tensor) else None
        if held is None or held.shape != seen.shape or not torch.allclose(held, seen):
            raise Incompatible("what it holds of classes is not their attributes; it must define take_classes")
        self.attributes = attributes

    def synthesise(self, attributes: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor | None:  # noqa: ARG002
        """(B, D) features that a fitted method generates for images of classes; None where it generates none.

        Args:
            attributes: (n_seen + n_unseen, A) of all classes, seen ones first.
            labels: (B,) the classes.
            rng: the source of random numbers.
        """
        return None

    def attention(self, x: Tensor) -> Tensor | None:  # noqa: ARG002
        """(B, A, h, w) how much each attribute looks at each region, at least 0; None for methods without attention."""
        return None


#: The share of each seen class's images that is held out, to validate or to test on seen classes.
HOLD_OUT = 0.2


def n_held_out(n_images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(K,) how many of the (K,) numbers of images of a class are held out: at least one, unless there is no second."""
    return np.where(n_images > 1, np.maximum(1, np.round(HOLD_OUT * n_images)), 0).astype(np.int64)


@dataclass(frozen=True)
class FineTuned:
    """What is to be known of features whose backbone was trained on images of the data set.

    Whatever is selected, is selected on other features than those that are tested: by a backbone that no validation
    image trained.

    Attributes:
        trained_on: indices of the images that the backbone of ``Split.features`` was trained on.
        to_select: what a backbone of the same kind, trained on fewer images, makes of all images; as
            ``Split.features``.
        to_select_trained_on: indices of those fewer images.
    """

    trained_on: npt.NDArray[np.int64]
    to_select: npt.NDArray[np.float32 | np.float16 | np.uint8]
    to_select_trained_on: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """A data set with its division into seen and unseen classes, as the protocol takes it.

    Attributes:
        features: (N, D) of any kind; may be memory-mapped.
        labels: (N,) int64, the class of each image, in 0..C-1.
        attributes: (C, A) float32 class semantics; those of classes without images play no role.
        class_names: C names.
        trainval: indices of the images of seen classes to train and validate on.
        test_seen: indices of the test images of seen classes.
        test_unseen: indices of the test images of unseen classes.
        validation_classes: the seen classes that play the unseen ones in validation; None: drawn by the protocol.
        attribute_vectors: (A, V) float32, a vector of each attribute's name; None where there are none.
        class_vectors: (C, V) float32, other semantics of each class beside ``attributes``; None where there are none.
        fine_tuned: what images the backbone was trained on, and features to select on; None where it was on none.
    """

    features: npt.NDArray[np.float32 | np.float16 | np.uint8]
    labels: npt.NDArray[np.int64]
    attributes: npt.NDArray[np.float32]
    class_names: tuple[str, ...]
    trainval: npt.NDArray[np.int64]
    test_seen: npt.NDArray[np.int64]
    test_unseen: npt.NDArray[np.int64]
    validation_classes: npt.NDArray[np.int64] | None = None
    attribute_vectors: npt.NDArray[np.float32] | None = None
    class_vectors: npt.NDArray[np.float32] | None = None
    fine_tuned: FineTuned | None = None

    @property
    def kind(self) -> FeatureKind:
        """What the features are."""
        return feature_kind(self.features)

    @property
    def seen(self) -> npt.NDArray[np.int64]:
        """The seen classes, ascending: those of ``trainval``."""
        return np.unique(self.labels[self.trainval])

    @property
    def unseen(self) -> npt.NDArray[np.int64]:
        """The unseen classes, ascending: those of ``test_unseen``."""
        return np.unique(self.labels[self.test_unseen])

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """The seen and unseen classes, ascending: what the split has images of."""
        return np.union1d(self.seen, self.unseen)

    def check(self, where: str = "split") -> None:
        """Assert what every later step relies on.

        Args:
            where: the file that is to blame, for the message.

        Raises:
            InputError: shapes disagree, a label or index is out of range, parts overlap, a seen class is tested as
                unseen, a class with images is not described by finite attributes, validation classes are not seen
                classes, or a backbone was trained on other images than those of ``trainval``.
        """
        for name, problem in self._problems():
            raise InputError(f"{where}: {name} {problem}")

    def _problems(self) -> Iterator[tuple[str, str]]:
        n, c = len(self.features), len(self.attributes)
        if self.labels.shape != (n,):
            yield "labels", f"must be one for each of the {n} images, got shape {self.labels.shape} instead"
        if len(self.class_names) != c:
            yield "allclasses_names", f"must name the {c} classes of att, got {len(self.class_names)} names instead"
        if (vectors := self.attribute_vectors) is not None:
            if vectors.ndim != 2 or len(vectors) != self.attributes.shape[1]:
                got = f"got shape {vectors.shape} instead"
                yield "attribute vectors", f"must be one for each of the {self.attributes.shape[1]} attributes, {got}"
            elif not np.isfinite(vectors).all():
                yield "attribute vectors", "must be finite, got NaN or infinity instead"
        if n and not (self.labels.min() >= 0 and self.labels.max() < c):
            yield "labels", f"must be in 1..{c}, got {self.labels.min() + 1}..{self.labels.max() + 1} instead"
        parts = {"trainval_loc": self.trainval, "test_seen_loc": self.test_seen, "test_unseen_loc": self.test_unseen}
        for name, part in parts.items():
            if not len(part):
                yield name, "must not be empty"
            elif part.min() < 0 or part.max() >= n:
                yield name, f"must be in 1..{n}, got {part.min() + 1}..{part.max() + 1} instead"
            elif np.bincount(part).max() > 1:  # np.unique hashes, and its tables outgrow the caches
                yield name, "must not repeat an image"
        for a, b in (
            ("trainval_loc", "test_seen_loc"),
            ("trainval_loc", "test_unseen_loc"),
            ("test_seen_loc", "test_unseen_loc"),
        ):
            if shared := np.count_nonzero(np.isin(parts[a], parts[b])):
                yield a, f"must be disjoint from {b}, got {shared} shared images instead"
        if both := len(np.intersect1d(self.seen, self.unseen)):
            yield "trainval_loc", f"must hold seen classes only, got {both} classes of test_unseen_loc instead"
        if strange := len(np.setdiff1d(self.labels[self.test_seen], self.seen)):
            yield "test_seen_loc", f"must hold seen classes only, got {strange} classes that trainval_loc lacks instead"
        described = self.attributes[self.classes]
        if not (sound := np.abs(described) <= LARGEST).all():
            got = f"got {described[~sound][0]} for class {self.classes[sound.all(axis=1).argmin()] + 1} instead"
            yield "att", f"must be finite and within ±{LARGEST:.0e}, {got}"
        if not (told := described.any(axis=1)).all():
            got = f"got only zeros for class {self.classes[told.argmin()] + 1} instead"
            yield "att", f"must describe every class with images, {got}"
        if (vectors := self.class_vectors) is not None:
            if vectors.ndim != 2 or len(vectors) != c:
                yield "class vectors", f"must be one for each of the {c} classes, got shape {vectors.shape} instead"
            elif not np.isfinite(vectors[self.classes]).all():
                yield "class vectors", "must be finite, got NaN or infinity instead"
        if self.validation_classes is not None:
            if strange := len(np.setdiff1d(self.validation_classes, self.seen)):
                yield "validation classes", f"must be seen classes, got {strange} others instead"
            if not 0 < len(self.validation_classes) < len(self.seen):
                yield "validation classes", f"must leave classes to train on, got all {len(self.seen)} instead"
        if (tuned := self.fine_tuned) is not None:
            if tuned.to_select.shape != self.features.shape:
                got = f"got shape {tuned.to_select.shape} for {self.features.shape} instead"
                yield "fine-tuned features", f"must be as many to select on as to test, {got}"
            elif strange := len(np.setdiff1d(np.union1d(tuned.trained_on, tuned.to_select_trained_on), self.trainval)):
                got = f"got {strange} others; they fit the split alone that they were made for"
                yield "fine-tuned features", f"must come from training on images of trainval_loc, {got}"


class SealedError(Exception):
    """Something tried to load a data set while a method was being fitted."""


#: Of the whole process, so that a thread that a method starts finds it set too.
_sealed = threading.Event()


@contextmanager
def sealed() -> Iterator[None]:
    """While this is entered, no data set can be loaded: a method in ``fit`` cannot reach test images by it."""
    _sealed.set()
    try:
        yield
    finally:
        _sealed.clear()


class Dataset(ABC):
    """A named source of a ``Split``.

    Args:
        name: what the command line and the leaderboards call it.
        config: validated settings, an instance of the class's own ``Config``.
        data_root: the folder of the data files, or None where there is none.
    """

    Config: ClassVar[type[DatasetConfig]] = DatasetConfig

    def __init__(self, name: str, config: DatasetConfig, data_root: Path | None) -> None:
        self.name = name
        self.config = config
        self.data_root = data_root

    @property
    @abstractmethod
    def features(self) -> str:
        """The name of the feature set, which boards never mix."""

    @property
    def feature_set(self) -> str:
        """The name of what is known of the images alone, whatever semantics were chosen: what settings depend on."""
        return self.features

    @property
    @abstractmethod
    def revision(self) -> str:
        """A digest of all that defines the data; results of different revisions are never compared."""

    @property
    def origin(self) -> dict[str, Any]:
        """How what it holds was made, as far as it is known: what it takes to make more of it.

        ``features``: the backbone, its weights and their digest, and what was done to images; see
        ``datasets.features.extract``. ``semantics``: the encoder of texts, where they come from one.
        """
        return {}

    @property
    def is_present(self) -> bool:
        """Whether its files, if it needs any, are there."""
        return True

    @abstractmethod
    def read(self) -> Split:
        """Read and check the data; called by ``load``.

        Raises:
            InputError: a file is missing, broken or contradicts itself.
        """

    def load(self) -> Split:
        """The data, read and checked.

        Raises:
            SealedError: a method is being fitted.
            InputError: a file is missing, broken or contradicts itself.
        """
        if _sealed.is_set():
            raise SealedError(f"{self.name} cannot be loaded while a method is being fitted")
        return self.read()
