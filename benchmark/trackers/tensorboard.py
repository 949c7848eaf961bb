"""TensorBoard: scalars by epoch, and the run's settings as a text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.api import Tracker
from benchmark.errors import InputError
from benchmark.registries import TRACKERS

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    raise InputError("--log tensorboard needs its package: pip install -e '.[tensorboard]'") from None

#: Seconds within which what is logged is in the file.
FLUSH = 10


@TRACKERS.register(
    "tensorboard", title="TensorBoard", family="local", year=2015, source="https://www.tensorflow.org/tensorboard"
)
class TensorBoard(Tracker):
    """Writes event files, which ``tensorboard --logdir`` shows; those of an earlier fit of the same run go."""

    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path) -> None:
        super().__init__(name, settings, folder)
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(folder, flush_secs=FLUSH)
        self._writer.add_text("settings", f"```\n{json.dumps(settings, indent=1)}\n```")

    def log(self, number: int, values: Mapping[str, float]) -> None:  # noqa: D102 - see Tracker
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)

    def close(self) -> None:  # noqa: D102 - see Tracker
        self._writer.close()
