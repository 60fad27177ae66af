"""The command `sasg`: what it offers, what it finds of a user's own, and what it says of mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import cli, reproduce
from experiments.composing import telling_errors
from experiments.several import Several
from experiments.study import compose_grid, load_study, parse
from sasg.config import digest
from sasg.errors import UserError
from sasg.places import CONF, PAPER, description, files, refuse_hidden
from sasg.report.appearance import appearances
from sasg.report.names import family, method_name
from sasg.report.style import looks
from sasg.report.times import links
from tests import small_runs

ROOT = Path(__file__).resolve().parent.parent

METHOD = """# My own method, for nobody else. It has a second sentence.
defaults:
  - sparse
name: mine
label: My method
look: {color: "#112233", marker: d, line: "--"}
"""
STUDY = """# My study.
tasks: [digits]
methods: [sparse, mine]
seeds: [1]
reference: mine
report:
  - kind: crossing
    file: table
  - kind: accuracy
    file: figure
"""
LINK = "# My line.\nkind: link\nup_bits_per_second: 1000.0\n"


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A user's folder, in which we are: a method, a study and a link."""
    for name, text in (("algorithm/mine", METHOD), ("study/my_study", STUDY), ("link/my_line", LINK)):
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SASG_CONF", str(tmp_path / "conf"))
    return tmp_path


