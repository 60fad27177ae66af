"""The HTML report: what it says of runs, that it says what the tables say, and how it behaves in a browser."""

import csv
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import chromium
import pytest
import small_runs

from experiments import cli
from experiments.study import compose_grid, study_configs
from sasg.report import html, tables
from sasg.report.html import Page, Part
from sasg.report.runs import entries_in, look_up
from sasg.report.series import all_series
from sasg.report.style import looks
from sasg.report.times import links

ROOT = Path(__file__).resolve().parent.parent
PAGE = Page("Some runs", "They are small.", ["sasg table runs"])


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Finished runs of all four methods, and a task of which nothing was run."""
    runs_dir = tmp_path_factory.mktemp("report") / "runs"
    planned = small_runs.make(runs_dir)
    return look_up([*planned, *compose_grid(["cifar10"], ["sgd", "sasg"], [1], [f"runs_dir={runs_dir}"])])


def parts(entries) -> list[Part]:
    return [Part("table2", entries, [tables.crossing(entries, "table2"), tables.cost(entries)])]


@pytest.fixture(scope="module")
def report(entries, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    html.write(PAGE, parts(entries), path)
    return path


def data_of(page: Path) -> dict:
    """What a page shows."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1])


def call(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """sasg report: its exit code, and what it says."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", ["sasg", "report", *words])
    return cli.main(), "".join(capsys.readouterr())


class TestContents:
    def test_numbers_are_those_of_the_folders(self, entries, report):
        data = data_of(report)
        assert len(data["runs"]) == 8
        for entry in entries[:8]:
            shown, metrics = data["runs"][entry.run.path.name], entry.run.metrics
            assert shown["columns"]["rounds"] == metrics["rounds"].tolist()
            assert shown["columns"]["top1"] == pytest.approx(metrics["top1"].tolist(), rel=1e-5)
            assert shown["crossing"] == (entry.run.summary["crossing"] or {}).get("rounds")
            assert (report.parent / shown["folder"]).resolve() == entry.run.path.resolve()
            assert set(shown["seconds"]) == set(links())
            assert all(times == sorted(times) for times in shown["seconds"].values())

    def test_what_was_not_run_says_so(self, report):
        data = data_of(report)
        missing = next(view for view in data["views"] if view["task"] == "cifar10")
        assert (missing["finished"], missing["planned"]) == (0, 2)
        rows = [row["cells"] for table in data["tables"] for row in table["rows"] if row["cells"][0] == "CIFAR-10"]
        assert rows and all("not run" in cells for cells in rows)

    def test_published_numbers_stand_beside_ours(self, report):
        (row,) = [
            row["cells"] for row in data_of(report)["tables"][0]["rows"] if row["cells"][:2] == ["CIFAR-10", "SASG"]
        ]
        assert row[2] == "90,846" and row[5] == "3.25E+11"

    def test_every_row_knows_its_runs(self, entries, report):
        for table in data_of(report)["tables"]:
            for row in table["rows"]:
                task, label = row["cells"][:2]
                own = [e.run.path.name for e in entries if e.run and (task, label.lower()) == ("Digits", e.method)]
                assert row["runs"] == own

    def test_it_says_what_runs_were_made_on(self, report):
        """Two numbers for one method may be of two devices."""
        data = data_of(report)
        for made in (data["views"][0]["made"], data["tables"][0]["made"]):
            assert len(made) == 1 and made[0].startswith("Digits: 8 runs on cpu (")

    def test_a_method_has_its_colour_in_every_view(self, entries):
        """Also where another task's runs are of other settings."""
        other = [
            replace(e, config=replace(e.config, task=replace(e.config.task, name="other"), precision="fp32"))
            for e in entries[:8]
        ]
        page = html.contents([Part("a", [*entries, *other], []), Part("b", other, [])], Path())
        colors = {(one["method"], one["color"]) for view in page["views"] for one in view["series"]}
        assert len(colors) == 4

    def test_each_run_names_the_command_that_repeats_it(self, entries, report):
        for entry in entries[:8]:
            words = shlex.split(data_of(report)["runs"][entry.run.path.name]["command"])
            assert words == ["python", "-m", "sasg", str(entry.run.path / "config.json"), "--into", "again"]

    def test_the_same_runs_give_the_same_bytes_and_few_of_them(self, entries, report):
        html.write(PAGE, parts(entries), report.with_name("again.html"))
        assert report.with_name("again.html").read_bytes() == report.read_bytes()
        assert report.stat().st_size < 8e6


def number(cell: str) -> str:
    """The mean of a cell, as it is written."""
    return cell.split(" ± ")[0].strip()


class TestOneNumberForOneThing:
    """The committed runs: the report, the tables in three formats, and README say the same."""

    @pytest.fixture(scope="class")
    def shown(self) -> dict[tuple[str, str], dict[str, str]]:
        """The report's Table II: cells by title, by task and method."""
        entries = look_up(study_configs("table2", str(ROOT / "results" / "runs")))
        page = html.contents([Part("table2", entries, [tables.crossing(entries, "table2")])], ROOT)
        (table,) = page["tables"]
        rows = {tuple(row["cells"][:2]): dict(zip(table["header"], row["cells"])) for row in table["rows"]}
        spread = next(section for section in table["sections"] if "Minimum" in section["header"])
        for row in spread["rows"]:
            rows[tuple(row["cells"][:2])] |= dict(zip(spread["header"], row["cells"]))
        return rows

    def test_markdown(self, shown):
        text = (ROOT / "results/table2/table2.md").read_text().splitlines()
        tables_of = [[cell.strip() for cell in line.strip("|").split("|")] for line in text if line.startswith("|")]
        header, rows = tables_of[0], [row for row in tables_of[2:] if len(row) == len(tables_of[0])]
        assert {tuple(row[:2]) for row in rows} == set(shown)
        for row in rows:
            assert dict(zip(header, row)).items() <= shown[tuple(row[:2])].items()

    def test_csv(self, shown):
        names = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
        methods = {"sgd": "SGD", "sparse": "Sparse", "lasg": "LASG", "sasg": "SASG"}
        with (ROOT / "results/table2/table2.csv").open() as file:
            found = [row for row in csv.DictReader(file) if row["quantity"] == "rounds"]
        assert len(found) == len(shown)
        for row in found:
            cells = shown[names[row["task"]], methods[row["method"]]]
            if row["mean"]:
                assert f"{float(row['mean']):,.0f}" == number(cells["Rounds ours"])
            assert cells["Runs"] == row["status"]
            for title, key in (("Minimum", "minimum"), ("Maximum", "maximum")):
                assert cells[title] == (f"{float(row[key]):,.0f}" if row[key] else "")

    def test_readme(self, shown):
        lines = (ROOT / "README.md").read_text().split("## Table II")[1].split("\n## ")[0].splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
        task, told = "", 0
        for cells in rows:
            if task_of := re.match(r"\*\*(.*)\*\* (.*)", cells[0]):
                task, cells[0] = task_of[1], task_of[2]
            if (task, cells[0]) not in shown:
                continue
            ours = shown[task, cells[0]]
            mine = [ours["Rounds published"], number(ours["Rounds ours"]), f"{ours['Minimum']} to {ours['Maximum']}"]
            mine += [ours["Paper bits published"], number(ours["Paper bits ours"]), ours["Uplink bits log2"]]
            mine += [number(ours["Final accuracy"]), ours["Skipped"]]
            for written, found in zip(cells[1:], mine, strict=True):
                assert number(written) in (found, "" if "cross" in found else found), (task, cells)
            told += 1
        assert told >= 8

    def test_the_tables_of_a_study_are_its_runs_alone(self, shown):
        """MNIST's runs on a GPU have the same seeds: nothing pools them with the CPU's."""
        entries = look_up(study_configs("table2", str(ROOT / "results" / "runs")))
        series = [one for one in all_series(entries) if one.task == "mnist"]
        assert [(one.num_planned, len(one.runs)) for one in series] == [(5, 5)] * 4
        assert {run.identity["device"] for one in series for run in one.runs} == {"cpu"}
        there = all_series([e for e in entries_in([ROOT / "results" / "runs"]) if e.task == "mnist"])
        assert all(len({entry.config.seed for entry in one.entries}) == one.num_planned for one in there)
        assert len({look.color for look in looks(series).values()}) == 4


class TestOnesOwnRuns:
    def test_these_runs_alone_with_their_own_baselines(self, tmp_path, monkeypatch, capsys):
        """An outside method among them; from another folder the suite's report is not touched."""
        runs_dir = tmp_path / "out" / "runs"
        small_runs.make(runs_dir, ["sgd"], [1])
        (outside,) = compose_grid(
            ["digits"], ["sasg algorithm.name=mine"], [1], [*small_runs.OVERRIDES, f"runs_dir={runs_dir}"]
        )
        small_runs.run(outside)
        monkeypatch.chdir(tmp_path)
        before = sorted((ROOT / "results").glob("*.html"))
        code, told = call(monkeypatch, capsys, "--runs-dir", "out/runs")
        assert code == 0, told
        assert sorted((ROOT / "results").glob("*.html")) == before
        data = data_of(tmp_path / "out" / "report.html")
        assert len(data["runs"]) == 2
        (view,) = data["views"]
        assert (view["baselines"], view["finished"], view["planned"]) == ([0.6], 2, 2)
        assert [one["label"] for one in view["series"]] == ["SGD", "mine"]
        assert len({one["color"] for one in view["series"]}) == 2
        assert "60 %" in data["tables"][0]["title"] and "92 %" not in json.dumps(data["tables"])
        assert all(run["command"] for run in data["runs"].values())
        assert "reproduce" not in data["again"] and "--runs-dir out/runs" in data["again"]

    def test_of_a_study(self, tmp_path, monkeypatch, capsys):
        runs_dir = tmp_path / "runs"
        small_runs.make(runs_dir, ["sgd"], [1])
        code, told = call(monkeypatch, capsys, "--runs-dir", str(runs_dir), "--study", "demo")
        assert code == 0, told
        data = data_of(tmp_path / "report.html")
        assert [view["planned"] for view in data["views"]] == [8] and data["tables"][0]["part"] == "demo"

    def test_mistakes(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        code, told = call(monkeypatch, capsys)
        assert code == 2 and "results/runs: neither a run's folder nor a folder of runs" in told
        small_runs.make(tmp_path / "runs", ["sgd"], [1])
        code, told = call(monkeypatch, capsys, "--runs-dir", "runs", "--out", str(ROOT / "results" / "report.html"))
        assert code == 2 and "is the report on the suite's own runs" in told


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    if chromium.PROGRAM is None:
        pytest.skip("Chromium is not installed")
    profile = tmp_path_factory.mktemp("chromium")
    opened = chromium.Page(profile)
    opened.open(report)
    yield opened
    opened.close()
    shutil.rmtree(profile, ignore_errors=True)


def lines(page) -> list[dict]:
    """The lines that are drawn: name, first and last x, number of points."""
    script = """document.getElementById("plot").data.filter((t) => t.name)
        .map((t) => ({name: t.name, first: t.x[0], last: t.x[t.x.length - 1], n: t.x.length}))"""
    return page.run(script)


def choose(page, name: str, value: str) -> None:
    page.run(f"""(() => {{ const box = document.getElementById("{name}"); box.value = "{value}";
        box.dispatchEvent(new Event("change")); }})()""")


class TestInABrowser:
    def test_loads_without_errors_or_requests(self, page):
        assert page.messages == []
        assert all(re.match("file:|data:|blob:", address) for address in page.requests)
        assert sorted(line["name"] for line in lines(page)) == ["LASG", "SASG", "SGD", "Sparse"]

    def test_the_axis_switches(self, page, entries):
        totals = {"sgd": entries[0].run.summary["totals"], "sasg": entries[3].run.summary["totals"]}
        assert {line["last"] for line in lines(page) if line["name"] == "SGD"} == {totals["sgd"]["rounds"]}
        choose(page, "x", "paper_bits")
        (sgd,) = [line for line in lines(page) if line["name"] == "SGD"]
        assert sgd["last"] == pytest.approx(totals["sgd"]["paper_bits"], rel=1e-5)
        last = {}
        for link in ("gigabit", "wan"):
            choose(page, "x", "seconds")
            choose(page, "link", link)
            last[link] = next(line["last"] for line in lines(page) if line["name"] == "SASG")
        assert 0 < last["gigabit"] < last["wan"]
        choose(page, "y", "training_loss")
        assert page.run('document.getElementById("plot").layout.yaxis.type') == "log"
        choose(page, "y", "top1")
        choose(page, "x", "rounds")

    def test_methods_are_switched_off_and_on(self, page):
        click = 'document.querySelector("#methods button").click()'
        page.run(click)
        assert "SGD" not in [line["name"] for line in lines(page)]
        page.run(click)
        assert "SGD" in [line["name"] for line in lines(page)]

    def test_a_task_that_was_not_run_is_a_gap(self, page):
        choose(page, "view", "1")
        assert page.run('document.getElementById("plot").textContent') == "CIFAR-10: not run (0 of 2 runs)"
        choose(page, "view", "0")
        assert len(lines(page)) == 4

    def test_the_filters_and_a_run(self, page, entries):
        rows = 'document.querySelectorAll("#runs tbody tr").length'
        assert page.run(rows) == 8
        choose(page, "filter-label", "SASG")
        choose(page, "filter-seed", "2")
        assert page.run(rows) == 1
        page.run('document.querySelector("#runs tbody tr").click()')
        name = page.run('document.getElementById("run").dataset.name')
        assert name.startswith("digits-sasg-s2")
        words = page.run('document.querySelector(".command pre").textContent')
        assert words.startswith("python -m sasg ") and "digits-sasg-s2" in words
        assert page.run('document.querySelectorAll("#run .js-plotly-plot").length') == 4

    def test_a_tables_row_leads_to_its_runs(self, page):
        page.run("""[...document.querySelectorAll("#tables tr[tabindex]")]
            .find((tr) => tr.textContent.startsWith("DigitsLASG")).click()""")
        assert page.run('document.getElementById("count").textContent').startswith("2 of 8 runs")
        assert page.run('document.querySelectorAll("#runs tbody tr").length') == 2
        page.run('document.querySelector("#count button").click()')
        assert page.run('document.querySelectorAll("#runs tbody tr").length') == 8

    @pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1400, False), (1400, True)])
    def test_fits_phone_and_desktop_in_light_and_dark(self, page, width, dark):
        page.shape(width, 850, dark)
        page.run("new Promise((done) => setTimeout(done, 300))")
        assert page.run("document.documentElement.scrollWidth") <= width
        told = page.run("""[...document.querySelectorAll(".scroll")].every((frame) =>
            frame.previousElementSibling.hidden === (frame.scrollWidth <= frame.clientWidth))""")
        assert told, "a table that scrolls says so"
        ink, paper = page.run("""["color", "backgroundColor"].map((name) =>
            getComputedStyle(document.body)[name].match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 765)""")
        assert (ink > 0.8 and paper < 0.2) if dark else (ink < 0.2 and paper > 0.8)
        assert page.messages == []
