"""The distributed cluster gives what the simulated one gives, and sends what the ledger counts."""

import copy
import csv
import itertools
import json
import os
import runpy
import signal
from argparse import Namespace
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks import WORKERS, configuration, run_ranks

from sasg.cluster import factory, stopwatch
from sasg.cluster import launch as launching
from sasg.cluster.distributed import spread_workers
from sasg.cluster.factory import open_cluster
from sasg.config import ClusterConfig, Config
from sasg.problem.building import load_dataset
from sasg.training import run as training
from sasg.training.run import run
from sasg.training.run_folder import read_uploads
from sasg.training.trainer import Trainer

METHODS = ("sgd", "sparse", "lasg", "sasg", "sasg_paper", "local_sgd")
CPU = torch.device("cpu")


def train(config: Config, until: int = 50, state: dict | None = None, resumes: bool = False) -> dict:
    """Iterate and evaluate in the cluster that this process belongs to."""
    with open_cluster(config.cluster, CPU) as cluster:
        trainer = Trainer(config, load_dataset(config), cluster, torch.float64)
        if resumes:
            trainer.load_state(state if cluster.is_server else None)
        while trainer.iteration < until:
            trainer.run_iteration()
        state = copy.deepcopy(trainer.state())
        row, sent = trainer.evaluate()
        return {
            "is_server": cluster.is_server,
            "parameters": trainer.problem.parameters,
            "running": state["running_statistics"],
            "row": row,
            "sent": sent,
            "state": state if cluster.is_server else None,
            "moved": {way: dict(getattr(cluster.transport, way)) for way in ("sent", "received")}
            if config.cluster.kind == "distributed"
            else None,
        }


def distributed(config: Config, processes: int, **options) -> Config:
    cluster = replace(config.cluster, kind="distributed", processes=processes, timeout_s=3600, **options)
    return replace(config, cluster=cluster)


@pytest.fixture(scope="module")
def simulated() -> dict[str, dict]:
    return {method: train(long_records(method)) for method in METHODS}


def long_records(method: str) -> Config:
    return configuration(method, evaluate_every=50)


def table(summary: dict, name: str) -> list[dict[str, str]]:
    with Path(summary["folder"], name).open() as file:
        return list(csv.DictReader(file))


