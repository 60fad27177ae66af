"""Data sets of one's own, without Python: `dataset=npz`, `csv` or `folder`, with `data.file=...` (docs/extending.md).

The path is no part of a run's identity; the data's SHA-256 is. What is split is split the same way for every seed of a
run, and what is normalised is normalised by the training samples.
"""

import csv as csv_files
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from sasg import randomness
from sasg.errors import UserError
from sasg.problem import image_files
from sasg.problem.datasets import Dataset, Samples, Source, Split, from_arrays
from sasg.problem.image_files import Arrays
from sasg.problem.tabular import from_features

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


def npz(
    root: Path,
    download: bool,
    file: str | None,
    test_file: str | None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    crop: int = 0,
    flip: bool = False,
    rotation: float = 0.0,
) -> Dataset:
    """An archive in Keras's layout: x_train, x_test uint8 [N, H, W(, C)]; y_train, y_test whole numbers from 0 [N].

    mean, std: of each channel, of pixels in [0, 1]; null: those of the training images. UserError.
    """
    if test_file is not None:
        raise UserError(f"data.test_file={test_file}: an archive holds its own test images; leave it out")
    path = _find(root, file)
    return _images(path, image_files.read_npz(path), mean, std, crop, flip, rotation)


def folder(
    root: Path,
    download: bool,
    file: str | None,
    test_file: str | None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    crop: int = 0,
    flip: bool = False,
    rotation: float = 0.0,
    test_share: float | None = None,
    grey: bool = False,
) -> Dataset:
    """Images in a folder per class, as torchvision's ImageFolder has them, all of one size.

    Test images are those of data.test_file, else of a folder `test` or `val` beside one called `train`, else
    `test_share` of the images. grey: read them in one channel, not three. UserError.
    """
    path = _find(root, file)
    train, test = _split_folders(path, None if test_file is None else _find(root, test_file, "test_file"))
    names = _class_names(train)
    x, y = _read_folder(train, names, grey)
    if test is not None:
        if test_share is not None:
            raise UserError(f"dataset.test_share={test_share}: there are test images already, in {test}; leave it out")
        arrays = {"x_train": x, "y_train": y}
        arrays["x_test"], arrays["y_test"] = _read_folder(test, names, grey)
    else:
        first, second = _split_rows(len(y), test_share, path)
        arrays = {"x_train": x[first], "y_train": y[first], "x_test": x[second], "y_test": y[second]}
    return _images(path, arrays, mean, std, crop, flip, rotation)


def csv(
    root: Path,
    download: bool,
    file: str | None,
    test_file: str | None,
    label: str | None = None,
    labels: Literal["classes", "numbers"] = "classes",
    test_share: float | None = None,
    standardise: bool = True,
    separator: str = ",",
) -> Dataset:
    """A table with a header: a column of labels (null: the last one), all others are features, numbers.

    labels: classes (whole numbers or words; told apart in their order), or numbers to regress on. Test rows are those
    of data.test_file, else `test_share` of the rows; 0: none, for the sum objectives, which have no test set.
    standardise: features have mean 0 and deviation 1 over the training rows. A constant feature 1 is added. UserError.
    """
    path = _find(root, file)
    names, x, words = _read_table(path, separator, label)
    y, classes = _targets(path, words, labels, None)
    if test_file is not None:
        if test_share is not None:
            raise UserError(f"dataset.test_share={test_share}: data.test_file has the test rows; leave one of them out")
        test_path = _find(root, test_file, "test_file")
        test_names, x_test, test_words = _read_table(test_path, separator, names[-1])
        if test_names != names:
            raise UserError(f"{test_path}: has the columns {', '.join(test_names)}, but {path} has {', '.join(names)}")
        y_test, _ = _targets(test_path, test_words, labels, classes)
    else:
        first, second = _split_rows(len(y), test_share, path)
        x, x_test, y, y_test = x[first], x[second], y[first], y[second]
    if standardise:
        center, scale = x.mean(0), x.std(0)
        scale[scale == 0] = 1.0
        x, x_test = (x - center) / scale, (x_test - center) / scale
    return _table(path, x, y, x_test, y_test, max(2, len(classes)) if classes else 1)


