"""Iterations of the methods on one GPU, as milliseconds and as ratios to a plain batch of the same samples.

    python benchmarks/gpu.py [--engines triton streams] [--precisions tf32] [--out OUT.json]

Images are random (times do not depend on them); evaluation is excluded; a plain batch is autograd on one model and 100
samples, captured in a graph like everything else.
"""

import argparse
import gc
import json
import time

import torch
import torch.nn.functional as F

from sasg.cluster import SimulatedCluster
from sasg.config import Config, from_dict
from sasg.problem.datasets import Dataset, Source, Split
from sasg.problem.models import resnet18
from sasg.training.run import prepare_torch
from sasg.training.trainer import Trainer

LAZY = {"kind": "lazy", "max_delay": 10}
ALWAYS = {"kind": "always"}
TOP_K = {"kind": "top_k", "density": 0.01}
IDENTITY = {"kind": "identity"}
MEMORY = {"kind": "error_memory"}
NO_MEMORY = {"kind": "no_feedback"}
LATEST = {"kind": "sum_of_latest"}
UPLOADS = {"kind": "sum_of_uploads"}
METHODS = {
    "sgd": (ALWAYS, IDENTITY, NO_MEMORY, UPLOADS),
    "sparse": (ALWAYS, TOP_K, MEMORY, UPLOADS),
    "lasg": (LAZY, IDENTITY, NO_MEMORY, LATEST),
    "sasg": (LAZY, TOP_K, MEMORY, LATEST),
}
GROUPS = {"kind": "log_uniform_groups"}
VOTES = {  # majority voting: its vote, its quantiser
    "majority_vote": ({"kind": "top_k_vote"}, None),
    "majority_vote_random": ({"kind": "random_vote"}, None),
    "majority_vote_add_drop": ({"kind": "add_drop_vote"}, None),
    "majority_vote_quantised": ({"kind": "add_drop_vote"}, GROUPS),
}
BLOCK = 20  # iterations timed in a row
TASKS = {
    "cifar10": {"model": {"kind": "resnet18"}, "step_size": 0.01, "alpha": 1.0},
    "mnist": {"model": {"kind": "fc"}, "step_size": 0.005, "alpha": 0.5},
}


def configuration(task: str, method: str, **options) -> Config:
    of_task = TASKS[task]
    if method in VOTES:
        vote, quantiser = VOTES[method]
        algorithm = {
            "name": method, "kind": "majority_vote", "density": 0.01, "vote": vote,
            "quantiser": quantiser, "warmup_epochs": options.pop("warmup_epochs", 0),
        }  # fmt: skip
    else:
        trigger, compressor, feedback, aggregation = METHODS[method]
        if trigger is LAZY:
            trigger = {**LAZY, "alpha": options.pop("alpha", of_task["alpha"])}
        algorithm = {
            "name": method, "kind": "composed", "trigger": trigger, "compressor": compressor,
            "feedback": feedback, "aggregation": aggregation,
        }  # fmt: skip
    workers = options.pop("workers", 10)
    return from_dict({
        "task": {"name": task, "batch_size": 10, "step_size": of_task["step_size"]},
        "dataset": {"kind": task},
        "shards": {"kind": "iid"}, "model": of_task["model"], "algorithm": algorithm, "epochs": 100,
        "cluster": {"workers": workers}, **options,
    })  # fmt: skip


def random_dataset(task: str, size: int = 20_000) -> Dataset:
    """Random images with a weak signal, so that training does something."""
    shape = (3, 32, 32) if task == "cifar10" else (1, 28, 28)
    source = Source(task, (0.5,) * shape[0], (0.25,) * shape[0], *((4, True) if task == "cifar10" else ()))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (size,), generator=generator)
    images = torch.randint(0, 200, (size, *shape), generator=generator, dtype=torch.uint8)
    images += (5 * labels).to(torch.uint8).view(-1, 1, 1, 1)
    split = Split(images, labels, torch.zeros_like(labels))
    return Dataset(task, 10, (source,), split, split, "random", "0" * 64)


def make_trainer(config: Config, dataset: Dataset | None = None) -> Trainer:
    device, dtype = prepare_torch(config)
    dataset = dataset or random_dataset(config.task.name)
    return Trainer(config, dataset, SimulatedCluster(config.cluster.workers, device), dtype)


def milliseconds(call, repeats: int = 30) -> float:
    """Median over `repeats` of the device's time for one call."""
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def captured(call):
    """The call as a graph, after three warm-up calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def plain_batch(samples: int, precision: str = "tf32", channels_last: bool = True) -> float:
    """Forward and backward pass of one ResNet18."""
    prepare_torch(configuration("cifar10", "sgd", precision=precision))
    model = resnet18((3, 32, 32), 10).cuda()
    x = torch.randn(samples, 3, 32, 32, device="cuda")
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (samples,), device="cuda")

    def step():
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(model(x), y)
        loss.backward()

    return milliseconds(captured(step))


def iteration(config: Config) -> dict[str, float]:
    """Steady-state milliseconds of an iteration (replays in a row), peak memory, time to the first replay."""
    gc.collect()  # a trainer and its graph refer to each other
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    samples = 2 * BLOCK * config.task.batch_size * config.cluster.workers
    trainer = make_trainer(config, random_dataset(config.task.name, samples))
    for _ in range(BLOCK):
        trainer.run_iteration()
    torch.cuda.synchronize()
    ready = time.monotonic() - start

    def block():
        trainer.problem.oracle.go_to(0)
        trainer.records.row.zero_()
        for _ in range(BLOCK):
            trainer._run_step()

    return {
        "ms": milliseconds(block, 5) / BLOCK,
        "start_s": ready,
        "memory_GB": torch.cuda.max_memory_allocated() / 1e9,
        "loss": float(trainer.problem.oracle.loss.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engines", nargs="+", default=["triton", "streams"])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *VOTES], default=[*METHODS, *VOTES])
    parser.add_argument("--precisions", nargs="+", default=["tf32"])
    parser.add_argument("--out")
    options = parser.parse_args()
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for precision in options.precisions:
        plain = min(plain_batch(100, precision, layout) for layout in (True, False))
        print(f"{precision}: plain batch of 100: {plain:.2f} ms")
        results[f"{precision} plain"] = plain
        for engine in options.engines:
            for method in options.methods:
                took = iteration(configuration("cifar10", method, gradients=engine, precision=precision))
                results[f"{precision} {engine} {method}"] = took
                print(
                    f"  {engine:8} {method:23} {took['ms']:6.2f} ms = {took['ms'] / plain:4.1f} plain batches,"
                    f" {took['memory_GB']:.1f} GB, ready after {took['start_s']:.0f} s",
                    flush=True,
                )
    for workers in (10, 1000):
        took = iteration(configuration("mnist", "sasg", workers=workers))
        results[f"mnist sasg {workers} workers"] = took
        print(f"FC/MNIST sasg, {workers} workers: {took['ms']:.3f} ms", flush=True)
    if options.out:
        with open(options.out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
