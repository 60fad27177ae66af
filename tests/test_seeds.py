"""Many seeds beside published means: which groups of runs are as low, and what is told of each run."""

import csv
import io
from dataclasses import replace
from itertools import combinations
from math import comb, inf

import numpy as np
import pytest
from test_tables import finish

from experiments.study import load_study, study_configs
from sasg.config import Config
from sasg.report import seeds
from sasg.report.runs import Entry, look_up
from sasg.report.writing import write_part


@pytest.fixture
def entries(tmp_path) -> list[Entry]:
    """Runs of seven seeds of SGD, one of which never crosses; nothing else is run."""
    configs = [replace(c, device="cpu") for c in study_configs("seeds", str(tmp_path / "runs")) if c.seed <= 7]
    for config in (c for c in configs if c.algorithm["name"] == "sgd"):
        finish(config, None if config.seed == 7 else 50000 + 4000 * config.seed)
    return look_up(configs)


def test_the_study_has_the_papers_seeds_and_forty():
    study = load_study("seeds")
    assert set(study.seeds) == {*range(1, 41), 1, 19, 31, 42, 80} and len(study.seeds) == 42
    configs: list[Config] = study_configs("seeds", "runs")
    assert len(configs) == 4 * 42 and len({c.device for c in configs} - {"auto"}) == 1  # one kind of device


def test_means_of_all_groups():
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    means = seeds.group_means(values, 3)
    assert len(means) == comb(6, 3) and means[0] == pytest.approx((1 + 1.5 + 2.6) / 3)
    brute = [np.mean(group) <= 2.9 for group in combinations(values, 3)]
    assert seeds.share_as_low(means, 2.9) == np.mean(brute) and 0 < np.mean(brute) < 1
    assert seeds.share_as_low(means, None) is None
    assert seeds.share_as_low(seeds.group_means(values[:2], 3), 2.9) is None


def test_a_run_that_never_crosses_is_in_no_group_that_is_as_low():
    means = seeds.group_means([1.0, 2.0, inf], 2)
    assert list(means) == [1.5, inf, inf] and seeds.share_as_low(means, 1e9) == pytest.approx(1 / 3)


def test_the_table_says_how_the_published_mean_lies_and_lists_each_run(entries):
    table = seeds.table(entries, "table2")
    (sgd, sparse, *_) = list(csv.DictReader(io.StringIO(table.csv())))
    rounds = [50000 + 4000 * seed for seed in range(1, 7)]
    groups = list(combinations([*rounds, inf], 5))
    assert float(sgd["share_as_low"]) == pytest.approx(np.mean([np.mean(g) <= 60400 for g in groups]), abs=1e-6)
    assert (sgd["published"], sgd["rounds"], sgd["n"], sgd["n_without_value"]) == ("60400", "", "7", "1")
    assert sparse["n"] == "0" and sparse["status"] == "not run" and sparse["share_as_low"] == ""
    (runs,) = table.sections
    assert [row.numbers["rounds"] for row in runs.rows] == [*rounds, None]
    assert [row.cells[3] for row in runs.rows][-2:] == ["74,000", "never"]


def test_intervals_are_given_where_all_cross(entries):
    crossing = [entry for entry in entries if entry.config.seed < 7]
    row = next(csv.DictReader(io.StringIO(seeds.table(crossing, "table2").csv())))
    assert float(row["low"]) < float(row["rounds"]) == 64000 < float(row["high"])


def test_the_figure_draws_what_is_run_and_says_what_is_not(entries, tmp_path):
    drawn = seeds.figure(entries, "table2")
    sgd, sparse, *_ = drawn.axes
    assert [text.get_text() for text in sparse.texts] == ["MNIST: not run\n(0 of 7 runs)"]
    runs, groups, published = sgd.lines
    assert list(runs.get_xdata()) == [54000, *(50000 + 4000 * seed for seed in range(1, 7))]
    assert runs.get_ydata()[-1] == pytest.approx(6 / 7)
    assert groups.get_ydata()[-1] == pytest.approx(comb(6, 5) / comb(7, 5), abs=1e-3)
    assert list(published.get_xdata()) == [60400, 60400]
    first, again = tmp_path / "first", tmp_path / "again"
    for folder in (first, again):
        write_part("report", load_study("seeds").report[1], entries, folder)
    assert (first / "seeds.png").read_bytes() == (again / "seeds.png").read_bytes()