def _table(
    path: Path, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, num_classes: int
) -> Dataset:
    train = from_features(path.stem, x, y, str(path.name))
    test = from_features(path.stem, x_test, y_test, "").train if len(y_test) else train.test
    digest = hashlib.sha256(f"{train.sha256} {_digest(test)}".encode()).hexdigest()
    return Dataset(path.stem, num_classes, train.sources, train.train, test, train.origin, digest)


def _digest(split: Samples) -> str:
    assert isinstance(split, Split)
    return hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()


def _find(root: Path, file: str | None, key: str = "file") -> Path:
    """The path as it was typed, or within data.root."""
    if not file:
        raise UserError(f"data.{key}: is not given; name what is to be read: data.{key}=PATH")
    for path in (Path(file).expanduser(), Path(root) / file):
        if path.exists():
            return path
    raise UserError(f"data.{key}={file}: there is no such file or folder, neither here nor in data.root={root}")


def _images(
    path: Path,
    arrays: Arrays,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    crop: int,
    flip: bool,
    rotation: float,
) -> Dataset:
    x, y = arrays["x_train"], arrays["y_train"]
    if x.dtype == np.uint8 and x.ndim in (3, 4) and len(x):  # else `from_arrays` tells what is wrong
        by_channel = _moments(x)
        mean, std = mean or by_channel[0], std or by_channel[1]
    num_classes = int(y.max()) + 1 if np.issubdtype(y.dtype, np.integer) and y.size else 1
    source = Source(path.stem, tuple(mean or (0.0,)), tuple(std or (1.0,)), crop, flip, rotation)
    return from_arrays(source, max(2, num_classes), arrays, path.name)


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by channel of pixels in [0, 1], to four digits; from counts, so exact on every machine."""
    channels = images[..., None] if images.ndim == 3 else images
    means, deviations = [], []
    values = np.arange(256) / 255
    for channel in range(channels.shape[-1]):
        counts = np.bincount(channels[..., channel].ravel(), minlength=256)
        mean = float(counts @ values) / counts.sum()
        means.append(round(mean, 4))
        deviations.append(round(math.sqrt(float(counts @ (values - mean) ** 2) / counts.sum()), 4) or 1.0)
    return tuple(means), tuple(deviations)


def _split_rows(number: int, test_share: float | None, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows: a fixed random order, whatever the run's seed, of which the last share is for testing."""
    if test_share is None:
        raise UserError(f"{path}: what is to be tested on? Give data.test_file=PATH, or dataset.test_share=0.2")
    if not 0 <= test_share < 1:
        raise UserError(f"dataset.test_share={test_share}: must be at least 0 and below 1")
    num_test = round(number * test_share)
    if num_test == number or (test_share and not num_test):
        raise UserError(f"dataset.test_share={test_share}: {path} has {number} samples, too few for such a share")
    order = randomness.permutation(0, randomness.Purpose.SPLIT, n=number)
    return np.sort(order[: number - num_test]), np.sort(order[number - num_test :])


def _split_folders(path: Path, test: Path | None) -> tuple[Path, Path | None]:
    if not path.is_dir():
        raise UserError(f"data.file={path}: must be a folder that has a folder for each class")
    if test is not None and not test.is_dir():
        raise UserError(f"data.test_file={test}: must be a folder that has a folder for each class")
    beside = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if test is None and (path / "train").is_dir() and beside is not None:
        return path / "train", beside
    return path, test


def _class_names(path: Path) -> list[str]:
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise UserError(f"{path}: has {len(names)} folders, but must have one for each of at least two classes")
    return names


