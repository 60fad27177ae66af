"""Studies: what is asked, what is found, and that no interruption loses or changes a result.

Whatever interrupts a run, the files that repeat bit for bit must be those of a run that nothing interrupted.
"""

import errno
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from experiments import reproduce
from experiments.composing import telling_errors
from experiments.plan import gpus_for, jobs_for, num_slots, too_long
from experiments.pool import Job, Pool
from experiments.study import compose_grid, load_study, parse
from sasg.__main__ import EXIT_CODES
from sasg.config import Config
from sasg.errors import UserError
from sasg.report.runs import look_up
from sasg.training import run as training
from sasg.training import run_folder
from sasg.training.estimate import Estimate
from sasg.training.run_folder import CHECKPOINT, PREVIOUS, RunFolder
from tests.forks import CONTEXT, ForkedCommand

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "dataset.kind=tests.study_parts.tiny",
    "model.kind=tests.study_parts.impatient",
    "model.hidden=[8]",
    "task.batch_size=2",
    "epochs=1000",
    "max_iterations=200",
    "evaluate_every=10",
    "device=cpu",
)
REPEATABLE = ("metrics.csv", "uploads.npz", "config.json")


def tiny(runs_dir: Path, method: str = "sasg", seed: int = 1) -> Config:
    return compose_grid(["digits"], [method], [seed], [*TINY, f"runs_dir={runs_dir}"])[0]


def results(folder: str | Path) -> dict[str, bytes]:
    return {name: (Path(folder) / name).read_bytes() for name in REPEATABLE}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """Finished runs of sgd and sasg, by nobody disturbed."""
    runs_dir = tmp_path_factory.mktemp("uninterrupted") / "runs"
    for method in ("sgd", "sasg"):
        training.run(tiny(runs_dir, method))
    return runs_dir


def reference(uninterrupted: Path, name: str) -> dict[str, bytes]:
    return results(uninterrupted / name)


def only_run(runs_dir: Path) -> Path:
    (path,) = runs_dir.iterdir()
    return path


