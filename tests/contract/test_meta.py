"""Ready for GPUs without one: every method and loss runs on torch's ``meta`` device, of tensors without values.

What asks a tensor for its values, for which a GPU's work must be waited for, raises there: ``.item()``, ``unique``,
indexing by a mask. What mixes devices may pass there (products and indexing do): ``OneDevice`` refuses it. Shapes cost
nothing there, so that what takes more memory than it should is found as well.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, TypeVar, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.api import Method, RegressionLoss, Run, Slot, Stateful, TrainData
from benchmark.registries import LOSSES, METHODS
from benchmark.toolkit import GradientConfig, linear, minimise
from losses import build
from methods.generative import _synthesis, lisgan
from methods.local._backbone import BackboneConfig
from tests.contract.test_contract import VARIANTS
from tests.reference.toy import register, seeded, tiny_config

T = TypeVar("T")
META = torch.device("meta")
N_SEEN, N_CLASSES, N_ATTRIBUTES = 6, 9, 8

_CLOSED_FORM = "it solves for all images at once, before any is scored, and iterates until the residual is small"
_ONCE_A_CLASS = "it maps each class of a batch once, and their number is known from the values of its labels alone"
#: (method, loss) whose ``fit`` needs values on the host, and why. There is none for scoring.
EXCEPTIONS = {
    **dict.fromkeys(product(("dap", "eszsl", "names", "sae"), ("none", "mse")), _CLOSED_FORM),
    ("gfzsl", "mse"): _CLOSED_FORM,
    **dict.fromkeys(product(("dem",), ("none", "mse")), _ONCE_A_CLASS),
}
#: What a method reads on the host on purpose, outside of its steps: (module, name) -> what stands in for it.
ON_THE_HOST: dict[tuple[Any, str], Callable[..., Any]] = {
    # Once an epoch: the scalars of its steps are looked at, so that an error can name the first that is not finite.
    (_synthesis, "_means"): lambda values, epoch: {name: value.float() for name, value in values[0].items()},
    # Once before training: k-means is that of scipy.
    (lisgan, "soul_samples"): lambda data, n, rng: data.features.new_empty(data.n_seen, n, data.meta.n_features),
}


class OneDevice(TorchDispatchMode):
    """Demands that all tensors of an operation, but for scalars, are on one device, its results too."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim > 0}
        assert len(devices) <= 1, f"{operation} mixes {' and '.join(sorted(devices))}"
        return result


class Shapes(TorchDispatchMode):
    """Notes the shapes of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.seen |= {tuple(leaf.shape) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}
        return result


class OneEpoch(Run):
    """A run of one epoch, or of the first candidate, which scores nothing."""

    device = META

    def rng(self, name: str) -> torch.Generator:
        """No generator, which ``meta`` has none of: torch then draws from its global random state, hence nothing."""
        return cast(torch.Generator, None)

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
        yield 1
        for get_ready in (ready or {}).values():
            get_ready()

    def candidates(self, method: Method, options: Sequence[T]) -> Iterator[T]:
        yield options[0]

    def log(self, **values: Tensor | float) -> None:
        pass


def not_fused(optimiser: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *groups, **options: optimiser(*groups, **{**options, "fused": False})


@pytest.fixture(autouse=True)
def _what_meta_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for what ``meta`` has not: fused optimisers, autocast, and numbers that come from the host."""
    for name in ("Adam", "AdamW", "SGD"):
        monkeypatch.setattr(torch.optim, name, not_fused(getattr(torch.optim, name)))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    tensor = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda numbers, device="cpu", **kind: tensor(numbers, **kind).to(device))


@pytest.fixture
def _no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for (module, name), stand_in in ON_THE_HOST.items():
        monkeypatch.setattr(module, name, stand_in)


def make_data(kind: str, n: int = 12, n_classes: int = N_CLASSES) -> TrainData:
    """``n`` images of 6 seen classes, beside which there are unseen ones."""
    shape, dtype = {
        "global": ((n, 10), torch.float32),
        "local": ((n, 2, 3, 10), torch.float16),
        "images": ((n, 40, 40, 3), torch.uint8),
    }[kind]
    with META:
        labels, vectors = torch.empty(n, dtype=torch.int64), torch.empty(N_ATTRIBUTES, 5)
        return TrainData(torch.empty(shape, dtype=dtype), labels, torch.empty(n_classes, N_ATTRIBUTES), N_SEEN, vectors)