@pytest.fixture
def sasg(monkeypatch, capsys):
    """Call the command: exit code, what it prints, and on stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(sys, "argv", ["sasg", *words])
        try:
            code = cli.main()
        except SystemExit as left:
            code = left.code
        return code, *capsys.readouterr()

    return call


class TestCommands:
    def test_help_names_each(self, sasg):
        code, told, _ = sasg("--help")
        assert code == 0
        assert all(f"sasg {name} " in told for name in cli.COMMANDS if name != "check")

    @pytest.mark.parametrize("name", ["list", "show", "compare", "table", "plot", "report", "study"])
    def test_each_has_help(self, sasg, name):
        code, told, _ = sasg(name, "--help")
        assert code == 0 and len(told.splitlines()) > 3

    def test_it_starts_without_what_is_slow(self):
        code = "import sys; from experiments import cli; sys.argv = ['sasg', '--help']; cli.main(); "
        code += "print([name for name in ('torch', 'hydra', 'pandas', 'numpy') if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    def test_whoever_reads_its_help_may_leave(self):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-u", "-m", "experiments.cli", "--help"]  # -u: written while there is nobody
        with os.fdopen(writer, "w") as gone:
            done = subprocess.run(command, cwd=ROOT, stdout=gone, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "")

    def test_a_typo(self, sasg):
        code, _, told = sasg("trian")
        assert (code, told) == (2, "error: sasg trian: no such command; did you mean sasg train?\n")

    def test_what_is_not_installed(self, sasg, monkeypatch):
        monkeypatch.setitem(cli.COMMANDS, "table", cli.Command("table", "", ("no_such_package",)))
        code, _, told = sasg("table")
        assert code == 2 and "sasg table needs no_such_package: pip install 'sasg[suite]'" in told

    def test_show(self, sasg, tmp_path):
        small_runs.make(tmp_path / "runs", ["sasg"], [1])
        (folder,) = (tmp_path / "runs").iterdir()
        code, told, _ = sasg("show", str(folder))
        assert code == 0 and "algorithm.compressor.density" in told and "finished" in told and "rounds" in told
        assert f"python -m sasg {folder}/config.json --into again" in told
        assert sasg("show", "digits-sasg", "--runs-dir", str(tmp_path / "runs"))[1] == told
        small_runs.make(tmp_path / "runs", ["sgd"], [1])
        lines = sasg("show", str(tmp_path / "runs"))[1].splitlines()
        assert len(lines) == 2 and lines[0].startswith(f"{folder.name}: finished, top-1 ")
        code, _, told = sasg("show", "lasso", "--runs-dir", str(tmp_path / "runs"))
        assert code == 2 and "lasso: no such run" in told


class TestOwn:
    def test_listed(self, own, sasg):
        code, told, _ = sasg("list")
        assert code == 0
        lines = {line.split()[0]: line for line in told.splitlines() if line.startswith("  ")}
        assert lines["mine"].endswith(f"My own method, for nobody else [{own / 'conf' / 'algorithm' / 'mine.yaml'}]")
        assert "My study" in lines["my_study"] and "My line" in lines["my_line"] and "[" not in lines["sasg"]
        assert sasg("list", "methods")[1].splitlines()[0] == "methods (algorithm=NAME)"
        code, _, told = sasg("list", "sagg")
        assert code == 2 and "did you mean sasg?" in told

    def test_train_tells_of_them(self, own):
        done = subprocess.run(
            [sys.executable, ROOT / "experiments" / "train.py", "--help"],
            cwd=own, env=os.environ, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert ", mine, natural" in done.stdout and "my_study" in done.stdout

    def test_a_study_by_name_and_by_path(self, own):
        by_name = load_study("my_study")
        assert by_name.methods == ["sparse", "mine"]
        (own / "elsewhere.yaml").write_text(STUDY)
        assert load_study("elsewhere.yaml") == by_name == load_study(str(own / "conf" / "study" / "my_study.yaml"))
        for name, told in (
            ("my_studi", "did you mean my_study?"),
            ("none.yaml", "there is no such file"),
            ("zzz", "choose one of demo, "),
        ):
            with pytest.raises(UserError, match=told.replace("?", r"\?")):
                load_study(name)
        assert parse(["my_study", "jobs=0"]).study == "my_study"

    def test_what_a_study_compares_with(self, own):
        table, figure = load_study("my_study").report
        assert table["reference"] == "mine" and "reference" not in figure
        (own / "a.yaml").write_text(STUDY.replace("reference: mine", "reference: spars"))
        with pytest.raises(UserError, match=r"reference=spars: is none of its methods; did you mean sparse\?"):
            load_study("a.yaml")

    def test_a_study_is_done(self, own, monkeypatch, capsys):
        (own / "elsewhere.yaml").write_text(STUDY + f"overrides: {small_runs.OVERRIDES}\n".replace("'", ""))
        monkeypatch.setattr(sys, "argv", ["sasg study", "elsewhere.yaml", "jobs=2"])
        assert telling_errors(reproduce.main) == 0
        told = capsys.readouterr().out
        assert (
            "written to results/elsewhere: table.md, table.csv" in told
            and (own / "results/elsewhere/figure.pdf").is_file()
        )

    def test_a_link(self, own):
        assert links()["my_line"].up_bits_per_second == 1000.0

    def test_looks_and_labels(self, own):
        assert method_name("mine") == "My method" and method_name("mine_0.05") == "My method 5 %"
        assert family("mine_0.05") == "mine"
        entry = type("Entry", (), {"method": "mine", "label": "My method"})()
        (look,) = looks([entry]).values()
        assert (look.label, look.color, look.marker, look.line) == ("My method", "#112233", "d", "--")

    @pytest.mark.parametrize("number", [1, 2, 5])
    def test_looks_of_variants(self, own, number):
        """Told apart from each other and from other methods, with the method's kind of line where they are a scale."""
        kind = type("Entry", (), {})
        entries = []
        mine = [("mine", f"My method ({n})") for n in range(number)]
        for method, label in [("sgd", "SGD"), ("other", "Other"), *mine]:
            entry = kind()
            entry.method, entry.label = method, label
            entries.append(entry)
        found = looks(entries)
        assert len({look.color for look in found.values()}) == number + 2
        mine = [look for label, look in found.items() if label.startswith("My method")]
        assert mine[0].line == "--" and (mine[0].color == "#112233") == (number < 3)
        assert len({look.line for look in mine}) == 1 or number == 2

    def test_they_are_no_part_of_a_run(self, own):
        (with_look,) = compose_grid(["digits"], ["mine"], [1], ["threads=1"])
        (own / "conf" / "algorithm" / "mine.yaml").write_text(METHOD.split("label")[0])
        (without,) = compose_grid(["digits"], ["mine"], [1], ["threads=1", "device=cpu"])
        assert digest(with_look.identity("a", "cpu")) == digest(without.identity("a", "cpu"))
        assert "label" not in with_look.algorithm

    @pytest.mark.parametrize(
        "line, told", [("look: {colour: red}", "color, marker, line"), ("look: {color: red}", '"#rrggbb"')]
    )
    def test_wrong_looks(self, own, line, told):
        (own / "conf" / "algorithm" / "other.yaml").write_text(f"name: other\n{line}\n")
        with pytest.raises(UserError, match=r"other\.yaml") as caught:
            appearances()
        assert told in str(caught.value)

    def test_a_file_that_hides_behind_one_of_the_suites(self, own):
        refuse_hidden()
        (own / "conf" / "algorithm" / "sasg.yaml").write_text("name: sasg\n")
        with pytest.raises(UserError, match=r"sasg\.yaml: the suite has a file of this name"):
            refuse_hidden()
        (own / "conf" / "algorithm" / "sasg.yaml").write_bytes((CONF / "algorithm" / "sasg.yaml").read_bytes())
        refuse_hidden()


