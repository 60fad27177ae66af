#!/usr/bin/env python
"""The published MNIST experiment with torch's own data loaders and global generators, beside which the suite is held.

    benchmarks/published_replay.py --data DIR --seeds 1 --epochs 2     # all four methods; seconds to a minute an epoch

An implementation of its own: nothing of the suite is used but the images. Every random number comes from the global
generators of numpy and torch, in the order in which the loop below asks for it. After every epoch its rows of
results/published_draws/replay.csv are written anew: uploads skipped in the epoch, training loss (mean over workers and
iterations), test accuracy, and the first evaluation so far above 98 % (every 100 iterations).
"""

import argparse
import csv
import random
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, Subset, TensorDataset  # noqa: E402

from benchmarks.published_loop import PublishedLoop  # noqa: E402
from sasg.problem.datasets import Dataset, mnist  # noqa: E402

METHODS = ("sgd", "sparse", "lasg", "sasg")
COLUMNS = ("method", "seed", "epoch", "skipped", "training_loss", "top1", "crossing")
BASELINE = 0.98
EVALUATE_EVERY = 100  # iterations


class Replay:
    """A run of one method from its seed on."""

    def __init__(
        self,
        dataset: Dataset,
        method: str,
        seed: int,
        num_workers: int = 10,
        batch_size: int = 10,
        hidden: int = 512,
        step_size: float = 0.005,
        alpha: float = 0.5,
        max_delay: int = 10,
        dtype: torch.dtype = torch.float32,
    ):
        """hidden: width of the fully connected model; alpha: alpha_d times the step size."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        model = _model(dataset, hidden)
        if method in ("lasg", "sasg"):
            _model(dataset, hidden)  # for the older parameters of a worker; it gets them before it is used
        self.loop = PublishedLoop(model.to(dtype), method, num_workers, step_size, alpha, max_delay)
        train, test = (_normalised(dataset, name, dtype) for name in ("train", "test"))
        order = np.arange(len(train))
        np.random.shuffle(order)
        size = len(order) // num_workers
        shards = [Subset(train, order[m * size : (m + 1) * size].tolist()) for m in range(num_workers)]
        self.loaders = [DataLoader(shard, batch_size, shuffle=True, drop_last=True) for shard in shards]
        self.test_loader = DataLoader(test, 1000)
        self.crossing: int | None = None

    def epoch(self) -> Iterator[tuple[Tensor, Tensor, list[bool]]]:
        """Do an epoch; after every iteration its mini-batches x [M, B, ...], y [M, B], and who uploaded."""
        iterators = [iter(loader) for loader in self.loaders]
        self.num_skipped, losses = 0, []
        for _ in range(len(self.loaders[0])):
            x, y = (torch.stack(of_workers) for of_workers in zip(*map(next, iterators)))
            sent = self.loop.step(x, y)
            self.num_skipped += sent.count(False)
            losses += self.loop.losses
            if self.loop.iteration % EVALUATE_EVERY == 0 and self.test_accuracy() > BASELINE:
                self.crossing = self.crossing or self.loop.iteration
            yield x, y, sent
        self.training_loss = sum(losses) / len(losses)
        self.top1 = self.test_accuracy()

    @torch.no_grad()
    def test_accuracy(self) -> float:
        """As a fraction."""
        hits = [(self.loop.model(x).argmax(1) == y).sum() for x, y in self.test_loader]
        return int(sum(hits)) / len(self.test_loader.dataset)


def _model(dataset: Dataset, hidden: int) -> nn.Module:
    num_features = dataset.train.images[0].numel()
    layers = nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, dataset.num_classes)
    return nn.Sequential(nn.Flatten(), *layers)


def _normalised(dataset: Dataset, name: str, dtype: torch.dtype) -> TensorDataset:
    part, source = getattr(dataset, name), dataset.sources[0]
    return TensorDataset((part.images.to(dtype) / 255 - source.mean[0]) / source.std[0], part.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default="data", help="folder with MNIST (default: data)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 19, 31, 44, 80])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "results/published_draws/replay.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = mnist(options.data, download=True, mean=(0.1307,), std=(0.3081,))
    for seed in options.seeds:
        for method in options.methods:
            replay, rows = Replay(dataset, method, seed), []
            for epoch in range(1, options.epochs + 1):
                for _ in replay.epoch():
                    pass
                values = (replay.num_skipped, f"{replay.training_loss:.6f}", replay.top1, replay.crossing)
                rows.append(dict(zip(COLUMNS, (method, seed, epoch, *values))))
                print(*rows[-1].values(), flush=True)
                write_rows(options.out, method, seed, rows)


def write_rows(path: Path, method: str, seed: int, rows: list[dict]) -> None:
    """Put the rows of a run in the place of those that the file has of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    kept = [row for row in old if (row["method"], row["seed"]) != (method, str(seed))]
    ordered = sorted(
        [*kept, *rows], key=lambda row: (METHODS.index(row["method"]), int(row["seed"]), int(row["epoch"]))
    )
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(ordered)


if __name__ == "__main__":
    main()
