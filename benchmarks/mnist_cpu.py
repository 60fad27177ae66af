#!/usr/bin/env python
"""Time of one iteration on MNIST on one CPU thread, evaluation excluded, beside a loop in the published style.

Both do the same iterations on the same mini-batches, in turn, so that a busy machine slows both. Times are means over
the blocks of iterations; the upload shares and the largest difference of the parameters say that both do the same work.
The first line is a yardstick for the machine: the targets were set where `numpy.partition` took 5 ms.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.published_loop import PublishedLoop  # noqa: E402
from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.cluster import SimulatedCluster  # noqa: E402
from sasg.command_line import Parser  # noqa: E402
from sasg.config import Config, load  # noqa: E402
from sasg.problem.building import build_model, load_dataset  # noqa: E402
from sasg.training.trainer import Trainer  # noqa: E402

ROW = 401_408  # the weights of the first layer
TARGET_MS = {"sgd": 5.0, "sparse": 12.0, "lasg": 12.0, "sasg": 15.0}


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--data", default="data", help="data.root (default: data)")
    parser.add_argument("--skip", type=int, default=300, help="iterations before timing starts (default: 300)")
    parser.add_argument("--blocks", type=int, default=6, help="timed blocks of 20 iterations (default: 6)")
    options = parser.parse_args()
    print(f"numpy.partition of ten rows of {ROW:,} magnitudes, 1 % kept: {1e3 * partition_seconds():.1f} ms")
    columns = f"{'method':8}{'suite ms':>10}{'target':>8}{'published-style ms':>20}{'ratio':>7}{'uploads':>9}"
    print(f"{columns}  parameters differ by")
    for method in TARGET_MS:
        suite, published, share, difference = measure(method, options)
        print(
            f"{method:8}{suite:10.1f}{TARGET_MS[method]:8.0f}{published:20.1f}{published / suite:7.1f}{share:9.1%}"
            f"  {difference:.1e}",
            flush=True,
        )


def partition_seconds() -> float:
    """Median time of what exact top-k of ten workers would take with numpy alone."""
    rows = np.random.default_rng(0).standard_normal((10, ROW), dtype=np.float32)
    times = []
    for _ in range(21):
        start = time.perf_counter()
        np.partition(rows, ROW - ROW // 100, axis=1)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(method: str, options: argparse.Namespace) -> tuple[float, float, float, float]:
    """Milliseconds per iteration of the suite and of the published-style loop, share of uploads, largest difference."""
    config = composed(method, options.data)
    torch.set_num_threads(1)
    dataset = load_dataset(config)
    workers = config.cluster.workers
    trainer = Trainer(config, dataset, SimulatedCluster(workers, torch.device("cpu")), torch.float32)
    model = build_model(config, dataset).train()
    rule = config.algorithm["trigger"]  # of SGD and Sparse: none
    loop = PublishedLoop(
        model, method, workers, config.task.step_size, rule.get("alpha", 0.0), rule.get("max_delay", 10)
    )
    seconds = {"suite": 0.0, "published": 0.0}
    for block in range(options.skip // 20 + options.blocks):
        if block == options.skip // 20:
            before = trainer.cluster.ledger.totals()["rounds"]
            seconds = dict.fromkeys(seconds, 0.0)
        position = trainer.iteration % trainer.iterations_per_epoch
        start = time.perf_counter()
        for _ in range(20):
            trainer.run_iteration()
        seconds["suite"] += time.perf_counter() - start
        trainer.records.take(trainer.cluster)
        batches = [trainer.problem.batches.batch(torch.tensor(position + i)) for i in range(20)]
        start = time.perf_counter()
        for x, y in batches:
            loop.step(x, y)
        seconds["published"] += time.perf_counter() - start
    count = 20 * options.blocks
    share = (trainer.cluster.ledger.totals()["rounds"] - before) / count / workers
    flat = torch.cat([p.detach().view(-1) for p in model.parameters()])
    difference = float((flat - trainer.problem.parameters).abs().max())
    return seconds["suite"] / count * 1e3, seconds["published"] / count * 1e3, share, difference


def composed(method: str, data: str | None = None) -> Config:
    """A method on MNIST on the CPU; data: `data.root`, by default as everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        command = [sys.executable, str(ROOT / "experiments/train.py"), "task=mnist", f"algorithm={method}"]
        options = ["device=cpu", *([f"data.root={data}"] if data else []), f"+write={path}"]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        return load(path)


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