def assert_same(found: dict, expected: dict) -> None:
    """The same decisions and, to 1e-12, the same numbers; `found` is the server's."""
    assert torch.equal(found["sent"], expected["sent"])
    torch.testing.assert_close(found["parameters"], expected["parameters"], rtol=0, atol=1e-12)
    torch.testing.assert_close(found["running"], expected["running"], rtol=0, atol=1e-12)
    assert found["row"].keys() == expected["row"].keys()
    for name, value in expected["row"].items():
        if isinstance(value, int) or value is None:
            assert found["row"][name] == value, name
        else:
            assert found["row"][name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("method", ["lasg", "sasg"])
def test_the_runs_skip_upload_by_threshold_and_are_forced(simulated, method):
    sent, delay = simulated[method]["sent"].numpy(), 2
    assert sent[:delay].all()
    staleness, by_rule, forced, skipped = np.zeros(WORKERS, dtype=int), 0, 0, 0
    for row in sent[delay:]:
        must = staleness > delay
        assert row[must].all()
        forced += must.sum()
        by_rule += (row & ~must).sum()
        skipped += (~row).sum()
        staleness = np.where(row, 1, staleness + 1)
    assert min(forced, by_rule, skipped) >= 20, (forced, by_rule, skipped)


def test_batch_normalisation_equals_its_simulation():
    model = {"kind": "resnet18", "width": 4}
    config = configuration("sasg", model=model, cluster={"workers": 3}, evaluate_every=12)
    expected = train(config, until=12)
    assert expected["running"].abs().sum() > 0
    found = run_ranks(2, train, distributed(config, 2), 12)
    assert_same(found[0], expected)


def test_a_state_moves_between_any_numbers_of_processes(simulated):
    config = long_records("sasg")
    three = run_ranks(3, train, distributed(config, 3), 25)[0]["state"]
    assert_same(train(config, state=three, resumes=True), simulated["sasg"])
    assert_same(run_ranks(2, train, distributed(config, 2), 50, three, True)[0], simulated["sasg"])
    alone = train(config, until=25)["state"]
    assert_same(run_ranks(4, train, distributed(config, 4), 50, alone, True)[0], simulated["sasg"])


def run_until_a_signal(config: Config, rank: int, iteration: int) -> dict:
    """A run in which one rank gets SIGTERM; whether to stop is decided after each iteration."""
    original = Trainer.run_iteration

    def interrupted(trainer: Trainer) -> None:
        original(trainer)
        if trainer.iteration == iteration and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer.run_iteration = interrupted
    training._DECIDE_SECONDS = 0.0
    return run(config)


def test_a_signal_to_one_rank_stops_all_and_the_run_resumes_elsewhere(tmp_path, simulated):
    config = replace(configuration("sasg"), runs_dir=str(tmp_path / "distributed"))
    stopped = run_ranks(3, run_until_a_signal, distributed(config, 3), 1, 30)
    assert stopped[0]["status"] == "stopped"
    assert stopped[0]["iterations"] == 30
    assert all("status" not in other for other in stopped[1:])
    finished = run_ranks(2, run, distributed(config, 2))[0]
    expected = run(replace(config, runs_dir=str(tmp_path / "simulated")))
    assert finished["status"] == expected["status"] == "finished"
    assert os.path.basename(finished["folder"]) == os.path.basename(expected["folder"])  # the cluster is not hashed
    uploads = [
        read_uploads(tmp_path / kind / os.path.basename(finished["folder"]) / "uploads.npz")
        for kind in ("distributed", "simulated")
    ]
    assert np.array_equal(*uploads)
    assert np.array_equal(uploads[0], simulated["sasg"]["sent"].numpy())
    rows = [table(s, "metrics.csv") for s in (finished, expected)]
    assert len(rows[0]) == len(rows[1]) > 2
    for found, wanted in zip(*rows, strict=True):
        for name, value in wanted.items():
            assert float(found[name]) == pytest.approx(float(value), rel=1e-9), name
    assert finished["cluster"]["processes"] == 2
    assert json.loads((tmp_path / "distributed" / os.path.basename(finished["folder"]) / "config.json").read_text())


def run_counting_looks(config: Config) -> dict:
    """A run whose clock goes on by one second with each look at it."""
    looks = itertools.count().__next__
    stopwatch.time = training.time = SimpleNamespace(monotonic=looks, perf_counter=looks)
    return run(config)


def test_measured_phases_add_up(tmp_path):
    config = replace(configuration("lasg"), runs_dir=str(tmp_path))
    summary = run_ranks(2, run_counting_looks, distributed(config, 2))[0]
    rows = table(summary, "timing.csv")
    phases = [f"{phase}_seconds" for phase in stopwatch.PHASES]
    for row in rows:
        total = sum(float(row[name]) for name in phases)
        assert 0.5 * float(row["training_seconds"]) < total <= float(row["training_seconds"])
        assert all(float(row[name]) > 0 for name in phases)
    log = Path(summary["folder"], "console.log").read_text()
    assert "comparison" in log
    assert "ms/iteration" in log


def test_simulated_runs_have_only_totals(tmp_path):
    summary = run(replace(configuration("sgd"), runs_dir=str(tmp_path)))
    row = table(summary, "timing.csv")[0]
    assert row["gradient_seconds"] == ""
    assert float(row["training_seconds"]) > 0


def test_the_benchmark_tells_where_decisions_and_bytes_differ(tmp_path):
    """benchmarks/distributed_gpu.py on made-up measurements: four workers on two ranks, five iterations."""
    benchmark = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "distributed_gpu.py"))
    (tmp_path / "sasg.json").write_text(json.dumps(configuration("sasg").as_dict()))
    sent = torch.ones(5, 4, dtype=torch.bool)
    ledger = {"rounds": 19, "value_bits": 19 * 64, "index_bits_int32": 19 * 64, "flag_bits": 20}
    ledger["downlink_broadcast_bits_int32"] = 8000
    moved = {"server_received_bytes": {"payloads": 160, "flags": 5}, "server_sent_bytes": {"updates": 1020}}
    measured = {"device": "", "parameters": torch.ones(3), "phases_ms": {}, "ms_per_iteration": 1.0}
    torch.save({**measured, "sent": sent, "counted": {"ledger": ledger}}, tmp_path / "simulated-1-sasg.pt")
    sent[3, 2] = False  # of the other rank: nine uploads cross
    counted = {"ledger": ledger, **moved}
    torch.save({**measured, "sent": sent, "counted": counted}, tmp_path / "gloo-2-sasg.pt")
    options = Namespace(configs=[tmp_path / "sasg.json"], work=tmp_path, backend=["gloo"], workers=4, ranks=[2])
    found = benchmark["_compare"](options, benchmark["_kinds"](options))["sasg"]
    gloo = found["gloo, 2 ranks"]
    assert found["simulated"]["share_of_uploads"] == 1.0 and gloo["share_of_uploads"] == 0.95
    assert gloo["first_difference"] == 3 and gloo["equal_decisions"] == 0.95
    assert gloo["bytes"] == {"payloads": (160, 144), "flags": (5, 5), "updates": (1020, 1020)}
    (_, row) = benchmark["_agreement"]({"sasg": found}, 5)
    assert row[3:5] == ["iteration 3 of 5", "95.00%"] and row[-2:] == ["1,185", "1,169"]