def test_every_file_says_what_it_is():
    for group in ("algorithm", "task", "dataset", "model", "study", "objective", "shards", "preset", "link", "cluster"):
        for name, path in files(group).items():
            assert len(description(path)) > 10, f"{group}/{name}"


def test_several_runs_say_which_and_how_long(capsys):
    configs = compose_grid(["digits"], ["sgd", "sasg"], [1, 2])  # by seed, then by method
    now = [0.0]
    several = Several(configs, lambda: now[0])
    for config, seconds in zip(configs, (100, 20, 0.1, 0), strict=True):
        several.announce(config)
        now[0] += seconds
    assert capsys.readouterr().err.splitlines() == [
        "[1/4] digits-sgd-s1",
        "[2/4] digits-sasg-s1, about 0:05:00 left",  # three more like the first
        "[3/4] digits-sgd-s2, about 0:02:00 left",
        "[4/4] digits-sasg-s2, about 0:00:20 left",  # the third was finished before
    ]
    Several(configs[:1]).announce(configs[0])
    assert not capsys.readouterr().err


def test_a_wheel_has_what_runs_without_the_repository(tmp_path):
    """Packages and data as setup.py maps them, copied as an installation would; then a run from an empty folder."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "-b", str(tmp_path / "build"), "egg_info", "-e", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("setuptools is not here")
    assert done.returncode == 0, done.stderr
    installed = tmp_path / "build" / "lib"
    for folder, inside in ((CONF, "conf"), (PAPER, "paper")):
        ours = {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".yaml", ".csv")}
        theirs = {path.relative_to(installed / "sasg" / inside) for path in (installed / "sasg" / inside).rglob("*.*")}
        assert ours == theirs and ours
    assert (installed / "sasg" / "report" / "page" / "report.html").is_file()
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "SASG_CONF"}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cli", "train", "max_iterations=3", "device=cpu"],
        cwd=empty, env=environment | {"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (empty / "results" / "runs").iterdir()
    assert done.stdout.strip() == f"results/runs/{run.name}" and '"commit": null' in (run / "summary.json").read_text()


@pytest.mark.parametrize("word, code", [("TASK=mnist", 2), ("TASKS=mnist", 0)])
def test_make_refuses_what_it_does_not_know(word, code):
    done = subprocess.run(["make", "help", word], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code and ("not known here" in done.stderr) == bool(code)
