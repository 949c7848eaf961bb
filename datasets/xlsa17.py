"""Real data in the format of the "Proposed Splits" release (xlsa17) of Xian et al. (arXiv 1707.00600).

A data set is a folder ``<data root>/<NAME>`` with

- ``<features>.mat``: ``labels`` (N, 1) or (1, N) from 1, and ``features`` (D, N); the official one is ``res101.mat``;
- ``<features>.npy``, if ``features`` is not in that file: local features (N, h, w, D) float16 or images (N, H, W, 3)
  uint8, in the order of ``labels``; it is memory-mapped as it is;
- ``<name>-fine-tuned.mat``, features whose backbone was trained on images of the data set, with ``trained_loc``, the
  numbers of these images from 1; beside it must be ``<name>-fine-tuned_selection.mat``, the features to select on;
- ``att_splits.mat``: ``att`` and ``original_att`` (A, C), ``allclasses_names`` (C, 1), and the Proposed Split as image
  numbers from 1, ``trainval_loc``, ``test_seen_loc`` and ``test_unseen_loc``; where it has no names, as public copies,
  they are the lines of ``allclasses.txt``, else the classes are numbered;
- ``<name>_splits.mat``, where there are any: other semantics of the classes, as ``datasets.semantics`` describes them;
- ``valclasses1.txt``, where there is one: the validation classes, one a line;
- ``attribute_vectors.mat``, where there is one: ``vectors`` (V, A), of the names of the attributes of ``att``; it is
  read with local features and images only.

Classes of ``att`` that no image of the split belongs to are left out, whatever their column holds. Files of MATLAB's
v7.3 are read where h5py is installed.

``train_loc`` and ``val_loc`` are never read: in circulated copies they hold the images of ``test_seen_loc`` too.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from benchmark import api
from benchmark.errors import InputError, did_you_mean
from benchmark.registries import DATASETS
from datasets import cache, matfiles, semantics
from datasets.disk import reason

#: The file of attributes and splits, which makes a folder a data set.
SPLITS = "att_splits.mat"
#: The file of the vectors of the attributes' names.
VECTORS = "attribute_vectors.mat"
#: What the names of features end in whose backbone was trained on images of the data set.
FINE_TUNED = "-fine-tuned"
#: What the names of features end in that are those to select on, in place of the ones of the same name without it.
SELECTION = f"{FINE_TUNED}_selection"
#: The variable of the numbers of the images that a backbone was trained on.
TRAINED_ON = "trained_loc"
#: The variables of the splits that describe the classes.
ATTRIBUTES = ("att", "original_att")
_NAMES = "allclasses.txt"
_VALIDATION = "valclasses1.txt"
_BLOCK = 1 << 20  # values that are converted at a time: 4 MiB of float32

_logger = logging.getLogger(__name__)


def feature_sets(folder: Path) -> list[str]:
    """The names of the feature files in ``folder``: all .mat files but those of attributes, splits and selection."""
    files = (path for path in folder.glob("*.mat") if path.name != VECTORS)
    return sorted(path.stem for path in files if not path.stem.endswith(("_splits", SELECTION)))


def selection_file(features: Path) -> Path:
    """The file of the features to select on, of the file of fine-tuned ``features``."""
    return features.with_name(f"{features.stem}{SELECTION.removeprefix(FINE_TUNED)}.mat")


@DATASETS.register(
    "cub",
    title="CUB",
    family="real",
    year=2011,
    source="Wah et al., The Caltech-UCSD Birds-200-2011 Dataset",
    marker="att_splits.mat",
)
@DATASETS.register(
    "sun",
    title="SUN",
    family="real",
    year=2012,
    source="Patterson & Hays, SUN Attribute Database, CVPR 2012",
    marker="att_splits.mat",
)
@DATASETS.register(
    "awa1",
    title="AWA1",
    family="real",
    year=2009,
    source="Lampert et al., Learning to Detect Unseen Object Classes, CVPR 2009; TPAMI 2014",
    marker="att_splits.mat",
)
@DATASETS.register(
    "awa2",
    title="AWA2",
    family="real",
    year=2017,
    source="Xian et al., Zero-Shot Learning - A Comprehensive Evaluation, arXiv 1707.00600",
    marker="att_splits.mat",
)
@DATASETS.register(
    "apy",
    title="aPY",
    family="real",
    year=2009,
    source="Farhadi et al., Describing Objects by their Attributes, CVPR 2009",
    marker="att_splits.mat",
)
class Xlsa17(api.Dataset):
    """A folder in the xlsa17 format; any other than the registered ones is read too, by the name of its folder."""

    class Config(api.DatasetConfig):
        """What the reader can be set to.

        Attributes:
            features: the feature file, without ``.mat``; ``auto`` is res101, or else the only one that there is.
            attributes: ``att`` is taken as released: unit columns, in which AWA1 and AWA2 have four small negative
                values. ``original_att`` keeps its released scale too (0..100 in CUB, AWA1 and AWA2, 0..1 in SUN and
                aPY), but a negative value, which marks a missing annotation there, is read as 0. Any other name is that
                of a file ``<name>_splits.mat``, whose columns are brought to unit norm.
            class_vectors: the name of such a file whose content is given to methods beside the attributes.
        """

        features: str = "auto"
        attributes: str = "att"
        class_vectors: str | None = None

    config: Config
    #: What an error about missing files advises.
    how_to_get: ClassVar[str] = "python -m datasets.download gets the official data"

    @property
    def features(self) -> str:
        """The name of the feature file, with that of the semantics, ``+sent``, where they are not ``att``.

        What is given beside them is named too: ``+with-names``.

        Raises:
            InputError: there is no such file, or ``auto`` leaves a choice.
        """
        beside = self.config.class_vectors
        chosen = "" if self._semantics == "att" else f"+{self._semantics}"
        return self.feature_set + chosen + (f"+with-{beside}" if beside else "")

    @property
    def feature_set(self) -> str:
        """The name of the feature file.

        Raises:
            InputError: there is no such file, or ``auto`` leaves a choice.
        """
        folder, wanted = self._folder, self.config.features
        found = feature_sets(folder)
        if not found:
            raise InputError(f"{self.name}: no res101.mat nor other features in {folder}; {self.how_to_get}")
        if wanted == "auto":
            if "res101" not in found and len(found) > 1:
                give = f"give one of {', '.join(found)}: --dataset {self.name}:features=NAME"
                raise InputError(f"{self.name}: no res101.mat in {folder}; {give}")
            return "res101" if "res101" in found else found[0]
        if wanted not in found:
            raise InputError(f"{folder}: no features {wanted!r}; {did_you_mean(wanted, found)}")
        return str(wanted)

    @property
    def revision(self) -> str:
        """12 hexadecimal digits that stand for the content of all files that are read and the choice of semantics.

        Raises:
            InputError: a file is missing or cannot be read.
        """
        files = [self._feature_file, self._folder / SPLITS]
        if file := self._semantics_file:
            files.append(file)
        if name_file := _name_file(self._folder):
            files.append(name_file)
        if self._validation_file.is_file():
            files.append(self._validation_file)
        if array := self._array_file:
            files.append(array)
            if vectors := self._vector_file:
                files.append(vectors)
        if beside := self._class_vector_file:
            files.append(beside)
        if selection := self._selection_file:
            files.append(selection)
        digests = [_sha256(file) for file in files]
        return hashlib.sha256("\n".join([self._semantics, *digests]).encode()).hexdigest()[:12]

    @property
    def origin(self) -> dict[str, Any]:
        """What the feature file and the splits hold as ``provenance``.

        Raises:
            InputError: a file is missing or cannot be read.
        """
        files = {"features": self._feature_file, "semantics": self._semantics_file or self._folder / SPLITS}
        return {role: told for role, file in files.items() if (told := matfiles.provenance(file))}

    @property
    def is_present(self) -> bool:
        """Whether the data root has a folder of this name with splits and some features."""
        folder = DATASETS.folders(self.data_root).get(self.name)
        return folder is not None and bool(feature_sets(folder))

    def read(self) -> api.Split:
        """Read and check the data; the features are memory-mapped, so that only rows in use take memory.

        Raises:
            InputError: a file is missing, broken or contradicts itself.
        """
        file, choice = self._folder / SPLITS, "att" if self._semantics_file else self._semantics
        content = matfiles.load(file, choice, "trainval_loc", "test_seen_loc", "test_unseen_loc")
        attributes = _attributes(content[choice], f"{file}: {choice}", clamp=choice == "original_att")
        names, source = class_names(self._folder) or _numbers(len(attributes))
        array = self._array_file
        labels = _labels(self._feature_file, len(names))
        features = _local(array, len(labels)) if array else _global(self._feature_file, len(labels))
        split = api.Split(
            features,
            labels,
            attributes,
            names,
            trainval=_indices(content["trainval_loc"], f"{file}: trainval_loc"),
            test_seen=_indices(content["test_seen_loc"], f"{file}: test_seen_loc"),
            test_unseen=_indices(content["test_unseen_loc"], f"{file}: test_unseen_loc"),
        )
        split.check(str(file))
        if self._validation_file.is_file():
            split = replace(split, validation_classes=_validation_classes(self._validation_file, names, source))
            split.check(str(self._validation_file))
        if file_of_semantics := self._semantics_file:
            split = replace(split, attributes=semantics.read(file_of_semantics, names))
            split.check(str(file_of_semantics))
        if beside := self._class_vector_file:
            split = replace(split, class_vectors=semantics.read(beside, names))
            split.check(str(beside))
        if vectors := self._vector_file if array else None:
            split = replace(split, attribute_vectors=_vectors(vectors))
            split.check(str(vectors))
        if selection := self._selection_file:
            split = replace(split, fine_tuned=_fine_tuned(self._feature_file, selection, split.labels, len(names)))
            split.check(str(selection))
        return split

    @property
    def _semantics(self) -> str:
        wanted, known = self.config.attributes, {*ATTRIBUTES, *semantics.known(self._folder)}
        if wanted not in known:
            raise InputError(f"{self._folder}: no semantics {wanted!r}; {did_you_mean(wanted, known)}")
        return wanted

    @property
    def _semantics_file(self) -> Path | None:
        """The file of the semantics; None where they are variables of the splits."""
        return None if self._semantics in ATTRIBUTES else semantics.file_of(self._folder, self._semantics)

    @property
    def _class_vector_file(self) -> Path | None:
        """The file of what is given beside the semantics; None where nothing is."""
        wanted, known = self.config.class_vectors, semantics.known(self._folder)
        if wanted is not None and wanted not in known:
            raise InputError(f"{self._folder}: no class_vectors {wanted!r}; {did_you_mean(wanted, known)}")
        return None if wanted is None else semantics.file_of(self._folder, wanted)

    @property
    def _folder(self) -> Path:
        if self.data_root is None:
            raise InputError(f"--dataset {self.name}: needs --data-root or $ZSL_DATA; {self.how_to_get}")
        folder = DATASETS.folders(self.data_root).get(self.name)
        if folder is None:
            raise InputError(f"{self.data_root / self.name.upper() / SPLITS}: no such file; {self.how_to_get}")
        return folder

    @property
    def _validation_file(self) -> Path:
        return self._folder / _VALIDATION

    @property
    def _vector_file(self) -> Path | None:
        """The file of the vectors of attribute names; None where it is missing, or other semantics were chosen."""
        file = self._folder / VECTORS
        return file if file.is_file() and not self._semantics_file else None

    @property
    def _array_file(self) -> Path | None:
        """The file of local features or images; None where the features are global."""
        file = self._feature_file.with_suffix(".npy")
        return file if file.is_file() and matfiles.shape(self._feature_file, "features") is None else None

    @property
    def _selection_file(self) -> Path | None:
        """The file of the features to select on; None where those to test on are not fine-tuned."""
        file = self._feature_file
        if matfiles.shape(file, TRAINED_ON) is None:
            return None
        if not file.stem.endswith(FINE_TUNED):
            raise InputError(f"{file}: has fine-tuned features, so that its name must end in {FINE_TUNED}.mat")
        selection = selection_file(file)
        if not selection.is_file():
            made = "python -m datasets.features.extract --finetune makes it along with the former"
            raise InputError(f"{selection}: no such file, and {file.name} is not to be selected on; {made}")
        return selection

    @property
    def _feature_file(self) -> Path:
        return self._folder / f"{self.feature_set}.mat"


def class_names(folder: Path) -> tuple[tuple[str, ...], str] | None:
    """The names of the classes in ``folder``, and where they come from: the splits, else a file; None: from nowhere.

    Raises:
        InputError: a file cannot be read, or does not name the classes.
    """
    splits = folder / SPLITS
    content = matfiles.load(splits, optional=["allclasses_names"])
    if content:
        return matfiles.names(content["allclasses_names"], f"{splits}: allclasses_names"), "allclasses_names"
    file = _name_file(folder)
    if file is None:
        return None
    names, (*_, n_classes) = tuple(line for line in _lines(file) if line), matfiles.shape(splits, "att") or (0,)
    if len(set(names)) != n_classes or len(names) != n_classes:
        got = f"got {len(set(names))} different ones on {len(names)} lines instead"
        raise InputError(f"{file}: must name the {n_classes} classes of att, each on a line, {got}")
    return names, f"the names in {_NAMES}"


def named_classes(folder: Path) -> tuple[str, ...]:
    """The names of the classes in ``folder``.

    Raises:
        InputError: nothing names them, or a file is wrong.
    """
    named = class_names(folder)
    if named is None:
        raise InputError(f"{folder / SPLITS}: has no allclasses_names; name the classes in {_NAMES}, one a line")
    return named[0]


def _numbers(n_classes: int) -> tuple[tuple[str, ...], str]:
    """In place of names, and where they do not come from."""
    nowhere = f"the numbered classes, which neither allclasses_names nor {_NAMES} names"
    return tuple(f"class {number}" for number in range(1, n_classes + 1)), nowhere


def _name_file(folder: Path) -> Path | None:
    """The file of the classes' names; None where the splits name them, or nothing does."""
    file = folder / _NAMES
    named = matfiles.shape(folder / SPLITS, "allclasses_names") is not None
    return file if file.is_file() and not named else None


