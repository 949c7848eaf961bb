"""The published list of classes and their division, ``classes.csv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

RENDERINGS = ("google", "twitter", "fluent")


@dataclass(frozen=True)
class EmojiClass:
    """One class.

    Attributes:
        code: Unicode code points in hexadecimal, joined by hyphens.
        name: its name in Unicode.
        group: its subcategory in Unicode, without ``animal-``.
        role: ``train``, ``validation`` (both seen) or ``unseen``.
        test: the rendering that is tested; empty for an unseen class, of which all are.
    """

    code: str
    name: str
    group: str
    role: str
    test: str


def read_classes() -> list[EmojiClass]:
    """The classes in the order of their codes."""
    with Path(__file__).with_name("classes.csv").open(encoding="utf-8", newline="") as file:
        return [EmojiClass(**row) for row in csv.DictReader(file)]
