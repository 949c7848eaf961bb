"""A fitted method with all that it takes to use it: what it is asked, and how it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api import Incompatible, Meta, Method, derive_seed, feature_kind
from benchmark.errors import InputError, did_you_mean
from benchmark.models.images import Extraction, Picture
from benchmark.models.preprocessing import CHUNK, Preprocessing, chunks
from benchmark.registries import METHODS
from benchmark.results.record import JsonDict, Record, Spec
from benchmark.toolkit.backbones import without_weights


class Card(Record):
    """What a kept model says of itself.

    Attributes:
        version: of this record.
        spec: what was run.
        seed: its seed.
        settings: the method's complete settings, as derived from the data.
        sizes: the ``Meta`` of the data that it was fitted on.
        gamma: the calibration that was selected with it.
        class_names: seen classes first.
        origin: how features and semantics of the data set were made, as it tells; see ``Dataset.origin``.
        provenance: that of the run.
    """

    version: Literal[1] = 1
    spec: Spec
    seed: int = Field(ge=0)
    settings: JsonDict
    sizes: JsonDict
    gamma: float
    class_names: list[str]
    origin: dict[str, JsonDict]
    provenance: JsonDict

    @property
    def title(self) -> str:
        """What lists call it."""
        return f"{self.spec.method_label}+{self.spec.loss_label} {self.spec.dataset} s{self.seed}"


@dataclass(frozen=True)
class Predictions:
    """What a model says of N images.

    Attributes:
        classes: the K classes that were to choose among.
        scores: (N, K) float64, higher is more likely; calibrated where that was asked for.
        semantics: (N, A) the predicted semantics; None where the method predicts none.
    """

    classes: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    semantics: npt.NDArray[np.float32] | None

    def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
        """For each image the ``k`` most likely classes with their scores, the likeliest first."""
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, :k]
        return [[(self.classes[c], float(row[c])) for c in best] for row, best in zip(self.scores, order, strict=True)]


class Model(nn.Module):
    """A fitted method, its preprocessing, and its classes.

    Args:
        card: what it says of itself.
        method: fitted, or as its ``__init__`` made it, to be given a kept state.
        preprocessing: the same.
        attributes: (C, A) the semantics of its classes, seen ones first.
        weights: the file of the weights of the backbone of its features, where they were those of a file.
    """

    attributes: Tensor

    def __init__(
        self,
        card: Card,
        method: Method,
        preprocessing: Preprocessing,
        attributes: Tensor,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.card = card
        self.method = method
        self.preprocessing = preprocessing
        self.register_buffer("attributes", attributes)
        self.class_names = tuple(card.class_names)
        self.extract = Extraction(card.origin.get("features", {}), method.meta.kind, weights)

    @classmethod
    def untrained(cls, card: Card, weights: str | None = None) -> Model:
        """As it was before it was fitted: what a kept state is given to; ``weights`` as for the class.

        Raises:
            InputError: its method is not registered, or the settings are none of it.
        """
        kind = METHODS[card.spec.method].obj
        config = kind.Config.model_validate(card.settings)
        sizes = dict(card.sizes)
        sizes["grid"] = tuple(sizes["grid"]) if sizes["grid"] else None
        # Its weights come from the state; those that a library would draw at random touch no global state.
        with torch.random.fork_rng(devices=[]), without_weights():
            method = kind(Meta(**sizes), config, torch.Generator().manual_seed(0))
        return cls(card, method, Preprocessing(config.preprocess), torch.empty(0), weights)

    @property
    def n_seen(self) -> int:
        """The number of seen classes, which come first."""
        return self.method.meta.n_seen

    def predict(
        self,
        images: npt.NDArray[Any] | Tensor | Sequence[Picture],
        among: str | Sequence[str] = "all",
        *,
        calibrated: bool = True,
    ) -> Predictions:
        """The classes of images.

        Args:
            images: N files or PIL images, which go through the backbone that made the features of training; or (N, D)
                features as that gives them, of the kind that the method was trained on.
            among: ``unseen``, ``seen``, ``new`` (those that were added) or ``all`` classes, or names of classes, or
                several of these.
            calibrated: take the model's gamma from the scores of seen classes where unseen ones compete.

        Raises:
            InputError: features of another kind or size, or not finite, images where the features of training came from
                no known backbone, a file that is no image, or a class that it does not know.
        """
        chosen = self.chosen(among)
        x = self._checked(images if isinstance(images, np.ndarray | Tensor) else self._features(images))
        n_seen, n_classes, device = self.n_seen, len(self.class_names), self.attributes.device
        alone = bool((chosen >= n_seen).all())
        asked = torch.arange(n_seen if alone else 0, n_classes, device=device)
        scores, semantics = [], []
        self.eval()
        with torch.no_grad():
            for chunk in chunks(x, CHUNK):
                scaled = self.preprocessing(chunk.to(device))
                scores.append(self.method.scores(scaled, asked).cpu().double())
                semantics.append(self.method.semantics(scaled))
        found = torch.cat(scores).numpy() if scores else np.empty((0, len(asked)))
        found = found[:, chosen - int(asked[0])]
        if calibrated and not alone and bool((chosen >= n_seen).any()):
            found = found - self.card.gamma * (chosen < n_seen)
        known = [part.cpu().float() for part in semantics if part is not None]
        return Predictions(
            tuple(self.class_names[c] for c in chosen), found, torch.cat(known).numpy() if known else None
        )

    def add_classes(self, names: Sequence[str], attributes: npt.NDArray[np.float32]) -> None:
        """Recognise more unseen classes, without any image of them.

        Args:
            names: of the K new classes.
            attributes: (K, A) their semantics, on any scale where all known ones have unit norm.

        Raises:
            InputError: a name is known or repeated, semantics are of another number, not finite or all zero, or the
                method cannot take new classes, or has been fitted with ``class_vectors`` too.
        """
        if self.method.meta.n_class_vector:
            raise InputError(
                f"{self.card.title}: takes no new classes: it was fitted with other semantics of classes beside their "
                "attributes, which new ones lack; fit it without class_vectors"
            )
        known, n_attributes = self.attributes, self.attributes.shape[1]
        if twice := [name for place, name in enumerate(names) if name in self.class_names or name in names[:place]]:
            raise InputError(f"class {twice[0]!r} is known already; new classes must have names of their own")
        if attributes.shape != (len(names), n_attributes):
            got = f"got {attributes.shape[-1] if attributes.ndim else 0} instead"
            raise InputError(f"a new class must have the {n_attributes} attributes of the model's classes, {got}")
        if not (np.isfinite(attributes).all() and attributes.any(axis=1).all()):
            raise InputError("attributes of new classes must be finite, and not all zero for a class")
        new = torch.from_numpy(attributes).to(known)
        if torch.allclose(known.norm(dim=1), known.new_ones(()), atol=1e-3):
            new = nn.functional.normalize(new, dim=1)
        described = torch.cat([known, new])
        rng = torch.Generator(known.device).manual_seed(derive_seed(self.card.seed, "new classes"))
        before = self.method.meta
        self.method.meta = replace(before, n_unseen=len(described) - self.n_seen)
        try:
            self.eval().method.take_classes(described, rng)
        except Incompatible as reason:
            self.method.meta = before
            raise InputError(f"{self.card.title}: takes no new classes: {reason}") from None
        self.attributes = described
        self.class_names += tuple(names)

    def chosen(self, among: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """(K,) the places of classes among those of the model, ascending; see ``predict``.

        Raises:
            InputError: it does not know one of them.
        """
        n_seen, n_classes = self.n_seen, len(self.class_names)
        groups = {"unseen": range(n_seen, n_classes), "seen": range(n_seen), "all": range(n_classes)}
        if n_classes > (n_fitted := len(self.card.class_names)):
            groups["new"] = range(n_fitted, n_classes)
        found: set[int] = set()
        for name in [among] if isinstance(among, str) else among:
            if name not in groups and name not in self.class_names:
                raise InputError(f"no class {name!r}; {did_you_mean(name, [*groups, *self.class_names])}")
            found |= {*groups.get(name, [])} or {self.class_names.index(name)}
        return np.array(sorted(found))

    def _features(self, images: Sequence[Picture]) -> Tensor:
        if isinstance(images, Picture):
            raise InputError(f"images must be a list of files or PIL images, got {type(images).__name__} instead")
        return self.extract(images, self.attributes.device)

    def _checked(self, features: npt.NDArray[Any] | Tensor) -> Tensor:
        meta = self.method.meta
        x = features if isinstance(features, Tensor) else torch.from_numpy(np.require(features, requirements="W"))
        kind = feature_kind(x) if x.ndim in (2, 4) else "other"
        wanted = (*(meta.grid or ()), meta.n_features)
        if kind != meta.kind or tuple(x.shape[1:]) != wanted:
            got = f"got shape {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} instead"
            raise InputError(f"features must be {meta.kind} ones of shape (N, {', '.join(map(str, wanted))}), {got}")
        x = x.to({"global": torch.float32, "local": torch.float16, "images": torch.uint8}[kind])
        if kind != "images" and not x.isfinite().all():
            raise InputError("features must be finite, got NaN or infinity instead")
        return x


def describe(method: Method, preprocessing: Preprocessing, attributes: Tensor, gamma: float, **about: Any) -> Model:
    """The model of a method that a run fitted; ``about`` it are the fields of ``Card`` that the run alone knows."""
    card = Card(settings=method.config.model_dump(mode="json"), sizes=asdict(method.meta), gamma=gamma, **about)
    return Model(card, method, preprocessing, attributes)
