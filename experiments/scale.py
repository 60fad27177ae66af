#!/usr/bin/env python
"""What a simulated iteration costs as workers become many: time, memory, skipped uploads, bits at the server.

    experiments/scale.py                                         # MNIST/FC: 10, 100 and 1,000 workers
    experiments/scale.py --methods sgd sasg --workers 10 100 --iterations 200
    experiments/scale.py --task cifar10 --workers 20 50 --device cuda --methods sasg

Each worker has the task's mini-batch; the server's step, the sum of the workers', is the task's whatever their number.
Every point is measured in a process of its own, from the start of the training. Tables: results/scale/TASK-DEVICE.
"""

import argparse
import os
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), os.getcwd()]

from sasg.environment import require  # noqa: E402

require("hydra", "torch", "pandas")

import torch  # noqa: E402

from experiments.composing import telling_errors  # noqa: E402
from experiments.study import compose_grid  # noqa: E402
from sasg.cluster import SimulatedCluster  # noqa: E402
from sasg.cluster.accounting.ledger import uplink_bits  # noqa: E402
from sasg.command_line import Parser  # noqa: E402
from sasg.config import Config  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.problem.building import load_dataset  # noqa: E402
from sasg.report.columns import scientific  # noqa: E402
from sasg.report.curves import CODE  # noqa: E402
from sasg.report.names import method_name, percent, task_name  # noqa: E402
from sasg.report.writing import Row, Table  # noqa: E402
from sasg.training.provenance import device_name  # noqa: E402
from sasg.training.run import prepare_torch  # noqa: E402
from sasg.training.run_folder import write_text  # noqa: E402
from sasg.training.trainer import Trainer  # noqa: E402

HEADER = (
    "Method",
    "Workers",
    "ms an iteration",
    "processor ms",
    "ms a worker",
    "Skipped",
    "Uplink bits",
    "Downlink bits",
    "MB a worker",
    "state",
)


