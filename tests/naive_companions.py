"""The companions written once more, from their definitions alone: one worker, one entry after another.

Nothing of the suite is used but the mini-batches and the starting parameters that the tests hand in. Vectors are flat
float64 tensors or lists of floats; the rule of LASG is the naive loop's of `naive`.
"""

import math
import statistics
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from naive import NaiveServer
from naive_vote import mix
from torch import Tensor

Compress = Callable[[list[float], list[float]], list[float]]
"""A vector, and as many numbers in [0, 1) as it has entries -> what is sent."""


@dataclass
class Numbers:
    """The suite's draws: SplitMix64 in unsigned words, keyed by (seed, stream), iteration and worker."""

    seed: int
    stream: int = 0  # among the method's

    def __call__(self, iteration: int, worker: int | None, count: int) -> list[float]:
        gamma = np.uint64(0x9E3779B97F4A7C15)
        key = np.random.Philox(key=np.array([self.seed, 6 << 48], dtype=np.uint64)).random_raw(self.stream + 1)[-1:]
        state = mix(np.array([iteration], dtype=np.uint64) * gamma + key)
        state = mix(state + np.array([0 if worker is None else worker + 1], dtype=np.uint64) * gamma)
        words = mix(state + np.arange(1, count + 1, dtype=np.uint64) * gamma)
        return [int(word) / 2**53 for word in words >> np.uint64(11)]


# -- compressors ----------------------------------------------------------------------------------


def random_k(density: float, unbiased: bool) -> Compress:
    def compress(v, lots):
        kept = max(1, math.floor(density * len(v)))
        chosen = set(sorted(range(len(v)), key=lambda i: (-lots[i], i))[:kept])
        return [x * (len(v) / kept if unbiased else 1) if i in chosen else 0.0 for i, x in enumerate(v)]

    return compress


def top_k(density: float) -> Compress:
    def compress(v, _):
        kept = set(sorted(range(len(v)), key=lambda i: (-abs(v[i]), i))[: max(1, math.floor(density * len(v)))])
        return [x if i in kept else 0.0 for i, x in enumerate(v)]

    return compress


def qsgd(num_levels: int, bucket_size: int) -> Compress:
    def compress(v, lots):
        out = []
        for start in range(0, len(v), bucket_size):
            bucket = v[start : start + bucket_size]
            norm = math.sqrt(math.fsum(x * x for x in bucket))
            for x, lot in zip(bucket, lots[start:]):
                place = num_levels * abs(x) / norm
                level = math.floor(place) + (lot >= 1 - (place - math.floor(place)))
                out.append(math.copysign(norm * level / num_levels, x) if x else 0.0)
        return out

    return compress


def natural(v: list[float], lots: list[float]) -> list[float]:
    out = []
    for x, lot in zip(v, lots):
        fraction, exponent = math.frexp(abs(x))  # |x| = 2 fraction 2^(exponent - 1)
        out.append(math.copysign(math.ldexp(1.0, exponent - 1 + (lot < 2 * fraction - 1)), x) if x else 0.0)
    return out


def terngrad(sizes: list[int]) -> Compress:
    def compress(v, lots):
        out, start = [], 0
        for n in sizes:
            part = v[start : start + n]
            bound = 2.5 * statistics.pstdev(part)
            clipped = [max(-bound, min(bound, x)) for x in part]
            s = max(map(abs, clipped))
            for x, lot in zip(clipped, lots[start:]):
                out.append(math.copysign(s, x) if lot < abs(x) / s else 0.0)
            start += n
        return out

    return compress


def scaled_sign(sizes: list[int]) -> Compress:
    def compress(v, _):
        out, start = [], 0
        for n in sizes:
            part = v[start : start + n]
            mean = math.fsum(map(abs, part)) / n
            out += [mean if x >= 0 else -mean for x in part]
            start += n
        return out

    return compress


