"""Whatever goes wrong in a distributed run ends it soon, with a line that names the culprit."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ranks import configuration, free_port, run_ranks

from sasg.cluster import Ledger, LevelCode, Payload, Segment
from sasg.cluster.factory import check_processes, open_cluster
from sasg.cluster.launch import launch
from sasg.cluster.wire import WireFormat
from sasg.config import ClusterConfig, Config, from_dict
from sasg.errors import ClusterError, UserError
from sasg.problem.problem import load_dataset
from sasg.training.run import run
from sasg.training.run_folder import BUSY, folder_of

SECONDS_TO_NOTICE_AN_END = 5
SECONDS_TO_END_A_LAUNCH = 20  # after a process ended or fell silent, with cluster.timeout_s=6
ROOT = Path(__file__).resolve().parent.parent


def three(**changes) -> ClusterConfig:
    return ClusterConfig(kind="distributed", workers=6, **{"timeout_s": 20.0, **changes})


# -- one exchange ---------------------------------------------------------------------------------


def exchange(config: ClusterConfig, break_it: str) -> tuple[str, float]:
    """One exchange in which the last rank, or the server, does `break_it`: what this rank raised, and when."""
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
            if break_it == "hang":
                time.sleep(60)
            if break_it == "too short":
                values, indices = values[:, :3], indices[:, :3]
            if break_it == "too long":
                values, indices = values.repeat(1, 2), indices.repeat(1, 2)
        if os.environ["RANK"] == "0" and break_it == "server hangs":
            time.sleep(60)
        applied = []

        def server(arriving):
            applied.extend(uploads.workers for uploads in arriving)
            return torch.ones(size)

        started = time.monotonic()
        payload = Payload(values, indices, (Segment(size, values.shape[1]),))
        if os.environ["RANK"] == "2":  # after the payload has looked at them
            if break_it == "index too large":
                indices[0, 2] = size
            if break_it == "index negative":
                indices[1, 0] = -3
        try:
            cluster.exchange(payload, sent, server)
        except ClusterError as error:
            return str(error), time.monotonic() - started
        return f"applied {len(applied)}", time.monotonic() - started


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
    assert server[0] == message
    assert server[1] < SECONDS_TO_NOTICE_AN_END
    assert other[0] == "rank 0 (server, workers 0-1) ended, or its connection was lost"
    assert other[1] < SECONDS_TO_NOTICE_AN_END + 1


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


def test_the_server_names_who_is_silent():
    server, other, _ = run_ranks(3, exchange, three(timeout_s=1.0), "hang", seconds=10)
    assert server[0] == "rank 2 (workers 4-5) was silent for 1 s (cluster.timeout_s)"
    assert server[1] < 1 + SECONDS_TO_NOTICE_AN_END
    assert other[0] == "rank 0 (server, workers 0-1) ended, or its connection was lost"


def broadcast(config: ClusterConfig) -> str:
    """More than fits into a connection's buffers, to the last rank, which does not take it."""
    with open_cluster(config, torch.device("cpu")) as cluster:
        cluster.transport.hurry()
        if cluster.transport.rank == cluster.transport.size - 1:
            time.sleep(4)
            return ""
        try:
            cluster.transport.broadcast(torch.zeros(100_000_000, dtype=torch.uint8), "updates")
        except ClusterError as error:
            return str(error)
        return "took it"


@pytest.mark.parametrize(("size", "names"), [(2, "rank 1 (workers 3-5)"), (3, "one of the ranks 1 to 2")])
def test_the_server_names_who_does_not_take_a_broadcast(size, names):
    server = run_ranks(size, broadcast, three(timeout_s=1.0), seconds=20)[0]
    assert server.startswith(f"{names} ")


def test_the_others_name_a_silent_server():
    """They wait for it twice as long as it waits for them."""
    _, *others = run_ranks(3, exchange, three(timeout_s=1.0), "server hangs", seconds=20)
    assert {words for words, _ in others} & {"rank 0 (server, workers 0-1) was silent for 2 s (cluster.timeout_s)"}
    assert all(words.startswith("rank 0 (server, workers 0-1) ") for words, _ in others)
    assert all(seconds < 2 + SECONDS_TO_NOTICE_AN_END for _, seconds in others)


def test_an_honest_exchange_applies_all_payloads():
    assert [rank[0] for rank in run_ranks(3, exchange, three(), "")] == ["applied 5", "applied 0", "applied 0"]


def test_a_not_a_number_is_no_sign_of_a_short_message():
    form = WireFormat(k=3, dtype=torch.float32, size=None)
    data = torch.empty(form.num_bytes, dtype=torch.uint8)
    form.pack(torch.tensor([1.0, 2.0, torch.nan]), None, data)
    assert form.unpack(data, "a rank", torch.device("cpu")).values[0, 2].isnan()


