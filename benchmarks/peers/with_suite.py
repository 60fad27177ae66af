"""The suite's methods, and the loop in the published style, on the suite's own mini-batches, which are the job's.

Variants: sgd, sparse, sasg; published_sgd, published_sparse.
"""

import sys
from pathlib import Path

sys.path[1:1] = [str(Path(__file__).resolve().parents[2])]

import job as jobs  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.mnist_cpu import composed  # noqa: E402
from benchmarks.published_loop import PublishedLoop  # noqa: E402
from sasg.cluster import SimulatedCluster  # noqa: E402
from sasg.problem.building import load_dataset  # noqa: E402
from sasg.training.trainer import Trainer  # noqa: E402


def make_trainer(method: str) -> Trainer:
    """Of MNIST in the default folder of data (SASG_DATA), on one thread of the CPU."""
    config = composed(method)
    torch.set_num_threads(config.threads)
    cluster = SimulatedCluster(config.cluster.workers, torch.device("cpu"))
    return Trainer(config, load_dataset(config), cluster, torch.float32)


def make_job(path: Path, num_rounds: int, warm_up: int) -> None:
    """Write the job: the weights with which the suite begins, and its first mini-batches."""
    trainer = make_trainer("sparse")
    trainer.problem.batches.start_epoch(0)
    batches = [trainer.problem.batches.batch(torch.tensor(number)) for number in range(num_rounds)]
    sizes = [(512, 784), (512,), (10, 512), (10,)]
    parts = torch.split(trainer.problem.parameters, [int(np.prod(size)) for size in sizes])
    np.savez(
        path,
        **{f"weight{i}": part.reshape(size).numpy() for i, (part, size) in enumerate(zip(parts, sizes, strict=True))},
        x=torch.stack([x.flatten(2) for x, _ in batches]).numpy(),
        y=torch.stack([y for _, y in batches]).numpy(),
        step_size=trainer.schedule(0),
        density=0.01,
        warm_up=warm_up,
    )


def main() -> None:
    job, variant, out = jobs.start()
    clock = jobs.Clock()
    do = _published(job, variant.removeprefix("published_")) if variant.startswith("published_") else _suite(variant)
    losses = []
    for number in range(job.num_rounds):
        clock.tick()
        losses.append(do(number))
    clock.tick()
    jobs.report(out, clock, job, losses, "numpy")


def _suite(method: str):
    trainer = make_trainer(method)

    def iteration(number: int) -> float:
        trainer.run_iteration()
        return float(trainer.problem.oracle.loss.mean())

    return iteration


def _published(job: jobs.Job, method: str):
    loop = PublishedLoop(job.model().train(), method, job.num_workers, job.step_size, 0.0, 1)

    def iteration(number: int) -> float:
        loop.step(job.x[number], job.y[number])
        return sum(loop.losses) / job.num_workers

    return iteration


if __name__ == "__main__":
    main()