def sign(v: list[float], _) -> list[float]:
    return [1.0 if x >= 0 else -1.0 for x in v]


def float16(v: list[float], _) -> list[float]:
    """By way of single precision, as torch casts."""
    singles = [struct.unpack("f", struct.pack("f", x))[0] for x in v]
    return [struct.unpack("e", struct.pack("e", x))[0] for x in singles]


def bfloat16(v: list[float], _) -> list[float]:
    out = []
    for x in v:
        (word,) = struct.unpack("I", struct.pack("f", x))
        up = (word & 0xFFFF) > 0x8000 or ((word & 0xFFFF) == 0x8000 and word >> 16 & 1)  # ties to even
        out.append(struct.unpack("f", struct.pack("I", (word >> 16) + up << 16))[0])
    return out


def identity(v: list[float], _) -> list[float]:
    return v


# -- servers --------------------------------------------------------------------------------------


def plain(mean: list[float]) -> list[float]:
    return mean


def majority(scale: float) -> Callable:
    return lambda mean: [scale if x >= 0 else -scale for x in mean]


class HeavyBall:
    def __init__(self, momentum: float, nesterov: bool, scale: float):
        self.momentum, self.nesterov, self.scale, self.m = momentum, nesterov, scale, None

    def __call__(self, mean: list[float]) -> list[float]:
        self.m = [self.momentum * m + g for m, g in zip(self.m or [0.0] * len(mean), mean)]
        ahead = [g + self.momentum * m for m, g in zip(self.m, mean)] if self.nesterov else self.m
        return [self.scale * x for x in ahead]


class Adam:
    def __init__(self, amsgrad: bool, corrects: bool, scale: float):
        self.amsgrad, self.corrects, self.scale, self.t = amsgrad, corrects, scale, 0

    def __call__(self, mean: list[float]) -> list[float]:
        if not self.t:
            self.m, self.v, self.peak = ([0.0] * len(mean) for _ in range(3))
        self.t += 1
        c1, c2 = (1 - b**self.t if self.corrects else 1 for b in (0.9, 0.999))
        self.m = [0.9 * m + 0.1 * g for m, g in zip(self.m, mean)]
        self.v = [0.999 * v + 0.001 * g * g for v, g in zip(self.v, mean)]
        self.peak = [max(p, v) for p, v in zip(self.peak, self.v)]
        second = self.peak if self.amsgrad else self.v
        return [self.scale * (m / c1) / (math.sqrt(v / c2) + 1e-8) for m, v in zip(self.m, second)]


# -- the loop -------------------------------------------------------------------------------------


@dataclass
class NaiveCompanion(NaiveServer):
    """A trigger (`settings.method`: "sgd" always uploads, "lasg" by rule (6)), and what follows it.

    scales_uploads: the step size multiplies gradients, else the update. has_memory: of what was not sent.
    momentum: of the worker. The server makes of the mean of (latest) gradients the direction that eta multiplies; where
    uploads are scaled it divides by eta first.
    """

    compress: Compress = identity
    numbers: Numbers | None = None
    shares_numbers: bool = False
    scales_uploads: bool = True
    has_memory: bool = False
    momentum: float = 0.0
    server: Callable[[list[float]], list[float]] = plain
    momenta: dict[int, Tensor] = field(default_factory=dict)

    def step(self, x: Tensor, y: Tensor, epoch: int) -> list[str | None]:
        s = self.settings
        gamma = s.step_sizes[epoch]
        threshold_gamma = s.step_sizes[max(0, epoch - 1)] if s.published else gamma
        reasons = []
        for m, worker in enumerate(self.workers):
            gradient = self.gradient(self.parameters, x[m], y[m])
            reason = "always" if s.method == "sgd" else self._reason(worker, gradient, x[m], y[m], threshold_gamma)
            reasons.append(reason)
            self.momenta[m] = self.momentum * self.momenta.get(m, 0.0) + (1 - self.momentum) * gradient
            if reason is None:
                worker.delay += 1
                continue
            vector = (gamma if self.scales_uploads else 1.0) * self.momenta[m] + worker.error
            worker.last_upload = torch.tensor(self.compress(vector.tolist(), self._lots(m)), dtype=torch.float64)
            if self.has_memory:
                worker.error = vector - worker.last_upload
            worker.comparison = self.parameters
            worker.delay = 0 if s.published and self.iteration < s.max_delay else 1
        eta = gamma * s.num_workers
        mean = sum(worker.last_upload for worker in self.workers) / s.num_workers
        mean = mean / gamma if self.scales_uploads else mean
        update = eta * torch.tensor(self.server(mean.tolist()), dtype=torch.float64)
        self.parameters = self.parameters - update
        self.differences.append(-update)
        self.iteration += 1
        return reasons

    def _lots(self, m: int) -> list[float]:
        if self.numbers is None:
            return []
        return self.numbers(self.iteration, None if self.shares_numbers else m, len(self.parameters))