def main() -> int:
    """Measure what the command line names, and write the tables."""
    parser = Parser(__doc__)
    parser.add_argument("--task", default="mnist", help="a file of conf/task (default: mnist)")
    parser.add_argument("--methods", nargs="+", default=["sgd", "sparse", "lasg", "sasg"], help="of conf/algorithm")
    parser.add_argument("--workers", nargs="+", type=int, default=[10, 100, 1000], help="default: 10 100 1000")
    parser.add_argument("--iterations", type=int, default=300, help="of each point, half of them timed (default: 300)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--data", help="data.root (default: SASG_DATA, else data)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "scale", help="default: results/scale")
    options = parser.parse_args()
    if options.iterations < 2 or min(options.workers) < 1:
        raise UserError("--iterations: at least 2, and --workers: at least 1")
    configs = [_config(options, method, number) for method in options.methods for number in options.workers]
    points = []
    for config in configs:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:  # its memory goes with it
            points.append(process.submit(measure, config, options.iterations).result())
        told = points[-1]
        print(f"{told['method']}, {told['workers']} workers: {told['ms']:.2f} ms", flush=True)
    table = as_table(points, options.task, options.iterations)
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{options.task}-{points[0]['device']}"
    for file, text in table.documents(options.out, name).items():
        write_text(options.out / file, text)
    print(table.markdown(), f"written to {options.out}: {name}.*", sep="\n")
    return 0


def _config(options: argparse.Namespace, method: str, num_workers: int) -> Config:
    overrides = [f"device={options.device}", "tracker=none", *([f"data.root={options.data}"] if options.data else [])]
    (usual,) = compose_grid([options.task], [method], [1], overrides)
    step = usual.task.step_size
    if isinstance(step, str):
        raise UserError(f"--task {options.task}: its step size {step} is not a number that workers could share")
    shared = f"cluster.workers={num_workers} task.step_size={step * usual.cluster.workers / num_workers!r}"
    return compose_grid([options.task], [f"{method} {shared}"], [1], overrides)[0]


def measure(config: Config, num_iterations: int) -> dict:
    """One point: iterations from the start of the training, the second half of them timed; memory of this process.

    Memory is the peak since the data was loaded, over the workers; on a GPU that of torch's allocator.
    """
    device, dtype = prepare_torch(config)
    dataset = load_dataset(config)
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else _resident_bytes()
    trainer = Trainer(config, dataset, SimulatedCluster(config.cluster.workers, device), dtype)
    capacity = trainer.records.loss.shape[1]
    started = (0.0, 0.0)
    num_timed = num_iterations // 2
    for number in range(num_iterations):
        if number == num_iterations - num_timed:
            started = _now(on_gpu)
        trainer.run_iteration()
        if (number + 1) % capacity == 0:
            trainer.records.take(trainer.cluster)
    wall, processor = (end - begin for begin, end in zip(started, _now(on_gpu), strict=True))
    peak = torch.cuda.max_memory_allocated() if on_gpu else _peak_bytes()
    totals, num_workers = trainer.cluster.ledger.totals(), config.cluster.workers
    held = trainer.algorithm.state("worker").values()
    return {
        "method": config.algorithm["name"],
        "workers": num_workers,
        "ms": 1e3 * wall / num_timed,
        "processor_ms": 1e3 * processor / num_timed,
        "skipped_share": 1 - totals["rounds"] / num_iterations / num_workers,
        "uplink_bits": uplink_bits(totals, CODE) / num_iterations,
        "downlink_bits": totals[f"downlink_unicast_bits_{CODE}"] / num_iterations,
        "bytes_per_worker": (peak - before) / num_workers,
        "state_bytes_per_worker": sum(t.numel() * t.element_size() for t in held) / num_workers,
        "device": device.type,
        "device_name": device_name(device),
        "torch": torch.__version__,
        "engine": type(trainer.problem.choice.engine).__name__,
    }


def _now(on_gpu: bool) -> tuple[float, float]:
    """Wall-clock and processor seconds, when what was asked of the device is done."""
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def _resident_bytes() -> int:
    """What this process holds now; where /proc is missing, the most that it has held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return _peak_bytes()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


_NOTES = """{task}, {device}, torch {torch}, one thread; {iterations} iterations from the start of the training, the
second half of them timed, without evaluations. Milliseconds are wall-clock time; processor milliseconds are those in
which the process was at work, which others on the machine lengthen less. Skipped uploads and bits are means over all of
the iterations, in the first of which everyone uploads: a whole run skips more. Bits are those that arrive at the server
(values, positions in {code} code, flags) and that it sends (to each worker apart) in an iteration. Megabytes (10^6
bytes) are the process's peak since the data was loaded, over the workers: what they share is in them, so they fall with
the number of workers; state is what a checkpoint holds of a worker. The server's step is the same for any number of
workers. Engine: {engine}.
"""


def as_table(points: list[dict], task: str, num_iterations: int) -> Table:
    """A row per method and number of workers."""
    rows = []
    for one in points:
        cells = [method_name(one["method"]), f"{one['workers']:,}", f"{one['ms']:.2f}", f"{one['processor_ms']:.2f}"]
        cells += [f"{one['ms'] / one['workers']:.3f}", percent(one["skipped_share"], 1)]
        cells += [scientific(one["uplink_bits"]), scientific(one["downlink_bits"])]
        cells += [f"{one[key] / 1e6:.2f}" for key in ("bytes_per_worker", "state_bytes_per_worker")]
        rows.append(Row(tuple(cells), {"task": task, **one}))
    notes = _NOTES.format(
        task=task_name(task),
        device=points[0]["device_name"],
        torch=points[0]["torch"],
        iterations=num_iterations,
        code=CODE,
        engine=", ".join(dict.fromkeys(one["engine"] for one in points)),
    )
    return Table("What a simulated iteration costs as workers become many", HEADER, tuple(rows), notes)


if __name__ == "__main__":
    sys.exit(telling_errors(main))