@pytest.mark.parametrize("k", [0, 1, 5, 8])
def test_codes_whose_bytes_are_all_ones_are_no_sign_of_a_short_message(k):
    levels = torch.arange(4, dtype=torch.float64)
    form = WireFormat(k=k, dtype=torch.float64, size=None, code=LevelCode(3), num_side=4, side_dtype=torch.float64)
    data = torch.empty(2 * form.num_bytes, dtype=torch.uint8)
    form.blank(data)
    form.pack(-levels[-1:].expand(k), None, data, levels)
    payload = form.unpack(data, "a rank", torch.device("cpu"))
    assert form.num_bytes == (3 * k + 7) // 8 + 4 * 8
    assert torch.equal(payload.values, torch.full((1, k), -3.0, dtype=torch.float64))
    assert torch.equal(payload.side, levels.unsqueeze(0))


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
    started = time.monotonic()
    raised = run_ranks(2, run_differing, config, difference)
    assert time.monotonic() - started < 30
    for error in raised:
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
    for error in run_ranks(3, run, config, seconds=60):
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
        config, cluster=replace(config.cluster, kind="distributed", processes=2, **{"timeout_s": 20.0, **cluster})
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
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


def imports_torch(rank: int, launcher: int) -> bool:
    try:
        return "libtorch" in Path(f"/proc/{pid_of_rank(rank, launcher)}/maps").read_text()
    except (AssertionError, OSError):
        return False


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for(event: Callable[[], bool], running: subprocess.Popen) -> None:
    def happened() -> bool:
        assert running.poll() is None, running.communicate()
        return event()

    wait_until(happened, seconds=120)


def wait_for_rows(tmp_path: Path, running: subprocess.Popen) -> None:
    wait_for(lambda: any(tmp_path.glob("runs/*/metrics.csv")), running)


@pytest.mark.parametrize(
    ("rank", "number", "message"),
    [
        (1, signal.SIGKILL, "rank 1 (workers 5-9) was ended by SIGKILL"),
        (0, signal.SIGKILL, "rank 0 (server, workers 0-4) was ended by SIGKILL"),
        (1, signal.SIGSTOP, "rank 1 (workers 5-9) was silent for 6 s (cluster.timeout_s)"),
    ],
)
def test_a_launched_rank_that_ends_or_hangs_ends_all_with_one_line(tmp_path, rank, number, message):
    running = start(launched(tmp_path, timeout_s=6.0), tmp_path)
    wait_for_rows(tmp_path, running)
    struck = time.monotonic()
    os.kill(pid_of_rank(rank, running.pid), number)
    _, errors = running.communicate(timeout=60)
    assert time.monotonic() - struck < SECONDS_TO_END_A_LAUNCH
    assert running.returncode == 1
    assert errors.splitlines()[-1] == f"error: {message}; the same command goes on from the last checkpoint"
    assert "Traceback" not in errors


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
    running = start(config, tmp_path)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "RuntimeError: not in this rank" in errors
    assert errors.splitlines()[-1].startswith("error: rank 1 (workers 5-9) failed with exit code 1; what it printed ")


def test_a_signal_to_the_launcher_stops_the_run_in_order(tmp_path):
    running = start(launched(tmp_path), tmp_path)
    wait_for_rows(tmp_path, running)
    running.send_signal(signal.SIGTERM)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 3, errors
    folder = Path(tmp_path, output.strip())
    assert (folder / "checkpoint.pt").exists()
    assert "the same command goes on from there" in errors


def test_ctrl_c_while_processes_start_is_one_line(tmp_path):
    """A terminal interrupts the launcher alone: the processes have groups of their own. Here they import torch."""
    running = start(launched(tmp_path), tmp_path)
    wait_for(lambda: all(imports_torch(rank, running.pid) for rank in (0, 1)), running)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 3
    assert errors == "error: interrupted; the same command begins again, or goes on from a checkpoint\n"


def test_processes_of_a_killed_launcher_save_a_checkpoint_and_end(tmp_path):
    running = start(launched(tmp_path), tmp_path)
    wait_for_rows(tmp_path, running)
    ranks = [pid_of_rank(rank, running.pid) for rank in (0, 1)]
    running.kill()
    running.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in ranks), seconds=20)
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["status"] == "stopped"
    assert (folder / "checkpoint.pt").exists()


def test_mistakes_of_launched_processes_are_one_line_with_exit_code_2(tmp_path):
    config = launched(tmp_path)
    folder = folder_of(config, load_dataset(config).sha256, "cpu")
    with folder.held():
        running = start(config, tmp_path)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 2
    assert errors.startswith("error: ") and BUSY in errors
    assert len(errors.splitlines()) == 1


def test_missing_data_is_told_before_processes_start(tmp_path, monkeypatch):
    config = replace(launched(tmp_path), dataset={"kind": "sasg.problem.datasets.mnist", "mean": [0.0], "std": [1.0]})
    monkeypatch.setattr("sasg.cluster.launch.launch", None)
    with pytest.raises(UserError, match="mnist"):
        run(from_dict({**config.as_dict(), "data": {"root": str(tmp_path), "download": False}}))


def test_two_nodes_meet_through_torchrun(tmp_path):
    """Two torchrun agents on one machine, as on two machines."""
    config = replace(configuration("sasg"), runs_dir=str(tmp_path / "runs"))
    config = replace(config, cluster=replace(config.cluster, kind="distributed", timeout_s=20.0))
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
    outputs = [node.communicate(timeout=90) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    folders = [line for out, _ in outputs for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert len(folders) == 1  # the server tells, wherever it is
    expected = run(replace(configuration("sasg"), runs_dir=str(tmp_path / "simulated")))
    summary = json.loads(Path(folders[0], "summary.json").read_text())
    assert summary["totals"] == expected["totals"]
    assert summary["cluster"]["processes"] == 2
