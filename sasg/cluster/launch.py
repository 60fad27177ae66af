"""Starts the processes of a distributed run on this machine, and tells in one line how they failed."""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sasg.cluster.distributed import spread_workers
from sasg.cluster.factory import check_processes, choose_processes, num_cores
from sasg.cluster.transport import rank_name
from sasg.config import Config
from sasg.errors import ClusterError, UserError
from sasg.lifetime import LastingStream

_REPORTS, _LAUNCHER = "SASG_REPORTS", "SASG_LAUNCHER"  # the folder for launched processes' reports; who launched them
_STRAGGLER_SECONDS, _STRAGGLERS = 5, "stragglers-were-killed"


def launch(config: Config) -> dict[str, Any]:
    """Do a distributed run with torchrun's agent and return its summary, as `training.run.run` does.

    UserError, ClusterError: what went wrong, in one line, whichever process found it. KeyboardInterrupt: a signal
    stopped the processes before the run began.
    """
    device_type = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
    num_processes, choice = choose_processes(config.cluster, device_type, config.threads)
    check_processes(config.cluster, num_processes, num_processes, device_type)
    port = _free(config.cluster.port) if config.cluster.port else 0
    with tempfile.TemporaryDirectory(prefix="sasg-launch-") as folder:
        reports = Path(folder)
        (reports / "config.json").write_text(json.dumps(config.as_dict()))
        if choice is not None:
            print(choice, file=LastingStream(sys.stderr), flush=True)
        try:
            with _environment(_settings(config, num_processes, reports)), _ending_stragglers(reports):
                agent = elastic_launch(_agent_settings(num_processes, port, reports / "agent"), sys.executable)
                agent("-m", "sasg", str(reports / "config.json"))
        except SignalException:
            if not (reports / "summary.json").exists():
                raise KeyboardInterrupt from None
        except ChildFailedError as error:
            if not (reports / "summary.json").exists():
                raise _reason(reports, error.failures, spread_workers(config.cluster.workers, num_processes)) from None
        return json.loads((reports / "summary.json").read_text())


def report_summary(summary: Mapping[str, Any]) -> bool:
    """Leave the run's summary for the launcher; False if nobody launched this process."""
    if _LAUNCHER in os.environ and os.getppid() != int(os.environ[_LAUNCHER]):  # it was killed, and cleans up no more
        shutil.rmtree(os.environ[_REPORTS], ignore_errors=True)
        return True
    return _report("summary.json", json.dumps(summary))


def report_failure(code: int, message: str) -> bool:
    """Leave what went wrong for the launcher; False if nobody launched this process."""
    return _report(f"rank-{int(os.environ.get('RANK', 0)):04}.json", json.dumps({"code": code, "message": message}))


def _report(name: str, text: str) -> bool:
    if _REPORTS not in os.environ:
        return False
    partial = Path(os.environ[_REPORTS]) / f"{name}.part"
    partial.write_text(text)
    partial.rename(partial.with_suffix(""))
    return True


def _free(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(f"cluster.port={port}: is in use; give another, or leave it out for a free one") from None
    return port


def _agent_settings(num_processes: int, port: int, folder: Path) -> LaunchConfig:
    """folder: for the agent's own files, which it would leave in the temporary directory."""
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}",
        local_addr="127.0.0.1",
        run_id="sasg",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle="SIGTERM,SIGINT,SIGQUIT",  # a run outlives its terminal (SIGHUP)
    )


def _settings(config: Config, num_processes: int, reports: Path) -> dict[str, str]:
    crowded = num_processes * config.threads > num_cores()  # threads that wait in a loop keep others from working
    return {
        _REPORTS: str(reports),
        _LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": str(config.threads),
        **({"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")} if crowded else {}),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo"),  # one machine: its name need not resolve
    }


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """These environment variables for the processes that are started; and no warnings of the agent's."""
    before = {name: os.environ.get(name) for name in settings}
    level = logging.root.manager.disable
    os.environ.update(settings)
    logging.disable(logging.CRITICAL)  # the agent's loggers have levels of their own
    try:
        yield
    finally:
        logging.disable(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _ending_stragglers(reports: Path) -> Iterator[None]:
    """Kill what is still there some seconds after a process reported a failure.

    The agent asks processes to end as soon as one has, but waits for half a minute for those that hang.
    """
    over = threading.Event()

    def watch() -> None:
        while not any(reports.glob("rank-*.json")):
            if over.wait(0.2):
                return
        if not over.wait(_STRAGGLER_SECONDS):
            (reports / _STRAGGLERS).touch()
            _kill_children(reports)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _kill_children(reports: Path) -> None:
    """Kill this process's children that report to this folder, and not those that have just ended.

    Where /proc does not tell them, the agent does it, later.
    """
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for pid in children.read_text().split() if children.exists() else ():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"\0{_REPORTS}={reports}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(int(pid), signal.SIGKILL)


def _reason(reports: Path, failures: Mapping[int, ProcessFailure], workers: list[range]) -> Exception:
    """The first cause: a mistake, a process that was killed or crashed, or what the server says, in this order."""
    told = [(path, json.loads(path.read_text())) for path in sorted(reports.glob("rank-*.json"))]
    for _, report in told:
        if report["code"] == 2:
            return UserError(report["message"])
    reporting = {int(path.stem.split("-")[1]) for path, _ in told}
    for rank, failure in sorted(failures.items()):
        name = rank_name(rank, workers[rank])
        if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM and not (reports / _STRAGGLERS).exists():
            return ClusterError(f"{name} was ended by {signal.Signals(-failure.exitcode).name}")
        if failure.exitcode > 0 and rank not in reporting:
            return ClusterError(f"{name} failed with exit code {failure.exitcode}; what it printed stands above")
    if told:
        return ClusterError(told[0][1]["message"].split(";")[0])
    return ClusterError("the processes were stopped before the run began; the same command starts it again")
