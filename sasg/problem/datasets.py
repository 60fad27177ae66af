"""Data sets: loaders `f(root, download, **options) -> Dataset`, named by the YAML files of conf/dataset.

A loader's options are the normalisation and augmentation of its images (see `Source`). A data set of your own is a
function of this signature in any module, most easily one that ends in `from_arrays`, and a YAML that names it as its
`kind` (package.module.function).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sasg import randomness
from sasg.errors import UserError
from sasg.parts import build
from sasg.problem import image_files
from sasg.problem.image_files import Arrays

# What is known about some files, by their SHA-256, so that every result can say what it was trained on.
PROVENANCE = {
    image_files.MNIST_SHA256: "the original images",
    "28070e5be2c141e7378b55e956b0b504ba644e21f71592402461c3580ecacdf4": (
        "the original images and split in another order; 1,135 of 60,000 images, nearly all ships, from a JPEG copy"
    ),
    "62c53c699d74ff442ea2ffa9b1ec656b8cafacc88d7634233729ffded56c9f09": (
        "the original images, but not the original split: accuracies compare closely, not exactly, with published ones"
    ),
}


@dataclass(frozen=True)
class Source:
    """How the images of one origin are augmented and normalised. Evaluation only normalises."""

    name: str
    mean: tuple[float, ...]  # per channel, of values in [0, 1]
    std: tuple[float, ...]
    crop: int = 0  # random crop after zero padding by this many pixels
    flip: bool = False  # random horizontal flip
    rotation: float = 0.0  # random rotation by up to this many degrees either way

    @property
    def is_augmented(self) -> bool:
        """Whether training images are moved at random."""
        return bool(self.crop or self.flip or self.rotation)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise UserError(f"{self.name}: mean {self.mean} and std {self.std} need one number per channel, std > 0")
        if self.crop < 0 or not 0 <= self.rotation <= 180:
            raise UserError(f"{self.name}: crop is {self.crop} and rotation {self.rotation}; need >= 0 and 0 to 180")


class Samples(ABC):
    """N samples as they are stored, which is compactly, and what a model is given of them.

    labels: int64 [N], the class of each, by which shards may go; sources: int64 [N], indices into Dataset.sources.
    """

    labels: Tensor
    sources: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def part(self, index: Tensor) -> "Samples":
        """Those at `index`: int64 [n]."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Samples":
        """The same on another device."""

    @abstractmethod
    def raw(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [n, ...] and targets int64 [n] or [n, T] of those at `index`: int64 [n].

        Inputs are uint8 images, which are augmented and normalised, real features or int64 characters, which are not.
        """

    @property
    def most_held_out(self) -> int:
        """How many can be held out, at most."""
        return len(self) - 1

    def held_out(self, number: int) -> tuple[Tensor, Tensor]:
        """Indices of `number` of them, always the same, and of all that have nothing in common with these."""
        order = torch.from_numpy(randomness.permutation(0, randomness.Purpose.SPLIT, n=len(self)))
        return order[:number].sort().values, order[number:].sort().values


@dataclass(frozen=True)
class Split(Samples):
    """Images and their classes, or features and their targets."""

    images: Tensor  # uint8 [N, C, H, W]; features: float64 [N, 1, 1, F]
    labels: Tensor  # int64 [N]
    sources: Tensor  # int64 [N], indices into Dataset.sources

    def part(self, index: Tensor) -> "Split":
        return Split(self.images[index], self.labels[index], self.sources[index])

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.images.to(device), self.labels.to(device), self.sources.to(device))

    def raw(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.images.index_select(0, index), self.labels.index_select(0, index)


@dataclass(frozen=True)
class Dataset:
    """Samples to train on and to test on, and what a model must know of them."""

    name: str
    num_classes: int
    sources: tuple[Source, ...]
    train: Samples
    test: Samples
    origin: str  # which files, and what is known about them
    sha256: str  # of the uint8 arrays x_test, x_train, y_test, y_train [N, H, W(, C)]; of the parts' digests for a mix

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        assert isinstance(self.train, Split)
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def given_to_model(self, num_outputs: int) -> dict[str, Any]:
        """The arguments of a model's factory, but for its options."""
        return {"image_shape": self.image_shape, "num_classes": num_outputs}

    def output_shape(self, num_outputs: int) -> tuple[int, ...]:
        """Of what a model gives for one sample."""
        return (num_outputs,)

    def random_inputs(self, *leading: int) -> Tensor:
        """What a model may be given, always the same, [*leading, ...]."""
        return torch.rand(*leading, *self.image_shape, generator=torch.Generator().manual_seed(0))

    def describe_inputs(self) -> str:
        """In words, for messages."""
        return f"{self.name}'s images of shape {'x'.join(map(str, self.image_shape))}"


class Images:
    """A loader of one source's images."""

    def __init__(self, name: str, num_classes: int, read: Callable[[Path, bool], tuple[Arrays, str]]):
        """read: (root, download) -> arrays in Keras's layout, and where they are from."""
        self.name, self.num_classes, self._read = name, num_classes, read

    def __call__(
        self,
        root: Path,
        download: bool,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        crop: int = 0,
        flip: bool = False,
        rotation: float = 0.0,
    ) -> Dataset:
        source = Source(self.name, tuple(mean), tuple(std), crop, flip, rotation)
        arrays, origin = self._read(Path(root), download)
        dataset = from_arrays(source, self.num_classes, arrays, origin)
        known = PROVENANCE.get(dataset.sha256)
        return replace(dataset, origin=f"{origin}: {known}") if known else dataset


def _bundled_digits(root: Path, download: bool) -> tuple[Arrays, str]:
    """scikit-learn's 8x8 digits: 1,437 training and 360 test images, a fixed random split. No file needed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("the digits data set needs scikit-learn: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    order = randomness.permutation(0, randomness.Purpose.SPLIT, n=len(labels))
    train, test = order[:1437], order[1437:]
    arrays = {"x_train": images[train], "y_train": labels[train], "x_test": images[test], "y_test": labels[test]}
    return arrays, "scikit-learn's bundled digits, split at random 1,437 / 360"


def _files(name: str, shape: tuple[int, ...]) -> Callable[[Path, bool], tuple[Arrays, str]]:
    """Reads the files of a data set whose images have this shape, [H, W(, C)]."""

    def read(root: Path, download: bool) -> tuple[Arrays, str]:
        arrays, origin = image_files.look_up(name, root, download)
        for key in ("x_train", "x_test"):
            if arrays[key].shape[1:] != shape:
                found = _describe(arrays[key])
                raise UserError(f"{root}: {origin}: {key} is {found}, but images must be {list(shape)}")
        return arrays, origin

    return read


digits = Images("digits", 10, _bundled_digits)
mnist = Images("mnist", 10, _files("mnist", (28, 28)))  # 60,000 and 10,000 grey images
cifar10 = Images("cifar10", 10, _files("cifar10", (32, 32, 3)))  # 50,000 and 10,000 colour images
cifar100 = Images("cifar100", 100, _files("cifar100", (32, 32, 3)))


def mix(root: Path, download: bool, parts: tuple[dict, ...]) -> Dataset:
    """Several data sets as one: each of `parts` is a data set's own configuration.

    Images are zero-padded to the largest height and width, grey ones repeated to the others' channels; labels share
    the outputs. The sources keep their own normalisation and augmentation, in the order of the parts.
    """
    if not parts:
        raise UserError("a mix needs at least one data set in parts")
    datasets = [build(f"parts[{i}]", part, root=root, download=download) for i, part in enumerate(parts)]
    channels, height, width = (max(sizes) for sizes in zip(*(d.image_shape for d in datasets), strict=True))
    for dataset in datasets:
        if dataset.image_shape[0] not in (1, channels):
            raise UserError(f"a mix cannot turn {dataset.name}'s {dataset.image_shape[0]} channels into {channels}")
    return Dataset(
        name="+".join(d.name for d in datasets),
        num_classes=max(d.num_classes for d in datasets),
        sources=tuple(_repeat_channels(source, channels) for d in datasets for source in d.sources),
        train=_join(datasets, "train", (channels, height, width)),
        test=_join(datasets, "test", (channels, height, width)),
        origin="; ".join(d.origin for d in datasets),
        sha256=hashlib.sha256("".join(d.sha256 for d in datasets).encode()).hexdigest(),
    )


def held_out(root: Path, download: bool, of: dict, number: int) -> Dataset:
    """Training samples alone: `number` of them, always the same, are what is tested on.

    They are drawn at random; of a text they are its last windows, side by side, and no window that is trained on
    reaches into them. of: the data set's configuration. Its test set is left aside, so that something can be chosen
    without it. The digest is that of the whole data set.
    """
    dataset = build("dataset.of", of, Dataset, root=root, download=download)
    most = dataset.train.most_held_out
    if not 1 <= number <= most:
        raise UserError(f"number={number}: must be between 1 and {most}, of the training samples")
    held, kept = (dataset.train.part(index) for index in dataset.train.held_out(number))
    return replace(dataset, train=kept, test=held, origin=f"{dataset.origin}; {number:,} training samples are held out")


def from_arrays(source: Source, num_classes: int, arrays: Arrays, origin: str) -> Dataset:
    """A data set of one source from arrays in Keras's layout.

    arrays: x_train, x_test uint8 [N, H, W] or [N, H, W, C]; y_train, y_test integers [N] or [N, 1].
    UserError, which names `origin`, if an array is not so.
    """
    arrays = dict(arrays)
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
            raise UserError(f"{origin}: x_{split} is {_describe(images)}, but must be uint8 [N, H, W] or [N, H, W, C]")
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape not in ((len(images),), (len(images), 1)):
            raise UserError(f"{origin}: y_{split} is {_describe(labels)}, but must be {len(images)} integers")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise UserError(f"{origin}: y_{split} has labels outside 0 to {num_classes - 1}")
        arrays[f"y_{split}"] = labels.reshape(-1).astype(np.uint8 if num_classes <= 256 else np.int64)
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise UserError(f"{origin}: x_train is {_describe(arrays['x_train'])}, x_test {_describe(arrays['x_test'])}")
    train, test = _split(arrays["x_train"], arrays["y_train"]), _split(arrays["x_test"], arrays["y_test"])
    channels = train.images.shape[1]
    if len(source.mean) != channels:
        raise UserError(f"{source.name}: {channels} channels, but mean has {len(source.mean)} numbers ({origin})")
    return Dataset(source.name, num_classes, (source,), train, test, origin, image_files.digest(arrays))


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    pixels = torch.from_numpy(images if images.ndim == 4 else images[..., None])
    sources = torch.zeros(len(labels), dtype=torch.int64)
    return Split(pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64)), sources)


def _repeat_channels(source: Source, channels: int) -> Source:
    repeats = channels // len(source.mean)
    return replace(source, mean=source.mean * repeats, std=source.std * repeats)


def _join(datasets: Sequence[Dataset], split: str, image_shape: tuple[int, int, int]) -> Split:
    """One split of all data sets, one after the other; sources count on from one data set to the next."""
    channels, height, width = image_shape
    images, labels, sources = [], [], []
    num_sources = 0
    for dataset in datasets:
        part: Split = getattr(dataset, split)
        pad_y, pad_x = height - part.images.shape[2], width - part.images.shape[3]
        padding = (pad_x // 2, pad_x - pad_x // 2, pad_y // 2, pad_y - pad_y // 2)
        images.append(F.pad(part.images, padding).expand(-1, channels, -1, -1))
        labels.append(part.labels)
        sources.append(part.sources + num_sources)
        num_sources += len(dataset.sources)
    return Split(torch.cat(images), torch.cat(labels), torch.cat(sources))
