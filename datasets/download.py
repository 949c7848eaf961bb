"""Fetch the official xlsa17 archive and lay out its data sets: ``python -m datasets.download [names ...]``.

The archive is the "Proposed Splits" release of Xian et al., Zero-Shot Learning - A Comprehensive Evaluation of the
Good, the Bad and the Ugly (arXiv 1707.00600): ``xlsa17/data/<NAME>/{res101.mat, att_splits.mat, class lists}``.

What is verified. No checksum of the archive or of its members is known to have been published, so none is pinned here.
Checked instead are: the number of bytes against the server's Content-Length; on resuming, that the server still holds
the same file (If-Range with its ETag or Last-Modified); the CRC-32 of every extracted member; and that the two .mat
files of each data set open and hold the variables that the reader needs. The archive's sha256 is printed, and
``--sha256`` requires one.

A download that breaks off stays as ``<root>/.xlsa17.zip.part`` (with a note of the server's statements beside it), and
the same command goes on from there. Data sets appear in ``<root>`` only once all of them are unpacked and checked.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmark.commands import Parser
from benchmark.errors import InputError, did_you_mean

URL = "http://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip"
NAMES = ("APY", "AWA1", "AWA2", "CUB", "SUN")
DEFAULT_NAMES = ("CUB", "SUN", "AWA2")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m datasets.download",
        description="Download the official xlsa17 archive, verify it and unpack data sets; resumes.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        default=DEFAULT_NAMES,
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: {' '.join(DEFAULT_NAMES)})",
    )
    parser.add_argument("--data-root", metavar="DIR", default=os.environ.get("ZSL_DATA"), help="default: $ZSL_DATA")
    parser.add_argument("--url", default=URL, help="a mirror, or file:///path/xlsa17.zip (default: %(default)s)")
    parser.add_argument("--sha256", metavar="HEX", help="the digest that the archive must have")
    args = parser.parse_args(argv)
    args.names = list(dict.fromkeys(name.upper() for name in args.names))
    for name in args.names:
        if name not in NAMES:
            raise InputError(f"unknown data set {name!r}; {did_you_mean(name, list(NAMES))}")
    if not args.data_root:
        raise InputError("no data root: give --data-root DIR, or set the environment variable ZSL_DATA")
    if urlsplit(args.url).scheme not in ("http", "https", "file"):
        raise InputError(f"--url must start with http://, https:// or file:///, got {args.url!r} instead")
    if args.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", args.sha256):
        raise InputError(f"--sha256 must be 64 hexadecimal digits, got {args.sha256!r} instead")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 after one line about what is wrong, or 130 after Ctrl-C."""
    try:
        args = _parse(argv)
        from datasets.archive import download  # imported here: it needs more time than --help should

        download(Path(args.data_root), args.names, args.url, args.sha256)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; give the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