def _read_folder(path: Path, names: Sequence[str], grey: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W(, 3)] and labels [N], by class and file name."""
    if unknown := set(_class_names(path)) - set(names):
        raise UserError(f"{path}: the classes {', '.join(sorted(unknown))} have no training images")
    images, labels = [], []
    for label, name in enumerate(names):
        files = (file for file in sorted((path / name).rglob("*")) if file.suffix.lower() in SUFFIXES)
        for file in files:
            images.append(_read_image(file, grey))
            labels.append(label)
            if images[-1].shape != images[0].shape:
                (height, width), (h, w) = images[0].shape[:2], images[-1].shape[:2]
                raise UserError(f"{file}: is {w}x{h}, but those before are {width}x{height}; make them of one size")
        if not labels or labels[-1] != label:
            if (path / name).is_dir():
                raise UserError(f"{path / name}: has no images ({' '.join(SUFFIXES)})")
            raise UserError(f"{path}: has no folder {name}, one of the classes")
    return np.stack(images), np.array(labels)


def _read_image(file: Path, grey: bool) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise UserError("dataset=folder needs Pillow: pip install pillow") from None
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{file}: cannot be read as an image ({str(error).splitlines()[0]})") from None


def _read_table(path: Path, separator: str, label: str | None) -> tuple[list[str], np.ndarray, list[str]]:
    """The columns, that of the labels last; features [N, F]; labels as they are written."""
    if len(separator) != 1:
        raise UserError(f"dataset.separator={separator!r}: must be one character")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv_files.reader(file, delimiter=separator) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv_files.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    header = [name.strip() for name in header]
    if len(header) < 2 or not rows:
        raise UserError(f"{path}: must have a header, at least two columns (separated by {separator!r}) and a row")
    if all(map(_is_number, header)):
        raise UserError(f"{path}: begins with numbers, but must begin with a header, the columns' names")
    if label is not None and label not in header:
        raise UserError(f"dataset.label={label}: {path} has the columns {', '.join(header)}")
    at = len(header) - 1 if label is None else header.index(label)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}: row {number} has {len(row)} values, but the header has {len(header)}")
    names = [name for i, name in enumerate(header) if i != at]
    features = [[value for i, value in enumerate(row) if i != at] for row in rows]
    return [*names, header[at]], _numbers(path, names, features), [row[at].strip() for row in rows]


def _numbers(path: Path, names: Sequence[str], rows: list[list[str]]) -> np.ndarray:
    try:
        x = np.array(rows, dtype=np.float64)
        if np.isfinite(x).all():
            return x
    except ValueError:
        pass
    for number, row in enumerate(rows, start=2):
        for name, value in zip(names, row, strict=True):
            if not _is_number(value):
                raise UserError(f"{path}: row {number}, column {name}: {value!r} is not a number; features must be")
    raise AssertionError  # one of them is not


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _by_number_then_word(word: str) -> tuple[bool, float, str]:
    return (False, float(word), word) if _is_number(word) else (True, 0.0, word)


def _targets(
    path: Path, words: Sequence[str], kind: str, classes: list[str] | None
) -> tuple[np.ndarray, list[str] | None]:
    """Targets [N], and the classes in their order; those given if any, as for test rows."""
    for number, word in enumerate(words, start=2):
        if not word or (kind == "numbers" and not _is_number(word)):
            raise UserError(f"{path}: row {number}: the label {word!r} is not {'a number' if word else 'there'}")
    if kind == "numbers":
        return np.array(words, dtype=np.float64), None
    if classes is None:
        classes = sorted(set(words), key=_by_number_then_word)
        if len(classes) < 2:
            raise UserError(f"{path}: all labels are {classes[0]!r}; there must be two classes or more")
        if len(classes) > 1000:
            raise UserError(f"{path}: {len(classes)} classes; for numbers to regress on, dataset.labels=numbers")
    places = {word: place for place, word in enumerate(classes)}
    if unknown := next((word for word in words if word not in places), None):
        raise UserError(f"{path}: the label {unknown!r} is not among the training rows' labels")
    return np.array([places[word] for word in words], dtype=np.int64), classes
