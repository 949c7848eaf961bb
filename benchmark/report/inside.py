"""What a kept model makes of images of unseen classes, as numbers: what it confuses, and a map in two dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import cdist, squareform
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from benchmark.api import Split, derive_seed
from benchmark.errors import InputError
from benchmark.models import Model
from benchmark.results.error_matrix import Matrix

#: The most classes in a map: more could not be told apart by their looks.
SHOWN = 10
#: The most images of a class in a map.
IMAGES = 60
#: The fewest images of unseen classes that are looked at.
FEWEST = 5
#: Dimensions that a principal-component analysis leaves to t-SNE, as van der Maaten and Hinton (2008) do.
DIMENSIONS = 50

Labels = npt.NDArray[np.int64]


class Panel(NamedTuple):
    """Points of a map.

    Attributes:
        title: what they are.
        points: (M, 2).
        labels: (M,) their classes, as places among the K that are shown.
        centres: (K, 2) where the classes themselves are.
    """

    title: str
    points: Matrix
    labels: Labels
    centres: Matrix


@dataclass(frozen=True)
class Inside:
    """What is shown of a model.

    Attributes:
        names: the U unseen classes, confused ones beside each other.
        confusion: (U, U) the percentage of the images of each class (row) that is taken for each class (column).
        shown: the places of the classes that the map shows: those of the largest confusions.
        panels: the map.
        shared: the panels have their axes in common.
        reading: what the map says, in numbers.
    """

    names: tuple[str, ...]
    confusion: Matrix
    shown: tuple[int, ...]
    panels: tuple[Panel, ...]
    shared: bool
    reading: str


def look_inside(model: Model, split: Split) -> Inside:
    """All that is shown of ``model``.

    Args:
        model: what is looked into, on the CPU.
        split: the data that it was fitted on; all images of the model's unseen classes are looked at.

    Raises:
        InputError: there are too few.
    """
    features, labels = _unseen_images(model, split)
    names = model.class_names[model.n_seen :]
    found = model.predict(features, "unseen")
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (labels, found.scores.argmax(1)), 1)
    confusion = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    order = _neighbours(confusion)
    confusion = confusion[np.ix_(order, order)]
    shown = _most_confused(confusion)
    classes = order[list(shown)]
    of_class = [np.flatnonzero(labels == c)[:IMAGES] for c in classes]
    images, places = np.concatenate(of_class), np.repeat(np.arange(len(classes)), [len(each) for each in of_class])
    real, generated = _vectors(model, features[images]), _generated(model, model.n_seen + classes[places])
    if real is not None and generated is not None:
        panels, reading = _real_and_generated(real, generated, places)
    else:
        described = model.attributes[torch.from_numpy(model.n_seen + classes)].numpy()
        predicted = None if found.semantics is None else found.semantics[images]
        panels, reading = _real_and_predicted(real, predicted, described, places)
    return Inside(tuple(names[c] for c in order), confusion, shown, panels, generated is not None, reading)


def _unseen_images(model: Model, split: Split) -> tuple[npt.NDArray[Any], Labels]:
    """All features of the model's unseen classes, and their classes from 0."""
    place = {name: c for c, name in enumerate(model.class_names[model.n_seen :])}
    of_class = np.array([place.get(name, -1) for name in split.class_names])
    images = np.sort(np.concatenate([split.trainval, split.test_seen, split.test_unseen]))
    images = images[of_class[split.labels[images]] >= 0]
    if len(images) < FEWEST:
        raise InputError(f"{model.card.title}: needs {FEWEST} images of unseen classes to show, got {len(images)}")
    return np.asarray(split.features[images]), of_class[split.labels[images]]


def _neighbours(confusion: Matrix) -> Labels:
    """The classes in an order that has confused ones beside each other: that of a tree of average linkage."""
    if len(confusion) < 3:
        return np.arange(len(confusion))
    distance = 100 - (confusion + confusion.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance), "average", optimal_ordering=True)
    order: Labels = leaves_list(tree).astype(np.int64)
    return order


def _most_confused(confusion: Matrix) -> tuple[int, ...]:
    """At most ``SHOWN`` classes, ascending: pair by pair those of the largest confusions."""
    wrong = confusion - np.diag(np.diag(confusion)) - np.eye(len(confusion))
    pairs = np.unravel_index(np.argsort(-wrong, axis=None, kind="stable"), wrong.shape)
    return tuple(sorted([*dict.fromkeys(np.stack(pairs, axis=1).ravel().tolist())][:SHOWN]))


