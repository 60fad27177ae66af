"""Methods with optimisers at the workers, from their definitions alone: one worker after another, in float64.

Nothing of the suite is used but the mini-batches and the starting parameters that the tests hand in.
"""

import math
from dataclasses import dataclass, field
from functools import partial

import torch
from naive import NaiveServer
from torch import Tensor


@dataclass
class AdamW:
    """w <- (1 - lr wd) w - lr m' / (sqrt(v') + 1e-8), with the moments divided by 1 - b^t; constants are torch's."""

    weight_decay: float
    scale: float = 1.0  # of the step size
    t: int = 0
    m: Tensor | float = 0.0
    v: Tensor | float = 0.0

    def __call__(self, w: Tensor, g: Tensor, eta: float) -> Tensor:
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        step = (self.m / (1 - 0.9**self.t)) / ((self.v / (1 - 0.999**self.t)) ** 0.5 + 1e-8)
        return (1 - eta * self.scale * self.weight_decay) * w - eta * self.scale * step


@dataclass
class Heavy:
    """w <- w - lr m, m = momentum m + g; or with Nesterov's w <- w - lr (g + momentum m)."""

    momentum: float
    nesterov: bool = False
    scale: float = 1.0
    m: Tensor | float = 0.0

    def __call__(self, w: Tensor, g: Tensor, eta: float) -> Tensor:
        self.m = self.momentum * self.m + g
        return w - eta * self.scale * (g + self.momentum * self.m if self.nesterov else self.m)


SGD = partial(Heavy, 0.0)


@dataclass
class NaiveAdamW(NaiveServer):
    """AdamW at the server, of the mean gradient."""

    weight_decay: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self.optimiser = AdamW(self.weight_decay, self.scale)

    def step(self, x: Tensor, y: Tensor, epoch: int) -> list[str]:
        num_workers = self.settings.num_workers
        mean = sum(self.gradient(self.parameters, x[m], y[m]) for m in range(num_workers)) / num_workers
        self.parameters = self.optimiser(self.parameters, mean, self.settings.step_sizes[epoch] * num_workers)
        return ["always"] * num_workers


@dataclass
class NaiveLocal(NaiveServer):
    """H steps of each worker's optimiser, then the server's on the mean difference.

    local: makes a worker's optimiser; server: the server's, None: w falls by the mean. by_gradient: it gets the
    difference divided by the step size. scale: of the lazy rule over `window` exchanges, None: everyone uploads.
    """

    local: type = SGD
    server: Heavy | None = None
    by_gradient: bool = False
    scale: float | None = None
    window: int = 10
    uploaded: list[Tensor] = field(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        self.optimisers = [self.local() for _ in range(self.settings.num_workers)]
        self.silent = [0] * self.settings.num_workers

    def step(self, batches: list[tuple[Tensor, Tensor]], epoch: int) -> list[str | None]:
        eta = self.settings.step_sizes[epoch] * self.settings.num_workers
        moved = []
        for m, optimiser in enumerate(self.optimisers):
            model = self.parameters
            for x, y in batches:
                model = optimiser(model, self.gradient(model, x[m], y[m]), eta)
            moved.append(self.parameters - model)
        reasons = [self._reason(m, moved[m]) for m in range(len(moved))]
        mean = sum(self._sent(m, own, reason) for m, (own, reason) in enumerate(zip(moved, reasons))) / len(moved)
        before = self.parameters
        if self.server is None:
            self.parameters = before - mean
        elif self.by_gradient:
            self.parameters = self.server(before, mean / eta, eta)
        else:
            self.parameters = self.server(before, mean, 1.0)
        self.differences.append(self.parameters - before)
        self.iteration += 1
        return reasons

    def _reason(self, m: int, moved: Tensor) -> str | None:
        if self.scale is None:
            return "always"
        if self.iteration == 0:
            self.uploaded.append(moved)
            return "first"
        past = sum(float((d**2).sum()) for d in self.differences[-self.window :])
        change = float(((moved - self.uploaded[m]) ** 2).sum())
        self.silent[m] += 1
        if self.silent[m] >= self.settings.max_delay:
            return "forced"
        return "threshold" if change > self.scale / self.window * past else None

    def _sent(self, m: int, moved: Tensor, reason: str | None) -> Tensor:
        """What the server uses of worker m."""
        if self.scale is None:
            return moved
        if reason is not None:
            self.uploaded[m], self.silent[m] = moved, 0
        return self.uploaded[m]


@dataclass
class NaiveSparseLoCo(NaiveLocal):
    """tensors: numbers of entries; quantises: into signs and two magnitudes a chunk."""

    kept: int = 64
    chunk: int = 4096
    decay: float = 0.95
    quantises: bool = True
    tensors: tuple[int, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        self.memories = [[0.0] * len(self.parameters) for _ in self.optimisers]

    def _sent(self, m: int, moved: Tensor, reason: str | None) -> Tensor:
        vector = [self.decay * e + own for e, own in zip(self.memories[m], moved.tolist())]
        sent, begin = [0.0] * len(vector), 0
        for n in self.tensors:
            for start in range(begin, begin + n, self.chunk):
                entries = range(start, min(start + self.chunk, begin + n))
                for i, value in self._chunk([(i, vector[i]) for i in entries]):
                    sent[i] = value
            begin += n
        self.memories[m] = [v - s for v, s in zip(vector, sent)]
        return torch.tensor(sent, dtype=torch.float64)

    def _chunk(self, entries: list[tuple[int, float]]) -> list[tuple[int, float]]:
        best = sorted(entries, key=lambda entry: (-abs(entry[1]), entry[0]))[: self.kept]
        if not self.quantises:
            return best
        out = []
        half = math.ceil(len(best) / 2)
        for part in (best[:half], best[half:]):
            mean = math.fsum(abs(value) for _, value in part) / max(1, len(part))
            out += [(i, -mean if value < 0 else mean) for i, value in part]
        return out
