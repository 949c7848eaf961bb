"""Vectors of attribute names, for methods with attention: ``python -m datasets.features.vectors NAME --vectors FILE``.

Writes ``<data root>/<NAME>/attribute_vectors.mat``: ``vectors`` (V, A), a column for each attribute in the order of the
rows of ``att``, and ``provenance`` (JSON). Names come from the folder's ``attributes.txt`` (CUB, SUN) or
``predicates.txt`` (AWA), or from ``--names``: one a line, all numbered from 1 or none.

With ``--vectors``, a file of word vectors in the text format of word2vec or GloVe (also gzipped), a name is the mean of
its words' vectors, as in Ye et al. (arXiv 2210.07031) and DAZLE (Huynh & Elhamifar, CVPR 2020). A word is taken as it
is spelt, else in lower case, else, where it has hyphens, as its parts. What CUB puts before every name, ``has``, is no
part of it. With ``--encoder``, whole names are given to a function; for sentence-transformers that is a file such as ::

    from sentence_transformers import SentenceTransformer
    encode = SentenceTransformer("all-MiniLM-L6-v2").encode
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import InputError, did_you_mean, exit_code
from benchmark.registries import DATASETS, default_data_root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 after one line about what is wrong, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.features.vectors",
        description="Vectors of attribute names, for methods with attention.",
    )
    parser.add_argument("name", metavar="NAME", help="the data set: a folder under the data root")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (default: $ZSL_DATA)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--vectors", type=Path, metavar="FILE", help="word vectors, word2vec or GloVe text, or its .gz")
    source.add_argument("--encoder", metavar="MODULE:CALLABLE", help="a function from a list of texts to their vectors")
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="default: attributes.txt or predicates.txt of the folder"
    )
    arguments = parser.parse_args(argv)

    def command() -> int:
        found = DATASETS.folders(arguments.data_root or default_data_root())
        name = arguments.name.lower()
        if name not in found:
            raise InputError(f"no data set {arguments.name!r} under the data root; {did_you_mean(name, list(found))}")
        from datasets.features.attribute_vectors import make  # imported here: NumPy takes longer than --help should

        make(found[name], arguments.names, arguments.vectors, arguments.encoder)
        return 0

    return exit_code(command, "files")


if __name__ == "__main__":
    sys.exit(main())
