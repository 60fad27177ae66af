"""Whatever goes wrong in a distributed run ends it soon, with a line that names the culprit."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import configuration, free_port, run_ranks
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from sasg.cluster import Ledger, LevelCode, Payload, Segment
from sasg.cluster.factory import check_processes, open_cluster
from sasg.cluster.launch import _ending_stragglers, _reason, launch
from sasg.cluster.transport import Transport
from sasg.cluster.wire import WireFormat
from sasg.config import ClusterConfig, Config, from_dict
from sasg.errors import ClusterError, UserError
from sasg.problem.building import load_dataset
from sasg.training.run import run
from sasg.training.run_folder import BUSY, folder_of

FOREVER = 3600.0
ROOT = Path(__file__).resolve().parent.parent


def three(**changes) -> ClusterConfig:
    """Nothing that this names as ended is told by a time-out: that would be named as silent."""
    return ClusterConfig(kind="distributed", workers=6, **{"timeout_s": FOREVER, **changes})


# -- one exchange ---------------------------------------------------------------------------------


def exchange(config: ClusterConfig, break_it: str) -> str:
    """One exchange in which the last rank does `break_it`: what this rank raised."""
    size = 100
    with open_cluster(config, torch.device("cpu")) as cluster:
        held = len(cluster.workers)
        values, indices = torch.ones(held, 4), torch.arange(4).repeat(held, 1)
        sent = torch.ones(held, dtype=torch.bool)
        segments = (Segment(size, 4),)
        cluster.exchange(Payload(values, indices, segments), sent, lambda arriving: [*arriving] and torch.ones(size))
        if os.environ["RANK"] == "2":
            if break_it == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if break_it == "too short":
                values, indices = values[:, :3], indices[:, :3]
            if break_it == "too long":
                values, indices = values.repeat(1, 2), indices.repeat(1, 2)
        applied = []

        def server(arriving):
            applied.extend(uploads.workers for uploads in arriving)
            return torch.ones(size)

        payload = Payload(values, indices, (Segment(size, values.shape[1]),))
        if os.environ["RANK"] == "2":  # after the payload has looked at them
            if break_it == "index too large":
                indices[0, 2] = size
            if break_it == "index negative":
                indices[1, 0] = -3
        try:
            cluster.exchange(payload, sent, server)
        except ClusterError as error:
            return str(error)
        return f"applied {len(applied)}"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("die", "rank 2 (workers 4-5) ended, or its connection was lost"),
        ("index too large", "worker 4 of rank 2 sent a payload with index 100, outside 0..99; it is refused"),
        ("index negative", "worker 5 of rank 2 sent a payload with index -3, outside 0..99; it is refused"),
        ("too short", "worker 4 of rank 2 sent a payload of the wrong length (not 32 bytes); it is refused"),
        ("too long", "worker 4 of rank 2 sent a payload of the wrong length (not 32 bytes); it is refused"),
    ],
)
def test_the_server_names_who_broke_an_exchange(break_it, message):
    server, other, _ = run_ranks(3, exchange, three(), break_it)
    assert server == message
    assert other == "rank 0 (server, workers 0-1) ended, or its connection was lost"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("index negative", "worker 5 of rank 2 sent a payload with index -3, outside 0..99; it is refused"),
        ("too short", "worker 4 of rank 2 sent a payload with index -1, outside 0..99; it is refused"),
    ],
)
def test_the_server_names_who_broke_an_exchange_of_packed_payloads(break_it, message):
    assert run_ranks(3, exchange, three(wire="packed"), break_it)[0] == message


def exchange_of_varying_length(config: ClusterConfig, break_it: str) -> str:
    """One exchange of 3 of 4 entries in which the last rank does `break_it`: what this rank raised."""
    with open_cluster(config, torch.device("cpu")) as cluster:
        held = len(cluster.workers)
        values, indices = torch.ones(held, 4), torch.arange(4).repeat(held, 1)
        count = torch.full((held,), 3)
        cluster.ledger = Ledger(cluster.num_workers, cluster.device, extra_columns=("side_bits",))
        if os.environ["RANK"] == "2":
            if break_it == "negative":
                count[1] = -1
            if break_it == "too many":
                values, indices = values.repeat(1, 2), indices.repeat(1, 2)
                count[0] = 5
        payload = Payload(values, indices, (Segment(100, values.shape[1]),), count=count)
        if os.environ["RANK"] == "2":  # after the payload has looked at them
            if break_it == "index":
                indices[0, 2] = 100
            if break_it == "unsent index":
                indices[0, 3] = 100
        try:
            cluster.exchange(payload, None, lambda arriving: [*arriving] and torch.ones(100))
        except ClusterError as error:
            return str(error)
        return "applied"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("negative", "worker 5 of rank 2 sent a payload of -1 entries, outside 0..4; it is refused"),
        ("too many", "worker 4 of rank 2 sent a payload of 5 entries, outside 0..4; it is refused"),
        ("index", "worker 4 of rank 2 sent a payload with index 100, outside 0..99; it is refused"),
        ("unsent index", "applied"),
    ],
)
def test_damaged_uploads_of_varying_length_are_refused(break_it, message):
    assert run_ranks(3, exchange_of_varying_length, three(), break_it)[0] == message


def wait_for_silent(silent: int, action: Callable[[Transport], None]) -> None:
    """Do something when a rank has fallen silent; only those that wait for it have short time-outs. ClusterError."""
    waits = os.environ["RANK"] == "0" or silent == 0
    with open_cluster(three(timeout_s=0.25 if waits else FOREVER), torch.device("cpu")) as cluster:
        transport = cluster.transport
        cluster.largest(0)  # all have come
        transport.hurry()
        if transport.rank == silent:
            signal.pause()
        action(transport)


def server_receives(transport: Transport) -> None:
    if transport.is_server:
        transport.receive(torch.zeros(1), 2, "flags")


def receive_from_server(transport: Transport) -> None:
    transport.receive(torch.zeros(1), 0, "flags")


def broadcast(transport: Transport) -> None:
    """More than fits into a connection's buffers."""
    transport.broadcast(torch.zeros(100_000_000, dtype=torch.uint8), "updates")