class TestCommandLine:
    def test_lists_and_what_is_passed_on(self):
        command = parse(
            ["study=table2", "task=mnist", "seeds=1,19", "jobs=2", "budget=30m", "epochs=2", "+x=1", "~tracker"]
        )
        assert (command.task, command.method, command.seed, command.jobs) == (["mnist"], None, [1, 19], 2)
        assert command.overrides == ("epochs=2", "+x=1", "~tracker")

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            ([], "study=..., one of demo, "),
            (["study=demo", "table2"], "table2: not of the form key=value"),
            (["study=table3x"], "none in conf/study; did you mean table2? Choose one of demo, "),
            (["study=demo", "seeds=1,x"], "seed=x: must be a whole number"),
            (["study=demo", "seeds="], "seed=: give one or several"),
            (["study=demo", "seed=1", "seeds=2"], "seed is given twice"),
            (["study=demo", "jobs=two"], "jobs=two: must be a whole number, at least 0"),
            (["study=demo", "force=yes"], "force=yes: give true or false"),
            (["study=demo", "budget=soon"], "budget=soon: give a time such as"),
            (["study=demo", "task=imagenet"], "imagenet"),
            (["study=demo", "link=wan"], "link=wan: a study's tables hold no times; sasg table"),
            (["study=demo", "sesd=1"], "sesd"),
            (["study=demo", "algorithm.density=2"], "density"),
        ],
    )
    def test_a_mistake_is_one_line(self, words, says, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
        assert telling_errors(reproduce.main) == 2
        error = capsys.readouterr().err.replace("measuring a few iterations of each method ...\n", "")
        assert error.startswith("error: ") and error.count("\n") == 1 and says in error

    def test_grid_has_all_methods_of_a_seed_together(self):
        study = load_study("table2")
        configs = compose_grid(["mnist"], study.methods, [1, 19])
        assert [(c.seed, c.algorithm["name"]) for c in configs[:5]] == [
            (1, "sgd"), (1, "sparse"), (1, "lasg"), (1, "sasg"), (19, "sgd"),
        ]  # fmt: skip

    def test_more_than_a_day_says_what_would_take_less(self, tmp_path):
        def job(task: str, seconds: float) -> Job:
            config = compose_grid([task], ["sgd"], [1])[0]
            return Job(config, RunFolder(tmp_path / task, {}), Estimate(1000, seconds / 1000))

        assert too_long([job("mnist", 3600)], 2) is None
        words = too_long([job("mnist", 3600), job("cifar10", 10 * 86400)], 1)
        assert "10 days" in words and "task=mnist takes about 1:00:05" in words and "force=true" in words
        assert "task=cifar10 seeds=1 max_iterations=4 takes about an hour" in too_long([job("cifar10", 10 * 86400)], 1)


class TestLookUp:
    """Which folder belongs to a configuration; a folder of metrics and a summary is enough."""

    def finished(self, config: Config, data: str = "a" * 64, device: str = "cpu", status: str = "finished") -> Path:
        identity = config.identity(data, device)
        path = Path(config.runs_dir) / config.run_name(identity)
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(identity))
        (path / "metrics.csv").write_text("iteration\n100\n")
        (path / "uploads.npz").write_text("")
        (path / "summary.json").write_text(json.dumps({"status": status, "num_rows": 1}))
        return path

    def config(self, tmp_path, **changes) -> Config:
        return replace(compose_grid(["mnist"], ["sasg"], [1])[0], runs_dir=str(tmp_path), **changes)

    def test_needs_no_data_and_takes_either_device(self, tmp_path):
        config = self.config(tmp_path)
        path = self.finished(config, device="cuda")
        assert look_up([config])[0].run.path == path
        assert look_up([replace(config, device="cuda")])[0].run.path == path
        assert look_up([replace(config, device="cpu")])[0].run is None
        on_cpu = self.finished(config)
        assert look_up([config])[0].run.path == on_cpu

    def test_other_settings_are_another_run(self, tmp_path):
        config = self.config(tmp_path)
        path = self.finished(config)
        assert look_up([replace(config, epochs=21)])[0].run is None
        older = json.loads((path / "config.json").read_text()) | {"epochs": 19}
        (path / "config.json").write_text(json.dumps(older))
        assert look_up([config])[0].run is None

    @pytest.mark.parametrize("status", ["stopped", "finished"])
    def test_only_complete_results_count(self, tmp_path, status):
        config = self.config(tmp_path)
        path = self.finished(config, status=status)
        (path / "metrics.csv").write_text("iteration\n10")
        assert look_up([config])[0].run is None

    def test_one_table_never_mixes_data(self, tmp_path):
        configs = [self.config(tmp_path, seed=seed) for seed in (1, 2, 3)]
        for config in configs:
            self.finished(config, data="b" * 64)
        self.finished(configs[0], data="a" * 64)
        data = [entry.run.identity["data_sha256"] for entry in look_up(configs)]
        assert data == ["b" * 64] * 3

    def test_what_is_missing_is_run_on_the_same_data(self, tmp_path):
        configs = [tiny(tmp_path, seed=seed) for seed in (1, 2)]
        self.finished(configs[0])
        with pytest.raises(UserError, match="tiny differs from the data of this configuration"):
            jobs_for(look_up(configs))


