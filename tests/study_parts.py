"""Parts for studies that are interrupted on purpose: data that needs no file, checkpoints all the time."""

import os
import signal
from pathlib import Path

import numpy as np
from torch import nn

from sasg.problem import models
from sasg.problem.datasets import Dataset, Source, from_arrays
from sasg.training import run


def tiny(root: Path, download: bool, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
    """200 training and 40 test images, 4x4, of two classes that can be told apart by their brightness."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 200), ("test", 40)):
        labels = np.arange(number) % 2
        arrays[f"x_{split}"] = (draw.integers(0, 160, (number, 4, 4)) + 90 * labels[:, None, None]).astype(np.uint8)
        arrays[f"y_{split}"] = labels
    return from_arrays(Source("tiny", tuple(mean), tuple(std)), 2, arrays, "made for tests")


def impatient(image_shape: tuple[int, ...], num_classes: int, hidden: tuple[int, ...]) -> nn.Module:
    """The fully connected model; its runs save a checkpoint every few iterations."""
    run.CHECKPOINT_SECONDS = 0.0
    return models.fc(image_shape=image_shape, num_classes=num_classes, hidden=hidden)


def crashing_in_rank_1(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A model with a bug that only one process meets."""
    if os.environ.get("RANK") == "1":
        raise RuntimeError("not in this rank")
    return models.fc(image_shape, num_classes, hidden=(8,))


def never_ready_in_ranks(image_shape: tuple[int, int, int], num_classes: int, folder: str) -> nn.Module:
    """A model for which the processes of a distributed run wait, after they have left a file in `folder`."""
    if "RANK" in os.environ:
        (Path(folder) / f"rank-{os.environ['RANK']}").touch()
        signal.pause()
    return models.fc(image_shape, num_classes, hidden=(8,))
