"""The page of a kept model: what it confuses among unseen classes, and a map of them."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark import models
from benchmark.api import Split
from benchmark.boards.markup import text
from benchmark.boards.rows import Board
from benchmark.boards.view import tags
from benchmark.errors import InputError
from benchmark.models import Model
from benchmark.registries import DATASETS
from benchmark.report.pages import HEADER, Picture, board_title, file_name, require_libraries, show

if TYPE_CHECKING:
    from benchmark.report.inside import Inside

#: The most confusions that the page names.
NAMED = 5


def render_model(file: Path, data_root: Path | None) -> tuple[str, dict[str, bytes]]:
    """The page of one model: the name of its folder, and relative path -> content.

    Args:
        file: the model's.
        data_root: where the data sets' files are.

    Raises:
        InputError: matplotlib or scikit-learn is missing, the file is no sound model, or its data are not there.
    """
    require_libraries()
    if find_spec("sklearn") is None:
        raise InputError("the report of a model needs scikit-learn: pip install -e '.[report]'")
    from benchmark.report import plots
    from benchmark.report.inside import look_inside

    model = models.load(file)
    spec, board = model.card.spec, Board.of(model.card.spec)
    found = look_inside(model, _split(model, data_root))
    where = f"{spec.method_label}+{spec.loss_label}, seed {model.card.seed}; {board_title(board)}"
    shown = [f"{c + 1} {found.names[c]}" for c in found.shown]
    pictures = [
        Picture(
            "confusion",
            "What images of unseen classes are taken for, among unseen classes",
            partial(plots.confusion, names=found.names, percentages=found.confusion),
            _confusions(found),
        )
    ]
    if found.panels:
        pictures.append(
            Picture(
                "map",
                "Unseen classes in two dimensions",
                partial(plots.class_map, panels_=found.panels, names=shown, share=found.shared),
                _map(found),
            )
        )
    title = f"{text(f'{spec.method_label}+{spec.loss_label}')} on {text(spec.dataset)}, seed {model.card.seed}"
    page = [HEADER, f"# Inside {title}{tags(board, simulated=' ({})', on_test=', {}')}\n"]
    files: dict[str, bytes] = {}
    for picture in pictures:
        markdown, drawn = show(picture, picture.name, where)
        page.append(markdown)
        files |= drawn
    folder = file_name(f"{spec.dataset}-{spec.method_label}+{spec.loss_label}-{spec.key}-s{model.card.seed}")
    return folder, {"README.md": "\n".join(page).encode(), **files}


def _split(model: Model, data_root: Path | None) -> Split:
    """The data that the model was fitted on."""
    spec = model.card.spec
    dataset = DATASETS.resolve(spec.dataset, spec.dataset_options, data_root)
    if dataset.revision != spec.revision:
        raise InputError(
            f"{spec.dataset}: must be of revision {spec.revision}, on which {model.card.title} was fitted, got "
            f"{dataset.revision} instead"
        )
    return dataset.load()


def _confusions(found: Inside) -> str:
    """T1, and the largest confusions."""
    right, wrong = np.diag(found.confusion), found.confusion - np.diag(np.diag(found.confusion))
    worst = np.column_stack(np.unravel_index(np.argsort(-wrong, axis=None, kind="stable")[:NAMED], wrong.shape))
    said = [f"{text(found.names[a])} for {text(found.names[b])} {wrong[a, b]:.0f} %" for a, b in worst if wrong[a, b]]
    return (
        f"T1 is {right.mean():.1f}: the mean of the diagonal. Classes that are confused stand beside each other. "
        f"Taken most often: {', '.join(said) or 'none for another'}."
    )


def _map(found: Inside) -> str:
    """Which classes are shown, and what the numbers behind the map say."""
    of = (
        "All unseen classes" if len(found.shown) == len(found.names) else "The unseen classes of the largest confusions"
    )
    return f"{of}. {found.reading} In a map by t-SNE, distances between what lies far apart mean little."
