"""Data sets: the xlsa17 reader for real ones, and simulated stand-ins."""

from benchmark.api import Dataset
from benchmark.registry import Registry, subclass_check

DATASETS: Registry[type[Dataset]] = Registry("data set", "datasets", subclass_check(Dataset))
