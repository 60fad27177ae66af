"""The HTML report: what it says of runs, and how it behaves in a browser."""

import re
import shutil
from pathlib import Path

import chromium
import pytest
import small_runs

from experiments.study import compose_grid
from sasg.report import html
from sasg.report.runs import look_up
from sasg.report.times import links

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Finished runs of all four methods, and a task of which nothing was run."""
    runs_dir = tmp_path_factory.mktemp("report") / "runs"
    planned = small_runs.make(runs_dir)
    return look_up([*planned, *compose_grid(["cifar10"], ["sgd", "sasg"], [1], [f"runs_dir={runs_dir}"])])


@pytest.fixture(scope="module")
def report(entries, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    html.write(entries, path, ROOT / "results" / "table3" / "missing.csv")
    return path


class TestContents:
    def test_numbers_are_those_of_the_folders(self, entries):
        data = html.contents(entries, Path("missing.csv"))
        assert len(data["runs"]) == 8
        for entry in entries[:8]:
            shown, metrics = data["runs"][entry.run.path.name], entry.run.metrics
            assert shown["columns"]["rounds"] == metrics["rounds"].tolist()
            assert shown["columns"]["top1"] == pytest.approx(metrics["top1"].tolist(), rel=1e-5)
            assert shown["crossing"] == (entry.run.summary["crossing"] or {}).get("rounds")
            assert set(shown["seconds"]) == set(links())
            assert all(times == sorted(times) for times in shown["seconds"].values())

    def test_what_was_not_run_says_so(self, entries):
        data = html.contents(entries, Path("missing.csv"))
        missing = next(task for task in data["tasks"] if task["name"] == "cifar10")
        assert (missing["finished"], missing["planned"]) == (0, 2)
        rows = [row["cells"] for table in data["tables"] for row in table["rows"] if row["cells"][0] == "CIFAR-10"]
        assert rows and all("not run" in cells or "not measured" in cells for cells in rows)

    def test_published_numbers_stand_beside_ours(self, entries):
        (row,) = [row["cells"] for row in html.contents(entries, Path("missing.csv"))["tables"][0]["rows"]
                  if row["cells"][:2] == ["CIFAR-10", "SASG"]]
        assert row[2] == "90,846" and row[7] == "3.25E+11"

    def test_each_run_names_the_command_that_repeats_it(self, entries):
        for name, run in html.contents(entries, Path("missing.csv"))["runs"].items():
            assert run["command"] == f"python -m sasg results/runs/{name}/config.yaml --into again"

    def test_the_same_runs_give_the_same_bytes_and_few_of_them(self, entries, report, tmp_path):
        html.write(entries, tmp_path / "again.html", Path("missing.csv"))
        assert (tmp_path / "again.html").read_bytes() == report.read_bytes()
        assert report.stat().st_size < 8e6


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
        choose(page, "task", "cifar10")
        assert page.run('document.getElementById("plot").textContent') == "CIFAR-10: not run (0 of 2 runs)"
        choose(page, "task", "digits")
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
        assert words == f"python -m sasg results/runs/{name}/config.yaml --into again"
        assert page.run('document.querySelectorAll("#run .js-plotly-plot").length') == 4

    def test_a_tables_row_leads_to_its_runs(self, page):
        page.run("""[...document.querySelectorAll("#tables tr[tabindex]")]
            .find((tr) => tr.textContent.startsWith("DigitsLASG")).click()""")
        assert page.run('document.getElementById("count").textContent') == "2 of 8 runs"

    @pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False), (1280, True)])
    def test_fits_phone_and_desktop_in_light_and_dark(self, page, width, dark):
        page.shape(width, 850, dark)
        page.run("new Promise((done) => setTimeout(done, 300))")
        assert page.run("document.documentElement.scrollWidth") <= width
        ink, paper = page.run("""["color", "backgroundColor"].map((name) =>
            getComputedStyle(document.body)[name].match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 765)""")
        assert (ink > 0.8 and paper < 0.2) if dark else (ink < 0.2 and paper > 0.8)
        assert page.messages == []
