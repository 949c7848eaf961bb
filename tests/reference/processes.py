"""Child processes of tests."""

from __future__ import annotations

import signal
from typing import Any


def interruptible() -> dict[str, Any]:
    """Arguments of ``subprocess.Popen`` for a child that Ctrl-C ends, even where the tests run in the background.

    There (under ``nohup`` or as a shell's background job) SIGINT is ignored, and children inherit that.
    """
    return {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
