"""The workers' mini-batches and the test set, on the device that computes."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sasg.errors import UserError
from sasg.problem.augmentation import Augmentation
from sasg.problem.datasets import Dataset
from sasg.problem.draws import Draws

CACHE_BYTES = 200e6  # a normalised test set up to this size is kept


class Batches:
    """Mini-batches of the workers that this process holds.

    Images stay on the device as uint8 (features as they are). Each epoch every worker reshuffles its shard;
    `start_epoch` draws all orders and augmentation parameters on the CPU and copies them into tensors that stay where
    they are, from which `batch` takes those of one iteration without waiting for the device: it can be captured in a
    CUDA graph.

    Full batches (deterministic methods) are the whole shard in its own order: an epoch is one iteration. Where nothing
    is augmented they are always the same, and are prepared once.
    """

    def __init__(
        self,
        dataset: Dataset,
        shards: Sequence[np.ndarray],
        workers: range,
        batch_size: Literal["full"] | int,
        seed: int,
        draws: Draws,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """shards: indices into dataset.train of all M workers; workers: those held here (W of them).
        seed: of the augmentation; draws: of the order of an epoch.

        UserError if a batch is longer than a shard.
        """
        size = len(shards[0])
        self.is_full = batch_size == "full"
        batch_size = size if self.is_full else batch_size
        if not 1 <= batch_size <= size:
            raise UserError(
                f"task.batch_size={batch_size}: must be between 1 and {size}, the samples in a worker's shard"
            )
        self.workers, self.batch_size, self.seed, self.draws = workers, batch_size, seed, draws
        self.num_workers = len(shards)  # M
        #: The shard's remainder, less than one batch, is another one every epoch and is left out.
        self.iterations_per_epoch = size // batch_size
        self.augmentation = Augmentation(dataset.sources, dataset.image_shape, torch.device(device), dtype)

        held = torch.from_numpy(np.stack([shards[worker] for worker in workers]))  # [W, shard]
        flat = held.view(-1)
        self.images = dataset.train.images[flat].to(device)  # [W * shard, C, H, W]
        self.labels = dataset.train.labels[flat].to(device)
        self.sources = dataset.train.sources[flat].to(device)
        self._shard_sources = dataset.train.sources[held].numpy()  # [W, shard]
        self.test_images = dataset.test.images.to(device)
        self.test_labels = dataset.test.labels.to(device)
        self.test_sources = dataset.test.sources.to(device)
        self._normalised_test: Tensor | None = None

        self._is_constant = self.is_full and not self.augmentation.moves
        self._constant: tuple[Tensor, Tensor] | None = None  # what `batch` gives, where that is always the same

        # Row t holds the samples of iteration t (positions in self.images) and their augmentation parameters.
        shape = (self.iterations_per_epoch, len(workers), batch_size)
        num_draws = self.augmentation.draw(seed, 0, 0, self._shard_sources[0, :1]).shape[1]
        self._order = torch.zeros(shape, dtype=torch.int64, device=device)
        self._draws = torch.zeros((*shape, num_draws), dtype=torch.int32, device=device)

    def start_epoch(self, epoch: int) -> None:
        """Shuffles the shards for `epoch` (from 0); draws depend on nothing drawn before."""
        if self._is_constant:
            return
        num_iterations, num_workers, batch_size = self._order.shape
        order = np.empty((num_iterations, num_workers, batch_size), dtype=np.int64)
        draws = np.empty(self._draws.shape, dtype=np.int32)
        size = self._shard_sources.shape[1]
        used = num_iterations * batch_size
        for row, worker in enumerate(self.workers):
            local = np.arange(size)
            if not self.is_full:
                local = self.draws.order(worker, epoch, size)[:used]
            drawn = self.augmentation.draw(self.seed, worker, epoch, self._shard_sources[row, local])
            order[:, row] = row * size + local.reshape(num_iterations, batch_size)
            draws[:, row] = drawn.reshape(num_iterations, batch_size, draws.shape[-1])
        self._order.copy_(torch.from_numpy(order))
        self._draws.copy_(torch.from_numpy(draws))

    def batch(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Every held worker's mini-batch x [W, B, C, H, W], y int64 [W, B].

        position: int64 scalar tensor on the device, the iteration within the epoch.
        """
        if self._is_constant:
            return self.whole_shards()
        row = position.view(1)
        order = self._order.index_select(0, row).view(-1)
        images = self.images.index_select(0, order)
        draws = self._draws.index_select(0, row).view(len(order), self._draws.shape[-1])
        x = self.augmentation.prepare(images, self.sources.index_select(0, order), draws)
        shape = self._order.shape[1:]
        return x.view(*shape, *x.shape[1:]), self.labels.index_select(0, order).view(shape)

    def whole_shards(self) -> tuple[Tensor, Tensor]:
        """All samples of the workers held here, not augmented: x [W, shard, C, H, W], y [W, shard]."""
        if self._constant is not None:
            return self._constant
        shape = self._shard_sources.shape
        x = self.augmentation.prepare(self.images, self.sources)
        whole = x.view(*shape, *x.shape[1:]), self.labels.view(shape)
        if self._is_constant:
            self._constant = whole
        return whole

    def evaluation(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The whole test set in order, not augmented: x [n, C, H, W], y [n], source of each image [n]."""
        num_bytes = self.test_images.numel() * self.augmentation.dtype.itemsize
        if self._normalised_test is None and num_bytes <= CACHE_BYTES:
            self._normalised_test = self.augmentation.prepare(self.test_images, self.test_sources)
        for start in range(0, len(self.test_labels), batch_size):
            part = slice(start, start + batch_size)
            y, sources = self.test_labels[part], self.test_sources[part]
            if self._normalised_test is not None:
                yield self._normalised_test[part], y, sources
            else:
                yield self.augmentation.prepare(self.test_images[part], sources), y, sources
