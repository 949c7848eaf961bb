"""ReMSE written from its formulas, in plain loops over classes, images and semantics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Rows = list[list[float]]


@dataclass
class SlowReMSE:
    """The weights and loss of ReMSE for successive batches; ``memory`` maps each class seen so far to its E."""

    alpha: float
    beta: float
    normalize: bool
    window: str
    momentum: float
    scale: str
    floor: float
    error: str = "squared"
    memory: dict[int, list[float]] = field(default_factory=dict)

    def squared(self, predicted: Rows, target: Rows) -> Rows:
        if self.normalize:
            predicted, target = [unit(row) for row in predicted], [unit(row) for row in target]
        return [[(p - t) ** 2 for p, t in zip(*pair, strict=True)] for pair in zip(predicted, target, strict=True)]

    def weighed(self, squared: Rows) -> Rows:
        return squared if self.error == "squared" else [[math.sqrt(s + 1e-10) for s in row] for row in squared]

    def step(self, weighed: Rows, labels: list[int]) -> tuple[Rows, float]:
        n_attributes = len(weighed[0])
        if self.window == "batch":
            self.memory = {}
        for c in set(labels):
            mine = [row for row, label in zip(weighed, labels, strict=True) if label == c]
            means = [sum(row[k] for row in mine) / len(mine) for k in range(n_attributes)]
            if self.window == "ema" and c in self.memory:
                means = [
                    self.momentum * old + (1 - self.momentum) * new
                    for old, new in zip(self.memory[c], means, strict=True)
                ]
            self.memory[c] = means
        weights = []
        for label in labels:
            row = []
            for k in range(n_attributes):
                e = self.memory[label][k]
                over_classes = [errors[k] for errors in self.memory.values()]
                over_semantics = self.memory[label]
                row.append(self.factor(e, over_classes, self.alpha) * self.factor(e, over_semantics, self.beta))
            weights.append(row)
        if self.scale == "mean_one":
            mean = sum(map(sum, weights)) / (len(labels) * n_attributes)
            weights = [[w / mean for w in row] for row in weights]
        total = sum(w * s for pair in zip(weights, weighed, strict=True) for w, s in zip(*pair, strict=True))
        return weights, total / (len(labels) * n_attributes)

    def factor(self, e: float, among: list[float], exponent: float) -> float:
        if e == 0:
            return 1.0
        lowest = quantile(sorted(other for other in among if other > 0), self.floor)
        return (math.log(max(e / lowest, 1.0)) + 1) ** exponent


def unit(row: list[float]) -> list[float]:
    norm = math.sqrt(sum(x * x for x in row))
    return [x / (norm + 1e-10) for x in row]


def quantile(ascending: list[float], q: float) -> float:
    position = q * (len(ascending) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (position - below) * (ascending[above] - ascending[below])
