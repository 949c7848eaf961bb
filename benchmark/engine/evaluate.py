"""Scoring a fitted method on held-out images: all measures that a result holds."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from benchmark import parallel
from benchmark.api import Method
from benchmark.engine.protocol import HeldOut
from benchmark.measures.imbalance import error_matrix, summarise
from benchmark.measures.metrics import Curve, mean_per_class, per_class_accuracy, predict, seen_unseen_curve
from benchmark.models.preprocessing import CHUNK, chunks
from benchmark.results.error_matrix import encode
from benchmark.results.record import ClassAccuracy, CurvePoints, Evaluation, ImbalanceReport, Metrics, SemanticErrors


def curve(method: Method, held_out: HeldOut) -> Curve:
    """The seen-unseen curve of ``method`` over all classes."""
    seen, unseen = _gzsl_scores(method, held_out)
    return seen_unseen_curve(seen, held_out.seen_labels, unseen, held_out.unseen_labels, held_out.n_seen)


def evaluate(
    method: Method, held_out: HeldOut, gamma: float, *, with_semantics: bool = True, keep_errors: bool = True
) -> Evaluation:
    """All measures of ``method``.

    Args:
        method: fitted, on the device of ``held_out``.
        held_out: the images.
        gamma: the calibration that was selected with it.
        with_semantics: measure the semantics that it predicts; False where nothing was trained to predict them.
        keep_errors: keep the error matrix of the semantics, which is most of a result's size.
    """
    n_seen, n_classes = held_out.n_seen, len(held_out.attributes)
    seen, unseen = _gzsl_scores(method, held_out)
    stacking = seen_unseen_curve(seen, held_out.seen_labels, unseen, held_out.unseen_labels, n_seen)
    zsl = predict(_scores(method, held_out.unseen_features, held_out.all_classes[n_seen:])) + n_seen
    t1 = per_class_accuracy(zsl, held_out.unseen_labels, n_classes)
    (u, s, h), (u_calibrated, s_calibrated, h_calibrated) = stacking.at(0.0), stacking.at(gamma)
    metrics = Metrics(
        T1=mean_per_class(t1),
        U=u,
        S=s,
        H=h,
        U_calibrated=u_calibrated,
        S_calibrated=s_calibrated,
        H_calibrated=h_calibrated,
        gamma=gamma,
        AUSUC=stacking.ausuc,
    )
    scores, labels = torch.cat([seen, unseen]), torch.cat([held_out.seen_labels, held_out.unseen_labels])
    columns = [t1] + [
        per_class_accuracy(predict(_calibrated(scores, n_seen, g)), labels, n_classes) for g in (0.0, gamma)
    ]
    images = torch.bincount(labels, minlength=n_classes).tolist()
    per_class = [
        ClassAccuracy(name=name, seen=c < n_seen, T1=_value(a), gzsl=_value(b), calibrated=_value(d), images=n)
        for c, (name, n, a, b, d) in enumerate(
            zip(held_out.class_names, images, *(x.tolist() for x in columns), strict=True)
        )
    ]
    unseen_points, seen_points = stacking.thinned()
    return Evaluation(
        metrics=metrics,
        per_class=per_class,
        imbalance=_imbalance(method, held_out, keep_errors) if with_semantics else None,
        curve=CurvePoints(unseen=unseen_points, seen=seen_points),
    )


def _imbalance(method: Method, held_out: HeldOut, keep_errors: bool) -> ImbalanceReport | None:
    predicted = [_semantics(method, x) for x in (held_out.seen_features, held_out.unseen_features)]
    if any(p is None for p in predicted):
        return None
    labels = torch.cat([held_out.seen_labels, held_out.unseen_labels])
    errors = error_matrix(torch.cat([p for p in predicted if p is not None]), labels, held_out.attributes)
    if errors.isnan().all():  # no semantic tells two classes apart
        return None
    seen, unseen = (
        SemanticErrors(**asdict(summarise(errors[part], held_out.attributes[part])))
        for part in (slice(None, held_out.n_seen), slice(held_out.n_seen, None))
    )
    return ImbalanceReport(seen=seen, unseen=unseen, errors=encode(errors.numpy()) if keep_errors else None)


def _gzsl_scores(method: Method, held_out: HeldOut) -> tuple[Tensor, Tensor]:
    classes = held_out.all_classes
    return _scores(method, held_out.seen_features, classes), _scores(method, held_out.unseen_features, classes)


@torch.no_grad()
def _scores(method: Method, x: Tensor, classes: Tensor) -> Tensor:
    method.eval()
    scores = torch.cat([method.scores(chunk, classes) for chunk in chunks(parallel.share(x), CHUNK)])
    method.train()
    return parallel.gather(scores)[: len(x)]


@torch.no_grad()
def _semantics(method: Method, x: Tensor) -> Tensor | None:
    method.eval()
    parts = [method.semantics(chunk) for chunk in chunks(parallel.share(x), CHUNK)]
    method.train()
    known = [p for p in parts if p is not None]
    return parallel.gather(torch.cat(known))[: len(x)] if len(known) == len(parts) else None


def _calibrated(scores: Tensor, n_seen: int, gamma: float) -> Tensor:
    """Calibrated stacking (Chao et al. 2016): gamma is taken from the scores of the seen classes.

    In float64 on the CPU, as the curve is, so that the two agree to the last image.
    """
    scores = scores.cpu().double()
    return torch.cat([scores[:, :n_seen] - gamma, scores[:, n_seen:]], dim=1)


def _value(percent: float) -> float | None:
    return percent if percent == percent else None