def test_a_broadcast_that_the_host_did_not_wait_for_names_who_is_silent(monkeypatch):
    """As through NCCL, by what is left of it: work of a device that does not end."""
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    transport = Transport([range(1), range(1, 3)], torch.device("cpu"), 0.0)
    transport.hurry()
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    transport._unsettled = [(SimpleNamespace(is_completed=lambda: False), on_gpu, [0])]
    with pytest.raises(ClusterError, match=r"rank 0 \(server, worker 0\) was silent for 0 s"):
        transport.settle()
    waited = []
    transport._unsettled = [(SimpleNamespace(is_completed=lambda: True, wait=waited.append), on_gpu, [0])]
    transport.settle()
    transport.settle()
    assert len(waited) == 1


def test_the_host_waits_for_what_it_reads_between_iterations(monkeypatch):
    """Else it would read, from a device that waits for a rank that is silent, for ever."""
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    work = SimpleNamespace(is_completed=lambda: False, synchronize=lambda: None)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: work)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), numel=lambda: 4)
    monkeypatch.setattr("sasg.cluster.transport._bytes", lambda tensor: on_gpu)
    transport = Transport([range(1), range(1, 3)], torch.device("cpu"), 0.0)
    transport.hurry()
    with pytest.raises(ClusterError, match=r"rank 0 \(server, worker 0\) was silent for 0 s"):
        transport.broadcast(torch.zeros(1), "apart")
    transport.broadcast(torch.zeros(1), "updates")  # not yet


def test_the_server_names_who_is_silent():
    server, *_ = run_ranks(3, wait_for_silent, 2, server_receives, hanging=[2])
    assert isinstance(server, ClusterError)
    assert str(server) == "rank 2 (workers 4-5) was silent for 0.25 s (cluster.timeout_s)"


def test_the_others_name_a_silent_server():
    """They wait for it twice as long as it waits for them."""
    _, *others = run_ranks(3, wait_for_silent, 0, receive_from_server, hanging=[0])
    assert [type(other) for other in others] == [ClusterError] * 2
    assert {str(other) for other in others} == {"rank 0 (server, workers 0-1) was silent for 0.5 s (cluster.timeout_s)"}


