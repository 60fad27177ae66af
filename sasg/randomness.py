"""Counter-based random draws: every draw is a function of (seed, purpose, worker, epoch).

No generator state exists, so CPU and GPU, any number of processes and a resumed run see the same draws. All of
them come from the raw 64-bit stream of numpy's Philox bit generator, which numpy guarantees to stay the same
(the methods of `numpy.random.Generator` may change between versions).
"""

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What a draw is for. The numbers are part of every result: never renumber, only append."""

    INIT = 1
    SHARDS = 2
    SHUFFLE = 3
    AUGMENT = 4
    DIRICHLET = 5
    COMPRESS = 6
    SPLIT = 7
    VOTE = 8


def philox(seed: int, purpose: Purpose, worker: int = 0, epoch: int = 0) -> np.random.Philox:
    """The bit generator of one purpose, worker and epoch. ValueError for a number that its key cannot hold."""
    for name, value, limit in (("seed", seed, 2**63), ("worker", worker, 2**24), ("epoch", epoch, 2**24)):
        if not 0 <= value < limit:
            raise ValueError(f"{name} {value} is outside [0, {limit})")
    packed = (int(purpose) << 48) | (int(worker) << 24) | int(epoch)
    return np.random.Philox(key=np.array([seed, packed], dtype=np.uint64))


def bits(seed: int, purpose: Purpose, worker: int = 0, epoch: int = 0, *, count: int) -> np.ndarray:
    """`count` independent uint64 words."""
    return philox(seed, purpose, worker, epoch).random_raw(count)


def uniform(seed: int, purpose: Purpose, worker: int = 0, epoch: int = 0, *, count: int) -> np.ndarray:
    """`count` float64 numbers in [0, 1), multiples of 2^-53."""
    return (bits(seed, purpose, worker, epoch, count=count) >> np.uint64(11)) * 2.0**-53


def permutation(seed: int, purpose: Purpose, worker: int = 0, epoch: int = 0, *, n: int) -> np.ndarray:
    """A random order of 0..n-1 (int64)."""
    return np.argsort(bits(seed, purpose, worker, epoch, count=n), kind="stable")


def torch_seed(seed: int, purpose: Purpose) -> int:
    """A seed for `torch.manual_seed`, in [0, 2^63)."""
    return int(bits(seed, purpose, count=1)[0] >> np.uint64(1))


def device_uniform(word: int, draw: Tensor, count: int) -> Tensor:
    """`count` float64 numbers in (0, 1), odd multiples of 2^-53, computed where `draw` is, without waiting for it.

    For draws in every iteration, which a CUDA graph may hold. word: 64 bits (from `bits`); draw: int64 scalar, its
    number. The stream of SplitMix64 (Steele, Lea, Flood 2014) from the state mix(word + draw * gamma).
    """
    state = mixed(draw * GAMMA + signed(word))
    counters = torch.arange(1, count + 1, device=draw.device).mul_(GAMMA).add_(state)
    return shifted(mixed(counters), 12).double().add_(0.5).mul_(2.0**-52)


def signed(word: int) -> int:
    """The int64 with the same bits."""
    return word - 2**64 if word >= 2**63 else word


#: SplitMix64's increment
GAMMA, *_FACTORS = map(signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mixed(numbers: Tensor) -> Tensor:
    """SplitMix64's output function, in place; int64 arithmetic wraps as that of 64-bit words does."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        numbers = numbers.bitwise_xor_(shifted(numbers, shift)).mul_(factor)
    return numbers.bitwise_xor_(shifted(numbers, 31))


def shifted(numbers: Tensor, shift: int) -> Tensor:
    """64-bit words shifted right; zeros come in from the left."""
    return (numbers >> shift).bitwise_and_(2 ** (64 - shift) - 1)