def make_loss(name: str) -> RegressionLoss | None:
    """The loss as a run makes it; None where there is none."""
    if LOSSES[name].absent:
        return None
    loss = build(name, n_classes=N_CLASSES, n_attributes=N_ATTRIBUTES).to(META)
    with OneDevice():
        loss.prepare(torch.empty(N_CLASSES, N_ATTRIBUTES, device=META), torch.empty(N_CLASSES, device=META).long())
    return loss


def make_method(name: str, data: TrainData, **settings: Any) -> Method:
    return METHODS[name].obj(data.meta, tiny_config(METHODS[name], **settings), seeded(0)).to(META)


def fit(method: Method, data: TrainData, loss: str) -> None:
    slot = Slot(data.attributes, make_loss(loss), 2.0)
    with OneDevice():
        method.fit(data, slot, OneEpoch())


def score(method: Method, data: TrainData) -> None:
    every = torch.arange(N_CLASSES, device=META)
    with OneDevice(), torch.no_grad():
        method.eval()
        assert method.scores(data.features, every).shape == (12, N_CLASSES)
        assert method.scores(data.features, data.unseen).shape == (12, N_CLASSES - N_SEEN)
        method.semantics(data.features)
        method.attention(data.features)


def needed(method: str, loss: str) -> contextlib.AbstractContextManager[Any]:
    """Where ``fit`` is an exception it has to raise, lest the exception outlives its reason."""
    return pytest.raises(NotImplementedError) if (method, loss) in EXCEPTIONS else contextlib.nullcontext()


def kind_of(method: str) -> str:
    return METHODS[method].obj.accepts[0]


@pytest.mark.usefixtures("_no_host")
@pytest.mark.parametrize("loss", ["none", "mse"])
@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_method_trains_and_scores_without_a_look_at_values(name: str, settings: dict[str, Any], loss: str):
    data = make_data(kind_of(name))
    method = make_method(name, data, **settings)
    with needed(name, loss):
        fit(method, data, loss)
    score(method, data)


def test_exceptions_are_of_methods_that_there_are():
    assert {name for name, _ in EXCEPTIONS} <= set(METHODS.names())


@pytest.mark.parametrize("loss", ["none", "mse"])
def test_dem_asks_for_the_classes_of_a_batch_and_for_nothing_else(loss: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Tensor, "unique", lambda labels, return_inverse: (labels[:4], torch.empty_like(labels)))
    data = make_data("global")
    fit(make_method("dem", data), data, loss)


@pytest.mark.parametrize("crop", [0, 32])
def test_a_backbone_does_so_along_with_its_method(crop: int):
    data = make_data("images")
    backbone = BackboneConfig(name="test_resnet", weights="random", crop=crop)
    method = make_method("apn", data, backbone=backbone)
    fit(method, data, "mse")
    score(method, data)


@pytest.mark.usefixtures("_no_host")
@pytest.mark.parametrize("name", METHODS.names())
def test_scoring_makes_no_number_for_each_image_class_and_attribute(name: str):
    n, n_classes = 101, 1000
    data = make_data(kind_of(name), n, n_classes)
    generates = "classifier_batch_size" in METHODS[name].obj.Config.model_fields
    method = make_method(name, data, **({"classifier_batch_size": 10_000} if generates else {}))
    with needed(name, "none"):
        method.fit(data, Slot(data.attributes), OneEpoch())
    with Shapes() as shapes, torch.no_grad():
        method.eval().scores(data.features, torch.arange(n_classes, device=META))
    assert (n, n_classes) in shapes.seen
    of_images = [math.prod(shape) for shape in shapes.seen if math.prod(shape) % n == 0]
    assert max(of_images) < n * n_classes * N_ATTRIBUTES