@pytest.mark.parametrize(("size", "names"), [(2, "rank 1 (workers 3-5)"), (3, "one of the ranks 1 to 2")])
def test_the_server_names_who_does_not_take_a_broadcast(size, names):
    server, *_ = run_ranks(size, wait_for_silent, size - 1, broadcast, hanging=range(1, size))
    assert isinstance(server, ClusterError) and str(server).startswith(f"{names} was silent for 0.25 s")


@pytest.mark.parametrize(("reception", "num_arrivals"), [("serial", 5), ("parallel", 2), ("auto", 2)])
def test_an_honest_exchange_applies_all_payloads(reception, num_arrivals):
    """Its own workers' at once, the others' one by one or together."""
    server, *others = run_ranks(3, exchange, three(reception=reception), "")
    assert server == f"applied {num_arrivals}"
    assert others == ["applied 0"] * 2


class Gaps:
    """An exchange in which some of six workers send, as the server got it."""

    SENT = (True, False, True, False, True, True)

    def run(self, config: ClusterConfig) -> list[tuple[int, list[float], list[int]]]:
        with open_cluster(config, torch.device("cpu")) as cluster:
            held = torch.tensor(cluster.workers)
            values, indices = held.unsqueeze(1) + torch.tensor([0.25, 0.5]), held.unsqueeze(1) + torch.tensor([0, 10])
            arrived = []

            def server(arriving):
                for uploads in arriving:
                    payload, sent = uploads.payload, uploads.sent
                    for row, worker in enumerate(range(cluster.num_workers)[uploads.workers]):
                        if sent is None or sent[row]:
                            arrived.append((worker, payload.values[row].tolist(), payload.indices[row].tolist()))
                return torch.ones(100)

            payload = Payload(values, indices, (Segment(100, 2),))
            cluster.exchange(payload, torch.tensor(self.SENT)[held], server)
            return arrived


@pytest.mark.parametrize("reception", ["serial", "auto"])
def test_uploads_with_gaps_between_their_workers_are_told_apart(reception):
    arrived = run_ranks(3, Gaps().run, three(reception=reception))[0]
    senders = [worker for worker, sends in enumerate(Gaps.SENT) if sends]
    assert arrived == [(m, [m + 0.25, m + 0.5], [m, m + 10]) for m in senders]


def test_a_not_a_number_is_no_sign_of_a_short_message():
    form = WireFormat(k=3, dtype=torch.float32, size=None)
    data = torch.empty(form.num_bytes, dtype=torch.uint8)
    form.pack(torch.tensor([1.0, 2.0, torch.nan]), None, data)
    assert form.unpack(data.unsqueeze(0), ["a rank"], torch.device("cpu")).values[0, 2].isnan()


@pytest.mark.parametrize("k", [0, 1, 5, 8])
def test_codes_whose_bytes_are_all_ones_are_no_sign_of_a_short_message(k):
    levels = torch.arange(4, dtype=torch.float64)
    form = WireFormat(k=k, dtype=torch.float64, size=None, code=LevelCode(3), num_side=4, side_dtype=torch.float64)
    data = torch.empty(2 * form.num_bytes, dtype=torch.uint8)
    form.blank(data)
    form.pack(-levels[-1:].expand(k), None, data, levels)
    payload = form.unpack(data.unsqueeze(0), ["a rank"], torch.device("cpu"))
    assert form.num_bytes == (3 * k + 7) // 8 + 4 * 8
    assert torch.equal(payload.values, torch.full((1, k), -3.0, dtype=torch.float64))
    assert torch.equal(payload.side, levels.unsqueeze(0))


@pytest.mark.parametrize("side", [None, torch.float32])
def test_uploads_of_no_entries_are_unpacked(side):
    form = WireFormat(0, torch.float64, 100, (Segment(100, 100),), None, *((1, side) if side else (0, None)))
    data = torch.zeros(2, 16, dtype=torch.uint8)
    form.blank(data)
    data[:, : form.num_bytes] = 0
    payload = form.unpack(data, ["one", "two"], torch.device("cpu"))
    assert payload.values.shape == payload.indices.shape == (2, 0)
    assert (payload.values.dtype, payload.indices.dtype) == (torch.float64, torch.int64)


