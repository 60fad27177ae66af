"""The one selection of runs: what became of each, which rows they make, and in what order; the same in every table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import small_runs

from experiments.pool import Job
from experiments.study import compose_grid
from sasg.report import convex, figures, tables, vote_table
from sasg.report.runs import Entry, Run, entries_in, look_up
from sasg.report.series import all_series, in_usual_order
from sasg.report.style import looks
from sasg.training.estimate import Estimate
from sasg.training.run_folder import RunFolder, folder_of

TABLES = {
    "crossing": tables.crossing,
    "cost": tables.cost,
    "links": tables.links,
    "totals": tables.totals,
    "any": tables.any_runs,
    "sources": lambda entries: tables.sources(entries, ("digits",)),
    "convex": convex.table,
    "votes": vote_table.table,
}
FIGURES = [figures.accuracy, figures.lines, figures.accuracy_and_loss, figures.real_bits, figures.uploads]


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> list[Entry]:
    """SASG, three seeds: finished, failed, stopped. SGD: diverged before its first evaluation. LASG: nothing."""
    runs_dir = tmp_path_factory.mktemp("selection") / "runs"
    sasg = small_runs.grid(runs_dir, ["sasg"], [1, 2, 3])
    small_runs.run(sasg[0])
    Job(sasg[1], folder_of(sasg[1], _data(runs_dir), "cpu"), Estimate(1, 1.0))._record_failure("no space left")
    small_runs.run(replace(sasg[2], budget="0s"))
    (sgd,) = small_runs.grid(runs_dir, ["sgd"], [1])
    folder = folder_of(sgd, _data(runs_dir), "cpu")
    with folder.held():
        nothing = {"crossing": None, "final": None, "totals": None, "skipped_share": None}
        folder.write_uploads(_none_sent())
        made = {"device": "a processor", "versions": {"torch": "2"}, "data": "digits"}
        folder.write_summary({"status": "diverged", "iterations": 10, "num_rows": 0, **nothing, **made})
    return look_up([*sasg, sgd, *small_runs.grid(runs_dir, ["lasg"], [1])])


def _data(runs_dir: Path) -> str:
    return next(iter(json.loads(path.read_text()) for path in runs_dir.glob("*/config.json")))["data_sha256"]


def _none_sent():
    import numpy as np

    return np.zeros((0, 10), dtype=bool)


WORDS = {
    "SASG": "1 of 3; seed 2 failed (no space left); seed 3 unfinished (iteration 0)",
    "SGD": "0 of 1; seed 1 diverged at iteration 10",
    "LASG": "not run",
}


@pytest.mark.parametrize("table", TABLES)
def test_every_table_says_the_same_of_a_run(entries, table):
    made = TABLES[table](entries)
    assert {row.series.label: row.cells[-1] for row in made.rows if row.series} == WORDS
    (of_nothing,) = [row.cells for row in made.rows if row.cells[1] == "LASG"]
    assert "not run" in of_nothing
    (diverged,) = [row.cells for row in made.rows if row.cells[1] == "SGD"]
    assert "not run" not in diverged


def test_what_did_not_finish_has_no_mean(entries):
    cells = {row.cells[1]: dict(zip(tables.totals(entries).header, row.cells)) for row in tables.totals(entries).rows}
    assert cells["SGD"]["Final accuracy"] == "0 of 1 finish"
    assert tables.crossing(entries).rows[1].cells[2] == "0 of 1 cross"
    assert cells["SASG"]["Final accuracy"].endswith(" %")


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_draws_what_there_is(entries, figure):
    figure(entries)


def test_the_same_from_folders(entries):
    """What a command line names, and what a study looks up."""
    found = entries_in([entries[0].run.path.parent])
    assert sorted(entry.words for entry in found) == sorted(e.words for e in entries if e.words != "not run")
    assert [entry.method for entry in in_usual_order(found)] == ["sgd", "sasg", "sasg", "sasg"]


def test_a_failed_run_is_begun_again(entries):
    """Its summary is no result."""
    run = next(entry.unfinished for entry in entries if entry.unfinished and entry.unfinished.status == "failed")
    assert RunFolder(run.path, run.identity).summary() is None


def test_without_a_baseline_there_are_tables_and_figures_all_the_same(tmp_path):
    runs_dir = tmp_path / "runs"
    words = [*small_runs.OVERRIDES[:3], "task.baseline=null", f"runs_dir={runs_dir}"]
    configs = compose_grid(["digits"], ["sgd", "sasg"], [1], words)
    for config in configs:
        small_runs.run(config)
    entries = look_up(configs)
    for make in TABLES.values():
        assert make(entries).rows
    assert "Digits no baseline" in tables.crossing(entries).caption
    assert tables.crossing(entries).rows[0].cells[2] == "no baseline"
    for draw in FIGURES:
        draw(entries)


def planned(*methods: str, task: str = "digits", seeds: tuple[int, ...] = (1, 2), words: tuple[str, ...] = ()):
    return [Entry(config, None) for config in compose_grid([task], methods, seeds, words)]


class TestRows:
    def test_a_sweep_is_sorted_by_its_values_with_a_column_for_each_key(self):
        sweep = [
            f"sasg algorithm.compressor.density={d} task.max_delay={m}" for d in (0.1, 0.02, 0.001) for m in (10, 2)
        ]
        made = tables.any_runs(planned(*sweep))
        assert made.header[2:4] == ("algorithm.trigger.max_delay", "algorithm.compressor.density")
        assert [row.cells[2:4] for row in made.rows] == [(m, d) for m in ("2", "10") for d in ("0.001", "0.02", "0.1")]
        assert "2,0.001,,," in made.csv()  # plain numbers

    def test_settings_that_differ_between_methods_are_named(self):
        entries = [*planned("sgd", words=("epochs=6",)), *planned("sasg", words=("epochs=10",))]
        made = tables.any_runs(entries)
        assert made.header[2] == "epochs" and [row.cells[2] for row in made.rows] == ["6", "10"]
        assert [one.label for one in all_series(entries)] == ["SGD (epochs=6)", "SASG (epochs=10)"]

    def test_a_label_names_what_is_not_as_usual(self):
        entries = [*planned("sgd", "sparse", "lasg"), *planned("sasg", words=("epochs=3",))]
        assert [one.label for one in all_series(entries)] == ["SGD", "Sparse", "LASG", "SASG (epochs=3)"]

    def test_seeds_and_parts_of_a_method_are_no_settings(self):
        made = tables.any_runs(planned("sgd", "sparse", "lasg", "sasg"))
        assert made.header[:3] == ("Task", "Method", "Rounds")

    def test_other_data_is_another_row(self, entries):
        one, run = entries[0], entries[0].run
        folders = entries_in([run.path])
        identity = run.identity | {"data_sha256": "e" * 64}
        config = replace(folders[0].config, data_sha256="e" * 64)
        made = all_series([*folders, Entry(config, Run(run.path, identity, run.summary))])
        assert [one.settings["data_sha256"] for one in made] == sorted([run.identity["data_sha256"][:12], "e" * 12])
        assert one.config.data_sha256 is None and len(all_series(entries)) == 3


class TestManySettings:
    def test_eighteen_settings_are_told_apart(self):
        """A panel for each value of the key that has the fewest, in it shades in the order of the other's."""
        sweep = [
            f"sasg algorithm.compressor.density={d} task.max_delay={m}"
            for d in (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
            for m in (2, 5, 10)
        ]
        series = all_series(planned(*sweep))
        assert len({(look.color, look.marker) for look in looks(series).values()}) == 18
        facets = figures._facets(series)
        assert [words for words, _ in facets] == [f"SASG, max_delay={m}" for m in (2, 5, 10)]
        labels = [f"density={d}" for d in (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)]
        assert [[one.label for one in part] for _, part in facets] == [labels] * 3

    def test_few_stay_in_one_panel(self):
        assert len(figures._facets(all_series(planned("sgd", "sparse", "lasg", "sasg")))) == 1
