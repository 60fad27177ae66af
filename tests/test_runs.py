"""A run's folder: what is in it, and that neither repetition nor interruption changes a bit of it."""

import csv
import errno
import json
import math
import os
import random
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from run_children import start
from suite_config import config

from sasg.__main__ import EXIT_CODES, main, run_config, telling_user_errors
from sasg.cluster.accounting.ledger import COLUMNS
from sasg.config import Config, digest, load
from sasg.errors import UserError
from sasg.report.repetition import beside
from sasg.training import run as training
from sasg.training.repeat import Repetition
from sasg.training.run import run
from sasg.training.run_folder import CHECKPOINT, PREVIOUS, RunFolder, read_uploads

TINY = (
    "dataset.kind=tests.study_parts.tiny",
    "model.hidden=[8]",
    "task.batch_size=2",
    "task.step_size=0.005",
    "algorithm.compressor.density=0.1",
    "epochs=1000",  # of 10 iterations
    "max_iterations=200",
    "evaluate_every=6",
)
REPEATABLE = ("config.json", "metrics.csv", "uploads.npz")


def tiny(runs_dir: Path, *overrides: str) -> Config:
    return config(*TINY, f"runs_dir={runs_dir}", *overrides)


def contents(folder: str | Path) -> dict[str, bytes]:
    return {name: (Path(folder) / name).read_bytes() for name in REPEATABLE}


def table(path: Path) -> list[dict[str, float]]:
    """A CSV file; empty cells are not a number."""
    with path.open() as file:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    return Path(run(tiny(tmp_path_factory.mktemp("finished")))["folder"])


class TestFiles:
    def test_names(self, finished):
        kept = {"config.json", "metrics.csv", "timing.csv", "summary.json", "uploads.npz", "console.log", "lock"}
        assert {path.name for path in finished.iterdir()} == kept
        assert finished.name.startswith("digits-sasg-s1-")
        assert len(finished.name.rpartition("-")[2]) == 8

    def test_metrics(self, finished):
        rows = table(finished / "metrics.csv")
        accuracies, trigger = ["top1", "top5"], ["threshold", "difference_min", "difference_mean", "difference_max"]
        assert list(rows[0]) == ["iteration", "epoch", "training_loss", *accuracies, *COLUMNS, *trigger]
        expected = sorted({*range(6, 201, 6), *range(10, 201, 10)})  # every 6 iterations and at each epoch's end
        assert [row["iteration"] for row in rows] == expected
        assert all(row["epoch"] == row["iteration"] / 10 for row in rows)
        assert rows[-1]["top1"] > 0.9 and rows[-1]["training_loss"] < 0.5 * rows[0]["training_loss"]
        assert all(row["difference_min"] <= row["difference_mean"] <= row["difference_max"] for row in rows)

    def test_uploads_are_the_rounds(self, finished):
        uploads = read_uploads(finished / "uploads.npz")
        assert uploads.shape == (200, 10)
        rounds = np.cumsum(uploads.sum(1))
        assert 0 < rounds[-1] < 2000  # some were skipped
        assert all(row["rounds"] == rounds[int(row["iteration"]) - 1] for row in table(finished / "metrics.csv"))

    def test_timing(self, finished):
        rows = table(finished / "timing.csv")
        assert [row["iteration"] for row in rows] == [row["iteration"] for row in table(finished / "metrics.csv")]
        assert all(row["training_seconds"] > 0 and row["evaluation_seconds"] > 0 for row in rows)

    def test_summary(self, finished):
        summary = json.loads((finished / "summary.json").read_text())
        rows = table(finished / "metrics.csv")
        crossing = next(row for row in rows if row["iteration"] % 6 == 0 and row["top1"] > 0.95)
        assert (summary["status"], summary["iterations"], summary["num_rows"]) == ("finished", 200, len(rows))
        assert summary["num_parameters"] == 16 * 8 + 8 + 8 * 2 + 2
        assert summary["crossing"] == {key: crossing[key] for key in ("iteration", "epoch", *COLUMNS)}
        assert summary["totals"] == {key: rows[-1][key] for key in COLUMNS}
        assert summary["skipped_share"] == pytest.approx(1 - rows[-1]["rounds"] / 2000)
        assert {"torch", "torchvision", "numpy", "python", "sasg"} <= summary["versions"].keys()
        assert summary["processor"]["aten"] == torch.backends.cpu.get_cpu_capability()
        assert all(summary["processor"].values())
        assert summary["device"] and summary["data"] == "made for tests" and "commit" in summary

    def test_config_repeats_the_run(self, finished):
        found = load(finished / "config.json")
        original = tiny(finished.parent)
        assert found.identity(found.data_sha256, found.device) == original.identity(found.data_sha256, "cpu")
        assert (
            not {"runs_dir", "data", "budget", "threads", "tracker"}
            & json.loads((finished / "config.json").read_text()).keys()
        )

    def test_rows_are_means_over_the_iterations_since_the_previous_one(self, finished, tmp_path):
        every = table(Path(run(tiny(tmp_path, "evaluate_every=1", "max_iterations=40"))["folder"]) / "metrics.csv")
        previous = 0
        for row in table(finished / "metrics.csv"):
            k = int(row["iteration"])
            if k > 40:
                break
            part = every[previous:k]
            for key, combine in (
                ("training_loss", np.mean),
                ("threshold", np.mean),
                ("difference_min", np.min),
                ("difference_mean", np.mean),
                ("difference_max", np.max),
            ):
                assert row[key] == pytest.approx(combine([r[key] for r in part]), rel=1e-6, abs=1e-12)
            assert all(row[key] == part[-1][key] for key in ("top1", "top5", *COLUMNS))
            previous = k

    def test_methods_that_do_not_decide_have_no_trigger_columns_filled(self, tmp_path):
        options = [option for option in TINY if "density" not in option]
        summary = run(config(*options, f"runs_dir={tmp_path}", "algorithm=sgd", "epochs=1"))
        rows = table(Path(summary["folder"]) / "metrics.csv")
        assert all(math.isnan(row[key]) for row in rows for key in ("threshold", "difference_mean"))
        assert read_uploads(Path(summary["folder"]) / "uploads.npz").all()


