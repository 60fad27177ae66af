"""Help for tests of the distributed cluster: configurations on the digits, and processes that are its ranks."""

import contextlib
import io
import os
import socket
from collections.abc import Callable, Collection
from multiprocessing.connection import wait
from typing import Any

import torch

from sasg.config import Config, from_dict
from sasg.lifetime import stop_with_parent
from tests.forks import CONTEXT

WORKERS = 10
ALPHA = {"lasg": 32.0, "sasg": 16.0, "sasg_paper": 4.0}  # with which some uploads are skipped and some are forced


def configuration(method: str, **changes: Any) -> Config:
    """A method on the digits in float64, with rules that skip, upload and force within 50 iterations."""
    lazy, sparse = method in ("lasg", "sasg", "sasg_paper"), method in ("sparse", "sasg", "sasg_paper")
    paper = method == "sasg_paper"
    always, latest = {"kind": "always"}, {"kind": "sum_of_latest"}
    rule = {"kind": "lazy", "max_delay": 2, "alpha": ALPHA.get(method, 1.0)}
    if paper:
        rule |= {"window": "D", "first_uploads": "1", "delay_counter": "paper", "threshold_step_size": "current"}
    top_k = {"kind": "top_k", "density": 0.05, "scope": "vector" if paper else "tensor"}
    if method == "local_sgd":
        local = {"name": method, "kind": "local_sgd", "local_steps": 3}
        changes = {"algorithm": local, "epochs": 6, **changes}
    values = {
        "task": {"name": "digits", "batch_size": 5, "step_size": 0.02, "decay_epochs": [1]},
        "dataset": {"kind": "digits", "mean": [0.3052], "std": [0.3759]},
        "shards": {"kind": "iid"},
        "model": {"kind": "fc", "hidden": [32]},
        "algorithm": {
            "name": method,
            "kind": "composed",
            "trigger": rule if lazy else always,
            "compressor": top_k if sparse else {"kind": "identity"},
            "feedback": {"kind": "error_memory" if sparse else "no_feedback"},
            "aggregation": latest if lazy else {"kind": "sum_of_uploads"},
            "reduction": "mean" if paper else "sum",
        },
        "epochs": 3,
        "max_iterations": 50,
        "evaluate_every": 20,
        "precision": "fp64",
        "device": "cpu",
        "cluster": {"kind": "simulated", "workers": WORKERS},
    }
    cluster = {**values["cluster"], **changes.pop("cluster", {})}
    return from_dict({**values, **changes, "cluster": cluster})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(num: int, function: Callable, *arguments: Any, hanging: Collection[int] = ()) -> list[Any]:
    """function(*arguments) in `num` processes that are the ranks of one machine: what each returned or raised.

    hanging: ranks that are not waited for, but killed when the others have ended. None for a process that ended
    without a result.
    """
    port = free_port()
    ranks = []
    for rank in range(num):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_as_rank, args=(theirs, rank, num, port, function, arguments), daemon=True)
        process.start()
        theirs.close()
        ranks.append((process, ours))
    results: list[Any] = [None] * num
    waiting = {ours: rank for rank, (_, ours) in enumerate(ranks) if rank not in hanging}
    while waiting:
        for ours in wait(list(waiting)):
            rank = waiting.pop(ours)
            with contextlib.suppress(EOFError):  # it was killed
                results[rank] = torch.load(io.BytesIO(ours.recv_bytes()), weights_only=False)
    for process, _ in ranks:
        process.kill()
        process.join()
    return results


def _as_rank(pipe: Any, rank: int, num: int, port: int, function: Callable, arguments: tuple) -> None:
    stop_with_parent()  # the server, which ends with the tests
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    try:
        result = function(*arguments)
    except Exception as error:
        result = error
    buffer = io.BytesIO()
    torch.save(result, buffer)  # a pipe would pass tensors by memory that ends with this process
    pipe.send_bytes(buffer.getvalue())
    pipe.close()
    os._exit(0)