def _labels(file: Path, n_classes: int) -> npt.NDArray[np.int64]:
    """Labels (N,) from 0."""
    labels = _indices(matfiles.load(file, "labels")["labels"], f"{file}: labels")
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise InputError(
            f"{file}: labels must be in 1..{n_classes}, got {labels.min() + 1}..{labels.max() + 1} instead"
        )
    return labels


def _local(file: Path, n: int) -> npt.NDArray[np.float16 | np.uint8]:
    """Local features (N, h, w, D) float16 or images (N, H, W, 3) uint8, mapped from ``file`` itself."""
    key = _sha256(file)
    try:
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises nearly anything over a broken file
        raise InputError(f"{file}: cannot be read, may be truncated or no .npy file: {reason(error)}") from error
    images = array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3
    if not (images or (array.dtype == np.float16 and array.ndim == 4)) or 0 in array.shape:
        wanted = "local features N x h x w x D in float16 or images N x H x W x 3 in uint8"
        raise InputError(f"{file}: must hold {wanted}, got {'x'.join(map(str, array.shape))} {array.dtype} instead")
    if not array.flags.c_contiguous:
        raise InputError(f"{file}: must be in C order, got Fortran order instead")
    if len(array) != n:
        raise InputError(f"{file}: must have a row for each of the {n} labels, got {len(array)} rows instead")
    if not (images or cache.is_sound(key)):
        _require_finite(array, str(file))
        if _sha256(file) != key:
            raise InputError(f"{file}: changed while it was read; try again")
        with suppress(OSError):  # a cache that cannot be written costs time only
            cache.mark_sound(key)
    return array