@dataclass
class NaiveEstimates(NaiveServer):
    """EF21 (rate 1), EF21-SGDM (weight < 1) and DIANA: everyone uploads C(v - h); h is known at both ends."""

    compress: Compress = identity
    numbers: Numbers | None = None
    rate: float = 1.0
    weight: float = 1.0

    def step(self, x: Tensor, y: Tensor, epoch: int) -> None:
        num_workers, d = self.settings.num_workers, len(self.parameters)
        if self.iteration == 0:
            self.h, self.v, self.server_h = [[0.0] * d for _ in range(num_workers)], [None] * num_workers, [0.0] * d
        mean = [0.0] * d
        for m in range(num_workers):
            g = self.gradient(self.parameters, x[m], y[m]).tolist()
            old, a = self.v[m] or g, self.weight
            self.v[m] = [(1 - a) * v + a * new for v, new in zip(old, g)]
            lots = self.numbers(self.iteration, m, d) if self.numbers else []
            sent = self.compress([v - h for v, h in zip(self.v[m], self.h[m])], lots)
            self.h[m] = [h + self.rate * c for h, c in zip(self.h[m], sent)]
            mean = [a + c / num_workers for a, c in zip(mean, sent)]
        eta = self.settings.step_sizes[epoch] * num_workers
        step = [eta * (h + c) for h, c in zip(self.server_h, mean)]
        self.server_h = [h + self.rate * c for h, c in zip(self.server_h, mean)]
        self.parameters = self.parameters - torch.tensor(step, dtype=torch.float64)
        self.iteration += 1


@dataclass
class NaiveMarina(NaiveServer):
    """coins and numbers: of the method's two streams. `heads` are the iterations with whole gradients."""

    probability: float = 1.0
    compress: Compress = identity
    coins: Numbers | None = None
    numbers: Numbers | None = None
    heads: list[int] = field(default_factory=list)

    def step(self, x: Tensor, y: Tensor, epoch: int) -> None:
        num_workers, d = self.settings.num_workers, len(self.parameters)
        is_whole = self.iteration == 0 or self.coins(self.iteration, None, 1)[0] < self.probability
        if is_whole:
            self.heads.append(self.iteration)
            self.estimate = [0.0] * d
        for m in range(num_workers):
            sent = self.gradient(self.parameters, x[m], y[m]).tolist()
            if not is_whole:
                before = self.gradient(self.previous, x[m], y[m]).tolist()
                lots = self.numbers(self.iteration, None, d)
                sent = self.compress([new - old for new, old in zip(sent, before)], lots)
            self.estimate = [g + c / num_workers for g, c in zip(self.estimate, sent)]
        self.previous = self.parameters
        eta = self.settings.step_sizes[epoch] * num_workers
        self.parameters = self.parameters - eta * torch.tensor(self.estimate, dtype=torch.float64)
        self.iteration += 1
