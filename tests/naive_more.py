"""More companions written once more, from their definitions alone: one worker, one entry after another, in float64.

Nothing of the suite is used but the mini-batches and the starting parameters that the tests hand in.
"""

from dataclasses import dataclass

import numpy as np
import torch
from naive import NaiveServer
from naive_companions import Compress, Numbers, identity, random_k, top_k
from torch import Tensor


@dataclass
class NaivePowerSGD(NaiveServer):
    """PowerSGD; the columns of P come from a QR decomposition, as D' depends on what they span alone."""

    rank: int = 1
    numbers: Numbers | None = None
    momentum: float | None = None  # None: no optimiser
    scale: float = 1.0

    def step(self, x: Tensor, y: Tensor, epoch: int) -> None:
        shapes = [tuple(p.shape) for p in self.model.parameters()]
        gradients = [self.gradient(self.parameters, x[m], y[m]).numpy() for m in range(self.settings.num_workers)]
        if self.iteration == 0:
            self.memories = [np.zeros_like(g) for g in gradients]
            self.m, self.factors = np.zeros_like(gradients[0]), self._first_factors(shapes)
        approximation, start = np.zeros_like(gradients[0]), 0
        for number, shape in enumerate(shapes):
            entries = slice(start, start := start + int(np.prod(shape)))
            if number not in self.factors:
                approximation[entries] = sum(g[entries] for g in gradients) / len(gradients)
                continue
            given = [(g + e)[entries].reshape(shape[0], -1) for g, e in zip(gradients, self.memories, strict=True)]
            p = np.linalg.qr(sum(own @ self.factors[number] for own in given) / len(given))[0]
            self.factors[number] = sum(own.T @ p for own in given) / len(given)
            product = p @ self.factors[number].T
            approximation[entries] = product.ravel()
            for own, e in zip(given, self.memories, strict=True):
                e[entries] = (own - product).ravel()
        direction = approximation
        if self.momentum is not None:
            self.m = self.momentum * self.m + approximation
            direction = self.scale * (approximation + self.m)
        eta = self.settings.step_sizes[epoch] * self.settings.num_workers
        self.parameters = self.parameters - eta * torch.from_numpy(direction)
        self.iteration += 1

    def _first_factors(self, shapes: list[tuple[int, ...]]) -> dict[int, np.ndarray]:
        """By tensor: of those of two and more axes that are longer than their factors."""
        rests = {n: int(np.prod(shape[1:])) for n, shape in enumerate(shapes) if len(shape) > 1}
        rests = {n: k for n, k in rests.items() if self.rank * (shapes[n][0] + k) < shapes[n][0] * k}
        lots = np.array(self.numbers(0, None, self.rank * sum(rests.values()))) * 2 - 1
        parts = np.split(lots, np.cumsum([k * self.rank for k in rests.values()])[:-1])
        return {n: part.reshape(k, self.rank) for (n, k), part in zip(rests.items(), parts, strict=True)}


@dataclass
class NaiveScaleCom(NaiveServer):
    """By the whole vector."""

    density: float = 1.0
    rate: float = 1.0

    def step(self, x: Tensor, y: Tensor, epoch: int) -> None:
        num_workers, d = self.settings.num_workers, len(self.parameters)
        if self.iteration == 0:
            self.memories, self.chosen = [[0.0] * d for _ in range(num_workers)], []
        gradients = [self.gradient(self.parameters, x[m], y[m]).tolist() for m in range(num_workers)]
        sums = [[g + e for g, e in zip(*pair)] for pair in zip(gradients, self.memories)]
        leaders = top_k(self.density)(sums[self.iteration % num_workers], [])
        positions = {i for i, value in enumerate(leaders) if value}
        self.chosen.append(positions)
        step = [sum(v[i] for v in sums) / num_workers if i in positions else 0.0 for i in range(d)]
        for m, (v, e) in enumerate(zip(sums, self.memories)):
            kept = [0.0 if i in positions else value for i, value in enumerate(v)]
            self.memories[m] = [(1 - self.rate) * old + self.rate * new for old, new in zip(e, kept)]
        eta = self.settings.step_sizes[epoch] * num_workers
        self.parameters = self.parameters - eta * torch.tensor(step, dtype=torch.float64)
        self.iteration += 1


@dataclass
class NaiveDGC(NaiveServer):
    """By the whole vector. densities: by epoch, the last one for all that follow."""

    densities: tuple[float, ...] = ()
    momentum: float = 0.9
    scale: float = 1.0  # of the step size

    def step(self, x: Tensor, y: Tensor, epoch: int) -> None:
        num_workers, d = self.settings.num_workers, len(self.parameters)
        if self.iteration == 0:
            self.u, self.v = ([[0.0] * d for _ in range(num_workers)] for _ in range(2))
        compress = top_k(self.densities[min(epoch, len(self.densities) - 1)])
        step = [0.0] * d
        for m in range(num_workers):
            g = self.gradient(self.parameters, x[m], y[m]).tolist()
            u = [self.momentum * old + new for old, new in zip(self.u[m], g)]
            v = [old + new for old, new in zip(self.v[m], u)]
            sent = compress(v, [])
            step = [a + s / num_workers for a, s in zip(step, sent)]
            self.u[m] = [0.0 if s else value for s, value in zip(sent, u)]
            self.v[m] = [0.0 if s else value for s, value in zip(sent, v)]
        eta = self.settings.step_sizes[epoch] * num_workers * self.scale
        self.parameters = self.parameters - eta * torch.tensor(step, dtype=torch.float64)
        self.iteration += 1