def _require_finite(features: npt.NDArray[np.float16], where: str) -> None:
    step = max(1, _BLOCK // features[0].size)
    for start in range(0, len(features), step):
        finite = np.isfinite(features[start : start + step]).all(axis=(1, 2, 3))
        if not finite.all():
            number = start + finite.argmin() + 1
            raise InputError(f"{where}: must be finite, got NaN or infinity instead, first in image {number}")


def _global(file: Path, n: int) -> cache.Matrix:
    """Features (N, D), mapped where there is a cache."""
    shape = matfiles.shape(file, "features")
    if shape is None:
        raise matfiles.missing(file, "features", f", and there is no {file.with_suffix('.npy').name} beside it")
    if len(shape) != 2 or shape[0] == 0 or shape[1] != n:
        hint = ": it is transposed" if shape[:1] == (n,) else ""
        got = f"got shape {shape} for {n} labels instead{hint}"
        raise InputError(f"{file}: features must be D x N with a column for each label, {got}")
    key = _sha256(file)
    features = cache.lookup(key, (shape[1], shape[0]))
    return _convert(file, key) if features is None else features


def _fine_tuned(file: Path, selection: Path, labels: npt.NDArray[np.int64], n_classes: int) -> api.FineTuned:
    """What the file of the features, and that of those to select on, tell of their backbones' training."""
    tuned = api.FineTuned(_trained_on(file), _global(selection, len(labels)), _trained_on(selection))
    made = [matfiles.provenance(each).get("key") for each in (file, selection)]
    if made[0] != made[1] or not np.array_equal(_labels(selection, n_classes), labels):
        raise InputError(f"{selection}: must have been made along with {file.name}, and was not; make both anew")
    return tuned


def _trained_on(file: Path) -> npt.NDArray[np.int64]:
    """The indices of the images that trained the backbone of a file's features."""
    return _indices(matfiles.load(file, TRAINED_ON)[TRAINED_ON], f"{file}: {TRAINED_ON}")


def _convert(file: Path, key: str) -> cache.Matrix:
    """Read the features and cache them; the source's matrix is the only whole one in memory.

    Where the cache cannot be written, a warning says so and the features stay in memory.
    """
    matrix = matfiles.numeric(matfiles.load(file, "features")["features"], f"{file}: features")
    if _sha256(file) != key:
        raise InputError(f"{file}: changed while it was read; try again")
    bad = np.concatenate([np.count_nonzero(~(np.abs(rows) <= api.LARGEST), axis=1) for rows in _rows(matrix)])
    if bad.any():
        got = f"got {bad.sum()} other values instead, the first in image {(bad > 0).argmax() + 1}"
        raise InputError(f"{file}: features must be finite and within ±{api.LARGEST:.0e}, {got}")
    try:
        return cache.store(key, matrix.T.shape, _rows(matrix))
    except OSError as error:
        _logger.warning("The cache cannot be used, so %s is read anew on every load: %s", file, reason(error))
        return np.ascontiguousarray(matrix.T, dtype=np.float32)


def _rows(matrix: npt.NDArray[Any]) -> Iterator[cache.Matrix]:
    """Blocks of rows of the transpose, as float32."""
    step = max(1, _BLOCK // len(matrix))
    for start in range(0, matrix.shape[1], step):
        with np.errstate(over="ignore", invalid="ignore"):  # too large for float32: becomes infinite, which is refused
            block = np.ascontiguousarray(matrix[:, start : start + step].T, dtype=np.float32)
        yield block


def _attributes(values: npt.NDArray[Any], where: str, clamp: bool) -> npt.NDArray[np.float32]:
    """(C, A) from the file's (A, C)."""
    if matfiles.numeric(values, where).ndim != 2:
        raise InputError(f"{where} must be attributes x classes, got shape {values.shape} instead")
    with np.errstate(over="ignore"):
        attributes = np.ascontiguousarray(values.T, dtype=np.float32)
    return np.maximum(attributes, 0) if clamp else attributes


def _vectors(file: Path) -> npt.NDArray[np.float32]:
    """(A, V) from the file's (V, A)."""
    values = matfiles.numeric(matfiles.load(file, "vectors")["vectors"], f"{file}: vectors")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values.T, dtype=np.float32)


def _validation_classes(file: Path, names: tuple[str, ...], source: str) -> npt.NDArray[np.int64]:
    lines = _lines(file)
    for number, line in enumerate(lines, start=1):
        if line and line not in names:
            raise InputError(f"{file}:{number}: must be one of {source}, got {line!r} instead")
    if not any(lines):
        raise InputError(f"{file}: must name the validation classes, got no names instead")
    return np.unique([names.index(line) for line in lines if line])


def _lines(file: Path) -> list[str]:
    """The lines of a text file, stripped; some may be empty."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {reason(error)}") from error


def _indices(values: npt.NDArray[Any], where: str) -> npt.NDArray[np.int64]:
    """Numbers from 1 as a vector of indices from 0."""
    flat = np.ravel(matfiles.numeric(values, where))
    odd = flat[~((flat == np.rint(flat)) & (np.abs(flat) < 2**53))]
    if len(odd):
        raise InputError(f"{where} must be whole numbers, got {odd[0]} instead")
    return flat.astype(np.int64) - 1


def _sha256(file: Path) -> str:
    try:
        return cache.sha256(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {reason(error)}") from error
