"""How the training samples are spread over the workers.

A rule is a function `f(labels [N], sources [N], num_workers, seed, **options)` that returns one int64 index array per
worker; the arrays are disjoint and equally long, and what does not divide evenly is left out. The shards of a run
stay fixed. UserError: more workers than samples (or than a rule can serve), or a bad option.
"""

import numpy as np

from sasg import randomness
from sasg.errors import UserError
from sasg.randomness import Purpose


def iid(labels: np.ndarray, sources: np.ndarray, num_workers: int, seed: int) -> list[np.ndarray]:
    """One random permutation cut into equal shards (the paper's)."""
    return cut(randomness.permutation(seed, Purpose.SHARDS, n=len(labels)), num_workers)


def contiguous(labels: np.ndarray, sources: np.ndarray, num_workers: int, seed: int) -> list[np.ndarray]:
    """Cut in the order of the data set: pieces of a text, the same for every seed."""
    return cut(np.arange(len(labels)), num_workers)


def by_class(labels: np.ndarray, sources: np.ndarray, num_workers: int, seed: int) -> list[np.ndarray]:
    """Sorted by label and cut into contiguous shards; random order within a label."""
    order = randomness.permutation(seed, Purpose.SHARDS, n=len(labels))
    return cut(order[np.argsort(labels[order], kind="stable")], num_workers)


def dirichlet(
    labels: np.ndarray, sources: np.ndarray, num_workers: int, seed: int, alpha: float = 0.5
) -> list[np.ndarray]:
    """Each worker draws its class proportions from Dirichlet(alpha): the smaller alpha, the fewer classes per worker.

    Worker by worker is filled from the classes' pools. When a pool runs empty, the rest comes from the worker's
    other classes in proportion, so late workers deviate from their draw: the price of equally long shards.
    """
    if not 0 < alpha < float("inf"):
        raise UserError(f"dirichlet shards: alpha is {alpha}, but must be positive and finite")
    size = _shard_size(len(labels), num_workers)
    order = randomness.permutation(seed, Purpose.SHARDS, n=len(labels))
    classes, num_per_class = np.unique(labels, return_counts=True)
    pools = np.split(order[np.argsort(labels[order], kind="stable")], np.cumsum(num_per_class)[:-1])
    used = np.zeros(len(classes), dtype=np.int64)
    shards = []
    for worker in range(num_workers):
        # The only draw through a Generator method: numpy promises its stream per version, not for ever.
        generator = np.random.Generator(randomness.philox(seed, Purpose.DIRICHLET, worker))
        take = _fill(generator.dirichlet(np.full(len(classes), alpha)), num_per_class - used, size)
        shards.append(np.concatenate([pool[u : u + t] for pool, u, t in zip(pools, used, take, strict=True)]))
        used += take
    return shards


def by_source(labels: np.ndarray, sources: np.ndarray, num_workers: int, seed: int) -> list[np.ndarray]:
    """Worker m holds images of source m mod S only; all shards are cut to the shortest one's length."""
    num_sources = int(sources.max()) + 1
    if num_workers < num_sources:
        raise UserError(
            f"by_source shards: {num_workers} workers cannot hold {num_sources} sources; "
            f"use at least {num_sources} workers"
        )
    order = randomness.permutation(seed, Purpose.SHARDS, n=len(labels))
    shards: list[np.ndarray] = [order] * num_workers
    for source in range(num_sources):
        workers = range(source, num_workers, num_sources)
        for worker, shard in zip(workers, cut(order[sources[order] == source], len(workers)), strict=True):
            shards[worker] = shard
    shortest = min(map(len, shards))
    return [shard[:shortest] for shard in shards]


def _shard_size(num_samples: int, num_workers: int) -> int:
    if num_workers > num_samples:
        raise UserError(f"{num_workers} workers cannot share {num_samples} training samples; use fewer workers")
    return num_samples // num_workers


def cut(order: np.ndarray, num_workers: int) -> list[np.ndarray]:
    """Contiguous equal parts."""
    size = _shard_size(len(order), num_workers)
    return [order[m * size : (m + 1) * size] for m in range(num_workers)]


def _fill(proportions: np.ndarray, stock: np.ndarray, size: int) -> np.ndarray:
    """How many samples to take of each class: near size * proportions, at most `stock`, `size` in all."""
    take = np.zeros_like(stock)
    # Each pass either completes the shard or empties a pool, so there are at most as many passes as classes.
    while (missing := size - int(take.sum())) > 0:
        left = stock - take
        weights = np.where(left > 0, proportions, 0.0)
        if weights.sum() == 0:
            weights = left.astype(np.float64)
        take += np.minimum(_round_to_sum(weights / weights.sum(), missing), left)
    return take


def _round_to_sum(proportions: np.ndarray, total: int) -> np.ndarray:
    """Integers near total * proportions that add up to `total` (largest remainders; ties to the lowest class)."""
    exact = proportions * total
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return counts