@dataclass
class NaiveQsparse(NaiveServer):
    """By the whole vector. quantise: of the values that top-k keeps, in their order."""

    density: float = 1.0
    quantise: Compress = identity
    numbers: Numbers | None = None

    def step(self, batches: list[tuple[Tensor, Tensor]], epoch: int) -> None:
        num_workers, d = self.settings.num_workers, len(self.parameters)
        if self.iteration == 0:
            self.memories = [[0.0] * d for _ in range(num_workers)]
        eta = self.settings.step_sizes[epoch] * num_workers
        step = [0.0] * d
        for m in range(num_workers):
            moved = torch.zeros(d, dtype=torch.float64)  # w - w_m
            for x, y in batches:
                moved = moved + eta * self.gradient(self.parameters - moved, x[m], y[m])
            moved = [e + w for e, w in zip(self.memories[m], moved.tolist())]
            kept = {i: value for i, value in enumerate(top_k(self.density)(moved, [])) if value}
            lots = self.numbers(self.iteration, m, len(kept)) if self.numbers else []
            sent = dict(zip(kept, self.quantise(list(kept.values()), lots)))
            self.memories[m] = [value - sent.get(i, 0.0) for i, value in enumerate(moved)]
            step = [a + sent.get(i, 0.0) / num_workers for i, a in enumerate(step)]
        self.parameters = self.parameters - torch.tensor(step, dtype=torch.float64)
        self.iteration += 1


@dataclass
class NaiveCSER(NaiveServer):
    """By models x_m and memories e_m, as the paper has it; `parameters` are what x_m - e_m is, the same for all.

    The two compressors are random-k of these densities, with `numbers` of their own; anchor: the mean of the models, by
    the mean gradients alone.
    """

    densities: tuple[float, float] = (1.0, 1.0)
    numbers: tuple[Numbers, Numbers] | None = None

    def step(self, batches: list[tuple[Tensor, Tensor]], epoch: int) -> None:
        num_workers, d = self.settings.num_workers, len(self.parameters)
        if self.iteration == 0:
            self.models = [self.parameters] * num_workers
            self.memories = [torch.zeros(d, dtype=torch.float64)] * num_workers
            self.anchor = self.parameters
        eta = self.settings.step_sizes[epoch] * num_workers
        for h, (x, y) in enumerate(batches):
            steps = [eta * self.gradient(self.models[m], x[m], y[m]) for m in range(num_workers)]
            self.anchor = self.anchor - sum(steps) / num_workers
            together, alone = self._psync(steps, 0, self.iteration * len(batches) + h)
            self.models = [model - p for model, p in zip(self.models, together)]
            self.memories = [e - r for e, r in zip(self.memories, alone)]
        together, alone = self._psync(self.memories, 1, self.iteration)
        self.models = [model + new - e for model, new, e in zip(self.models, together, self.memories)]
        self.memories = alone
        self.parameters = self.models[0] - self.memories[0]
        self.iteration += 1

    def _psync(self, vectors: list[Tensor], which: int, call: int) -> tuple[list[Tensor], list[Tensor]]:
        """The mean of what is sent + what remains, and what remains, by worker."""
        compress, numbers = random_k(self.densities[which], False), self.numbers[which]
        lots = numbers(call, None, len(vectors[0]))
        sent = [torch.tensor(compress(v.tolist(), lots), dtype=torch.float64) for v in vectors]
        remains = [v - c for v, c in zip(vectors, sent)]
        return [sum(sent) / len(sent) + r for r in remains], remains


@dataclass
class NaiveDownlink(NaiveServer):
    """The four methods, whose update is compressed at the server, with a memory of what is not sent."""

    compress_update: Compress = identity

    def step(self, x: Tensor, y: Tensor, epoch: int) -> list[str | None]:
        before, num_workers = self.parameters, self.settings.num_workers
        if self.iteration == 0:
            self.memory = torch.zeros_like(before)
        reasons = super().step(x, y, epoch)
        update = sum(worker.last_upload for worker in self.workers)
        vector = self.memory + (update if self.settings.published else update / num_workers)
        sent = torch.tensor(self.compress_update(vector.tolist(), []), dtype=torch.float64)
        self.memory = vector - sent
        self.parameters, self.differences[-1] = before - sent, -sent
        return reasons
