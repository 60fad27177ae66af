"""Majority voting's table: the published accounting, and what runs really uploaded; its tasks and its study."""

import csv
from pathlib import Path

import pytest

from experiments.study import compose_grid, load_study
from sasg.report.published import published
from sasg.report.runs import look_up
from sasg.report.vote_table import Scheme, compression, table
from sasg.report.writing import write_part
from sasg.training.run import run
from sasg.training.schedule import StepSchedule

METHODS = [
    "sgd",
    "sparse",
    "majority_vote",
    "majority_vote_quantised algorithm.name=majority_vote_quantised_H2 algorithm.local_steps=2",
]
ALL_CODES = "index_codes=[none,int32,log2,bitmask,delta,entropy]"


def test_the_formula_gives_the_published_ratios():
    """From the study's own configurations where it has them, from the published settings for all eight."""
    table = published("majority_vote")
    schemes = {
        name: Scheme(
            float(row["density"]),
            float(row["change_density"]) if row["change_density"] else None,
            float(row["bits_per_value"]),
            int(row["local_steps"]),
        )
        for (_, name), row in table.items()
    }
    assert len(schemes) == 8
    for config in compose_grid(["cifar10_voting"], load_study("majority_vote").methods, [1]):
        if (name := config.algorithm["name"]) in schemes:
            assert Scheme.of(config.algorithm) == schemes.pop(name)
            assert f"{Scheme.of(config.algorithm).compression:.0f}" == table["", name]["compression"]
    assert {f"{scheme.compression:.0f}" for scheme in schemes.values()} == {"157", "630", "1001", "4004"}


@pytest.mark.parametrize(
    "task, expected",
    [
        ("cifar10_voting", {0: 0.1, 1: 0.18, 4: 0.42, 5: 0.5, 149: 0.5, 150: 0.05, 224: 0.05, 225: 0.005, 299: 0.005}),
        ("cifar10_voting_short", {0: 0.1, 4: 0.42, 5: 0.5, 14: 0.5, 15: 0.05, 21: 0.05, 22: 0.005}),
    ],
)
def test_the_schedule_is_the_published_one(task, expected):
    configs = compose_grid([task], load_study("majority_vote").methods, [1])
    assert {config.algorithm.get("warmup_epochs") for config in configs} == {None, 5}
    for config in configs:
        t = config.task
        schedule = StepSchedule(t.step_size, t.decay_epochs, t.decay_factor, t.warmup_epochs, t.warmup_factor)
        assert {epoch: 10 * schedule(epoch) for epoch in expected} == pytest.approx(expected)
        assert (t.batch_size, config.weight_decay, config.cluster.workers) == (64, 1e-4, 10)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """On the digits, the first two epochs of seven dense."""
    runs_dir = tmp_path_factory.mktemp("runs")
    overrides = ["device=cpu", "epochs=7", "+task.warmup_epochs=2", ALL_CODES, f"runs_dir={runs_dir}", "tracker=none"]
    configs = compose_grid(["digits"], METHODS, [1], overrides)
    for config in configs:
        run(config)
    return look_up(configs)


def test_measured_compressions(entries, tmp_path):
    write_part("report", {"kind": "votes", "file": "voting"}, entries, tmp_path)
    with Path(tmp_path, "voting.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4 + 6  # the published ones that were not run
    d = entries[0].run.summary["num_parameters"]
    kept, bits_per_index = -(-d // 100), (d - 1).bit_length()
    assert float(rows["sgd"]["measured_log2"]) == float(rows["sgd"]["formula"]) == 1
    exact = 32 * d / (kept * (32 + bits_per_index))
    assert float(rows["majority_vote"]["measured_log2"]) == pytest.approx(exact, rel=1e-5)
    for method in ("sparse", "majority_vote"):
        assert float(rows[method]["formula"]) == pytest.approx(78.7, abs=0.1)
    measured = [f"measured_{code}" for code in ("log2", "delta", "entropy")]
    found = {key: float(rows["majority_vote"][key]) for key in measured}
    assert found["measured_log2"] < found["measured_delta"] < found["measured_entropy"]
    quantised = rows["majority_vote_quantised_H2"]
    assert quantised["local_steps"] == "2" and quantised["published"] == "1001"
    assert rows["majority_vote_H4"]["n"] == "0" and rows["majority_vote_H4"]["top1"] == ""


def test_a_run_is_dense_in_its_warm_up(entries):
    """2 of 7 epochs: the whole run cannot be compressed further than 7 / 2; nobody skips."""
    for entry in entries[2:]:
        assert entry.run.summary["skipped_share"] == 0
        sparse, whole = (compression(entry.run, "delta", with_warmup=flag) for flag in (False, True))
        assert whole == pytest.approx(7 / (2 + 5 / sparse), rel=1e-6)


def test_codes_that_were_not_counted_are_left_out(tmp_path):
    configs = compose_grid(
        ["digits"], ["majority_vote"], [1], ["device=cpu", "max_iterations=3", f"runs_dir={tmp_path}", "tracker=none"]
    )
    run(configs[0])
    found = look_up(configs)[0].run
    assert compression(found, "delta") is None
    assert compression(found, "log2") > 10
    text = table(look_up(configs)).markdown()
    assert "Majority vote " in text and "x79" in text
