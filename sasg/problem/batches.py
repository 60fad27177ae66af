"""The workers' mini-batches and the test set, on the device that computes."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sasg.errors import UserError
from sasg.problem.augmentation import Augmentation
from sasg.problem.datasets import Dataset, Samples
from sasg.problem.draws import Draws

CACHE_BYTES = 200e6  # a prepared test set up to this size is kept


class Batches:
    """Mini-batches of the workers that this process holds.

    Samples stay on the device as they are stored. Each epoch every worker reshuffles its shard;
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
        per_epoch: int | None = None,
    ) -> None:
        """shards: indices into dataset.train of all M workers; workers: those held here (W of them).
        seed: of the augmentation; draws: of the order of an epoch.

        UserError: a batch is longer than a shard, or more batches are asked for than it has.
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
        if per_epoch is not None:
            if per_epoch > self.iterations_per_epoch:
                raise UserError(
                    f"task.batches_per_epoch={per_epoch}: must be at most {self.iterations_per_epoch}, "
                    "the mini-batches in a worker's shard"
                )
            self.iterations_per_epoch = per_epoch

        held = torch.from_numpy(np.stack([shards[worker] for worker in workers]))  # [W, shard]
        self.train = dataset.train.part(held.view(-1)).to(device)  # W * shard samples
        self._shard_sources = dataset.train.sources[held].numpy()  # [W, shard]
        self.test = dataset.test.to(device)
        one = self.train.raw(torch.zeros(1, dtype=torch.int64, device=device))
        self.augmentation = Augmentation(dataset.sources, one[0].shape[1:], torch.device(device), dtype)
        self._prepared_test: tuple[Tensor, Tensor] | None = None

        self._is_constant = self.is_full and not self.augmentation.moves
        self._constant: tuple[Tensor, Tensor] | None = None  # what `batch` gives, where that is always the same

        # Row t holds the samples of iteration t (positions in self.train) and their augmentation parameters.
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
        """Every held worker's mini-batch: inputs x [W, B, ...], e.g. [W, B, C, H, W], targets y [W, B] or [W, B, T].

        position: int64 scalar tensor on the device, the iteration within the epoch.
        """
        if self._is_constant:
            return self.whole_shards()
        row = position.view(1)
        order = self._order.index_select(0, row).view(-1)
        draws = self._draws.index_select(0, row).view(len(order), self._draws.shape[-1])
        return self._rows(self.train, order, self._order.shape[1:], draws)

    def whole_shards(self) -> tuple[Tensor, Tensor]:
        """All samples of the workers held here, not augmented: x [W, shard, ...], y [W, shard] or [W, shard, T]."""
        if self._constant is not None:
            return self._constant
        everything = torch.arange(len(self.train), device=self.train.labels.device)
        whole = self._rows(self.train, everything, self._shard_sources.shape)
        if self._is_constant:
            self._constant = whole
        return whole

    def samples(self, samples: Samples, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Samples of whichever workers, not augmented: x [*shape, ...], y [*shape] or [*shape, T]."""
        device = self.train.labels.device
        return self._rows(samples.to(device), torch.arange(len(samples), device=device), shape)

    def _rows(
        self, samples: Samples, index: Tensor, shape: Sequence[int], draws: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        inputs, targets = samples.raw(index)
        x = self.augmentation.prepare(inputs, samples.sources.index_select(0, index), draws)
        return x.view(*shape, *x.shape[1:]), targets.view(*shape, *targets.shape[1:])

    def evaluation(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The whole test set in order, not augmented: x [n, ...], y [n] or [n, T], source of each sample [n]."""
        everything = torch.arange(len(self.test), device=self.test.labels.device)
        first, _ = self._rows(self.test, everything[:1], (1,))
        if self._prepared_test is None and len(everything) * first.nbytes <= CACHE_BYTES:
            self._prepared_test = self._rows(self.test, everything, everything.shape)
        for start in range(0, len(everything), batch_size):
            part = slice(start, start + batch_size)
            if self._prepared_test is not None:
                x, y = (tensor[part] for tensor in self._prepared_test)
            else:
                x, y = self._rows(self.test, everything[part], everything[part].shape)
            yield x, y, self.test.sources[part]
