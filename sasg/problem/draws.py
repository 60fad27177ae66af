"""Where starting weights, shards and the order of an epoch come from: the suite's counters, or published code's draws.

Draws are functions of what they are for, not of what was drawn before: any process can ask for those of any epoch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sasg import randomness
from sasg.config import PARTS, Config
from sasg.errors import UserError
from sasg.parts import build, resolve
from sasg.problem.datasets import Dataset
from sasg.problem.shards import cut, iid
from sasg.randomness import Purpose

_EVALUATE_EVERY = 100  # iterations, in the published notebook


def make_draws(config: Config, num_published_models: int | None) -> "Draws":
    """The kind of draws that config.draws names.

    num_published_models: see `Algorithm`. UserError: the published draws are not those of such a run.
    """
    if config.draws == "counter":
        return Counter(config.seed)
    if num_published_models is None:
        method = config.algorithm["name"]
        raise UserError(f"draws=published: algorithm {method} is none of SGD, Sparse, LASG and SASG; use draws=counter")
    if config.task.batch_size == "full" or config.objective is not None:
        raise UserError("draws=published: are of cross entropy on mini-batches; use draws=counter")
    if resolve("shards", config.shards, PARTS["shards"])[0] is not iid:
        raise UserError(f"draws=published: shards.kind={config.shards['kind']}, but its shards are iid; use shards=iid")
    if config.task.batches_per_epoch is not None:
        raise UserError("draws=published: are of epochs that pass the shard; leave out task.batches_per_epoch")
    if config.seed >= 2**32:
        raise UserError(f"draws=published: seed={config.seed}, but numpy's generator takes seeds below 2^32")
    return Published(config, num_published_models)


class Draws(ABC):
    """What a run draws before it computes. torch's and numpy's global generators stay as they are."""

    @abstractmethod
    def initialised(self, make: Callable[[], nn.Module]) -> nn.Module:
        """A model that `make` makes, with its starting parameters. Called before `order`."""

    @abstractmethod
    def shards(self, rule: Mapping[str, Any], dataset: Dataset, num_workers: int) -> list[np.ndarray]:
        """Each worker's indices into dataset.train, by a rule of config.shards. UserError: it refuses them."""

    @abstractmethod
    def order(self, worker: int, epoch: int, size: int) -> np.ndarray:
        """The order in which a worker passes its shard of `size` samples in an epoch (from 0), int64 [size]."""


class Counter(Draws):
    """Functions of (seed, purpose, worker, epoch); see `randomness`."""

    def __init__(self, seed: int):
        self.seed = seed

    def initialised(self, make: Callable[[], nn.Module]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(randomness.torch_seed(self.seed, Purpose.INIT))
            return make()

    def shards(self, rule: Mapping[str, Any], dataset: Dataset, num_workers: int) -> list[np.ndarray]:
        labels, sources = dataset.train.labels.numpy(), dataset.train.sources.numpy()
        return build("shards", rule, labels=labels, sources=sources, num_workers=num_workers, seed=self.seed)

    def order(self, worker: int, epoch: int, size: int) -> np.ndarray:
        return randomness.permutation(self.seed, Purpose.SHUFFLE, worker, epoch, n=size)


class Published(Draws):
    """What the published MNIST notebook draws, with numpy's and torch's global generators seeded with the run's seed.

    numpy's shuffles the samples, which are cut into contiguous shards. torch's initialises the model (for a lazy
    method then a second one, whose parameters are never used). After that it gives words of 64 bits, in every epoch

    * one to the iterator over each worker's data loader, which makes nothing of it;
    * one to each worker's sampler, in the first iteration: the seed of the generator that shuffles the shard;
    * one to each evaluation's iterator, again for nothing: every 100 iterations of the run, and (once more, should
      both coincide) at the epoch's end.

    So the words before an epoch can be counted. When this run is evaluated changes none of them.
    """

    def __init__(self, config: Config, num_models: int):
        """num_models: how many the notebook initialises."""
        self.seed, self.num_models, self.num_workers = config.seed, num_models, config.cluster.workers
        self.batch_size = config.task.batch_size
        self._after_models: Tensor | None = None  # state of torch's generator

    def initialised(self, make: Callable[[], nn.Module]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            first, *_ = [make() for _ in range(self.num_models)]
            self._after_models = torch.get_rng_state()
        return first

    def shards(self, rule: Mapping[str, Any], dataset: Dataset, num_workers: int) -> list[np.ndarray]:
        if any(source.is_augmented for source in dataset.sources):
            raise UserError(f"draws=published: do not cover the augmentation of {dataset.name}; use draws=counter")
        order = np.arange(len(dataset.train.labels))
        np.random.RandomState(self.seed).shuffle(order)
        return cut(order, num_workers)

    def order(self, worker: int, epoch: int, size: int) -> np.ndarray:
        num_evaluations = epoch * (size // self.batch_size) // _EVALUATE_EVERY + epoch
        samplers = 2 * self.num_workers * epoch + num_evaluations + self.num_workers  # words before those of samplers
        generator = torch.Generator()
        generator.set_state(self._after_models)
        seed = torch.empty(samplers + worker + 1, dtype=torch.int64).random_(generator=generator)[-1]
        return torch.randperm(size, generator=torch.Generator().manual_seed(int(seed))).numpy()