# -- ranks that do not fit together ---------------------------------------------------------------


def run_differing(config: Config, difference: str) -> None:
    if os.environ["RANK"] == "1":
        import sasg.training.run

        if difference == "configuration":
            config = replace(config, seed=2)
        elif difference == "code":
            sasg.training.run.code_sha256 = lambda: "other"
        else:
            sasg.training.run.load_dataset = lambda config: replace(load_dataset(config), sha256="other")
    run(config)


@pytest.mark.parametrize("difference", ["configuration", "code", "data set"])
def test_ranks_that_differ_are_refused(tmp_path, difference):
    config = replace(configuration("sgd"), cluster=three(processes=2), runs_dir=str(tmp_path))
    for error in run_ranks(2, run_differing, config, difference):
        assert isinstance(error, UserError)
        assert (
            str(error)
            == f"rank 1 (workers 3-5) has another {difference} than rank 0; start all processes with the same"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (three(processes=2), "3 processes were started, but cluster.processes=2; make them equal"),
        (replace(three(), workers=2), "cluster.processes=3: more than the 2 workers; give at most 2"),
    ],
)
def test_a_wrong_world_size_ends_all_ranks(tmp_path, cluster, message):
    config = replace(configuration("sgd"), cluster=cluster, runs_dir=str(tmp_path))
    for error in run_ranks(3, run, config):
        assert isinstance(error, UserError) and message in str(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "processes", "message"),
    [
        (ClusterConfig("distributed", 10, 5), 4, "4 processes were started, but cluster.processes=5"),
        (ClusterConfig("distributed", 3), 4, "cluster.processes=4: more than the 3 workers"),
        (ClusterConfig("distributed", 10, backend="nccl"), 2, "cluster.backend=nccl: 2 processes need a GPU each"),
    ],
)
def test_a_wrong_number_of_processes_is_refused_at_once(config, processes, message):
    with pytest.raises(UserError, match=message):
        check_processes(config, processes, processes, "cpu")


def test_torchrun_with_a_simulated_cluster_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"torchrun started 2 processes for cluster\.kind=simulated"):
        open_cluster(ClusterConfig(), torch.device("cpu")).__enter__()


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"processes": 11}, "cluster.processes=11: more than cluster.workers=10"),
        ({"processes": 0}, "cluster.processes=0: must be at least 1"),
        ({"port": 70000}, "cluster.port=70000: must be between 1 and 65535"),
        ({"timeout_s": 0.0}, "cluster.timeout_s=0.0: must be a positive number"),
        ({"backend": "mpi"}, "cluster.backend=mpi: choose one of auto, gloo, nccl"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(cluster, message):
    with pytest.raises(UserError, match=message):
        configuration("sgd", cluster=cluster)


# -- the launcher ---------------------------------------------------------------------------------


def launched(tmp_path: Path, **cluster) -> Config:
    config = configuration("lasg", epochs=100_000, max_iterations=1_000_000, runs_dir=str(tmp_path / "runs"))
    return replace(
        config, cluster=replace(config.cluster, kind="distributed", processes=2, **{"timeout_s": FOREVER, **cluster})
    )


def test_a_port_in_use_is_refused_at_once(tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(UserError, match=f"cluster.port={port}: is in use"):
            launch(launched(tmp_path, port=port))


def start(config: Config, tmp_path: Path) -> subprocess.Popen:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.as_dict()))
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-m", "sasg", str(path)]
    return subprocess.Popen(
        command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def pid_of_rank(rank: int, launcher: int) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_child = f"PPid:\t{launcher}\n" in (process / "status").read_text()
            if is_child and f"\0RANK={rank}\0".encode() in (process / "environ").read_bytes():
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"no process of rank {rank}")


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    """As long as pytest's time-out lets it."""
    while not holds():
        time.sleep(0.05)


def wait_for(event: Callable[[], bool], running: subprocess.Popen) -> None:
    def happened() -> bool:
        assert running.poll() is None, running.communicate()
        return event()

    wait_until(happened)


def wait_for_rows(tmp_path: Path, running: subprocess.Popen) -> None:
    wait_for(lambda: any(tmp_path.glob("runs/*/metrics.csv")), running)


