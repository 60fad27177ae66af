"""Configurations for tests, composed from conf/ as a user's are."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from experiments.composing import composed
from sasg.config import Config
from sasg.problem.datasets import Dataset

CONF = Path(__file__).parent.parent / "conf"


@cache
def config(*overrides: str) -> Config:
    """What `experiments/train.py OVERRIDES` would run, on the CPU."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return composed(compose("train", ["device=cpu", *overrides]))[0]


def without_ties(dataset: Dataset) -> Dataset:
    """With noise in its training images, as two pixels that are always equal give equal entries of a gradient.

    Which of them is the larger is then a matter of rounding, and another engine, or a naive loop, may keep the other.
    """
    images = dataset.train.images
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 64, tuple(images.shape), np.uint8))
    train = replace(dataset.train, images=images // 2 + noise)
    return replace(dataset, train=train, sha256=f"{dataset.sha256} without ties")


def small_batchnorm(image_shape, num_classes, width=4) -> nn.Module:
    """A convolutional network with BatchNorm that is small enough for a naive loop."""
    return nn.Sequential(
        nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )


def iterate(trainer, count: int) -> None:
    """Iterations without evaluations; what they leave behind is read at each epoch's end, as a run would."""
    for _ in range(count):
        trainer.run_iteration()
        if trainer.iteration % trainer.iterations_per_epoch == 0:
            trainer.records.take(trainer.cluster)
