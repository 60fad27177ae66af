"""Processes that are ranks of one machine: started once, for several worlds one after the other."""

import contextlib
import io
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["sasg.training.run", "sasg.cluster.launch", "sasg.checks.observe", "sklearn.datasets"])

Job = tuple[Callable, tuple]
"""A function, which all ranks of a world call together, and its arguments."""


class Lost(Exception):
    """A process ended, or was ended for being too slow, before it said what came of a job."""


def run_worlds(worlds: Sequence[tuple[int, Sequence[Job]]], seconds: float) -> list[list[list[Any]]]:
    """Jobs in worlds of so many processes: by world, job and rank what was returned or raised (else `Lost`).

    As many processes are started as the largest world has; those of a smaller world are the first of them. Where a
    process fails it ends, so that the others do not wait for it, and later jobs of all are lost.
    seconds: for all of it; then what is left is killed.
    """
    ports = _free_ports(len(worlds))
    results: list[list[list[Any]]] = [[[Lost()] * size for _ in jobs] for size, jobs in worlds]
    work = _packed([(size, port, jobs) for (size, jobs), port in zip(worlds, ports, strict=True)])
    processes, waiting = [], {}
    for rank in range(max(size for size, _ in worlds)):
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_as_rank, args=(theirs, rank, work), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        waiting[ours] = rank
    deadline = time.monotonic() + seconds
    while waiting and (ready := wait(list(waiting), timeout=max(0, deadline - time.monotonic()))):
        for ours in ready:
            rank = waiting[ours]
            try:
                world, job, result = _unpacked(ours.recv_bytes())
                results[world][job][rank] = result
            except (EOFError, ConnectionError):
                del waiting[ours]
    for process in processes:
        process.kill()
        process.join()
    return results


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _packed(content: Any) -> bytes:
    """Bytes: a pipe would pass each tensor as a file of its own, which ends with the process that made it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)


def _as_rank(pipe: Connection, rank: int, work: bytes) -> None:
    torch.set_num_threads(1)
    for world, (size, port, jobs) in enumerate(_unpacked(work)):
        if rank >= size:
            continue
        for job, result in _results(rank, size, port, jobs):
            pipe.send_bytes(_packed((world, job, result)))
            if isinstance(result, Exception):
                os._exit(1)
    os._exit(0)


def _results(rank: int, size: int, port: int, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
    """What came of one job after the other, in one process group."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in own.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    try:
        torch.distributed.init_process_group("gloo")
    except Exception as error:
        yield 0, error
        return
    for number, (function, arguments) in enumerate(jobs):
        try:
            result = function(*arguments)
        except Exception as error:
            result = error
        yield number, result
    torch.distributed.destroy_process_group()
