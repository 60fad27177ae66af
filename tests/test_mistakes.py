"""What the commands say of mistakes in options, paths, studies and damaged files: one line, exit code 2."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from experiments import cli
from experiments.several import Several, names
from experiments.study import compose_grid, load_study
from sasg import __main__ as front
from sasg.errors import UserError
from sasg.parts import coerce
from sasg.report import figures, packed, tables, time_figures
from sasg.report.columns import whole_seconds
from sasg.report.metrics import read_metrics
from sasg.report.runs import entries_in, read_run
from sasg.report.series import all_series
from sasg.report.writing import write_part
from sasg.training.progress import counted
from tests import small_runs


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a run of SGD."""
    runs_dir = tmp_path_factory.mktemp("mistakes") / "runs"
    small_runs.make(runs_dir, ["sgd"], [1])
    return runs_dir


@pytest.fixture
def runs_dir(made, tmp_path) -> Path:
    """A copy, to damage."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def said(monkeypatch, capsys):
    """What `sasg ...` says on stderr: one line, with exit code 2."""

    def call(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["sasg", *map(str, words)])
        code = cli.main()
        told = capsys.readouterr().err
        assert code == 2 and told.startswith("error: ") and told.count("\n") == 1, told
        return told

    return call


def the_run(runs_dir: Path) -> Path:
    (path,) = runs_dir.glob("*-sgd-*")
    return path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["table"], "required: RUN; sasg table --help"),
        (["table", ".", "--linx", "wan"], "unrecognized arguments: --linx wan; did you mean --link? sasg table --help"),
        (["table", ".", "--format", "md", "--format", "csv"], "--format is given twice; sasg table --help"),
        (["plot", ".", "--link", "wann"], "invalid choice: 'wann'"),
        (["compare", "one"], "required: other; sasg compare --help"),
        (["report", "folder"], "unrecognized arguments: folder; sasg report --help"),
        (["show", "--runs-dir"], "--runs-dir: expected one argument; sasg show --help"),
        (["show", "--runs-dir", "nowhere"], "nowhere: there is no run; give"),
        (["train", "seed=1", "task=digits", "seed=2"], "seed is given twice (seed=1, seed=2); leave one out"),
        (["study", "demo", "epochs=1", "epochs=2"], "epochs is given twice (epochs=1, epochs=2); leave one out"),
        (["check", "algorithm=sgd", "algorithm=sasg"], "algorithm is given twice"),
        (["check"], "which method? Give its YAML file, or algorithm=NAME"),
    ],
)
def test_options(said, words, told):
    assert told in said(*words)


def test_options_of_a_run_from_its_configuration(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sasg"])
    assert front.telling_user_errors(front.main) == 2
    assert capsys.readouterr().err == (
        "error: the following arguments are required: config; python -m sasg --help tells what there is\n"
    )


def test_a_path_that_cannot_be_written_is_a_mistake(said, made, tmp_path):
    (tmp_path / "file").write_text("")
    for words in (["plot", made, "--out", tmp_path / "file/plot"], ["report", "--runs-dir", made, "--out", tmp_path]):
        told = said(*words)
        assert str(tmp_path) in told and ".part" not in told and "give another path, or mend this one" in told


def test_a_part_of_a_title_lists_what_it_stands_for(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sasg", "list", "data"])
    assert cli.main() == 0 and capsys.readouterr().out.startswith("datasets (dataset=NAME)\n  breast_cancer")


@pytest.mark.parametrize(
    "content",
    [b"", b"\xcd\x00\xff", b"iteration,epoch\n1,2,3\n4,5,6\n", b"iteration,epoch\n10,x.5\n", b"epoch,top1\n1,0.5\n"],
    ids=["empty", "binary", "ragged", "words", "columns"],
)
def test_damaged_metrics(content, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics.csv: is damaged \(.*\); move its folder away"):
        read_metrics(path)


def test_metrics_that_are_not_complete_are_not_drawn(runs_dir):
    """Tables say what became of the run; a figure or a page has nothing of it."""
    metrics = the_run(runs_dir) / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes()[:50])
    run = read_run(the_run(runs_dir))
    assert run.status == "damaged" and not run.has_rows
    assert "damaged" in tables.any_runs(entries_in([runs_dir])).markdown()
    figures.lines(entries_in([runs_dir]))


def test_numbers_of_which_one_is_none_are_told(said, runs_dir):
    metrics = the_run(runs_dir) / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("0.", "x"))
    for words in (["plot", runs_dir], ["report", "--runs-dir", runs_dir], ["compare", *2 * [the_run(runs_dir)]]):
        assert f"{metrics}: is damaged (its column" in said(*words)


@pytest.mark.parametrize("content", ["{", "[]", "3"])
@pytest.mark.parametrize("file", ["config.json", "summary.json"])
def test_show_names_a_damaged_file(runs_dir, file, content, monkeypatch, capsys):
    (the_run(runs_dir) / file).write_text(content)
    monkeypatch.setattr("sys.argv", ["sasg", "show", str(the_run(runs_dir))])
    assert cli.main() == 0
    assert re.search(f"  status +{file} is damaged; move the folder away", capsys.readouterr().out)


GOOD = {"tasks": ["digits"], "methods": ["sgd"], "seeds": [1]}


class TestStudies:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"seeds": None}, "seeds=None: must be a list"),
            ({"seeds": []}, "seeds: names none; give a list"),
            ({"tasks": "digits"}, "tasks='digits': must be a list"),
            ({"seeds": ["x"]}, "seeds[0]='x': must be of type int"),
            ({"methods": [3]}, "methods[0]=3: must be of type str"),
            ({"report": {"kind": "crossing"}}, "must be a list"),
            ({"seed": [1]}, "seed: unknown key; did you mean seeds?"),
            ({"tuning": {"factors": [1], "epochs": 3}}, "tuning: has no held_out"),
            (
                {"tuning": {"factors": [1], "held_out": 5, "epoch": 3}},
                "tuning.epoch: unknown key; did you mean epochs?",
            ),
            ({"tuning": 4}, "tuning: has the keys factors, held_out"),
        ],
    )
    def test_the_file_and_the_key_are_named(self, change, told, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(GOOD | change))
        with pytest.raises(UserError) as error:
            load_study(str(path))
        assert str(error.value).startswith(f"{path}: ") and told in str(error.value)

    def test_what_stands_twice_counts_once(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(GOOD | {"methods": ["sgd", "sgd"], "seeds": [1, 1]}))
        study = load_study(str(path))
        assert (study.methods, study.seeds) == (["sgd"], [1])

    @pytest.mark.parametrize(
        ("part", "told"),
        [
            ({"kind": "uploads"}, "methods=lasg, sasg: none of them is among the runs, which are of sgd"),
            ({"kind": "thresholds"}, "methods=lasg, sasg: none of them"),
            ({"kind": "descent", "methods": ["gd"]}, "methods=gd: none of them"),
            ({"kind": "communication_time", "task": "mnist", "link": "wan"}, "task=mnist: none of the runs is on it"),
            ({"kind": "lines", "link": "wann"}, "link=wann: there is none in conf/link; choose one of ideal"),
            (
                {"kind": "lines", "y": "losss"},
                "losss: no column of the metrics of digits; choose from accuracy",
            ),
            ({"kind": "crossing", "file": "../table"}, "file=../table: must be a plain name"),
        ],
    )
    def test_parts_of_a_report(self, part, told, made, tmp_path):
        with pytest.raises(UserError) as error:
            write_part("report[0]", {"file": "file", **part}, entries_in([made]), tmp_path)
        assert told in str(error.value)


def test_of_choices_none_is_suggested_that_differs_in_a_number():
    annotation = front.Config.__annotations__["precision"]
    for value, told in (
        ("fp16", "precision=fp16: choose one of"),
        ("tf23", "choose one of"),
        ("bf61", "choose one of"),
    ):
        with pytest.raises(UserError, match=told):
            coerce("precision", value, annotation)
    with pytest.raises(UserError, match=r"precision=fp_32: did you mean fp32\?"):
        coerce("precision", "fp_32", annotation)


def test_runs_of_a_sweep_are_told_apart(tmp_path, capsys):
    densities = [compose_grid(["digits"], ["sasg"], [1], [f"algorithm.compressor.density={d}"])[0] for d in (0.1, 0.2)]
    others = compose_grid(["digits"], ["sgd"], [1, 2])
    assert names([*densities, *others]) == [
        *("digits-sasg-s1 (density=0.1)", "digits-sasg-s1 (density=0.2)", "digits-sgd-s1", "digits-sgd-s2")
    ]
    Several(densities).announce(densities[0])
    assert capsys.readouterr().err == "[1/2] digits-sasg-s1 (density=0.1)\n"


def test_one_of_something_and_little_time():
    assert (counted(1, "run"), counted(2, "run"), counted(0, "run")) == ("1 run", "2 runs", "0 runs")
    seconds = {0.0: "0", 0.31: "0.31", 0.0041: "0.0041", 0.5001: "1", 8.3: "8", 1815.2: "1,815"}
    assert {number: whole_seconds(number) for number in seconds} == seconds


class TestPackedRuns:
    """A packed run is shown with a command, and the command repeats it."""

    @pytest.fixture
    def file(self, runs_dir) -> Path:
        run = read_run(the_run(runs_dir))
        path = runs_dir / f"mine{packed.SUFFIX}"
        packed.pack(path, [run.content])
        shutil.rmtree(run.path)
        return path

    def show(self, monkeypatch, capsys, *words: object) -> str:
        monkeypatch.setattr("sys.argv", ["sasg", "show", *map(str, words)])
        assert cli.main() == 0
        return capsys.readouterr().out

    def test_from_its_name_to_its_repetition(self, file, tmp_path, monkeypatch, capsys):
        told = self.show(monkeypatch, capsys, "sgd", "--runs-dir", file.parent)
        assert told == self.show(monkeypatch, capsys, file)
        assert f", packed in {file}\n" in told and "\nfiles" not in told
        (command,) = [line.split("run  ", 1)[1] for line in told.splitlines() if line.startswith("  run  ")]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", command.split()[2:])
        assert front.telling_user_errors(front.main) == 0
        assert "equal: status, iterations, crossing, final, totals" in capsys.readouterr().out
        (again,) = (tmp_path / "again").glob("*/summary.json")
        summary = json.loads(again.read_text())
        summary["totals"]["rounds"] += 1
        again.write_text(json.dumps(summary))
        assert front.telling_user_errors(front.main) == 1
        rounds = summary["totals"]["rounds"]
        assert capsys.readouterr().out.splitlines()[1:] == [f"totals.rounds: {rounds - 1} | {rounds}"]

    def test_a_name_that_is_not_there(self, file, monkeypatch, capsys):
        for path, told in ((file / "nothing", "holds no run nothing"), (Path(f"no{packed.SUFFIX}/x"), "no such file")):
            monkeypatch.setattr("sys.argv", ["sasg", str(path), "--into", "again"])
            assert front.telling_user_errors(front.main) == 2
            assert told in capsys.readouterr().err


def test_of_a_setting_that_a_method_lacks_figures_say_nothing(made):
    """Not "density=None"."""
    series = all_series(entries_in([made]))[0]
    keys = ["epochs", "algorithm.compressor.density"]
    assert figures._with_label(series, keys).label == "epochs=40"
    assert figures._with_label(series, keys[1:]).label == series.label
    assert figures._word(series, keys[1]) == "without density"


def test_times_are_of_the_task_that_is_asked_for(made):
    assert time_figures.communication_time(entries_in([made]), "digits", "wan").axes
