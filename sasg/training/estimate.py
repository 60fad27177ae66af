"""How long a run will take here, from a few of its iterations."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sasg.cluster import SimulatedCluster
from sasg.config import Config
from sasg.problem.datasets import Dataset, Samples
from sasg.training.run import prepare_torch
from sasg.training.trainer import Trainer

_MEASURED_SECONDS = 2.0
_MEASURED_ITERATIONS = 30
_TEST_SAMPLES = 200


@dataclass(frozen=True)
class Estimate:
    """A run's length, and the seconds that one iteration takes with its share of the evaluations."""

    num_iterations: int
    seconds_per_iteration: float

    @property
    def seconds(self) -> float:
        return self.num_iterations * self.seconds_per_iteration


def estimate(config: Config, dataset: Dataset) -> Estimate:
    """Measure some iterations and the evaluation of some test samples, in one process, writing nothing.

    What the processes of a distributed run gain by working side by side, and lose by their messages, is not in it.
    UserError: what the configuration asks for cannot be done.
    """
    device, dtype = prepare_torch(config)
    few = replace(dataset, test=_spread(dataset.test))
    trainer = Trainer(config, few, SimulatedCluster(config.cluster.workers, device), dtype)
    durations: list[float] = []  # the first one compiles and warms up
    most = min(_MEASURED_ITERATIONS, config.evaluate_every, trainer.num_iterations)
    while sum(durations[1:]) < _MEASURED_SECONDS and len(durations) < most:
        durations.append(_seconds(trainer.run_iteration, device))
    evaluation = _seconds(trainer.evaluate, device)
    if len(few.test):  # features have no test set
        evaluation *= len(dataset.test) / len(few.test)
    per_evaluation = config.evaluate_every
    if trainer.evaluates_epochs:
        per_evaluation = min(per_evaluation, trainer.iterations_per_epoch)
    iteration = statistics.median(durations[1:] or durations)
    found = Estimate(trainer.num_iterations, iteration + evaluation / per_evaluation)
    if device.type == "cuda":  # the runs, in processes of their own, need the memory
        del trainer
        torch.cuda.empty_cache()
    return found


def _spread(samples: Samples) -> Samples:
    """At least _TEST_SAMPLES of them, if there are so many, evenly over all, so that every source has some."""
    return samples.part(torch.arange(0, len(samples), max(1, len(samples) // _TEST_SAMPLES)))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
