#!/usr/bin/env python
"""Times the trial of an engine that every run begins with (see docs/extending.md), in seconds.

    python benchmarks/trial.py [--tasks mnist cifar10] [--device cuda] [--repeats 5]

Images are random. The first trial of a process also loads libraries and, on a GPU, compiles kernels that no earlier
process has; later ones are of the same model anew, nothing being kept.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import sasg.problem.problem as problem
from benchmarks.gpu import configuration, make_trainer, random_dataset
from sasg.gradients import engines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["mnist", "cifar10"], choices=["mnist", "cifar10"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    choose, seconds = problem.choose_engine, []

    def timed(*args, **kwargs):
        started = time.perf_counter()
        choice = choose(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        return choice

    problem.choose_engine = timed
    for task in options.tasks:
        dataset = random_dataset(task)
        seconds.clear()
        for _ in range(options.repeats):
            engines._known.clear()
            trainer = make_trainer(configuration(task, "sasg", device=options.device), dataset)
        engine = type(trainer.problem.choice.engine).__name__
        print(f"{task:8} {engine:14} first {seconds[0]:.2f}, then", " ".join(f"{s:.2f}" for s in seconds[1:]))


if __name__ == "__main__":
    main()
