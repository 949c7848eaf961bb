"""The engine: registry, configuration, protocol, training, metrics, results and leaderboards.

It knows no method, loss or data set by name.
"""

import importlib.util
import sys
from pathlib import Path

#: The version of the suite; ``setup.cfg`` reads it here.
__version__ = "0.1.0"


def _refuse_other_datasets_package() -> None:
    """``datasets`` is also the name of Hugging Face's package, which shadows ours where it is found first."""
    found = importlib.util.find_spec("datasets")
    ours = Path(__file__).resolve().parent.parent / "datasets" / "__init__.py"
    if found and found.origin and Path(found.origin).resolve() == ours:
        return
    message = (
        "the package 'datasets' must be this suite's, which lies beside benchmark/, got another one instead; "
        "run from the repository's root, or uninstall the other"
    )
    if Path(sys.argv[0]).name in ("-m", "zsl"):  # a command is starting: one line, as for any other bad input
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)


_refuse_other_datasets_package()
