#!/usr/bin/env python
"""The distributed cluster beside the simulated one, from the same state on: decisions, bytes and times.

    for m in sgd sparse lasg sasg; do experiments/train.py task=cifar10 algorithm=$m +write=$m.json; done
    python benchmarks/distributed_gpu.py --configs sgd.json sparse.json lasg.json sasg.json --after 5000 --name two-gpus
    python benchmarks/distributed_gpu.py --configs ... --after 5000 --ranks 1 2 4 8 --workers 10 --backend nccl gloo \\
        --iterations 300 --name eight-gpus
    python benchmarks/distributed_gpu.py --configs ... --device cpu         # tries the benchmark itself, over gloo

Each method trains simulated for --after iterations, so that the lazy rule is at work; methods do so at the same time
on as many GPUs as there are. From that state, the simulated cluster and, for each backend and each number of --ranks,
that many processes do --iterations more. Writes results/distributed/NAME.md and NAME.json: when upload decisions first
differ, bytes on the transport against the ledger, and milliseconds of each phase. A method that fails on one kind of
cluster is left out there; its traceback stands among what is printed, and the exit code is 1. With --keep, a later call
goes on from the same states without training anew. Without the data set's files in
data.root, images of CIFAR-10's shape are drawn: then accuracies mean nothing.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from experiments.gpus import visible_gpus  # noqa: E402
from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.cluster import Cluster  # noqa: E402
from sasg.cluster.accounting.ledger import uplink_bits  # noqa: E402
from sasg.cluster.distributed import spread_workers  # noqa: E402
from sasg.cluster.factory import open_cluster  # noqa: E402
from sasg.cluster.stopwatch import PHASES  # noqa: E402
from sasg.config import Config, load  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.problem.building import load_dataset  # noqa: E402
from sasg.training.provenance import device_name  # noqa: E402
from sasg.training.run import prepare_torch  # noqa: E402
from sasg.training.trainer import Trainer  # noqa: E402

RECORDED = 1000  # iterations that a state has room for
WARM_UP = 20  # iterations that are not timed (a quarter, if that is less)


class Kind(NamedTuple):
    """A kind of cluster."""

    backend: str  # "simulated" too
    ranks: int

    def __str__(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        return self.backend if self == SIMULATED else f"{self.backend}, {ranks}"

    def file(self, work: Path, method: str) -> Path:
        """Where a method's result is left."""
        return work / f"{self.backend}-{self.ranks}-{method}.pt"


SIMULATED = Kind("simulated", 1)
FAILED: list[tuple[Kind, str]] = []


