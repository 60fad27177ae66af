"""The one place that knows which kinds of cluster there are."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from sasg.cluster.cluster import Cluster
from sasg.cluster.distributed import DistributedCluster, spread_workers
from sasg.cluster.simulated import SimulatedCluster
from sasg.cluster.transport import START_SECONDS, Transport
from sasg.config import ClusterConfig
from sasg.errors import UserError


def needs_launch(config: ClusterConfig) -> bool:
    """Whether this process is to start those of a distributed run, instead of being one."""
    return config.kind == "distributed" and "RANK" not in os.environ


def choose_processes(config: ClusterConfig, device_type: str, threads: int) -> tuple[int, str | None]:
    """How many processes of this machine the workers are spread over, and the choice in a line for people.

    As many as `config` says, and no line; else one for each GPU ("cuda"), or for each core ("cpu"; for each `threads`
    of them), up to one for each worker: more would take turns.
    """
    if config.processes is not None:
        return config.processes, None
    if device_type == "cuda":
        most, unit = torch.cuda.device_count(), "GPU"
    else:
        most, unit = max(1, num_cores() // threads), "core" if threads == 1 else f"{threads} cores"
    num, why = (config.workers, "worker") if config.workers <= most else (most, unit)
    held = sorted({len(workers) for workers in spread_workers(config.workers, num)})
    share = f"{' or '.join(map(str, held))} {'worker' if held == [1] else 'workers'} in each"
    started = f"{num} {'process' if num == 1 else 'processes'} on this machine, one for each {why}"
    return num, f"{started}, with {share} (cluster.processes sets another number)"


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def open_cluster(config: ClusterConfig, device: torch.device) -> Iterator[Cluster]:
    """The cluster of a configuration, on this process's `device`. UserError if this process does not fit it.

    A process group that exists already is used and left open.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if config.kind == "simulated":
        if world_size > 1:
            raise UserError(
                f"torchrun started {world_size} processes for cluster.kind=simulated; use cluster.kind=distributed"
            )
        yield SimulatedCluster(config.workers, device)
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    backend = check_processes(config, world_size, int(os.environ["LOCAL_WORLD_SIZE"]), device.type)
    if device.type == "cuda":
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    with _process_group(backend):
        wire = device if backend == "nccl" else torch.device("cpu")
        transport = Transport(spread_workers(config.workers, world_size), wire, config.timeout_s)
        yield DistributedCluster(config.workers, device, transport, local_rank, config.reception, config.wire)


def check_processes(config: ClusterConfig, num_processes: int, num_local: int, device_type: str) -> str:
    """The backend for these processes, `num_local` of them on this machine. UserError if they do not fit."""
    if config.processes not in (None, num_processes):
        raise UserError(
            f"{num_processes} processes were started, but cluster.processes={config.processes}; make them equal"
        )
    if num_processes > config.workers:
        raise UserError(
            f"cluster.processes={num_processes}: more than the {config.workers} workers; "
            f"give at most {config.workers}, or more cluster.workers"
        )
    num_gpus = torch.cuda.device_count() if device_type == "cuda" else 0
    if config.backend == "auto":
        return "nccl" if 0 < num_local <= num_gpus else "gloo"
    if config.backend == "nccl" and num_local > num_gpus:
        raise UserError(
            f"cluster.backend=nccl: {num_local} processes need a GPU each, and {num_gpus} are in use here; "
            f"start at most {num_gpus} (each may hold several workers), or use cluster.backend=gloo"
        )
    return config.backend


@contextlib.contextmanager
def _process_group(backend: str) -> Iterator[None]:
    if dist.is_initialized():
        yield
        return
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # without it a wait for a silent rank never ends
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo", timeout=timedelta(seconds=START_SECONDS)
    )
    yield
    dist.destroy_process_group()