class TestRepetition:
    def test_same_seed_same_bits(self, finished, tmp_path):
        assert contents(run(tiny(tmp_path))["folder"]) == contents(finished)

    def test_another_seed_differs(self, finished, tmp_path):
        other = contents(run(tiny(tmp_path, "seed=2"))["folder"])
        assert all(other[name] != content for name, content in contents(finished).items())

    def test_from_its_own_config_file(self, finished, tmp_path, monkeypatch, capsys):
        """In a folder where it was not run; where it was, it is finished already."""
        monkeypatch.chdir(tmp_path)
        code, told, _ = say(monkeypatch, capsys, finished / "config.json")
        assert (code, told) == (0, [f"results/runs/{finished.name}"])
        assert contents(told[0]) == contents(finished)

    def test_a_finished_run_is_not_run_again(self, finished, monkeypatch, capsys):
        before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
        monkeypatch.setattr(training, "Trainer", None)  # nothing is set up either
        assert run(tiny(finished.parent)) == {
            **json.loads((finished / "summary.json").read_text()),
            "folder": str(finished),
        }
        assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before
        says = f"finished already; to repeat and compare it: python -m sasg {finished}/config.json --into again\n"
        assert capsys.readouterr().err.endswith(says)


def say(monkeypatch, capsys, *words: object) -> tuple[int, list[str], str]:
    """What `python -m sasg` with these words gives: its exit code, the lines of stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["sasg", *map(str, words)])
    code = telling_user_errors(main)
    told = capsys.readouterr()
    return code, told.out.splitlines(), told.err


class TestInto:
    """python -m sasg RUN/config.json --into FOLDER"""

    def test_a_run_is_repeated_and_compared(self, finished, tmp_path, monkeypatch, capsys):
        again = tmp_path / "again" / finished.name
        words = (finished / "config.json", "--into", tmp_path / "again")
        assert say(monkeypatch, capsys, *words)[:2] == (
            0, [str(again), "equal bit for bit: metrics and upload decisions"],
        )  # fmt: skip
        assert contents(again) == contents(finished)
        text = (again / "metrics.csv").read_text().splitlines(keepends=True)
        text[3] = text[3].replace("12,1.2,", "12,1.25,")
        (again / "metrics.csv").write_text("".join(text))
        uploads = read_uploads(again / "uploads.npz")
        uploads[36, 4] ^= True
        RunFolder(again, {}).write_uploads(uploads)
        code, told, _ = say(monkeypatch, capsys, *words)
        assert code == 1
        assert told[1].startswith("upload decisions: first differ in iteration 37 (workers 4)")
        assert told[2].startswith("metrics: first differ after iteration 12 (epoch)")

    def test_it_is_done_as_the_first_was(self, finished, tmp_path):
        folder = Path(shutil.copytree(finished, tmp_path / finished.name))
        summary = json.loads((folder / "summary.json").read_text())
        assert Repetition.of_folder(folder / "config.json", "again").config.gradients == "batched"
        other = {"deterministic": True, "threads": 2, "gradients": "LoopEngine"}
        other["cluster"] = {"kind": "distributed", "processes": 3}
        (folder / "summary.json").write_text(json.dumps(summary | other))
        found = Repetition.of_folder(folder / "config.json", "again")
        assert (found.config.deterministic, found.config.threads, found.config.gradients) == (True, 2, "loop")
        assert (found.config.cluster.kind, found.config.cluster.processes) == ("distributed", 3)
        assert found.folder == Path("again", folder.name)

    def test_the_same_inputs_are_not_enough(self, finished, tmp_path):
        """A last digit in which the runs differ is found."""
        again = Path(shutil.copytree(finished, tmp_path / finished.name))
        rows = (again / "metrics.csv").read_text().splitlines(keepends=True)
        loss = rows[1].split(",")[2]
        rows[1] = rows[1].replace(loss, repr(np.nextafter(float(loss), 1.0).item()), 1)
        (again / "metrics.csv").write_text("".join(rows))
        assert not beside(finished, again)[0]

    @pytest.mark.parametrize("what", ["unfinished", "other file", "same place"])
    def test_what_cannot_be_repeated(self, finished, tmp_path, monkeypatch, capsys, what):
        folder = Path(shutil.copytree(finished, tmp_path / finished.name))
        path, into = folder / "config.json", tmp_path / "again"
        if what == "unfinished":
            (folder / "summary.json").unlink()
        elif what == "other file":
            path = Path(shutil.copy(path, tmp_path / "other.json"))
        else:
            into = tmp_path / "elsewhere" / ".."
            (tmp_path / "elsewhere").mkdir()
        code, told, error = say(monkeypatch, capsys, path, "--into", into)
        assert (code, told) == (2, [])
        assert error.startswith("error: --into") and error.count("\n") == 1
        assert not (tmp_path / "again").exists()


class Clock:
    """Each look at it takes a hundredth of a second."""

    def __init__(self):
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += 0.01
        return self._now


class TestInterruptions:
    @pytest.mark.parametrize("seed", [1, 2])
    def test_sigkill_at_random_moments(self, finished, tmp_path, seed):
        draw = random.Random(seed)
        for _ in range(4):
            process = start(tiny(tmp_path), dies_after=(draw.randint(1, 11), draw.randint(1, 200)))
            process.join()
            assert process.exitcode == -signal.SIGKILL
        summary = run(tiny(tmp_path))
        assert "resumed at iteration" in (Path(summary["folder"]) / "console.log").read_text()
        assert contents(summary["folder"]) == contents(finished)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_stops_and_the_same_command_goes_on(self, finished, tmp_path, monkeypatch, number):
        append, rows = RunFolder.append_row, []

        def signalling(folder, name, row):
            append(folder, name, row)
            rows.append(row)
            if len(rows) == 10:
                os.kill(os.getpid(), number)

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "append_row", signalling)
            patch.setattr(training, "_DECIDE_SECONDS", 0.0)
            assert run_config(tiny(tmp_path)) == EXIT_CODES["stopped"] == 3
        folder = tmp_path / finished.name
        assert (folder / CHECKPOINT).exists()
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "stopped" and 0 < summary["iterations"] < 200
        assert contents(run(tiny(tmp_path))["folder"]) == contents(finished)

    def test_budget_stops_and_the_same_command_goes_on(self, finished, tmp_path, monkeypatch):
        monkeypatch.setattr(training, "time", Clock())
        statuses = [run(tiny(tmp_path, "budget=0.1s"))["status"]]
        while statuses[-1] == "stopped":
            statuses.append(run(tiny(tmp_path, "budget=0.1s"))["status"])
        assert statuses[0] == "stopped" and statuses[-1] == "finished"
        assert contents(tmp_path / finished.name) == contents(finished)

    @pytest.fixture(scope="class")
    def with_checkpoints(self, finished, tmp_path_factory) -> Path:
        runs_dir = tmp_path_factory.mktemp("stopped")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "time", Clock())
            patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
            patch.setattr(training, "_DECIDE_SECONDS", 0.0)
            run(tiny(runs_dir, "budget=1s"))
        return runs_dir / finished.name

    @pytest.fixture
    def stopped(self, with_checkpoints, tmp_path) -> Path:
        """A run that has saved two checkpoints and was stopped."""
        folder = Path(shutil.copytree(with_checkpoints, tmp_path / with_checkpoints.name))
        assert {CHECKPOINT, PREVIOUS, "metrics.csv"} <= {path.name for path in folder.iterdir()}
        return folder

    @pytest.mark.parametrize("damage", ["truncated", "foreign"])
    def test_a_damaged_checkpoint_falls_back_to_its_predecessor(self, finished, stopped, damage, capsys):
        if damage == "truncated":
            os.truncate(stopped / CHECKPOINT, (stopped / CHECKPOINT).stat().st_size // 2)
        else:
            torch.save([1, 2, 3], stopped / CHECKPOINT)
        assert contents(run(tiny(stopped.parent))["folder"]) == contents(finished)
        said = capsys.readouterr().err
        assert f"{stopped / CHECKPOINT}: damaged" in said and "resumed at iteration" in said

    def test_rows_past_the_checkpoint_are_cut(self, finished, stopped):
        with (stopped / "metrics.csv").open("a") as file:
            file.write("199,19.9,half a ro")
        assert contents(run(tiny(stopped.parent))["folder"]) == contents(finished)

    def test_a_changed_byte_of_a_tensor_is_damage(self, stopped):
        """Whatever torch makes of it: where the archive's check sums are wrong, the older checkpoint is used."""
        folder = RunFolder(stopped, json.loads((stopped / "config.json").read_text()))
        whole = (stopped / CHECKPOINT).read_bytes()
        with zipfile.ZipFile(stopped / CHECKPOINT) as archive:
            tensors = [info for info in archive.infolist() if "/data/" in info.filename and info.file_size > 8]
        for info in tensors:
            at = info.header_offset + 30 + len(info.filename.encode()) + len(info.extra)
            at += int.from_bytes(whole[info.header_offset + 28 : info.header_offset + 30], "little") - len(info.extra)
            (stopped / CHECKPOINT).write_bytes(whole[: at + 3] + bytes([whole[at + 3] ^ 1]) + whole[at + 4 :])
            state, (note,) = folder.load_checkpoint(torch.device("cpu"))
            assert state is not None and f"{CHECKPOINT}: damaged (the check sum of {info.filename} is wrong)" in note

    @pytest.mark.parametrize("name", [CHECKPOINT, PREVIOUS, "metrics.csv"])
    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
            (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "Permission denied"),
            (MemoryError(), "MemoryError"),
        ],
    )
    def test_what_cannot_be_read_now_is_not_lost(self, stopped, monkeypatch, error, says, name):
        if name == PREVIOUS:  # it is needed only where the newer one is damaged
            os.truncate(stopped / CHECKPOINT, 100)
        if name == "metrics.csv":  # it is read only where no checkpoint is left
            (stopped / CHECKPOINT).unlink()
            (stopped / PREVIOUS).unlink()
        read = Path.read_bytes

        def failing(path):
            if path.name == name:
                raise error
            return read(path)

        before = {path.name: path.read_bytes() for path in stopped.iterdir()}
        with monkeypatch.context() as patch, pytest.raises(UserError, match=says) as caught:
            patch.setattr(Path, "read_bytes", failing)
            run(tiny(stopped.parent))
        assert str(caught.value).startswith(f"{stopped / name}: cannot be read now (")
        assert "\n" not in str(caught.value) and "nothing was changed" in str(caught.value)
        assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before

    def test_too_little_memory_for_a_checkpoint_is_no_damage(self, finished, stopped, monkeypatch):
        def failing(*arguments, **options):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nmore")

        with monkeypatch.context() as patch, pytest.raises(UserError, match=r"now \(DefaultCPUAllocator.* 9 bytes.\)"):
            patch.setattr(torch, "load", failing)
            run(tiny(stopped.parent))
        assert contents(run(tiny(stopped.parent))["folder"]) == contents(finished)

    @pytest.mark.parametrize("name", ["summary.json", "metrics.csv"])
    def test_a_finished_run_that_cannot_be_read_now_is_not_run_again(self, finished, monkeypatch, name):
        before = {path.name: path.read_bytes() for path in finished.iterdir()}
        read = Path.read_bytes

        def failing(path):
            if path.name == name:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return read(path)

        with monkeypatch.context() as patch, pytest.raises(UserError, match=f"{name}: cannot be read now"):
            patch.setattr(Path, "read_bytes", failing)
            run(tiny(finished.parent))
        assert {path.name: path.read_bytes() for path in finished.iterdir()} == before

    def test_what_is_lost_with_both_checkpoints_is_said(self, finished, stopped, capsys):
        for name in (CHECKPOINT, PREVIOUS):
            os.truncate(stopped / name, 100)
        rows = table(stopped / "metrics.csv")
        assert contents(run(tiny(stopped.parent))["folder"]) == contents(finished)
        said = f"is lost: {len(rows)} rows, up to iteration {int(rows[-1]['iteration'])}\n"
        assert said in capsys.readouterr().err
        assert said in (stopped / "console.log").read_text()


