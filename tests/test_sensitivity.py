"""Runs along one setting: which are on an axis, and what is drawn of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_tables import finish

from experiments.study import compose_grid, load_study
from sasg.config import Config
from sasg.errors import UserError
from sasg.report import sensitivity
from sasg.report.runs import look_up
from sasg.report.writing import write_part

DELAY = ("algorithm.trigger.max_delay",)
DIVIDED = ("cluster.workers", "task.batch_size", "task.step_size")


@pytest.fixture
def configs(tmp_path) -> list[Config]:
    study = load_study("sensitivity")
    composed = compose_grid(["mnist"], study.methods, [1])
    return [replace(config, runs_dir=str(tmp_path / "runs")) for config in composed]


def delay_of(config: Config) -> int | None:
    return config.algorithm["trigger"].get("max_delay")


def finish_delays(configs: list[Config]) -> None:
    """D = 50 never crosses the baseline; the others do after 1,000 * D rounds."""
    for config in sensitivity_of(configs, DELAY):
        delay = delay_of(config)
        finish(config, None if delay == 50 else 1000 * delay)
        path = Path(config.runs_dir) / config.run_name(config.identity("d" * 64, "cpu")) / "summary.json"
        summary = json.loads(path.read_text())
        if summary["crossing"]:
            summary["crossing"]["epoch"] = delay / 2
        path.write_text(json.dumps(summary))


def sensitivity_of(configs: list[Config], varies: tuple[str, ...]) -> list[Config]:
    return [entry.config for entry in sensitivity._along(look_up(configs), varies)]


def test_an_axis_has_the_runs_that_differ_in_just_its_settings(configs):
    assert sorted(map(delay_of, sensitivity_of(configs, DELAY))) == [1, 5, 10, 20, 50]
    divided = [(c.cluster.workers, c.task.batch_size, c.task.step_size) for c in sensitivity_of(configs, DIVIDED)]
    assert sorted(divided) == [(5, 20, 0.01), (10, 10, 0.005), (20, 5, 0.0025), (50, 2, 0.001), (100, 1, 0.0005)]
    assert {workers * batch for workers, batch, _ in divided} == {100}
    kept = [(c.algorithm["name"], c.cluster.workers, c.task.batch_size) for c in sensitivity_of(configs, DIVIDED[:1])]
    assert sorted(kept) == sorted((name, m, 10) for name in ("sasg", "sgd") for m in (5, 10, 20, 50, 100))
    with pytest.raises(UserError, match="no run of this study differs"):
        sensitivity_of(configs, ("seed",))


def test_every_axis_of_the_study_is_written_before_anything_is_run(configs, tmp_path):
    for number, part in enumerate(load_study("sensitivity").report):
        write_part(f"report[{number}]", part, look_up(configs), tmp_path / "out")
    assert "not run" in (tmp_path / "out/delay.md").read_text()


def test_what_the_table_and_the_figure_say(configs):
    finish_delays(configs)
    entries = look_up(configs)
    table = sensitivity.table(entries, DELAY, "D")
    columns = [table.header.index(title) for title in (DELAY[0], "Epochs", "Rounds")]
    told = [tuple(row[i] for i in columns) for row in table.cells]
    never = ("50", "0 of 1 cross", "0 of 1 cross")
    assert told == [
        ("1", "0.50", "1,000"),
        ("5", "2.50", "5,000"),
        ("10", "5.00", "10,000"),
        ("20", "10.00", "20,000"),
        never,
    ]
    drawn = sensitivity.figure(entries, DELAY, "D")
    epochs = drawn.axes[0]
    line = next(line for line in epochs.lines if line.get_label() == "SASG" or len(line.get_xdata()) == 4)
    assert list(line.get_xdata()) == [1, 5, 10, 20] and list(line.get_ydata()) == [0.5, 2.5, 5, 10]
    assert [list(line.get_xdata()) for line in epochs.lines if line.get_marker() == "x"] == [[50]]
    assert "does not reach the baseline" in [text.get_text() for text in drawn.legends[0].get_texts()]
