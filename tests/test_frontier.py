"""The frontier: which methods it has, how step sizes are chosen, what its tables and figures say."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_extending import FILES
from test_tables import finish

from experiments import reproduce
from experiments.composing import telling_errors
from experiments.study import Command, Study, Tuning, compose_grid, load_study, study_configs
from experiments.tuning import outcome, with_tuning
from sasg.cluster.accounting.ledger import COLUMNS
from sasg.config import Config
from sasg.errors import UserError
from sasg.places import files
from sasg.problem.building import load_dataset
from sasg.problem.draws import Counter
from sasg.problem.problem import Problem
from sasg.report import frontier, frontier_figures, tuning
from sasg.report.runs import Entry, look_up

TUNING = Tuning(factors=[0.5, 1.0, 2.0], held_out=200, epochs=2)


@pytest.fixture
def config(tmp_path) -> Config:
    return compose_grid(["digits"], ["sasg"], [1], ["device=cpu", f"runs_dir={tmp_path / 'runs'}"])[0]


def folder(config: Config) -> Path:
    return Path(config.runs_dir) / config.run_name(config.identity("d" * 64, "cpu"))


def change_summary(config: Config, **values) -> None:
    path = folder(config) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


class TestStudy:
    def test_it_has_every_method_that_it_does_not_leave_out(self):
        study = load_study("frontier")
        assert {method.split()[0] for method in study.methods} | set(study.without) == set(files("algorithm"))
        assert study.methods[:4] == ["sgd", "sparse", "lasg", "sasg"] and len(set(study.methods)) == len(study.methods)

    def test_a_method_that_is_not_there_cannot_be_left_out(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text("tasks: [digits]\nmethods: ['*']\nwithout: [sags]\nseeds: [1]\n")
        with pytest.raises(UserError, match="without: sags: is no method; did you mean sasg or "):
            load_study(str(path))

    def test_evaluations_are_as_many_mini_batches_apart_with_local_steps(self):
        study = Study(["digits"], ["sgd", "local_sgd"], [1], count_batches=True)
        sgd, local_sgd = study.grid(["digits"], study.methods, [1], ())
        assert (sgd.evaluate_every, local_sgd.evaluate_every, local_sgd.algorithm["local_steps"]) == (100, 12, 8)

    def test_only_a_study_with_tuning_can_be_tuned(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", "study=demo", "tuned=true", "jobs=0"])
        assert telling_errors(reproduce.main) == 2
        assert "tuned=true: study demo has no `tuning`" in capsys.readouterr().err


class TestHeldOut:
    def test_training_samples_are_tested_on_and_no_others(self, config):
        whole = load_dataset(config)
        dataset = {"kind": "held_out", "of": config.dataset, "number": 200}
        held = load_dataset(replace(config, dataset=dataset))
        assert (len(held.train), len(held.test), held.sha256) == (len(whole.train) - 200, 200, whole.sha256)
        images = torch.cat([held.train.images, held.test.images]).flatten(1).numpy()
        labelled = [np.column_stack([images, torch.cat([held.train.labels, held.test.labels])])]
        labelled.append(np.column_stack([whole.train.images.flatten(1).numpy(), whole.train.labels]))
        first, second = (rows[np.lexsort(rows.T)] for rows in labelled)
        assert np.array_equal(first, second)
        again = load_dataset(replace(config, dataset=dataset, seed=7))
        assert torch.equal(again.test.images, held.test.images)

    @pytest.mark.parametrize("number", [0, 1437])
    def test_how_many(self, config, number):
        dataset = {"kind": "held_out", "of": config.dataset, "number": number}
        with pytest.raises(UserError, match="must be between 1 and 1436, of the training samples"):
            load_dataset(replace(config, dataset=dataset))

    def test_an_engine_is_tried_on_the_samples_of_its_run(self, config, monkeypatch):
        """What is found out of one is not kept for the other: the digest of their data is the same."""
        tried = []
        monkeypatch.setattr("sasg.problem.problem.choose_engine", lambda *a, identity, **_: tried.append(identity))
        held = {"kind": "held_out", "of": config.dataset, "number": 200}
        for one in (config, replace(config, dataset=held)):
            with pytest.raises(AttributeError):  # there is no choice to go on with
                Problem(one, load_dataset(one), range(2), torch.device("cpu"), torch.float32, Counter(1))
        assert len(tried) == 2 and tried[0] != tried[1]


class TestTuning:
    def end(self, config: Config, accuracies: dict[float, float | None]) -> None:
        """End the trials that are asked for, so that they come to these accuracies by factor; None: diverged."""
        while missing := outcome(config, TUNING).missing:
            for trial in missing:
                accuracy = accuracies[trial.task.step_size / config.task.step_size]
                finish(trial, None, accuracy or 0.1, "finished" if accuracy else "diverged")
                change_summary(trial, training_seconds=3.0, totals=dict.fromkeys(COLUMNS, 10))

    def test_trials_differ_from_the_run_in_what_is_said(self, config):
        found = outcome(config, TUNING)
        assert found.factor is None and len(found.missing) == 3
        for trial, factor in zip(found.missing, TUNING.factors, strict=True):
            assert trial.task.step_size == factor * config.task.step_size
            assert trial.dataset == {"kind": "held_out", "of": config.dataset, "number": 200}
            known = {"task": config.task, "dataset": config.dataset, "epochs": config.epochs}
            assert replace(trial, **known) == config and trial.epochs == 2

    @pytest.mark.parametrize(
        ("accuracies", "chosen", "tried"),
        [
            ({0.5: 0.8, 1: 0.9, 2: 0.85}, 1, 3),
            ({0.5: 0.9, 1: 0.9, 2: 0.85, 0.25: 0.7}, 0.5, 4),  # of equals the smallest, which is at the end
            ({0.5: 0.7, 1: 0.8, 2: 0.9, 4: 0.95, 8: 0.93}, 4, 5),
            ({0.5: None, 1: None, 2: None, 0.25: None, 0.125: 0.6, 0.0625: 0.5}, 0.125, 6),
        ],
    )
    def test_the_best_is_chosen_and_no_end_is_trusted(self, config, accuracies, chosen, tried):
        self.end(config, accuracies)
        found = outcome(config, TUNING)
        assert (found.factor, len(found.trials)) == (chosen, tried)

    def test_where_nothing_works_it_ends(self, config, monkeypatch):
        monkeypatch.setattr("experiments.tuning._FARTHEST", 2.0**3)
        self.end(config, {2.0**k: None for k in range(-5, 9)})
        assert outcome(config, TUNING).factor == 2.0**-3

    def test_what_the_study_has_then(self, config):
        study = Study(["digits"], ["sasg"], [1, 2], tuning=TUNING)
        seeds = [replace(config, seed=seed) for seed in (1, 2)]
        assert len(with_tuning(study, seeds)) == 2 + 3
        self.end(config, {0.5: 0.7, 1: 0.8, 2: 0.9, 4: 0.85})
        found = with_tuning(study, seeds)
        tuned = [c for c in found if c.task.step_size == 2 * config.task.step_size and c.epochs == config.epochs]
        assert [c.seed for c in tuned] == [1, 2] and len(found) == 2 + 2 + 4

    @pytest.mark.parametrize(
        ("fails", "answers", "asked", "code"),
        [
            ((), 0, [3, 1, 1], 0),  # trials, one more at the end, the run at the chosen step
            ((), reproduce.STOPPED, [3], reproduce.STOPPED),
            (("sasg",), 1, [3], 1),
            (("sgd",), 1, [6, 1, 1], 1),  # the other method goes on
        ],
    )
    def test_its_stages(self, config, monkeypatch, fails, answers, asked, code):
        accuracies = {0.5: 0.7, 1: 0.8, 2: 0.9, 4: 0.85}
        done: list[list[Config]] = []

        def run_missing(command: Command, wanted: list[Config], deadline: float) -> int:
            done.append(wanted)
            for one in wanted:
                if one.algorithm["name"] not in fails:
                    finish(one, None, accuracies[one.task.step_size / config.task.step_size])
            return answers

        monkeypatch.setattr(reproduce, "run_missing", run_missing)
        sgd = replace(config, algorithm={**config.algorithm, "name": "sgd"})
        wanted = [config, sgd] if "sgd" in fails else [config]
        assert reproduce.run_tuned(TUNING, Command("any", tuned=True), wanted, 0.0) == code
        assert [len(configs) for configs in done] == asked
        if len(asked) > 1:
            assert done[-1] == [replace(config, task=replace(config.task, step_size=2 * config.task.step_size))]

    def test_its_table(self, config):
        self.end(config, {0.5: 0.7, 1: None, 2: 0.9, 4: 0.85})
        table = tuning.table(look_up(with_tuning(Study(["digits"], ["sasg"], [1], tuning=TUNING), [config])))
        assert table.header[2:7] == ("x 0.5", "x 1", "x 2", "x 4", "Chosen")
        assert table.cells == [
            ("Digits", "SASG", "70.00 %", "diverged", "90.00 %", "85.00 %", "2", "8", "12"),
        ]
        rows = list(csv.DictReader(io.StringIO(table.csv())))
        assert [(row["factor"], row["chosen"], row["held_out"]) for row in rows] == [
            ("0.5", "False", "0.7"), ("1", "False", ""), ("2", "True", "0.9"), ("4", "False", "0.85"),
        ]  # fmt: skip


def finish_with_curve(config: Config, values: list[float], bits: int) -> None:
    """A finished run with these values of its metric at its evaluations, and `bits` uploaded before each."""
    finish(config, None)
    baseline = config.task.baseline
    rows = []
    for number, value in enumerate(values, start=1):
        counted = dict.fromkeys(COLUMNS, 0) | {"rounds": 10 * number, "value_bits": bits * number}
        counted |= dict.fromkeys((key for key in COLUMNS if key.startswith("downlink_")), 1000 * number)
        rows.append({"iteration": number, "epoch": number / 2, "training_loss": 1.0, baseline.metric: value, **counted})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (folder(config) / "metrics.csv").write_text(text.getvalue())
    crossing = next((row for row in rows if baseline.is_passed_by(row[baseline.metric])), None)
    final = {baseline.metric: values[-1]}
    change_summary(config, num_rows=len(rows), iterations=len(rows), totals=rows[-1], crossing=crossing, final=final)


METHODS = ["sgd", "sasg", "sparse", "lasg", "qsgd"]


@pytest.fixture
def entries(tmp_path) -> list[Entry]:
    """SGD always crosses, SASG with fewer bits, Sparse twice of three times, QSGD never; LASG is not run."""
    words = ["device=cpu", f"runs_dir={tmp_path / 'runs'}"]
    configs = compose_grid(["digits"], METHODS, [1, 2, 3], words)  # with the baseline 95 %
    for config in configs:
        method, seed = config.algorithm["name"], config.seed
        if method == "sgd":
            finish_with_curve(config, [0.93, 0.96, 0.97], 10**6)
        elif method == "sasg":
            finish_with_curve(config, [0.91, 0.94, 0.955 + 0.001 * seed], 10**4)
        elif method == "sparse":
            finish_with_curve(config, [0.91, 0.92, 0.96 if seed < 3 else 0.94], 10**3)
        elif method == "qsgd":
            finish_with_curve(config, [0.5, 0.92, 0.91], 10**5)
    return look_up(configs)


class TestTable:
    def test_the_ranking(self, entries):
        table = frontier.table(entries, "digits", (0.9, 0.95))
        assert [row[1] for row in table.cells] == ["SASG", "SGD", "Sparse", "QSGD", "LASG"]
        place = table.header.index("Uplink to 95 %")
        assert [row[place] for row in table.cells] == [
            "3.00E+04", "2.00E+06", "2 of 3 cross", "never", "not run",
        ]  # fmt: skip
        assert [row[table.header.index("Uplink to 90 %")] for row in table.cells][2:4] == ["1.00E+03", "2.00E+05"]
        assert table.cells[0][place + 1] == "range 3.00E+04 to 3.00E+04"
        first = next(csv.DictReader(io.StringIO(table.csv())))
        assert (first["method"], first["uplink_bits_to_0.95"], first["real_bits_to_0.95"]) == ("sasg", "30000", "33000")
        assert (first["uplink_bits_to_0.95_n"], first["uplink_bits_to_0.95_n_without_value"]) == ("3", "0")

    def test_the_winner_at_each_bandwidth(self, entries):
        """SGD has two of three rounds, and 1.8 million bits more from remote workers: 0.1 ms a round, 1.8 Gbit/s."""
        (winners,) = frontier.table(entries, "digits", (0.9, 0.95)).sections
        assert [row.numbers["winner"] for row in winners.rows] == ["SASG"] * 10 + ["SGD"] * 6
        assert {row.numbers["next"] for row in winners.rows} == {"SASG", "SGD"}  # the others do not always cross
        assert {row.numbers["apart"] for row in winners.rows} == {"yes"}
        (winners,) = frontier.table([e for e in entries if e.config.seed == 1], "digits", (0.9, 0.95)).sections
        assert {row.numbers["apart"] for row in winners.rows} == {"one run"}

    def test_of_a_loss_the_lowest_is_the_best(self, tmp_path):
        configs = compose_grid(["shakespeare_small"], METHODS, [1], ["device=cpu", f"runs_dir={tmp_path / 'runs'}"])
        curves = {"sgd": [2.9, 1.99], "sasg": [2.6, 2.5], "sparse": [2.8, 2.7], "qsgd": [2.9, 2.65]}
        for config in configs:
            if (method := config.algorithm["name"]) in curves:
                finish_with_curve(config, curves[method], 10**4 if method == "sasg" else 10**6)
        table = frontier.table(look_up(configs), "shakespeare_small", (2.55, 2.0))
        assert [row[1] for row in table.cells] == ["SGD", "SASG", "QSGD", "Sparse", "LASG"]
        cells = [[row[table.header.index(f"Uplink to {level}")] for row in table.cells] for level in ("2.55", "2")]
        assert cells == [["2.00E+06", "2.00E+04", "never", "never", "not run"], ["2.00E+06", *["never"] * 3, "not run"]]
        assert table.header[-2:] == ("Final loss", "Runs")

    def test_tuned_runs_stand_for_a_method_and_the_papers_have_both(self, entries):
        configs = [entry.config for entry in entries]
        tuned = [replace(c, task=replace(c.task, step_size=0.5)) for c in configs if c.algorithm["name"] != "lasg"]
        trials = [replace(c, dataset={"kind": "held_out", "of": c.dataset, "number": 9}) for c in tuned if c.seed == 1]
        for config in trials + [c for c in tuned if c.algorithm["name"] in ("sasg", "qsgd")]:
            finish_with_curve(config, [0.93, 0.96], 10**3)
        table = frontier.table(look_up([*configs, *tuned, *trials]), "digits", (0.9, 0.95))
        told = {(row[1], row[2]): row[3] for row in table.cells}
        assert told == {
            ("SGD", "0.02"): "yes",  # chosen is what it has
            ("SASG", "0.5"): "yes",
            ("SASG", "0.02"): "no",
            ("Sparse", "0.02"): "yes",
            ("QSGD", "0.5"): "yes",
            ("LASG", "0.02"): "no",
        }


class TestFigures:
    def test_the_front_is_what_nothing_else_dominates(self):
        draw = np.random.default_rng(0)
        values = [tuple(map(float, pair)) for pair in draw.integers(0, 12, (60, 2))]
        found = frontier_figures.front(values)
        best = {
            (cost, gain)
            for cost, gain in values
            if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in values)
        }
        assert {values[place] for place in found} == best and len(found) == len(best)

    def test_points(self, entries):
        drawn = frontier_figures.points(entries, "digits")
        uplink, both, rounds = drawn.axes
        told = [text.get_text() for text in uplink.texts]
        assert sorted(told) == ["SASG", "SGD", "Sparse"]
        (front,) = (line for line in uplink.lines if line.get_linewidth() > 2)
        assert list(front.get_xdata()) == [3000.0, 30000.0, 3e6] and front.get_ydata()[-1] == pytest.approx(0.97)
        assert "further away: QSGD 91.00 %" in rounds.get_xlabel() and "not run: LASG" in rounds.get_xlabel()
        assert both.get_xlabel() == "uplink + downlink bits of the whole run"

    def test_curves(self, entries):
        """Methods of a front and of the paper in colour, the others grey; trials in neither."""
        trials = [replace(e.config, dataset={"kind": "held_out", "of": e.config.dataset, "number": 9}) for e in entries]
        finish_with_curve(trials[0], [0.93, 0.96], 10**3)
        drawn = frontier_figures.curves([*entries, *look_up(trials)], "digits", "gigabit")
        for axis, last in zip(drawn.axes, (3 * 10**6, 3 * 10**6 + 3000, None), strict=True):
            named = {line.get_label(): line for line in axis.lines if not str(line.get_label()).startswith("_")}
            assert named.keys() == {"SGD", "SASG", "Sparse"}
            assert [round(y, 4) for y in named["SASG"].get_ydata()] == [0.91, 0.94, 0.957]
            grey = [line for line in axis.lines if line.get_color() == "#8a8a8a"]
            assert [list(line.get_ydata()) for line in grey] == [[0.5, 0.92, 0.91]]
            assert last is None or named["SGD"].get_xdata()[-1] == last
            assert "LASG: not run" in [text.get_text() for text in axis.texts]
        assert drawn.axes[-1].get_xlabel() == "modelled communication seconds (gigabit)"

    def test_times(self, entries):
        (axis,) = frontier_figures.times(entries).axes  # a panel: digits
        never = "2 of 5 do not cross the baseline with all runs"
        assert {text.get_text() for text in axis.texts} == {never, "SASG", "SGD"}
        assert len(axis.lines) == 2

    def test_nothing_is_run(self, tmp_path):
        found = look_up(compose_grid(["digits"], ["sgd"], [1], [f"runs_dir={tmp_path}"]))
        assert not frontier.table(found, "digits", (0.9,)).rows
        figures = frontier_figures
        drawn = figures.points(found, "digits"), figures.curves(found, "digits", "wan"), figures.times(found)
        for figure in drawn:
            assert "not run" in figure.axes[0].texts[0].get_text()


STUDY = """
tasks: [digits]
methods: [sgd, "*"]
without: [OTHERS]
seeds: [1]
overrides: [device=cpu, max_iterations=30, evaluate_every=10, task.baseline.accuracy=0.2]
report:
  - {kind: frontier, file: digits, task: digits, levels: [0.15, 0.2]}
  - {kind: frontier_points, file: digits, task: digits}
"""


def test_a_method_from_outside_enters_with_one_file_one_yaml_and_one_command(tmp_path, monkeypatch):
    for name in ("random_block.py", "conf/algorithm/random_block.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(FILES[name])
    others = ", ".join(name for name in files("algorithm") if name != "sgd")
    (tmp_path / "mine.yaml").write_text(STUDY.replace("OTHERS", others))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SASG_CONF", str(tmp_path / "conf"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["sasg study", "mine.yaml", "jobs=2"])
    assert telling_errors(reproduce.main) == 0
    with (tmp_path / "results/mine/digits.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"sgd", "random_block"} and rows["random_block"]["status"] == "1 of 1"
    assert (tmp_path / "results/mine/digits.png").is_file()
    assert "random_block" in load_study("frontier").methods
    drawn = frontier_figures.points(look_up(study_configs("mine.yaml", "results/runs")), "digits")
    assert "random_block" in [text.get_text() for text in drawn.axes[0].texts]
