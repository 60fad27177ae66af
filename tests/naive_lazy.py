"""The lazy companions written once more, from their definitions alone: one worker, one entry after another.

CADA, CSGD, CMFL, CLAG and LAQ; nothing of the suite is used but mini-batches and starting parameters. The servers and
compressors are the naive ones of `naive_companions`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from naive import NaiveServer, Worker
from naive_companions import Compress, identity, plain
from torch import Tensor


def squared(vector: Tensor) -> float:
    return math.fsum(x * x for x in vector.tolist())


@dataclass
class NaiveLazyServer(NaiveServer):
    """Worker by worker: is there a reason to upload? Then the server makes a step of what it has."""

    server: Callable[[list[float]], list[float]] = plain

    def step(self, x: Tensor, y: Tensor, epoch: int) -> list[str | None]:
        self.gamma = self.settings.step_sizes[epoch]
        reasons = []
        for m, worker in enumerate(self.workers):
            gradient = self.gradient(self.parameters, x[m], y[m])
            reason = self.reason(m, worker, gradient, x[m], y[m])
            worker.delay = worker.delay + 1 if reason is None else 1
            reasons.append(reason)
        eta = self.gamma * self.settings.num_workers
        update = eta * torch.tensor(self.server(self.mean(reasons).tolist()), dtype=torch.float64)
        self.parameters = self.parameters - update
        self.differences.append(-update)
        self.iteration += 1
        return reasons

    def mean(self, reasons: list[str | None]) -> Tensor:
        return sum(worker.last_upload for worker in self.workers) / self.settings.num_workers

    def recent(self, window: int) -> float:
        return math.fsum(squared(difference) for difference in self.differences[-window:])


@dataclass
class NaiveCADA(NaiveLazyServer):
    rule: str = "cada2"
    c: float = 1.0
    window: int = 10
    compared: dict[int, Tensor] = field(default_factory=dict)

    def step(self, x: Tensor, y: Tensor, epoch: int) -> list[str | None]:
        if self.iteration % self.settings.max_delay == 0:
            self.snapshot = self.parameters
        return super().step(x, y, epoch)

    def reason(self, m: int, worker: Worker, g: Tensor, x: Tensor, y: Tensor) -> str | None:
        if self.rule == "cada1":
            vector = g - self.gradient(self.snapshot, x, y)
            earlier = self.compared.get(m)
        else:
            vector, earlier = g, self.gradient(worker.comparison, x, y)
        if self.iteration == 0:
            reason = "first"
        elif worker.delay >= self.settings.max_delay:
            reason = "forced"
        elif squared(vector - earlier) > self.c / self.window * self.recent(self.window):
            reason = "threshold"
        else:
            return None
        worker.last_upload, worker.comparison, self.compared[m] = g, self.parameters, vector
        return reason


@dataclass
class NaiveCSGD(NaiveLazyServer):
    initial: float = 1.0
    rate: float = 1.0

    def reason(self, m: int, worker: Worker, g: Tensor, x: Tensor, y: Tensor) -> str | None:
        has_changed = squared(g - worker.last_upload) > self.initial * self.rate**self.iteration
        if self.iteration > 0 and not has_changed:
            return None
        worker.last_upload = g
        return "threshold" if self.iteration else "first"


@dataclass
class NaiveCMFL(NaiveLazyServer):
    share: float = 0.5
    decays: bool = False

    def reason(self, m: int, worker: Worker, g: Tensor, x: Tensor, y: Tensor) -> str | None:
        worker.last_upload = g
        last = self.differences[-1].tolist() if self.differences else []
        if not any(last):
            return "nothing to compare"
        same = sum((-a >= 0) == (b >= 0) for a, b in zip(g.tolist(), last, strict=True))
        least = self.share / math.sqrt(self.iteration + 1) if self.decays else self.share
        return "threshold" if same / len(last) >= least else None

    def mean(self, reasons: list[str | None]) -> Tensor:
        sent = [worker.last_upload for worker, reason in zip(self.workers, reasons, strict=True) if reason]
        return sum(sent) / len(sent) if sent else torch.zeros_like(self.parameters)


@dataclass
class NaiveCLAG(NaiveLazyServer):
    """`last_upload` is the estimate h_m."""

    zeta: float = 1.0
    compress: Compress = identity
    previous: dict[int, Tensor] = field(default_factory=dict)

    def reason(self, m: int, worker: Worker, g: Tensor, x: Tensor, y: Tensor) -> str | None:
        missing = g - worker.last_upload
        before, self.previous[m] = self.previous.get(m), g
        if before is not None and not squared(missing) > self.zeta * squared(g - before):
            return None
        sent = torch.tensor(self.compress(missing.tolist(), []), dtype=torch.float64)
        worker.last_upload = worker.last_upload + sent
        return "first" if before is None else "threshold"


@dataclass
class NaiveLAQ(NaiveLazyServer):
    """`last_upload` is q_m, what the server knows of the gradient."""

    num_bits: int = 4
    xi: float = 0.08
    window: int = 10
    longest_silence: int = 100
    last_errors: dict[int, float] = field(default_factory=dict)

    def reason(self, m: int, worker: Worker, g: Tensor, x: Tensor, y: Tensor) -> str | None:
        changes = (g - worker.last_upload).tolist()
        radius, steps = max(map(abs, changes)), 2**self.num_bits - 1
        levels = [math.floor((v / radius + 1) * (steps / 2) + 0.5) for v in changes]
        sent = torch.tensor([2 * radius / steps * level - radius for level in levels], dtype=torch.float64)
        error = squared(g - worker.last_upload - sent)
        threshold = self.xi / (self.gamma * self.settings.num_workers) ** 2 * self.recent(self.window)
        if self.iteration == 0:
            reason = "first"
        elif worker.delay > self.longest_silence:
            reason = "forced"
        elif squared(sent) > threshold + 3 * (error + self.last_errors[m]):
            reason = "threshold"
        else:
            return None
        worker.last_upload, self.last_errors[m] = worker.last_upload + sent, error
        return reason
