"""A run's folder: what is in it, and that neither repetition nor interruption changes a bit of it."""

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from run_children import start
from suite_config import config

from sasg.__main__ import EXIT_CODES
from sasg.cluster.ledger import COLUMNS
from sasg.config import Config, digest, load
from sasg.training import run as training
from sasg.training.run import run
from sasg.training.run_folder import CHECKPOINT, PREVIOUS, read_uploads

ROOT = Path(__file__).resolve().parent.parent
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
REPEATABLE = ("config.yaml", "metrics.csv", "uploads.npz")


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
        kept = {"config.yaml", "metrics.csv", "timing.csv", "summary.json", "uploads.npz", "console.log", "lock"}
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
        found = load(finished / "config.yaml")
        original = tiny(finished.parent)
        assert found.identity(found.data_sha256, found.device) == original.identity(found.data_sha256, "cpu")
        assert not {"runs_dir", "data", "budget", "threads", "tracker"} & json.loads(
            (finished / "config.yaml").read_text()
        ).keys()

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

    def test_from_its_own_config_file(self, finished, tmp_path):
        words = [sys.executable, "-m", "sasg", str(finished / "config.yaml")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"results/runs/{finished.name}"
        assert contents(tmp_path / done.stdout.strip()) == contents(finished)

    def test_a_finished_run_is_not_run_again(self, finished, monkeypatch):
        before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
        monkeypatch.setattr(training, "Trainer", None)  # nothing is set up either
        assert run(tiny(finished.parent)) == {
            **json.loads((finished / "summary.json").read_text()),
            "folder": str(finished),
        }
        assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def wait_for_rows(process, runs_dir: Path, number: int) -> bool:
    """Whether the only run of a folder got to this many rows before its process ended."""
    while process.is_alive():
        (metrics,) = list(runs_dir.glob("*/metrics.csv")) or [None]
        if metrics and metrics.read_bytes().count(b"\n") > number:
            return True
        time.sleep(0.002)
    return False


class TestInterruptions:
    @pytest.mark.parametrize("seed", [1, 2])
    def test_sigkill_at_random_moments(self, finished, tmp_path, seed):
        draw = random.Random(seed)
        num_rows = 0
        for _ in range(4):
            process = start(tiny(tmp_path))
            num_rows += draw.randint(1, 11)
            assert wait_for_rows(process, tmp_path, num_rows)
            time.sleep(draw.random() * 0.03)
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        summary = run(tiny(tmp_path))
        assert "resumed at iteration" in (Path(summary["folder"]) / "console.log").read_text()
        assert contents(summary["folder"]) == contents(finished)

    def test_sigterm_stops_and_the_same_command_goes_on(self, finished, tmp_path):
        process = start(tiny(tmp_path), saves=False)
        assert wait_for_rows(process, tmp_path, 5)
        os.kill(process.pid, signal.SIGTERM)
        process.join()
        assert process.exitcode == EXIT_CODES["stopped"] == 3
        folder = tmp_path / finished.name
        assert (folder / CHECKPOINT).exists()
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "stopped" and 0 < summary["iterations"] < 200
        assert contents(run(tiny(tmp_path))["folder"]) == contents(finished)

    def test_budget_stops_and_the_same_command_goes_on(self, finished, tmp_path):
        statuses = [run(tiny(tmp_path, "budget=0.1s"))["status"]]
        while statuses[-1] == "stopped" and len(statuses) < 100:
            statuses.append(run(tiny(tmp_path, "budget=0.1s"))["status"])
        assert statuses[0] == "stopped" and statuses[-1] == "finished"
        assert contents(tmp_path / finished.name) == contents(finished)

    @pytest.mark.parametrize("damage", ["truncated", "foreign"])
    def test_a_damaged_checkpoint_falls_back_to_its_predecessor(self, finished, tmp_path, monkeypatch, damage, capsys):
        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        monkeypatch.setattr(training, "_DECIDE_SECONDS", 0.0)
        run(tiny(tmp_path, "budget=0.2s"))
        folder = tmp_path / finished.name
        assert (folder / PREVIOUS).exists()
        if damage == "truncated":
            os.truncate(folder / CHECKPOINT, (folder / CHECKPOINT).stat().st_size // 2)
        else:
            torch.save([1, 2, 3], folder / CHECKPOINT)
        capsys.readouterr()
        assert contents(run(tiny(tmp_path))["folder"]) == contents(finished)
        said = capsys.readouterr().err
        assert f"{folder / CHECKPOINT}: damaged" in said and "resumed at iteration" in said

    def test_rows_past_the_checkpoint_are_cut(self, finished, tmp_path):
        run(tiny(tmp_path, "budget=0.1s"))
        folder = tmp_path / finished.name
        with (folder / "metrics.csv").open("a") as file:
            file.write("199,19.9,half a ro")
        assert contents(run(tiny(tmp_path))["folder"]) == contents(finished)


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