def main() -> int:
    options = _options()
    if options.as_rank:
        try:
            _measure_all(options)
        except Exception:  # where it comes from, also where people would be told one line
            traceback.print_exc()
            return 1
        return 0
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.keep or Path(folder)
        options.work.mkdir(parents=True, exist_ok=True)
        for result in options.work.glob("*-*-*.pt"):  # of an earlier call
            result.unlink()
        drawn = _draw_data(load(options.configs[0]), options.work)
        _simulate(options)
        options.configs = [path for path in options.configs if SIMULATED.file(options.work, _method(path)).exists()]
        done = []
        for kind in _kinds(options) if options.configs else []:
            _measure_on(kind, options.configs, options)
            done.append(kind)
            found = _compare(options, done)
            print(_write(options, done, found, drawn), flush=True)  # each time: a later kind may fail
    return 0 if not FAILED else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, nargs="+", required=True, help="one per method")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2], help="processes; several numbers in turn (2)")
    parser.add_argument("--workers", type=int, default=10, help="spread over them (10)")
    parser.add_argument("--backend", nargs="+", choices=("nccl", "gloo"), help="on GPUs both, else gloo")
    parser.add_argument("--after", type=int, default=0, help="iterations before the compared ones (0)")
    parser.add_argument("--iterations", type=int, default=200, help="that are compared (200)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--name", default="distributed_gpu", help="of the files that are written")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "distributed", help="default: results/distributed"
    )
    parser.add_argument("--keep", type=Path, help="folder for the states, which a later call finds there")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one set of processes (600)")
    parser.add_argument("--as-rank", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not visible_gpus():
        parser.error("--device cuda: torch sees no GPU here; --device cpu tries the benchmark itself")
    if options.iterations > RECORDED:
        parser.error(f"--iterations {options.iterations}: at most {RECORDED}")
    options.backend = options.backend or (["nccl", "gloo"] if options.device == "cuda" else ["gloo"])
    if not options.as_rank and not _kinds(options):
        parser.error("--backend nccl: needs a GPU for each rank; add gloo, or take fewer --ranks")
    return options


def _kinds(options: argparse.Namespace) -> list[Kind]:
    """The distributed kinds of cluster. NCCL needs a GPU for each rank; one rank alone has nobody to send to."""
    kinds = []
    for ranks in options.ranks:
        fitting = [b for b in options.backend if b != "nccl" or ranks <= len(visible_gpus())]
        kinds += [Kind(backend, ranks) for backend in (fitting[:1] if ranks == 1 else fitting)]
    return kinds


def _simulate(options: argparse.Namespace) -> None:
    """All methods on the simulated cluster, side by side on as many GPUs as there are."""
    gpus: list[str | None] = list(visible_gpus()) if options.device == "cuda" else [None]
    shares = [options.configs[place :: len(gpus)] for place in range(len(gpus))]
    with ThreadPoolExecutor(len(gpus)) as pool:
        list(pool.map(lambda share, gpu: _measure_on(SIMULATED, share, options, gpu), shares, gpus))


def _measure_on(kind: Kind, configs: list[Path], options: argparse.Namespace, gpu: str | None = None) -> None:
    """Methods in one set of processes, or, after one that fails, those behind it in another."""
    left = list(configs)
    while left and not _succeeds(_start(kind, left, options, gpu), options.limit):
        while left and kind.file(options.work, _method(left[0])).exists():
            left.pop(0)
        if left:
            _note_failure(kind, left.pop(0))


def _note_failure(kind: Kind, path: Path) -> None:
    FAILED.append((kind, _method(path)))
    print(f"{_method(path)} failed on {kind}; its traceback stands above", flush=True)


def _method(path: Path) -> str:
    return load(path).algorithm["name"]


def _start(kind: Kind, configs: list[Path], options: argparse.Namespace, gpu: str | None = None) -> subprocess.Popen:
    """Methods, one after another, on one kind of cluster, in one set of processes."""
    script = [str(Path(__file__).resolve()), "--as-rank", kind.backend, "--work", options.work]
    script += ["--ranks", kind.ranks, "--workers", options.workers, "--after", options.after]
    script += ["--iterations", options.iterations, "--device", options.device, "--configs", *configs]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={kind.ranks}"]
    command = [sys.executable, *([] if kind == SIMULATED else torchrun), *map(str, script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
    return subprocess.Popen(command, env=environment)


def _succeeds(process: subprocess.Popen, seconds: float) -> bool:
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"ended after {seconds:g} s", flush=True)
        process.terminate()  # torchrun ends its processes
        process.wait()
        return False


def _measure_all(options: argparse.Namespace) -> None:
    """In each process: one method after another in one process group; the server writes what it measured."""
    configs = [_config(path, options) for path in options.configs]
    device, dtype = prepare_torch(configs[0])
    with open_cluster(configs[0].cluster, device):  # the process group; each method has a cluster of its own in it
        for config in configs:
            with open_cluster(config.cluster, device) as cluster:
                dataset = cluster.in_turn(lambda config=config: load_dataset(config))
                trainer = Trainer(config, dataset, cluster, dtype)
                notes = list(trainer.problem.choice.notes)
                trainer.tell = notes.append
                _go_to_start(trainer, options, config.algorithm["name"])
                result = _measure(trainer, options.iterations) | {"notes": notes}
                for note in notes:
                    print(f"{config.algorithm['name']}, {_own_kind(options)}: {note}", flush=True)
            if cluster.is_server:
                torch.save(result, _own_kind(options).file(options.work, config.algorithm["name"]))
            del trainer
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _own_kind(options: argparse.Namespace) -> Kind:
    """That of the cluster that this process belongs to."""
    return Kind(options.as_rank, *options.ranks)


def _config(path: Path, options: argparse.Namespace) -> Config:
    config = load(path)
    if (options.work / "data").exists():
        config = replace(config, data=replace(config.data, root=str(options.work / "data"), download=False))
    cluster = replace(config.cluster, kind="simulated", workers=options.workers, processes=None)
    if (kind := _own_kind(options)) != SIMULATED:
        cluster = replace(cluster, kind="distributed", backend=kind.backend, processes=kind.ranks)
    return replace(config, cluster=cluster, device=options.device, evaluate_every=RECORDED, max_iterations=None)


def _go_to_start(trainer: Trainer, options: argparse.Namespace, method: str) -> None:
    """Train simulated and leave the state; or, distributed, take it over."""
    path = options.work / f"start-{method}.pt"
    if _own_kind(options) == SIMULATED and not path.exists():
        for done in range(1, options.after + 1):
            trainer.run_iteration()
            if done % RECORDED == 0 or done == options.after:
                trainer.records.take(trainer.cluster)  # it has room for so many
        torch.save(trainer.state(), path)
    else:
        is_server, device = trainer.cluster.is_server, trainer.cluster.device
        trainer.load_state(torch.load(path, map_location=device, weights_only=True) if is_server else None)


def _measure(trainer: Trainer, iterations: int) -> dict[str, Any]:
    """Do some iterations: who uploaded, what was counted and sent, and the times of all but the first."""
    cluster, warm_up = trainer.cluster, min(WARM_UP, iterations // 4)
    first = _counted(cluster)
    for _ in range(warm_up):
        trainer.run_iteration()
    cluster.stopwatch.take()
    started = _now(cluster)
    for _ in range(iterations - warm_up):
        trainer.run_iteration()
    milliseconds = 1e3 * (_now(cluster) - started) / (iterations - warm_up)
    phases = cluster.stopwatch.take()
    last = _counted(cluster)
    row, sent = trainer.evaluate()
    return {
        "device": device_name(cluster.device),
        "ms_per_iteration": milliseconds,
        "phases_ms": {p: s and 1e3 * s / (iterations - warm_up) for p, s in phases.items()},
        "counted": {key: {name: n - first[key][name] for name, n in now.items()} for key, now in last.items()},
        "sent": sent.cpu(),
        "parameters": trainer.problem.parameters.cpu(),
        "training_loss": row["training_loss"],
        "top1": row["top1"],
    }


def _now(cluster: Cluster) -> float:
    if cluster.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _counted(cluster: Cluster) -> dict[str, dict[str, int]]:
    """The ledger's totals, and bytes on the transport by kind, so far."""
    described = cluster.describe()
    moved = {way: described[way] for way in ("server_sent_bytes", "server_received_bytes") if way in described}
    return {"ledger": cluster.ledger.totals(), **moved}


def _compare(options: argparse.Namespace, distributed: list[Kind]) -> dict[str, dict[str, dict[str, Any]]]:
    """What was measured and how it agrees with the simulated cluster, by method and kind of cluster."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in options.configs:
        method = _method(path)
        kinds = (SIMULATED, *sorted(distributed, key=lambda kind: kind.ranks))
        kinds = [kind for kind in kinds if kind.file(options.work, method).exists()]
        results = {kind: torch.load(kind.file(options.work, method), weights_only=True) for kind in kinds}
        sent = {kind: result.pop("sent").numpy() for kind, result in results.items()}
        parameters = {kind: result.pop("parameters") for kind, result in results.items()}
        for kind, result in results.items():
            result["share_of_uploads"] = float(sent[kind].mean())
            if kind != SIMULATED:
                equal, distance = sent[kind] == sent[SIMULATED], parameters[kind] - parameters[SIMULATED]
                result["first_difference"] = None if equal.all() else int(np.argmin(equal.all(axis=1)))
                result["equal_decisions"] = float(equal.mean())
                result["parameters_differ_by"] = float(distance.norm() / parameters[SIMULATED].norm())
                held = [len(workers) for workers in spread_workers(options.workers, kind.ranks)]
                result["bytes"] = _bytes_against_ledger(result["counted"], sent[kind], held)
        found[method] = {str(kind): result for kind, result in results.items()}
    return found


def _bytes_against_ledger(counted: dict, sent: np.ndarray, held: list[int]) -> dict[str, tuple[int, int]]:
    """Bytes at the server by kind: on the transport, and by the ledger for the workers of other ranks."""
    ledger, iterations = counted["ledger"], len(sent)
    upload_bits = uplink_bits(ledger, "int32") - ledger["flag_bits"]  # of all workers
    num_uploads, num_received = int(sent.sum()), int(sent[:, held[0] :].sum())
    flags = iterations * sum((num + 7) // 8 for num in held[1:]) if ledger["flag_bits"] else 0
    headers = 4 * iterations if ledger["index_bits_int32"] else 0
    broadcast = ledger["downlink_broadcast_bits_int32"] // 8 + headers
    return {
        "payloads": (counted["server_received_bytes"]["payloads"], num_received * upload_bits // (8 * num_uploads)),
        "flags": (counted["server_received_bytes"]["flags"], flags),
        "updates": (counted["server_sent_bytes"]["updates"], broadcast),
    }


def _draw_data(config: Config, work: Path) -> bool:
    """Images of CIFAR-10's shape, told apart by their mean colours, if the real ones are not there."""
    if (work / "data").exists():  # drawn in an earlier call
        return True
    try:
        load_dataset(replace(config, data=replace(config.data, download=False)))
        return False
    except UserError:
        pass
    random = np.random.default_rng(1)
    colours = random.integers(96, 160, (10, 1, 1, 3))
    arrays = {}
    for part, size in (("train", 50_000), ("test", 1_000)):
        labels = random.integers(0, 10, size, dtype=np.uint8)
        noise = random.integers(-64, 64, (size, 32, 32, 3), dtype=np.int16)
        arrays |= {f"x_{part}": np.clip(colours[labels] + noise, 0, 255).astype(np.uint8), f"y_{part}": labels}
    (work / "data").mkdir()
    np.savez(work / "data" / "cifar10.npz", **arrays)
    return True


def _write(options: argparse.Namespace, done: list[Kind], found: dict, drawn: bool) -> str:
    """Write what was found so far; returns the text."""
    device = next(iter(found.values()))[str(SIMULATED)]["device"]
    numbers = sorted({kind.ranks for kind in done})
    held = {ranks: map(len, spread_workers(options.workers, ranks)) for ranks in numbers}
    shares = "; ".join(f"{ranks}: {' + '.join(map(str, sizes))}" for ranks, sizes in held.items())
    n, first = options.iterations, options.after
    captured = (
        " Iterations are captured graphs, distributed ones in parts, with exchanges between them; simulated methods "
        "are timed side by side, each on a GPU of its own where there are enough. More ranks than GPUs share them, "
        "over gloo alone."
        if options.device == "cuda"
        else ""
    )
    lines = [
        f"# {options.workers} workers in {', '.join(map(str, numbers))} {'rank' if numbers == [1] else 'ranks'}",
        "",
        f"Workers by rank: {shares}. Iterations {first} to {first + n}; all clusters start from one state, trained "
        f"simulated. Device: {device}. "
        f"Data: {'drawn, of the shape of CIFAR-10' if drawn else 'as configured'}.",
        "",
        "## Agreement with the simulated cluster",
        "",
        "`bytes` are those of payloads and flags received, and updates sent, by the server; the ledger's are those of "
        "the workers of other ranks.",
        "",
        *_table(["method", "cluster", "uploads", "first decision that differs", "equal decisions",
                 "parameters differ by", "bytes on the transport", "by the ledger"], _agreement(found, n)),
        "",
        "## Milliseconds per iteration",
        "",
        f"At the server, without the first {min(WARM_UP, n // 4)} iterations.{captured}",
        "",
        *_table(["method", "cluster", "all", *PHASES], _times(found)),
        "",
    ]  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {"ranks": numbers} | {name: getattr(options, name) for name in ("workers", "after", "iterations")}
    (options.out / f"{options.name}.md").write_text("\n".join(lines))
    (options.out / f"{options.name}.json").write_text(
        json.dumps(settings | {"data_drawn": drawn, "methods": found}, indent=1) + "\n"
    )
    return "\n".join(lines)


def _agreement(found: dict, iterations: int) -> list[list[str]]:
    rows = []
    for method, results in found.items():
        for kind, result in results.items():
            row = [method, kind, f"{result['share_of_uploads']:.1%}"]
            if kind == str(SIMULATED):
                rows.append(row + ["-"] * 5)
                continue
            differs = result["first_difference"]
            row += [f"none of {iterations}" if differs is None else f"iteration {differs} of {iterations}"]
            row += [f"{result['equal_decisions']:.2%}", f"{result['parameters_differ_by']:.1e}"]
            moved, ledger = (sum(numbers) for numbers in zip(*result["bytes"].values(), strict=True))
            rows.append([*row, f"{moved:,}", "the same" if moved == ledger else f"{ledger:,}"])
    return rows


def _times(found: dict) -> list[list[str]]:
    rows = []
    for method, results in found.items():
        for kind, result in results.items():
            phases = ["-" if ms is None else f"{ms:.2f}" for ms in result["phases_ms"].values()]
            rows.append([method, kind, f"{result['ms_per_iteration']:.2f}", *phases])
    return rows


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *("| " + " | ".join(r) + " |" for r in rows)]


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
