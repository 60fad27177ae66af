"""Beside other frameworks: what is compared, and that another job is refused. They need environments of their own."""

import importlib
from argparse import Namespace
from pathlib import Path

import pytest

from sasg.errors import UserError

PEERS = Path(__file__).resolve().parent.parent / "benchmarks" / "peers"


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(PEERS))
    return importlib.import_module("compare")


def turn(ms: float, *losses: float) -> dict:
    return {"ms": ms, "processor_ms": ms / 2, "losses": list(losses), "versions": {"torch": "2.0"}}


def contestants(compare, *found: list[dict]) -> list:
    chosen = [one for one in compare.contestants() if one.title in ("suite, SGD", "fluke, FedAvg of one step")]
    for one, turns in zip(chosen, found, strict=True):
        one.found = turns
    return chosen


def test_times_are_set_against_the_suite_turn_by_turn(compare):
    """A machine that is twice as slow in one turn changes the milliseconds, not the ratios."""
    ours, theirs = [turn(2, 1.0), turn(4, 1.0), turn(2, 1.0)], [turn(20, 1.0), turn(40, 1.0), turn(22, 1.0)]
    present = contestants(compare, ours, theirs)
    for one in present:
        for found in one.found:
            found["difference"] = 0.0
    table = compare._table(present, ["Flower"], Namespace(turns=3, rounds=20))
    row = table.rows[1].numbers
    assert (row["ms"], row["times_suite"], row["times_suite_highest"]) == (22, 10, 11)
    assert (row["ms_lowest"], row["ms_highest"], row["processor_ms"]) == (20, 40, 11)
    assert "for want of an environment: Flower" in table.notes


def test_another_job_is_refused(compare):
    present = contestants(compare, [turn(2, 1.0, 0.9)], [turn(20, 1.0, 0.9005)])
    compare._check_losses(present)
    assert present[1].found[-1]["difference"] == pytest.approx(0.0005 / 0.9)
    for other in (0.92, float("nan")):
        with pytest.raises(UserError, match=r"fluke.*another job"):
            compare._check_losses(contestants(compare, [turn(2, 1.0, 0.9)], [turn(20, 1.0, other)]))


def test_every_environment_has_pinned_versions(compare):
    for one in compare.contestants():
        if one.environment:
            lines = (PEERS / f"requirements-{one.environment}.txt").read_text().split()
            assert lines and all("==" in line for line in lines)
            assert (PEERS / f"{one.script}.py").exists()
