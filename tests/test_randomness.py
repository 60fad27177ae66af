"""The draws are fixed for ever, independent between keys, and refuse what a key cannot hold."""

import numpy as np
import pytest

from sasg import randomness
from sasg.randomness import Purpose

GOLDEN = [1819821807830108815, 4042329573538992860, 15960683222631457119]


def test_stream_is_the_known_one():
    words = randomness.bits(1, Purpose.SHUFFLE, worker=2, epoch=3, count=3)
    assert words.dtype == np.uint64
    assert [int(w) for w in words] == GOLDEN


def test_a_draw_depends_on_its_key_only():
    first = randomness.bits(1, Purpose.SHUFFLE, 2, 3, count=8)
    randomness.bits(9, Purpose.AUGMENT, count=100)
    assert (randomness.bits(1, Purpose.SHUFFLE, 2, 3, count=5) == first[:5]).all()


def test_every_part_of_the_key_matters():
    keys = [(0, Purpose.SHUFFLE, 0, 0), (1, Purpose.SHUFFLE, 0, 0), (0, Purpose.AUGMENT, 0, 0)]
    keys += [(0, Purpose.SHUFFLE, 1, 0), (0, Purpose.SHUFFLE, 0, 1), (0, Purpose.SHUFFLE, 2**24 - 1, 2**24 - 1)]
    words = [int(randomness.bits(*key, count=1)[0]) for key in keys]
    assert len(set(words)) == len(keys)


def test_uniform_fills_its_range_evenly():
    u = randomness.uniform(0, Purpose.AUGMENT, count=20_000)
    assert u.dtype == np.float64 and u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / u.size)
    counts = np.bincount((9 * u).astype(int), minlength=9)
    assert counts.size == 9 and np.abs(counts - 20_000 / 9).max() < 5 * np.sqrt(20_000 / 9)


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_permutation_is_one(n):
    order = randomness.permutation(3, Purpose.SHARDS, n=n)
    assert order.dtype == np.int64
    assert (np.sort(order) == np.arange(n)).all()
    assert n < 2 or (order != np.arange(n)).any()


def test_torch_seed_is_accepted_by_torch():
    torch = pytest.importorskip("torch")
    seeds = [randomness.torch_seed(s, Purpose.INIT) for s in range(50)]
    assert len(set(seeds)) == 50 and all(0 <= s < 2**63 for s in seeds)
    torch.Generator().manual_seed(max(seeds))


@pytest.mark.parametrize("key", [(-1, 0, 0), (2**63, 0, 0), (0, 2**24, 0), (0, -1, 0), (0, 0, 2**24)])
def test_keys_out_of_range_are_refused(key):
    seed, worker, epoch = key
    with pytest.raises(ValueError, match="outside"):
        randomness.bits(seed, Purpose.SHUFFLE, worker, epoch, count=1)
