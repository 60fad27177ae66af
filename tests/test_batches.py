"""Mini-batches: complete, repeatable, the same for any spread of workers over processes."""

import numpy as np
import pytest
import torch

from sasg.errors import UserError
from sasg.problem import batches as module
from sasg.problem.batches import Batches
from sasg.problem.datasets import Dataset, Source, from_arrays
from sasg.problem.draws import Counter


def numbered(num_samples: int = 103, **steps) -> Dataset:
    """Every image holds its own number in all pixels, which normalisation leaves as it is; labels are number % 7."""
    number = np.arange(num_samples, dtype=np.uint8)
    images = np.broadcast_to(number[:, None, None], (num_samples, 6, 6)).copy()
    arrays = {"x_train": images, "y_train": number % 7, "x_test": images[:25], "y_test": number[:25] % 7}
    return from_arrays(Source("numbered", (0.0,), (1 / 255,), **steps), 7, arrays, "test")


def shards(num_workers: int, size: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).permutation(num_workers * size).reshape(num_workers, size))


def epoch_of(batches: Batches, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, W, B, C, H, W] and y [T, W, B] of a whole epoch."""
    batches.start_epoch(epoch)
    rows = [batches.batch(torch.tensor(t)) for t in range(batches.iterations_per_epoch)]
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


def test_an_epoch_passes_every_shard_once():
    parts = shards(4, 25)
    batches = Batches(numbered(), parts, range(4), batch_size=5, seed=1, draws=Counter(1))
    x, y = epoch_of(batches, 0)
    assert x.shape == (5, 4, 5, 1, 6, 6) and y.shape == (5, 4, 5) and y.dtype == torch.int64
    numbers = x[..., 0, 0, 0].round().long()
    assert torch.equal(y, numbers % 7)
    for worker, part in enumerate(parts):
        assert sorted(numbers[:, worker].flatten().tolist()) == sorted(part.tolist())


def test_the_remainder_is_left_out_and_changes():
    batches = Batches(numbered(), shards(4, 25), range(4), batch_size=8, seed=1, draws=Counter(1))
    assert batches.iterations_per_epoch == 3
    seen = [set(epoch_of(batches, epoch)[0][:, 0].flatten().tolist()) for epoch in (0, 1)]
    assert [len(s) for s in seen] == [24, 24] and seen[0] != seen[1]


@pytest.mark.parametrize("steps", [{}, {"flip": True}])
def test_full_batches_are_the_shards_in_their_order(steps):
    parts = shards(4, 25)
    batches = Batches(numbered(**steps), parts, range(1, 3), batch_size="full", seed=1, draws=Counter(1))
    assert batches.iterations_per_epoch == 1 and batches.is_full
    for epoch in (0, 1):
        x, y = epoch_of(batches, epoch)
        assert x.shape == (1, 2, 25, 1, 6, 6)
        assert torch.equal(x[0, ..., 0, 0, 0].round().long(), torch.from_numpy(np.stack(parts[1:3])))
        assert torch.equal(y, x[..., 0, 0, 0].round().long() % 7)


def test_epochs_differ_and_repeat():
    batches = Batches(numbered(crop=1, rotation=15.0), shards(4, 25), range(4), batch_size=5, seed=1, draws=Counter(1))
    first, second, again = (epoch_of(batches, epoch)[0] for epoch in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    other = Batches(numbered(crop=1, rotation=15.0), shards(4, 25), range(4), batch_size=5, seed=2, draws=Counter(2))
    assert not torch.equal(first, epoch_of(other, 0)[0])


def test_any_spread_over_processes_sees_the_same():
    dataset, parts = numbered(crop=2, flip=True, rotation=15.0), shards(5, 20)
    x, y = epoch_of(Batches(dataset, parts, range(5), batch_size=4, seed=3, draws=Counter(3)), 2)
    for held in (range(3), range(3, 5), range(4, 5)):
        mine_x, mine_y = epoch_of(Batches(dataset, parts, held, batch_size=4, seed=3, draws=Counter(3)), 2)
        assert torch.equal(mine_x, x[:, held.start : held.stop])
        assert torch.equal(mine_y, y[:, held.start : held.stop])


def test_start_epoch_fills_the_same_tensors():
    """A captured graph reads them by address."""
    batches = Batches(numbered(crop=1), shards(2, 20), range(2), batch_size=5, seed=0, draws=Counter(0))
    addresses = batches._order.data_ptr(), batches._draws.data_ptr()
    batches.start_epoch(0)
    batches.start_epoch(1)
    assert addresses == (batches._order.data_ptr(), batches._draws.data_ptr())


def test_a_thousand_workers_and_shards_of_one():
    dataset = numbered(100)
    parts = [np.array([i % 100]) for i in range(1000)]
    x, _ = epoch_of(Batches(dataset, parts, range(1000), batch_size=1, seed=0, draws=Counter(0)), 0)
    assert torch.equal(x[0, :, 0, 0, 0, 0].round().long(), torch.arange(1000) % 100)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_captured_graph_gives_the_cpus_batches(dtype):
    dataset, parts = numbered(crop=2, flip=True, rotation=15.0), shards(5, 20)
    there = Batches(dataset, parts, range(5), batch_size=4, seed=3, draws=Counter(3), device="cuda", dtype=dtype)
    here = Batches(dataset, parts, range(5), batch_size=4, seed=3, draws=Counter(3), device="cpu", dtype=dtype)
    there.start_epoch(0)
    position = torch.zeros((), dtype=torch.int64, device="cuda")
    there.batch(position)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x, y = there.batch(position)
        position += 1
    for epoch in (1, 2):
        there.start_epoch(epoch)
        position.zero_()
        expected_x, expected_y = epoch_of(here, epoch)
        for t in range(there.iterations_per_epoch):
            graph.replay()
            assert torch.equal(x.cpu(), expected_x[t]) and torch.equal(y.cpu(), expected_y[t])


@pytest.mark.parametrize("is_cached", [True, False])
def test_evaluation_is_the_whole_test_set_in_order(monkeypatch, is_cached):
    if not is_cached:
        monkeypatch.setattr(module, "CACHE_BYTES", 0)
    dataset = numbered(crop=2, flip=True)
    batches = Batches(dataset, shards(2, 20), range(2), batch_size=5, seed=0, draws=Counter(0), dtype=torch.float64)
    for _ in range(2):
        x, y, sources = (torch.cat(parts) for parts in zip(*batches.evaluation(8), strict=True))
        assert x.dtype == torch.float64 and x.shape == (25, 1, 6, 6)
        assert torch.equal(x[:, 0, 3, 3].round().long(), torch.arange(25))
        assert torch.equal(y, torch.arange(25) % 7) and not sources.any()


@pytest.mark.parametrize("batch_size", [21, 0])
def test_a_batch_that_does_not_fit_a_shard_is_refused(batch_size):
    with pytest.raises(UserError, match=f"task.batch_size={batch_size}: must be between 1 and 20"):
        Batches(numbered(), shards(2, 20), range(2), batch_size=batch_size, seed=0, draws=Counter(0))