def end_of(running: subprocess.Popen, tmp_path: Path) -> tuple[int, str, list[str]]:
    """Exit code, stdout and lines of stderr; nothing is left in the temporary directory."""
    output, errors = running.communicate(timeout=240)
    assert not list((tmp_path / "tmp").iterdir())
    assert "Traceback" not in errors or "not in this rank" in errors
    return running.returncode, output, errors.splitlines()


def test_a_launched_rank_that_is_killed_ends_all_with_one_line(tmp_path):
    running = start(launched(tmp_path), tmp_path)
    wait_for_rows(tmp_path, running)
    os.kill(pid_of_rank(0, running.pid), signal.SIGKILL)
    code, _, errors = end_of(running, tmp_path)
    assert code == 1
    message = "rank 0 (server, workers 0-4) was ended by SIGKILL"
    assert errors[-1] == f"error: {message}; the same command goes on from the last checkpoint"


class TestReasons:
    """What is told of processes that failed, from their reports and exit codes."""

    @staticmethod
    def told(reports: Path, **exit_codes: int) -> Exception:
        failures = {
            int(rank.removeprefix("rank")): ProcessFailure(0, 1, code, "none") for rank, code in exit_codes.items()
        }
        return _reason(reports, failures, [range(5), range(5, 10)])

    def report(self, reports: Path, rank: int, code: int, message: str) -> None:
        (reports / f"rank-{rank:04}.json").write_text(json.dumps({"code": code, "message": message}))

    def test_a_killed_one_before_who_missed_it(self, tmp_path):
        self.report(tmp_path, 0, 1, "rank 1 (workers 5-9) ended, or its connection was lost; more")
        told = self.told(tmp_path, rank0=1, rank1=-signal.SIGKILL)
        assert isinstance(told, ClusterError) and str(told) == "rank 1 (workers 5-9) was ended by SIGKILL"

    def test_a_silent_one_that_was_then_killed(self, tmp_path):
        self.report(tmp_path, 0, 1, "rank 1 (workers 5-9) was silent for 6 s (cluster.timeout_s); more")
        (tmp_path / "stragglers-were-killed").touch()
        told = self.told(tmp_path, rank0=1, rank1=-signal.SIGKILL)
        assert isinstance(told, ClusterError) and str(told).endswith("was silent for 6 s (cluster.timeout_s)")

    def test_a_mistake_before_all(self, tmp_path):
        self.report(tmp_path, 0, 1, "rank 1 (workers 5-9) ended, or its connection was lost; more")
        self.report(tmp_path, 1, 2, "data.root: is empty; name a folder")
        told = self.told(tmp_path, rank0=1, rank1=2)
        assert isinstance(told, UserError) and str(told) == "data.root: is empty; name a folder"


def test_stragglers_are_killed_and_those_that_end_meanwhile_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr("sasg.cluster.launch._STRAGGLER_SECONDS", 0)

    def child(reports: Path) -> subprocess.Popen:
        return subprocess.Popen(["sleep", "3600"], env={**os.environ, "SASG_REPORTS": str(reports)})

    straggler, ended, other = child(tmp_path), child(tmp_path), child(tmp_path / "of another launch")
    read, failed = Path.read_bytes, []
    monkeypatch.setattr(threading, "excepthook", failed.append)

    def after_an_end(path):
        if path == Path(f"/proc/{ended.pid}/environ"):
            ended.kill()
            ended.wait()  # it was there when the children were listed
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", after_an_end)
    with _ending_stragglers(tmp_path):
        (tmp_path / "rank-0001.json").touch()
        assert straggler.wait(timeout=240) == -signal.SIGKILL
    assert ended.returncode == -signal.SIGKILL and not failed
    assert other.poll() is None
    other.kill()
    other.wait()


def test_an_error_in_a_users_file_in_a_launched_rank_is_one_line(tmp_path):
    config = replace(launched(tmp_path), model={"kind": "tests.study_parts.crashing_in_rank_1"})
    running = start(config, tmp_path)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 2
    (line,) = errors.splitlines()
    assert "study_parts.py:" in line and "RuntimeError: not in this rank (in rank 1); SASG_TRACEBACK=1" in line


