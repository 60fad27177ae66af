"""The job that all contestants do, and what each reports. Needs numpy and torch alone: it runs in every environment.

The job: a fully connected model on MNIST, ten workers, and in each round one step of each worker on ten images of its
own; the server applies the sum of the workers' steps (it averages them, at ten times the step size). Weights to begin
with and mini-batches are given, so that the losses of all contestants are those of the same trajectory.
"""

import functools
import json
import os
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class Job:
    """weights: of the two layers, in torch's order; x [N, M, B, 784], y [N, M, B]: round by round, worker by worker."""

    def __init__(self, path: str):
        with np.load(path) as found:
            self.weights = [torch.from_numpy(found[f"weight{i}"]) for i in range(4)]
            self.x, self.y = torch.from_numpy(found["x"]), torch.from_numpy(found["y"])
            self.step_size = float(found["step_size"])  # a worker's, where the server sums
            self.density = float(found["density"])  # of each tensor, where a contestant sends the largest entries
            self.warm_up = int(found["warm_up"])  # rounds that are not timed
        self.num_rounds, self.num_workers = self.y.shape[:2]

    def model(self) -> nn.Sequential:
        """The model as it begins."""
        model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
        with torch.no_grad():
            for parameter, weight in zip(model.parameters(), self.weights, strict=True):
                parameter.copy_(weight)
        return model

    def batch(self, number: int, worker: int) -> tuple[Tensor, Tensor]:
        """x [B, 784], y [B] of a round (from 0)."""
        return self.x[number, worker], self.y[number, worker]


@functools.cache
def load(path: str) -> Job:
    """The job of a file, read once by each process."""
    return Job(path)


class Clock:
    """Wall-clock and processor time of rounds."""

    def __init__(self):
        self._wall: list[float] = []
        self._processor: list[float] = []

    def tick(self) -> None:
        """To be called before each round, and after the last one."""
        self._wall.append(time.perf_counter())
        self._processor.append(time.process_time())

    def milliseconds(self, warm_up: int) -> dict[str, float]:
        """Of a round: the median, and the mean of this process's own time on a processor."""
        rounds = [after - before for before, after in zip(self._wall[warm_up:], self._wall[warm_up + 1 :])]
        processor = (self._processor[-1] - self._processor[warm_up]) / len(rounds)
        return {"ms": 1e3 * statistics.median(rounds), "processor_ms": 1e3 * processor}


def start() -> tuple[Job, str, str]:
    """The job, the variant and the file for the report, from the command line: SCRIPT JOB.npz VARIANT OUT.json."""
    path, variant, out = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ["SASG_PEERS_JOB"] = path
    return load(path), variant, out


def report(out: str, clock: Clock, job: Job, losses: list[float], *packages: str) -> None:
    """Write times, losses [N] (mean over the workers, before the round's step) and versions."""
    assert len(losses) == job.num_rounds, (len(losses), job.num_rounds)
    versions = {name: version(name) for name in ("torch", *packages)}
    found = {**clock.milliseconds(job.warm_up), "losses": losses, "versions": versions}
    Path(out).write_text(json.dumps(found))
