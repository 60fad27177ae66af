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
