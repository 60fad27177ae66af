"""Figures: drawn from runs, gaps where there are none, the same bytes again; and the command lines around them."""

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import small_runs
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

from experiments import cli
from experiments.study import compose_grid, study_configs
from sasg.errors import UserError
from sasg.report import figures, tables, time_figures
from sasg.report.curves import frame, over_runs, upload_shares
from sasg.report.names import method_name
from sasg.report.runs import entries_in, look_up
from sasg.report.series import all_series
from sasg.report.style import looks, save
from sasg.report.times import links, seconds
from sasg.report.writing import write_part
from sasg.training.run_folder import read_uploads

ROOT = Path(__file__).resolve().parent.parent
LISTED = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "figures.yaml"))


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Runs of all methods but LASG on the digits, one seed of SASG missing, and a task of which nothing was run."""
    runs_dir = tmp_path_factory.mktemp("figures") / "runs"
    small_runs.make(runs_dir, ["sgd", "sparse"])
    small_runs.make(runs_dir, ["sasg"], [1])
    other = compose_grid(["mnist"], ["lasg", "sasg"], [1], [f"runs_dir={runs_dir}"])
    return look_up([*small_runs.grid(runs_dir), *other])


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axis in figure.axes for text in [*axis.texts, axis.title, axis._left_title])


@pytest.mark.parametrize(
    "part",
    [
        figures.accuracy,
        figures.accuracy_and_loss,
        figures.real_bits,
        figures.uploads,
        figures.thresholds,
        figures.lines,
        figures.accuracy_by_cost,
        time_figures.time_to_baseline,
    ],
)
def test_draws_what_there_is_and_says_what_is_missing(part, entries, tmp_path):
    figure = part(entries)
    save(figure, tmp_path, "figure")
    for suffix in (".pdf", ".png"):
        assert (tmp_path / f"figure{suffix}").stat().st_size > 5000
    assert "MNIST: not run\n(0 of " in texts(figure)
    assert any(axis.lines or axis.images or axis.collections for axis in figure.axes)


@pytest.mark.parametrize("listed", LISTED, ids=lambda listed: listed["file"])
def test_nothing_was_run_is_no_error(listed, tmp_path, monkeypatch):
    configs = study_configs(listed["study"], str(tmp_path / "runs"))
    part = {key: value for key, value in listed.items() if key != "study"}
    drawn = []
    monkeypatch.setattr("sasg.report.writing.save", lambda figure, *place: drawn.append(figure) or "written")
    assert "written" in write_part("figure", part, look_up(configs), tmp_path)
    assert "not run" in texts(drawn[0])


def test_the_totals_table_is_what_the_summaries_say(entries, tmp_path):
    printed = write_part("report", {"kind": "totals", "file": "totals"}, entries, tmp_path)
    assert printed.count("not run") == 3 * 8  # LASG on the digits, LASG and SASG on MNIST: every cell
    rows = {(row["task"], row["method"]): row for row in csv.DictReader((tmp_path / "totals.csv").open())}
    assert rows["digits", "lasg"]["rounds"] == "" and rows["digits", "lasg"]["n"] == "0"
    row, runs = rows["digits", "sparse"], [e.run.summary for e in entries if e.run and e.method == "sparse"]
    assert row["n"] == row["n_planned"] == "2" and row["iterations"] == "60" and row["rounds"] == "600"
    bits = [run["totals"]["value_bits"] + run["totals"]["index_bits_log2"] for run in runs]
    assert float(row["uplink_bits"]) == pytest.approx(np.mean(bits), rel=1e-5)
    down = [run["totals"]["downlink_unicast_bits_log2"] for run in runs]
    assert float(row["downlink_bits"]) == pytest.approx(np.mean(down), rel=1e-5)
    finals = [run["final"]["top1"] for run in runs]
    assert float(row["final_accuracy"]) == pytest.approx(np.mean(finals), rel=1e-5)
    assert float(row["final_accuracy_sd"]) == pytest.approx(np.std(finals, ddof=1), rel=1e-5)


def test_the_same_runs_give_the_same_bytes(entries, tmp_path):
    for name in ("a", "b"):
        save(figures.accuracy_and_loss(entries), tmp_path / name, "figure")
    for suffix in (".pdf", ".png"):
        assert (tmp_path / "a" / f"figure{suffix}").read_bytes() == (tmp_path / "b" / f"figure{suffix}").read_bytes()


def test_fits_a_page_of_a_two_column_paper(entries, tmp_path):
    save(figures.accuracy_and_loss(entries), tmp_path, "figure")
    assert Image.open(tmp_path / "figure.png").width == round(7.16 * 200)
    assert b"/Type3" not in (tmp_path / "figure.pdf").read_bytes()


def test_long_labels_fit_a_narrow_figure(entries, monkeypatch):
    usual = figures.lines(entries[:8])
    monkeypatch.setattr("sasg.report.series.method_name", lambda name: f"{name} (a setting=with a long value)")
    long = figures.lines(entries[:8])
    assert long.legends[0].get_window_extent().width <= long.bbox.width == usual.bbox.width
    assert long.get_figheight() > usual.get_figheight()
    assert len(long.legends) == 1


def test_communication_time_marks_table_three(entries, tmp_path, monkeypatch):
    monkeypatch.setattr(time_figures, "published", lambda name: {("digits", "sgd"): {"communication_seconds": "2.5"}})
    (tmp_path / "table3.csv").write_text("method,communication_s_measured\nsasg,0.25\n")
    measured = time_figures.measured_seconds(tmp_path / "table3.csv")
    monkeypatch.setattr(time_figures, "measured_seconds", lambda: measured)
    figure = time_figures.communication_time(entries, "digits", "gigabit", measured=True)
    marks = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(marks["Table III, published"]) == [2.5] and list(marks["Table III, measured"]) == [0.25]


def test_the_legend_names_what_is_drawn(entries):
    """Of Figure 3, whose lines are those of the methods that sparsify."""
    figure = time_figures.communication_time(entries, "digits", "gigabit")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["Sparse", "SASG", "modelled", "baseline accuracy"]


def test_the_baseline_is_told_beside_the_panel(entries):
    """Not in it, where curves strike it through."""
    axis = figures.lines(entries[:8]).axes[0]
    (words,) = [text for text in axis.texts if text.get_text() == "60 %"]
    figure = axis.get_figure()
    figure.draw_without_rendering()
    assert words.get_window_extent().x0 >= axis.get_window_extent().x1


def test_lines_that_coincide_say_so():
    times = {"a": np.array([1.0, 2.0]), "b": np.array([1.01, 1.99]), "c": np.array([1.0, 2.5])}
    assert time_figures.coinciding(times) == ["a and b within 10 %"]


class TestCurves:
    def test_mean_and_range_where_all_seeds_have_a_row(self, entries):
        (sgd,) = [one for one in all_series(entries) if one.method == "sgd"]
        frames = [frame(run) for run in sgd.runs]
        curve = over_runs([frames[0], frames[1].iloc[:-1]], "rounds", "top1")
        assert len(curve) == len(frames[0]) - 1
        both = np.stack([table["top1"].to_numpy()[: len(curve)] for table in frames])
        np.testing.assert_allclose(curve["mean"], both.mean(0))
        assert (curve["minimum"] == both.min(0)).all() and (curve["maximum"] == both.max(0)).all()

    def test_real_bits_add_indices_flags_and_downloads(self, entries):
        run = next(entry.run for entry in entries if entry.method == "sasg" and entry.run)
        last = frame(run).iloc[-1]
        assert last["uplink_bits"] == last["value_bits"] + last["index_bits_log2"] + last["flag_bits"]
        assert last["real_bits"] == last["uplink_bits"] + last["downlink_unicast_bits_log2"]

    def test_upload_shares_add_up_to_the_rounds(self, entries):
        run = next(entry.run for entry in entries if entry.method == "sasg" and entry.run)
        shares = upload_shares(run, 6)
        assert shares.shape == (10, 6)
        assert shares.sum() * 10 == pytest.approx(read_uploads(run.path / "uploads.npz").sum())

    def test_other_settings_are_other_lines(self, entries, tmp_path):
        small_runs.make(tmp_path, ["sgd"], [1])
        (config,) = compose_grid(["digits"], ["sgd"], [1], [*small_runs.OVERRIDES, "task.step_size=0.01"])
        series = all_series([*entries_in([tmp_path]), *look_up([config])])
        assert [one.label for one in series] == ["SGD (step_size=0.01)", "SGD (step_size=0.02)"]
        assert len({(look.color, look.marker) for look in looks(series).values()}) == 2


class TestTimes:
    def test_seconds_by_hand(self, entries):
        run = next(entry.run for entry in entries if entry.method == "sgd" and entry.run)
        last = seconds(run.metrics, links()["gigabit"], 10).iloc[-1]
        uploads = 9 * 60 * (32 * run.summary["num_parameters"] / 1e9 + 0.0001)  # one of ten is in the server's process
        assert last["upload"] == pytest.approx(uploads)
        assert last["flags"] == 0

    def test_ideal_links_take_no_time(self, entries):
        run = next(entry.run for entry in entries if entry.method == "sasg" and entry.run)
        assert (seconds(run.metrics, links()["ideal"], 10) == 0).all(axis=None)


class TestTables:
    def test_table_one_is_what_the_ledger_counted(self, entries):
        rows = {row.cells[:2]: row.numbers for row in tables.cost(entries).rows}
        d = next(entry.run for entry in entries if entry.run).summary["num_parameters"]
        assert rows["Digits", "SGD"]["rounds"] == 10 and rows["Digits", "SGD"]["paper_bits"] == 320 * d
        assert rows["Digits", "SASG"]["rounds"] < 10
        assert rows["Digits", "Sparse"]["uplink_bits_int32"] == 2 * rows["Digits", "Sparse"]["paper_bits"]
        assert rows["Digits", "LASG"]["rounds"] is None and rows["MNIST", "SASG"]["bits_published"] == "32 |S| k"

    def test_written_three_ways(self, entries, tmp_path):
        write_part("report", {"kind": "cost", "file": "table1"}, entries, tmp_path)
        assert "not run" in (tmp_path / "table1.md").read_text()
        assert r"\toprule" in (tmp_path / "table1.tex").read_text()
        assert (tmp_path / "table1.csv").read_text().startswith("task,method,rounds_published")

    def test_any_runs(self, entries):
        table = {row[:2]: row for row in tables.any_runs(entries).cells}
        assert table["Digits", "SGD"][-1] == "2 of 2"
        assert table["Digits", "SASG"][-1] == "1 of 2"
        assert set(table["MNIST", "SASG"][2:]) == {"not run"}

    def test_any_runs_under_a_link(self, entries):
        found = tables.any_runs(entries, "wan")
        place = found.header.index("Seconds to baseline (wan, modelled)")
        table = {row[:2]: row for row in found.cells}
        run = next(entry.run for entry in entries if entry.run and entry.method == "sasg")
        at = seconds(run.metrics, links()["wan"], 10).sum(axis=1)
        expected = at[run.metrics["iteration"] == run.summary["crossing"]["iteration"]].iloc[0]
        assert float(table["Digits", "SASG"][place]) == pytest.approx(expected, rel=1e-3)
        assert table["MNIST", "SASG"][place] == "not run"

    def test_chosen_columns(self, entries):
        found = tables.any_runs(entries, columns="final_accuracy,rounds")
        assert found.header == ("Task", "Method", "Final accuracy", "Rounds", "Runs")
        with pytest.raises(UserError, match="no warmth; choose from rounds"):
            tables.any_runs(entries, columns="warmth")


class TestCommandLines:
    @pytest.fixture
    def call(self, monkeypatch, capsys):
        """sasg COMMAND, or scripts/figures.py: exit code, and what it prints."""

        def call(command: str, *words: str) -> tuple[int, str, str]:
            of_scripts = command == "figures"
            monkeypatch.setattr(sys, "path", sys.path[:])
            monkeypatch.setattr(sys, "argv", ["scripts/figures.py" if of_scripts else "sasg", *words])
            with pytest.raises(SystemExit) as left:
                if of_scripts:
                    runpy.run_path(str(ROOT / "scripts" / "figures.py"), run_name="__main__")
                sys.argv.insert(1, command)
                sys.exit(cli.main())
            return left.value.code, *capsys.readouterr()

        return call

    @pytest.mark.parametrize("command", ["sasg plot", "sasg table", "scripts/figures.py", "sasg report"])
    def test_help(self, call, command):
        code, told, _ = call(command.removeprefix("sasg ").removeprefix("scripts/").removesuffix(".py"), "--help")
        assert code == 0 and command in told

    def test_plot_and_table(self, call, entries, tmp_path):
        runs = str(entries[0].run.path.parent)
        assert call("plot", runs, "--x", "real_bits", "--out", str(tmp_path / "picture.png"))[0] == 0
        assert (tmp_path / "picture.png").exists() and (tmp_path / "picture.pdf").exists()
        code, told, _ = call("table", runs, "--format", "csv")
        rows = list(csv.DictReader(told.splitlines()))
        assert code == 0 and [(row["task"], row["method"]) for row in rows] == [
            ("digits", "sgd"),
            ("digits", "sparse"),
            ("digits", "sasg"),
        ]  # in the usual order of methods
        assert float(rows[0]["rounds"]) > 0 and rows[0]["status"] == "2 of 2"
        code, told, _ = call("table", runs, "--format", "csv", "--link", "wan")
        assert code == 0 and "seconds_wan" in told

    def test_plot_under_a_link(self, call, entries, tmp_path):
        runs_dir = entries[0].run.path.parent
        assert call("plot", str(runs_dir), "--link", "wan", "--out", str(tmp_path / "a"))[0] == 0
        (axis,) = figures.lines(entries_in([runs_dir]), x="seconds", link="wan").axes
        assert axis.get_xlabel() == "modelled communication seconds (wan)"
        ends = sorted(line.get_xdata()[-1] for line in axis.lines if len(line.get_xdata()) > 2)
        runs = [entry.run for entry in entries if entry.run and entry.method == "sgd"]
        of_sgd = [seconds(run.metrics, links()["wan"], 10).sum(axis=1).iloc[-1] for run in runs]
        assert ends[-1] == pytest.approx(np.mean(of_sgd))

    def test_mistakes_are_one_line(self, call, entries, tmp_path):
        code, _, told = call("table", str(tmp_path))
        assert code == 2 and told.count("\n") == 1
        code, _, told = call("figures", "figure9", "--out", str(tmp_path))
        assert code == 2 and "figure9: no such figure" in told
        with pytest.raises(UserError, match="no column"):
            figures.lines(entries, y="warmth")


def test_names_of_variants():
    assert [method_name(m) for m in ("sasg", "sasg_0.05", "my_own")] == ["SASG", "SASG 5 %", "my_own"]