@pytest.mark.parametrize(("workers", "processes"), [(10, 1), (10, 3), (10, 10), (7, 4)])
def test_workers_are_spread_evenly(workers, processes):
    held = spread_workers(workers, processes)
    assert [m for ranks in held for m in ranks] == list(range(workers))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    assert all(a.stop == b.start for a, b in pairwise(held))


@pytest.mark.parametrize(
    ("processes", "device", "threads", "num", "told"),
    [
        (None, "cuda", 1, 4, "4 processes on this machine, one for each GPU, with 2 or 3 workers in each"),
        (None, "cpu", 1, 10, "10 processes on this machine, one for each worker, with 1 worker in each"),
        (None, "cpu", 4, 5, "5 processes on this machine, one for each 4 cores, with 2 workers in each"),
        (None, "cpu", 40, 1, "1 process on this machine, one for each 40 cores, with 10 workers in each"),
        (3, "cuda", 1, 3, None),
    ],
)
def test_the_number_of_processes_follows_the_machine(monkeypatch, processes, device, threads, num, told):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(factory, "num_cores", lambda: 20)
    chosen = factory.choose_processes(ClusterConfig("distributed", 10, processes), device, threads)
    assert chosen == (num, told and f"{told} (cluster.processes sets another number)")


@pytest.mark.parametrize(("num", "threads", "policy"), [(2, 1, None), (3, 1, "PASSIVE"), (1, 3, "PASSIVE")])
def test_threads_do_not_wait_in_a_loop_where_others_need_the_core(monkeypatch, tmp_path, num, threads, policy):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(launching, "num_cores", lambda: 2)
    config = replace(configuration("sgd"), threads=threads)
    assert launching._settings(config, num, tmp_path).get("OMP_WAIT_POLICY") == policy


def test_the_launcher_starts_what_it_chose_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(factory, "num_cores", lambda: 3)
    started = []

    def agent_of(settings, program):
        def agent(*words):
            started.append(settings.nproc_per_node)
            Path(words[-1]).with_name("summary.json").write_text("{}")

        return agent

    monkeypatch.setattr(launching, "elastic_launch", agent_of)
    config = configuration("lasg", cluster={"kind": "distributed"}, runs_dir=str(tmp_path))
    launching.launch(config)
    assert "3 processes on this machine, one for each core, with 3 or 4 workers in each" in capsys.readouterr().err
    launching.launch(replace(config, cluster=replace(config.cluster, processes=5)))
    assert capsys.readouterr().err == ""
    assert started == [3, 5]