class TestName:
    BASE = ("task=digits", "cluster.workers=10")

    @staticmethod
    def hashed(*overrides: str, data: str = "data", device: str = "cpu") -> str:
        return digest(config(*overrides).identity(data, device))

    @pytest.mark.parametrize(
        "override",
        [
            ["runs_dir=elsewhere"],
            ["data.root=elsewhere"],
            ["data.download=false"],
            ["budget=8m"],
            ["threads=2"],
            ["cluster=distributed", "cluster.processes=3", "cluster.timeout_s=9"],
            ["gradients=loop"],
            ["deterministic=true"],
        ],
    )
    def test_what_leaves_the_numbers_alone_is_not_in_it(self, override):
        assert self.hashed(*self.BASE, *override) == self.hashed(*self.BASE)

    @pytest.mark.parametrize(
        "override",
        [
            ["seed=2"],
            ["draws=published"],
            ["epochs=41"],
            ["max_iterations=5"],
            ["evaluate_every=7"],
            ["weight_decay=0.1"],
            ["precision=fp64"],
            ["preset=paper"],
            ["preset.batchnorm=mean"],
            ["cluster.workers=9"],
            ["task.batch_size=9"],
            ["task.step_size=0.03"],
            ["task.decay_epochs=[3]"],
            ["+task.decay_factor=0.2"],
            ["task.max_delay=9"],
            ["task.alpha.default=0.6"],
            ["algorithm=sgd"],
            ["algorithm.compressor.density=0.02"],
            ["model.hidden=[100]"],
            ["shards=by_class"],
            ["dataset.mean=[0.4]"],
        ],
    )
    def test_what_changes_the_numbers_is(self, override):
        assert self.hashed(*self.BASE, *override) != self.hashed(*self.BASE)

    def test_data_and_kind_of_device_are(self):
        names = {self.hashed(*self.BASE, data=data, device=device) for data in "ab" for device in ("cpu", "cuda")}
        assert len(names) == 4