@pytest.mark.parametrize("name", [n for n in METHODS.names() if issubclass(METHODS[n].obj.Config, GradientConfig)])
def test_training_by_batches_makes_no_row_for_each_image(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Tensor, "unique", lambda labels, return_inverse: (labels[:4], torch.empty_like(labels)))
    n = 307
    data = make_data(kind_of(name), n)
    method = make_method(name, data, batch_size=100)
    with Shapes() as shapes:
        method.fit(data, Slot(data.attributes, make_loss("remse"), 2.0), OneEpoch())
    assert [shape for shape in shapes.seen if n in shape and len(shape) > 1] == []


@pytest.mark.parametrize("loss", LOSSES.names())
def test_a_loss_does_so_within_a_method(loss: str):
    data = make_data("global")
    fit(make_method("ale", data), data, loss)


@pytest.mark.parametrize("name", [name for name in LOSSES.names() if not LOSSES[name].absent])
def test_a_loss_does_so_alone(name: str):
    loss, target = make_loss(name), torch.empty(12, N_ATTRIBUTES, device=META)
    predicted, labels = torch.empty_like(target, requires_grad=True), torch.empty(12, device=META).long()
    assert loss is not None
    with OneDevice():
        loss(predicted, target, labels).backward()
        loss.weights(predicted, target, labels)


@pytest.mark.parametrize("place", ON_THE_HOST, ids=lambda place: place[1])
def test_what_stands_in_for_the_host_has_to(place: tuple[Any, str], monkeypatch: pytest.MonkeyPatch):
    for (module, name), stand_in in ON_THE_HOST.items():
        if (module, name) != place:
            monkeypatch.setattr(module, name, stand_in)
    data = make_data("global")
    with pytest.raises(RuntimeError, match="item"):
        fit(make_method("lisgan", data), data, "none")


class Faulty(Method):
    """What it adds to its objective is its fault; and it scores by a difference for each image, class and semantic."""

    Config = GradientConfig

    def __init__(self, *of: Any):
        super().__init__(*of)
        self.net = linear(self.meta.n_features, self.meta.n_attributes, seeded(0))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.attributes, self.features = data.attributes, data.features
        minimise(self, lambda x, y: self.net(x).mean() + slot(self.net(x), y) + self.fault(x).sum(), data, slot, run)

    def fault(self, x: Tensor) -> Tensor:
        return x - self.features.square().mean(0)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return -(self.net(x)[:, None] - self.attributes[classes]).square().sum(-1)

    def semantics(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_waste_of_memory_is_found(monkeypatch: pytest.MonkeyPatch):
    register(monkeypatch, METHODS, "faulty", Faulty)
    with pytest.raises(AssertionError):
        test_scoring_makes_no_number_for_each_image_class_and_attribute("faulty")
    with pytest.raises(AssertionError):
        test_training_by_batches_makes_no_row_for_each_image("faulty", monkeypatch)


def first_value(x: Tensor) -> Tensor:
    return x * x[0, 0].item()


def masked(x: Tensor) -> Tensor:
    return x[x[:, 0] > 0]


def from_elsewhere(x: Tensor) -> Tensor:
    return x @ torch.ones(x.shape[1], 1)


def indexed_from_elsewhere(x: Tensor) -> Tensor:
    return x[torch.tensor([0, 1])]


def copied(x: Tensor) -> Tensor:
    return x + torch.ones(x.shape[1]).to(x.device)


def sent(x: Tensor) -> Tensor:
    return x * torch.tensor([2.0], device=x.device)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (first_value, "item"),
        (masked, "nonzero"),
        (from_elsewhere, "mixes cpu and meta"),
        (indexed_from_elsewhere, "mixes cpu and meta"),
        (copied, "mixes cpu and meta"),
        (sent, "mixes cpu and meta"),
    ],
)
def test_a_fault_in_a_step_is_found(fault: Callable[[Tensor], Tensor], error: str):
    data = make_data("global")
    method: Any = Faulty(data.meta, GradientConfig(), seeded(0)).to(META)
    method.fault = fault
    with pytest.raises((NotImplementedError, RuntimeError, AssertionError), match=error):
        fit(method, data, "mse")