def test_a_crash_in_a_launched_rank_is_told_with_its_rank(tmp_path, monkeypatch):
    monkeypatch.setenv("SASG_TRACEBACK", "1")
    config = replace(launched(tmp_path), model={"kind": "tests.study_parts.crashing_in_rank_1"})
    code, _, errors = end_of(start(config, tmp_path), tmp_path)
    assert code == 1
    assert any("RuntimeError: not in this rank" in line for line in errors)
    assert errors[-1].startswith("error: rank 1 (workers 5-9) failed with exit code 1; what it printed ")


def test_a_signal_to_the_launcher_stops_the_run_in_order_and_a_lost_terminal_does_not(tmp_path):
    running = start(launched(tmp_path), tmp_path)
    wait_for_rows(tmp_path, running)
    running.send_signal(signal.SIGHUP)
    (metrics,) = tmp_path.glob("runs/*/metrics.csv")
    size = metrics.stat().st_size
    wait_for(lambda: metrics.stat().st_size > size, running)
    running.send_signal(signal.SIGTERM)
    code, output, errors = end_of(running, tmp_path)
    assert code == 3, errors
    folder = Path(tmp_path, output.strip())
    assert (folder / "checkpoint.pt").exists()
    assert "the same command goes on from there" in errors[-1]


def test_ctrl_c_while_processes_start_is_one_line(tmp_path):
    """A terminal interrupts the launcher alone: the processes have groups of their own."""
    model = {"kind": "tests.study_parts.never_ready_in_ranks", "folder": str(tmp_path)}
    running = start(replace(launched(tmp_path), model=model), tmp_path)
    wait_for(lambda: all((tmp_path / f"rank-{rank}").exists() for rank in (0, 1)), running)
    running.send_signal(signal.SIGINT)
    code, _, errors = end_of(running, tmp_path)
    assert code == 3
    assert errors == ["error: interrupted; the same command begins again, or goes on from a checkpoint"]


def test_processes_of_a_killed_launcher_save_a_checkpoint_and_end(tmp_path):
    running = start(launched(tmp_path), tmp_path)
    wait_for_rows(tmp_path, running)
    ranks = [pid_of_rank(rank, running.pid) for rank in (0, 1)]
    running.kill()
    running.communicate()
    wait_until(lambda: not any(is_alive(pid) for pid in ranks))
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["status"] == "stopped"
    assert (folder / "checkpoint.pt").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_mistakes_of_launched_processes_are_one_line_with_exit_code_2(tmp_path):
    config = launched(tmp_path)
    folder = folder_of(config, load_dataset(config).sha256, "cpu")
    with folder.held():
        code, _, errors = end_of(start(config, tmp_path), tmp_path)
    assert code == 2
    assert len(errors) == 1 and errors[0].startswith("error: ") and BUSY in errors[0]


def test_missing_data_is_told_before_processes_start(tmp_path, monkeypatch):
    config = replace(launched(tmp_path), dataset={"kind": "mnist", "mean": [0.0], "std": [1.0]})
    monkeypatch.setattr("sasg.cluster.launch.launch", None)
    with pytest.raises(UserError, match="mnist"):
        run(from_dict({**config.as_dict(), "data": {"root": str(tmp_path), "download": False}}))


def test_two_nodes_meet_through_torchrun(tmp_path):
    """Two torchrun agents on one machine, as on two machines."""
    config = replace(configuration("sasg"), runs_dir=str(tmp_path / "runs"))
    config = replace(config, cluster=replace(config.cluster, kind="distributed", timeout_s=FOREVER))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.as_dict()))
    port = free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
               f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", "--local-addr=127.0.0.1",
               "-m", "sasg", str(path)]  # fmt: skip
    nodes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [node.communicate(timeout=240) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    folders = [line for out, _ in outputs for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert len(folders) == 1  # the server tells, wherever it is
    expected = run(replace(configuration("sasg"), runs_dir=str(tmp_path / "simulated")))
    summary = json.loads(Path(folders[0], "summary.json").read_text())
    assert summary["totals"] == expected["totals"]
    assert summary["cluster"]["processes"] == 2
