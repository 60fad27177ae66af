"""Table III: communication time on real links, extra computation and extra server memory of the four methods.

Recorded decisions (who uploads when) are replayed with payloads of the real sizes over gloo, with the suite's own
cluster and aggregation code: what is measured is an exchange, without the gradients around it.
"""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.aggregation import SumOfLatest, SumOfUploads
from sasg.algorithms.parts.compressors import TopK
from sasg.cluster import Nothing, Payload, Uploads
from sasg.cluster.accounting.links import Link
from sasg.cluster.distributed import DistributedCluster
from sasg.cluster.factory import open_cluster
from sasg.config import ClusterConfig
from sasg.gradients.engines import make_engine
from sasg.gradients.layout import Layout
from sasg.problem.models import resnet18
from sasg.report.published import published
from sasg.training.run_folder import read_uploads

METHODS = ("sgd", "sparse", "lasg", "sasg")
LAZY, SPARSE = ("lasg", "sasg"), ("sparse", "sasg")
NUM_WORKERS = 10
_MEBI = 2**20


@dataclass(frozen=True)
class Replay:
    """What all ranks of a measurement share, as a JSON file."""

    methods: tuple[str, ...]
    decisions: dict[str, list[list[int]]]  # of the lazy methods, [iterations, M] of 0 and 1
    iterations: int
    reception: str

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.__dict__))

    @classmethod
    def read(cls, path: Path) -> "Replay":
        return cls(**json.loads(path.read_text()))


def recorded_decisions(path: Path | None, method: str, iterations: int) -> tuple[np.ndarray, str]:
    """Who uploads [iterations, M], spread evenly over the training recorded in `path`, and where that is from.

    Without a file, drawn at the published share of uploads: the ratio of the published communication times.
    """
    if path is not None:
        uploads = read_uploads(path)
        chosen = np.linspace(0, len(uploads) - 1, iterations).round().astype(int)
        return uploads[chosen], f"recorded ({path.parent.name}), {iterations} of {len(uploads)} iterations"
    without = {"lasg": "sgd", "sasg": "sparse"}[method]
    share = published_row(method)["communication_seconds"] / published_row(without)["communication_seconds"]
    drawn = np.random.default_rng(1).random((iterations, NUM_WORKERS)) < share
    return drawn, f"drawn at the published share of uploads, {share:.3f}: no recorded run was found"


def published_row(method: str) -> dict[str, float | None]:
    """The paper's Table III: seconds of communication and of extra computation, extra MiB at the server; None: "-"."""
    row = published("table3")["cifar10", method]
    return {name: float(row[name]) if row[name] else None for name in row if name.endswith(("_seconds", "_mib"))}


def model_shapes() -> tuple[tuple[int, ...], ...]:
    """Of ResNet18's tensors on CIFAR-10."""
    with torch.device("meta"):
        return Layout.of_parameters(resnet18((3, 32, 32), 10)).shapes


def replay(shared: Replay) -> dict[str, dict[str, float]]:
    """One rank's part of a measurement; at the server by method: seconds, bytes received and server memory."""
    config = ClusterConfig("distributed", NUM_WORKERS, reception=shared.reception, timeout_s=300.0)
    device = torch.device("cpu")
    with open_cluster(config, device) as opened:
        results = {}
        for method in shared.methods:
            cluster = DistributedCluster(NUM_WORKERS, device, opened.transport, reception=shared.reception)
            results[method] = _replay_method(cluster, method, shared)
        opened.largest(0)
    return results


def _replay_method(cluster: DistributedCluster, method: str, shared: Replay) -> dict[str, float]:
    workspace = Workspace(model_shapes(), cluster, cluster.device, torch.float32, seed=1)
    aggregation = SumOfLatest() if method in LAZY else SumOfUploads()
    aggregation.setup(workspace)
    payload = _payload(workspace, sparse=method in SPARSE)
    aggregation.expect(payload.values.shape[1] if method in SPARSE else None)

    def server(arriving: Iterable[Uploads]) -> None:  # the update's broadcast is left out: Table III is about uploads
        aggregation(arriving)

    held = slice(cluster.workers.start, cluster.workers.stop)
    before = cluster.transport.received["payloads"]
    for k in range(shared.iterations):
        sent = torch.tensor(shared.decisions[method][k], dtype=torch.bool)[held] if method in LAZY else None
        cluster.largest(0)  # all begin together: no time is spent on waiting for a slow gradient
        cluster.exchange(payload, sent, server, Nothing())
        cluster.stopwatch.enter(None)
    seconds = cluster.stopwatch.take()
    state = aggregation.state("server").values()
    return {
        "communication_seconds": seconds["upload"],
        "server_seconds": seconds["server"],
        "received_bytes": cluster.transport.received["payloads"] - before,
        "server_mebibytes": sum(tensor.untyped_storage().nbytes() for tensor in state) / _MEBI,
    }


def _payload(workspace: Workspace, sparse: bool) -> Payload:
    """Uploads of the real size; which entries they hold makes no difference to their time."""
    vectors = torch.randn(workspace.num_held, workspace.num_parameters)
    if not sparse:
        return Payload(vectors)
    compressor = TopK(density=0.01)
    compressor.setup(workspace)
    return compressor(vectors, None)


def gradient_seconds(repeats: int = 5) -> tuple[float, str]:
    """One worker's gradient of ResNet18 on ten CIFAR-10 images, the median of some, and the device it ran on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = resnet18((3, 32, 32), 10).to(device)
    engine = make_engine("loop", model, lambda out, y: torch.nn.functional.cross_entropy(out, y, reduction="none"))
    w = torch.cat([p.detach().flatten() for p in model.parameters()])
    x, y = torch.randn(1, 10, 3, 32, 32, device=device), torch.randint(0, 10, (1, 10), device=device)
    out, statistics = w.new_empty(1, len(w)), w.new_empty(1, engine.statistics.size)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        engine.per_worker(w, x, y, out, statistics)
        float(out[0, 0])
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:])), str(device)


def predicted_seconds(method: str, shared: Replay, link: Link) -> float:
    """The link model's time of the same uploads; the server's own worker does not count."""
    sizes = [prod(shape) for shape in model_shapes()]
    kept = sum(max(1, int(0.01 * size + 1e-9)) for size in sizes)
    bits = 64 * kept if method in SPARSE else 32 * sum(sizes)
    if method in LAZY:
        num_uploads = np.array(shared.decisions[method])[:, 1:].sum(1)
    else:
        num_uploads = np.full(shared.iterations, NUM_WORKERS - 1)
    flags = shared.iterations * link.latency_seconds if method in LAZY else 0.0
    return float(link.upload_seconds(num_uploads, bits).sum() + flags)


def rank_environment(rank: int, address: str, interface: str, port: int) -> dict[str, str]:
    """The environment of one rank, as torchrun would set it with one process per node."""
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(NUM_WORKERS),
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": interface,
        "OMP_NUM_THREADS": "1",
    }
