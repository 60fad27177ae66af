"""LASG's and LAG's rules on processes as simulated, from checkpoints, and what the ledger shows for PS."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from ranks import WORKERS, configuration, run_ranks
from suite_config import config, iterate
from test_distributed import assert_same, distributed, train

from sasg.cluster import SimulatedCluster
from sasg.config import Config
from sasg.errors import UserError
from sasg.problem.building import load_dataset
from sasg.training.trainer import Trainer

TRIGGERS = {
    "lasg_wk1": {"kind": "wk1", "scale": 2.0},
    "lasg_wk2": {"kind": "wk2", "scale": 1.0},
    "lag": {"kind": "lag", "scale": 16.0},
}
SERVERS = {"lasg_ps": {"smoothness": [3.0 + m for m in range(WORKERS)]}, "lasg_pse": {"smoothness": None}}
METHODS = (*TRIGGERS, *SERVERS)
DELAY = 3


def rule(method: str) -> Config:
    """A rule on the digits in float64 that skips, uploads and forces within 50 iterations."""
    if method in SERVERS:
        algorithm = {"name": method, "kind": "server_triggered", "max_delay": DELAY, "window": 4, **SERVERS[method]}
    else:
        algorithm = {
            **configuration("lasg").algorithm,
            "name": method,
            "trigger": {"max_delay": DELAY, "window": 4, **TRIGGERS[method]},
        }
    return configuration(method, algorithm=algorithm, evaluate_every=50)


@pytest.fixture(scope="module")
def simulated() -> dict[str, dict]:
    return {method: train(rule(method)) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_the_runs_skip_upload_by_threshold_and_are_forced(simulated, method):
    sent = simulated[method]["sent"]
    staleness, by_rule, forced = torch.ones(WORKERS), 0, 0
    for row in sent[1:]:
        must = staleness >= DELAY
        assert row[must].all()
        forced, by_rule = forced + int(must.sum()), by_rule + int((row & ~must).sum())
        staleness = torch.where(row, 1, staleness + 1)
    assert sent[0].all()
    assert min(forced, by_rule, int((~sent).sum())) >= 20, (forced, by_rule, int((~sent).sum()))


@pytest.mark.parametrize("processes", [1, 2])
def test_batch_statistics_of_workers_that_are_not_asked_survive(processes):
    """They enter the running ones again until the worker computes new ones, also after a checkpoint."""
    model = {"kind": "resnet18", "width": 4}
    config = replace(rule("lasg_ps"), model=model, cluster=replace(rule("lasg_ps").cluster, workers=3))
    config = replace(config, algorithm={**config.algorithm, "smoothness": [1.0, 3.0, 9.0]})
    expected = train(config, until=12)
    assert 0 < expected["sent"].sum() < expected["sent"].numel()
    state = train(config, until=7)["state"]
    assert_same(run_ranks(processes, train, distributed(config, processes), 12, state, True)[0], expected)


def test_what_the_ledger_counts_of_ps(simulated):
    """Per iteration a bit to each worker asks, or does not; w goes to those who are asked, 64 bits a parameter here."""
    for method in SERVERS:
        row, sent = simulated[method]["row"], simulated[method]["sent"]
        vector = 64 * len(simulated[method]["parameters"])
        assert row["rounds"] == int(sent.sum()) and row["value_bits"] == int(sent.sum()) * vector
        assert row["downlink_unicast_bits_none"] == sent.numel() + int(sent.sum()) * vector
        assert row["downlink_broadcast_bits_none"] == sent.numel() + int(sent.any(1).sum()) * vector
        assert row.get("side_bits", 0) == (64 * int(sent.sum()) if method == "lasg_pse" else 0)
    whole = simulated["lasg_wk2"]["row"]["downlink_unicast_bits_none"]
    assert whole == simulated["lasg_wk2"]["sent"].numel() * vector


def trainer(*overrides: str) -> Trainer:
    cfg = config("precision=fp64", "cluster.workers=5", "model.hidden=[12]", *overrides)
    return Trainer(cfg, load_dataset(cfg), SimulatedCluster(5, torch.device("cpu")), torch.float64)


@pytest.mark.parametrize("options", [(), ("weight_decay=0.01",), ("gradients=loop",)])
def test_nothing_is_computed_for_workers_that_are_not_asked(monkeypatch, options):
    trained = trainer("algorithm=lasg_ps", "algorithm.smoothness=[0.1,0.2,0.4,1,2]", "algorithm.max_delay=6", *options)
    engine = trained.problem.oracle.engine
    computed = []
    originals = {name: getattr(engine, name) for name in ("per_worker", "factored")}

    def noting(name, parameters, x, *others):
        computed.append(len(x))
        return originals[name](parameters, x, *others)

    for name in originals:
        monkeypatch.setattr(engine, name, partial(noting, name))
    asked = []
    for _ in range(30):
        iterate(trained, 1)
        asked.append(int(trained.algorithm.sent.sum()))
    assert computed == [n for n in asked if n]
    assert {0, 5} < set(asked)


def test_a_constant_that_is_too_large_is_sgd():
    """L^2 || w^k - w^(k_m) ||^2 always exceeds the threshold; with weight decay as well."""
    for options in ((), ("weight_decay=0.01",)):
        asked = trainer("algorithm=lasg_ps", "algorithm.smoothness=1e9", *options)
        sgd = trainer("algorithm=sgd", *options)
        iterate(asked, 40)
        iterate(sgd, 40)
        torch.testing.assert_close(asked.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)
        assert asked.cluster.ledger.totals()["rounds"] == 200


def test_lag_skips_with_full_gradients_and_descends():
    lag = trainer("algorithm=lag", "task.batch_size=full", "task.step_size=0.05")
    gd = trainer("algorithm=sgd", "task.batch_size=full", "task.step_size=0.05")
    iterate(lag, 100)
    iterate(gd, 100)
    assert lag.cluster.ledger.totals()["rounds"] < 0.6 * gd.cluster.ledger.totals()["rounds"]
    assert lag.problem.oracle.loss.mean() < 1.2 * gd.problem.oracle.loss.mean()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (("lasg_wk1", "trigger.max_delay=0"), "max_delay=0: must be at least 1"),
        (("lasg_wk2", "trigger.window=0"), "window=0: must be at least 1"),
        (("lag", "trigger.scale=-1.0"), "scale=-1.0: must not be negative"),
        (("lasg_ps", "smoothness=-1.0"), "smoothness=-1.0: must not be negative"),
        (("lasg_ps", "smoothness=[1,2]"), "algorithm.smoothness: 2 values for 5 workers"),
        (("lasg_pse", "max_delay=0"), "max_delay=0: must be at least 1"),
    ],
)
def test_impossible_options_are_refused(overrides, words):
    method, option = overrides
    with pytest.raises(UserError, match=words.replace(".", r"\.")):
        trainer(f"algorithm={method}", f"algorithm.{option}")
