"""Kept models: a run's fitted method with all that it takes to use it, in one file; ``load`` and ask it."""

from benchmark.models.file import load
from benchmark.models.model import Card, Model, Predictions

__all__ = ["Card", "Model", "Predictions", "load"]
