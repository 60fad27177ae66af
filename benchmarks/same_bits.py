#!/usr/bin/env python
"""Digests of what the four methods compute: run it before and after a change that must keep results, and compare.

    benchmarks/same_bits.py > before.txt; (the change); benchmarks/same_bits.py | diff before.txt -

For each method the SHA-256 (first 16 digits) of four things after the first iterations: the parameters, who uploaded
in which iteration, what the trigger compared (differences and thresholds), and the ledger's totals. The bits depend on
the processor and on the libraries' versions: compare on one machine. On MNIST where its files are, else on the digits.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from experiments.composing import telling_errors  # noqa: E402
from experiments.study import compose_grid  # noqa: E402
from sasg.cluster import SimulatedCluster  # noqa: E402
from sasg.config import Config  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.problem.building import load_dataset  # noqa: E402
from sasg.problem.datasets import Dataset  # noqa: E402
from sasg.training.run import prepare_torch  # noqa: E402
from sasg.training.trainer import Trainer  # noqa: E402

METHODS = ("sgd", "sparse", "lasg", "sasg")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SASG_DATA", "data"), help="data.root (default: %(default)s)")
    parser.add_argument("--task", help="default: mnist where its files are, else digits")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD", help="default: the paper's four")
    parser.add_argument("--iterations", type=int, default=600, help="default: 600, an epoch of MNIST")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    options = parser.parse_args()
    if options.iterations < 1:
        raise UserError(f"--iterations {options.iterations}: must be at least 1")
    task = options.task or _first_with_data(["mnist", "digits"], options)
    print(f"{task}, {options.iterations} iterations, {options.device}")
    print(f"{'method':16} {'parameters':16} {'uploads':16} {'trigger':16} ledger")
    for config in _configs(task, options.methods, options):
        print(f"{config.algorithm['name']:16} {' '.join(digests(config, load_dataset(config)))}", flush=True)
    return 0


def digests(config: Config, dataset: Dataset) -> tuple[str, str, str, str]:
    """Of the parameters, uploads, the trigger's numbers and the ledger after the configuration's `max_iterations`."""
    device, dtype = prepare_torch(config)
    trainer = Trainer(config, dataset, SimulatedCluster(config.cluster.workers, device), dtype)
    for _ in range(trainer.num_iterations):
        trainer.run_iteration()
    records = trainer.records.take(trainer.cluster)
    ledger = json.dumps(trainer.cluster.ledger.totals(), sort_keys=True).encode()
    return (
        _digest(trainer.problem.parameters.cpu().numpy().tobytes()),
        _digest(np.packbits(records["sent"].numpy()).tobytes()),
        _digest(records["difference"].numpy().tobytes() + records["threshold"].numpy().tobytes()),
        _digest(ledger),
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _configs(task: str, methods: list[str], options: argparse.Namespace) -> list[Config]:
    """Seed 1, without evaluations."""
    n = options.iterations
    overrides = [f"max_iterations={n}", f"evaluate_every={n}", f"epochs={n}", f"device={options.device}"]
    overrides += ["deterministic=true", f"data.root={options.data}", "data.download=false", "tracker=none"]
    return compose_grid([task], methods, [1], overrides)


def _first_with_data(tasks: list[str], options: argparse.Namespace) -> str:
    """The first task whose files are there; the last one needs none."""
    for task in tasks[:-1]:
        try:
            load_dataset(_configs(task, ["sgd"], options)[0])
        except UserError as error:
            print(f"without {task}: {error}", file=sys.stderr)
        else:
            return task
    return tasks[-1]


if __name__ == "__main__":
    sys.exit(telling_errors(main))
