"""The reader of the data set ``emoji``, a folder in the xlsa17 format."""

from __future__ import annotations

from typing import ClassVar

from benchmark.registries import DATASETS
from datasets.xlsa17 import Xlsa17


@DATASETS.register(
    "emoji",
    title="Emoji",
    family="real",
    year=2026,
    source="renderings of Noto Emoji, Twemoji and Fluent Emoji; made by python -m datasets.emoji",
    note="Emoji of animals, three renderings a class. The backbone was trained on ImageNet-1k, which holds some of "
    "these classes, unseen ones among them: a test of the pipeline from images to boards, not a proper split.",
)
class Emoji(Xlsa17):
    """The folder ``EMOJI`` that ``python -m datasets.emoji`` makes."""

    class Config(Xlsa17.Config):
        """As ``Xlsa17.Config``; the features are global ones unless ``effnetlite0-grid`` is asked for."""

        features: str = "effnetlite0"

    how_to_get: ClassVar[str] = "python -m datasets.emoji makes it"
