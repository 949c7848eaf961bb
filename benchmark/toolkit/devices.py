"""Which device to compute on."""

from __future__ import annotations

import torch

from benchmark.errors import InputError


def choose_device(name: str) -> str:
    """The device that ``--device`` names; ``auto`` is a CUDA GPU where there is one.

    Raises:
        InputError: it cannot be used here.
    """
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if usable["cuda"] else "cpu"
    if not usable[name]:
        raise InputError(
            f"--device {name} is not usable here; usable: {', '.join(d for d, ok in usable.items() if ok)}"
        )
    return name