def _vectors(model: Model, features: npt.NDArray[Any]) -> Matrix | None:
    """(M, D) preprocessed features, of a grid the mean over its regions; None for pixels."""
    if model.method.meta.kind == "images":
        return None
    scaled = model.preprocessing(torch.from_numpy(features)).double()
    vectors: Matrix = scaled.reshape(len(scaled), -1, scaled.shape[-1]).mean(1).numpy()
    return vectors


def _generated(model: Model, labels: Labels) -> Matrix | None:
    rng = torch.Generator().manual_seed(derive_seed(model.card.seed, "report"))
    with torch.no_grad():
        features = model.method.synthesise(model.attributes, torch.from_numpy(labels), rng)
    return None if features is None else features.double().numpy()


def _real_and_generated(real: Matrix, generated: Matrix, labels: Labels) -> tuple[tuple[Panel, ...], str]:
    points = _plane(np.concatenate([real, generated]))
    centres = _centres(points[: len(real)], labels)
    nearest = labels[cdist(generated, real).argmin(1)]
    panels = (
        Panel("real features, by t-SNE", points[: len(real)], labels, centres),
        Panel("generated features, in the same map", points[len(real) :], labels, centres),
    )
    reading = (
        "Large markers are at the medians of real features. "
        f"The real feature that is nearest to a generated one is of the same class for {_percent(nearest == labels)}, "
        f"and the nearest other real one to a real one for {_percent(_nearest_other(real, labels) == labels)}."
    )
    if spread := _variance(real, labels):  # a class may have a single image
        times = _variance(generated, labels) / spread
        reading += f" The variance within classes of what is generated is {times:.2f} times that of what is real."
    return panels, reading


def _real_and_predicted(
    real: Matrix | None, predicted: npt.NDArray[np.float32] | None, described: npt.NDArray[np.float32], labels: Labels
) -> tuple[tuple[Panel, ...], str]:
    """``real`` features, and ``predicted`` semantics beside those that classes are ``described`` by."""
    panels: list[Panel] = []
    said = ["The method generates no features."]
    if real is not None:
        points = _plane(real)
        panels.append(Panel("real features, by t-SNE", points, labels, _centres(points, labels)))
        right = _nearest_other(real, labels) == labels
        said.append(f"The nearest other real feature is of the same class for {_percent(right)}.")
    own = _unit(described)
    if predicted is not None and min(own.shape) > 1:
        axes = PCA(2, svd_solver="full").fit(own)
        points = axes.transform(_unit(predicted))
        panels.append(Panel("predicted semantics, by PCA", points, labels, axes.transform(own)))
        right = cdist(_unit(predicted), own).argmin(1) == labels
        said.append(
            "Predicted semantics are shown along the principal components of the classes' own, which large markers "
            f"are; of the classes shown the right one's are nearest, by cosine, for {_percent(right)}."
        )
    return tuple(panels), " ".join(said)


def _plane(vectors: Matrix) -> Matrix:
    """(M, 2) their places by t-SNE, the same each time on one machine."""
    if vectors.shape[1] > DIMENSIONS:
        vectors = PCA(min(DIMENSIONS, len(vectors)), svd_solver="full").fit_transform(vectors)
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    points: Matrix = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    return points


def _centres(points: Matrix, labels: Labels) -> Matrix:
    return np.array([np.median(points[labels == c], axis=0) for c in range(labels.max() + 1)])


def _nearest_other(vectors: Matrix, labels: Labels) -> Labels:
    """(M,) the classes of the nearest other vectors."""
    distance = cdist(vectors, vectors)
    np.fill_diagonal(distance, np.inf)
    nearest: Labels = labels[distance.argmin(1)]
    return nearest


def _variance(vectors: Matrix, labels: Labels) -> float:
    """The mean over classes of the squared distance from the class's mean."""
    return float(np.mean([vectors[labels == c].var(axis=0).sum() for c in range(labels.max() + 1)]))


def _unit(vectors: npt.NDArray[Any]) -> Matrix:
    unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-10)
    return unit.astype(np.float64)


def _percent(right: npt.NDArray[np.bool_]) -> str:
    return f"{100 * right.mean():.0f} %"