class TestInterruptions:
    """One run, in this process."""

    @pytest.fixture
    def config(self, tmp_path) -> Config:
        return tiny(tmp_path / "runs")

    @pytest.fixture
    def name(self, uninterrupted) -> str:
        return next(path.name for path in uninterrupted.iterdir() if "sasg" in path.name)

    def interrupt(self, config: Config, monkeypatch, after_checkpoints: int = 2) -> Path:
        """Stop a run dead once it has saved so many checkpoints, and has metrics, as SIGKILL would."""
        save, saved = RunFolder.save_checkpoint, []

        class Killed(BaseException):
            pass

        def counting(folder, state):
            if len(saved) >= after_checkpoints and (folder.path / "metrics.csv").exists():
                raise Killed
            saved.append(save(folder, state))

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(RunFolder, "save_checkpoint", counting)
            patch.setattr(training, "_DECIDE_SECONDS", 0.0)  # a checkpoint in each iteration
            training.run(config)
        path = only_run(Path(config.runs_dir))
        assert (path / CHECKPOINT).exists() and not (path / "summary.json").exists()
        return path

    def resume(self, config: Config, uninterrupted: Path, name: str) -> str:
        """Finish the run; its results must be the uninterrupted ones. Returns its log."""
        summary = training.run(config)
        assert summary["status"] == "finished"
        assert results(summary["folder"]) == reference(uninterrupted, name)
        return (Path(summary["folder"]) / "console.log").read_text()

    def test_truncated_checkpoint(self, config, name, uninterrupted, monkeypatch):
        path = self.interrupt(config, monkeypatch)
        os.truncate(path / CHECKPOINT, (path / CHECKPOINT).stat().st_size // 2)
        log = self.resume(config, uninterrupted, name)
        assert "checkpoint.pt: damaged" in log and "resumed at iteration" in log

    def test_both_checkpoints_truncated(self, config, name, uninterrupted, monkeypatch):
        path = self.interrupt(config, monkeypatch)
        for checkpoint in (CHECKPOINT, PREVIOUS):
            os.truncate(path / checkpoint, 100)
        log = self.resume(config, uninterrupted, name)
        assert log.count("damaged") == 2 and "resumed" not in log

    def test_truncated_metrics_of_an_interrupted_run(self, config, name, uninterrupted, monkeypatch):
        path = self.interrupt(config, monkeypatch)
        os.truncate(path / "metrics.csv", 200)
        self.resume(config, uninterrupted, name)

    @pytest.mark.parametrize("damaged", ["metrics.csv", "summary.json"])
    def test_truncated_results_of_a_finished_run(self, config, name, uninterrupted, damaged):
        shutil.copytree(uninterrupted / name, Path(config.runs_dir) / name)
        path = Path(config.runs_dir) / name / damaged
        os.truncate(path, path.stat().st_size - 5)
        assert look_up([config])[0].run is None
        log = self.resume(config, uninterrupted, name)
        assert ("not complete any more" in log) == (damaged == "metrics.csv")

    @pytest.mark.parametrize("full", ["append_row", "checkpoint"])
    def test_full_disk(self, config, name, uninterrupted, full, monkeypatch, capsys):
        no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        calls = []

        def fail_later(real):
            def call(*arguments):
                calls.append(arguments)
                if len(calls) > 3:
                    raise no_space
                return real(*arguments)

            return call

        with monkeypatch.context() as patch:
            if full == "append_row":
                patch.setattr(RunFolder, "append_row", fail_later(RunFolder.append_row))
            else:
                patch.setattr(run_folder.os, "fsync", fail_later(os.fsync))
            assert telling_errors(lambda: training.run(config) and 0) == 1
        assert "No space left on device; once that is mended, the same command goes on" in capsys.readouterr().err
        assert not list(Path(config.runs_dir).rglob("*.part"))
        self.resume(config, uninterrupted, name)


class TestPool:
    """Runs as child processes of this one."""

    @pytest.fixture(autouse=True)
    def quickly(self, monkeypatch):
        monkeypatch.setattr("experiments.pool._POLL_SECONDS", 0.02)
        monkeypatch.setattr("experiments.pool.subprocess.Popen", ForkedCommand)

    def pool(self, runs_dir: Path, *methods: str) -> Pool:
        jobs = jobs_for(look_up([tiny(runs_dir, method) for method in methods]))
        return Pool(jobs, slots=2, deadline=math.inf)

    def test_sigkill_of_one_worker_and_failure_of_another(self, tmp_path, uninterrupted):
        pool = self.pool(tmp_path / "runs", "sasg", "sgd", "lasg")
        victim, _, broken = pool.jobs
        broken.config = replace(broken.config, data_sha256="0" * 64)

        def kill():
            if victim.state == "running" and (victim.folder.path / PREVIOUS).exists():
                victim.stop(signal.SIGKILL)

        pool.work(kill)
        assert [job.state for job in pool.jobs] == ["failed", "finished", "failed"]
        assert victim.reason == "ended by SIGKILL; the same command goes on from its last checkpoint"
        assert "differs from the data of this configuration" in broken.reason
        again = self.pool(tmp_path / "runs", "sasg", "sgd")
        assert [job.name for job in again.jobs] == [victim.name]
        again.work(lambda: None)
        assert "resumed at iteration" in (victim.folder.path / "console.log").read_text()
        for path in (tmp_path / "runs").iterdir():
            assert results(path) == reference(uninterrupted, path.name)

    def test_each_gpu_has_a_run_of_its_own(self, tmp_path, monkeypatch):
        pool = self.pool(tmp_path / "runs", "sgd", "sasg", "lasg")
        pool.gpus = ["GPU-a", "3"]
        seen, given = set(), []

        def started(*words, env, **options):
            given.append(env["CUDA_VISIBLE_DEVICES"])
            return ForkedCommand(*words, env=env, **options)

        monkeypatch.setattr("experiments.pool.subprocess.Popen", started)
        pool.work(lambda: seen.add(tuple(sorted(job.gpu for job in pool.jobs if job.state == "running"))))
        assert ("3", "GPU-a") in seen and not {("3", "3"), ("GPU-a", "GPU-a")} & seen
        assert len(given) == 3 and given[:2] == ["GPU-a", "3"] and given == [job.gpu for job in pool.jobs]

    def test_how_many_at_a_time_and_where(self, tmp_path, monkeypatch):
        monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

        def jobs(device: str, *overrides: str) -> list[Job]:
            configs = compose_grid(["digits"], ["sgd"], [1, 2, 3, 4], [f"runs_dir={tmp_path}", *overrides])
            identities = [config.identity("d", device) for config in configs]
            folders = [RunFolder(tmp_path / str(number), identity) for number, identity in enumerate(identities)]
            return [Job(*pair, Estimate(1, 1.0)) for pair in zip(configs, folders, strict=True)]

        assert num_slots(jobs("cuda")) == 3 and gpus_for(jobs("cuda"), 3) == ["0", "1", "2"]
        assert num_slots(jobs("cuda")[:2]) == 2 and gpus_for(jobs("cuda"), 1) == []
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-b,7")
        assert gpus_for(jobs("cuda"), 2) == ["5", "GPU-b", "7"]
        assert gpus_for(jobs("cpu"), 2) == []
        spread = jobs("cuda", "cluster=distributed")
        assert num_slots(spread) == 1 and gpus_for(spread, 2) == []

    def test_budget_stops_cleanly(self, tmp_path):
        pool = self.pool(tmp_path / "runs", "sasg")
        (job,) = pool.jobs

        def expire():
            if (job.folder.path / PREVIOUS).exists():
                pool.deadline = 0.0

        pool.work(expire)
        assert job.state == "stopped"
        assert json.loads((job.folder.path / "summary.json").read_text())["status"] == "stopped"

    def test_a_run_that_another_process_does_is_waited_for(self, tmp_path, uninterrupted, monkeypatch):
        pool = self.pool(tmp_path / "runs", "sgd")
        (job,) = pool.jobs
        seen = []

        def other_process():
            with job.folder.held():
                begun.set()
                while "elsewhere" not in seen:
                    time.sleep(0.01)
                for file in (uninterrupted / job.name).iterdir():
                    shutil.copy(file, job.folder.path)

        begun = threading.Event()
        other = threading.Thread(target=other_process)
        other.start()
        begun.wait()
        is_held, first = RunFolder.is_held, iter([False])  # it took the run between our look and our start
        monkeypatch.setattr(RunFolder, "is_held", lambda folder: next(first, None) is None and is_held(folder))
        pool.work(lambda: seen.append(job.state))
        other.join()
        assert seen[0] == "running" and "elsewhere" in seen and job.state == "finished"


def _study(words: list[str], output: Path) -> None:
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = words
    sys.exit(telling_errors(reproduce.main))


def start_study(tmp_path: Path, output: str) -> BaseProcess:
    words = ["study=demo", "method=sgd,sasg", "seeds=1", *TINY, f"runs_dir={tmp_path / 'runs'}"]
    process = CONTEXT.Process(target=_study, args=(words, tmp_path / output))
    process.start()
    return process


def test_two_studies_at_once_and_sigkill_of_one(tmp_path, uninterrupted):
    studies = [start_study(tmp_path, output) for output in ("first", "second")]
    while not list(tmp_path.rglob(CHECKPOINT)):
        time.sleep(0.05)
        assert any(study.is_alive() for study in studies)
    studies[0].kill()
    for study in studies:
        study.join()
    said = (tmp_path / "second").read_text()
    assert studies[1].exitcode == 0, said
    paths = list((tmp_path / "runs").iterdir())
    assert len(paths) == 2
    for path in paths:
        assert results(path) == reference(uninterrupted, path.name)
        assert not RunFolder(path, {}).is_held()
    assert "| Digits | SASG" in said


def test_finished_study_is_regenerated_byte_for_byte_without_data(tmp_path, uninterrupted, monkeypatch, capsys):
    shutil.copytree(uninterrupted, tmp_path / "runs")
    monkeypatch.setattr("experiments.plan.load_dataset", lambda config: pytest.fail("the data was read"))
    words = ["study=demo", "method=sgd,sasg", "seeds=1", *TINY, f"runs_dir={tmp_path / 'runs'}"]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    assert telling_errors(reproduce.main) == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.name.startswith("demo-"))
    tables = {path.name: path.read_bytes() for path in folder.iterdir() if path.stem != "accuracy"}
    assert {"crossing.csv", "crossing.md", "crossing.tex", "crossing_paired.csv"} == tables.keys()
    for path in folder.iterdir():
        path.unlink()
    assert telling_errors(reproduce.main) == 0
    assert {name: (folder / name).read_bytes() for name in tables} == tables
    assert "finished: seeds 1" in capsys.readouterr().out


def study(monkeypatch, tmp_path: Path, *words: str) -> int:
    words = ("study=demo", "method=sgd", "seeds=1", *TINY, f"runs_dir={tmp_path / 'runs'}", *words)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    return telling_errors(reproduce.main)


@pytest.mark.parametrize("by", ["signal", "interrupt"])
def test_interrupted_before_anything_is_finished(tmp_path, monkeypatch, capsys, by):
    """By Ctrl-C while runs are at work, or before the first one."""

    def run_missing(*arguments):
        if by == "interrupt":
            raise KeyboardInterrupt
        return EXIT_CODES["stopped"]

    monkeypatch.setattr(reproduce, "run_missing", run_missing)
    assert study(monkeypatch, tmp_path) == 3
    told = capsys.readouterr()
    assert told.err == "stopped; the same command goes on from there\n"
    assert "not run" in told.out


@pytest.mark.parametrize("mistake", ["option", "part", "bug"])
def test_what_is_wrong_with_the_tables_is_told_before_training(tmp_path, monkeypatch, capsys, mistake):
    parts = {
        "option": {"kind": "accuracy", "file": "x", "colour": "red"},
        "part": {"kind": "tests.test_studies.no_baseline", "file": "x"},
        "bug": {"kind": "tests.test_studies.wrong", "file": "x"},
    }
    demo = load_study("demo")
    demo.report.append(parts[mistake])
    monkeypatch.setattr(reproduce, "load_study", lambda name: demo)
    monkeypatch.setattr(reproduce, "run_missing", lambda *arguments: pytest.fail("it trained"))
    said = {"option": "unknown option 'colour'", "part": "has no baseline", "bug": "ZeroDivisionError"}
    assert study(monkeypatch, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said[mistake] in line
    assert not list(tmp_path.iterdir())


def no_baseline(entries):
    raise UserError("task=heterogeneous: has no baseline")


def wrong(entries):
    return 1 / 0


def test_tables_of_nothing_are_not_written(tmp_path, monkeypatch, capsys):
    words = ["study=demo", "jobs=0", *TINY, f"runs_dir={tmp_path / 'runs'}"]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    assert telling_errors(reproduce.main) == 2
    assert "none of these runs is finished" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seeds", ["seeds=1,2", "seeds=1"])
def test_what_cannot_be_run_leaves_the_tables_of_what_is_finished(tmp_path, uninterrupted, monkeypatch, capsys, seeds):
    """More than a day's work, and jobs=0."""
    shutil.copytree(uninterrupted, tmp_path / "runs")
    monkeypatch.setattr("experiments.plan.LONGEST_SECONDS", 0)
    words = ["study=demo", "method=sgd,sasg", seeds, *TINY, f"runs_dir={tmp_path / 'runs'}"]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words, *(["jobs=0"] if seeds == "seeds=1" else [])])
    assert telling_errors(reproduce.main) == (0 if seeds == "seeds=1" else 2)
    told = capsys.readouterr()
    assert "| Digits | SASG" in told.out and ("of 2 |" in told.out) == (seeds == "seeds=1,2")
    assert ("error: this would take" in told.err) == (seeds == "seeds=1,2")
    assert list(tmp_path.glob("demo-*/crossing.csv"))
    assert len(list((tmp_path / "runs").iterdir())) == 2
