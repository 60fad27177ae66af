"""A run that ends in an error says so in its folder and in tables, and goes on once that is mended."""

import errno
import json
import sys
from pathlib import Path

import pytest
from suite_config import config

from experiments import show
from sasg.errors import ClusterError, UserError
from sasg.report.runs import entries_in
from sasg.report.tables import any_runs
from sasg.training.run import run
from sasg.training.run_folder import RunFolder, folder_of
from sasg.training.trainer import Trainer

TINY = ("dataset.kind=tests.study_parts.tiny", "model.hidden=[8]", "task.batch_size=5", "max_iterations=6")
REPEATABLE = ("config.json", "metrics.csv", "uploads.npz")


def tiny(runs_dir: Path, *overrides: str):
    return config(*TINY, "evaluate_every=2", "algorithm=sasg", f"runs_dir={runs_dir}", *overrides)


def failing_at(iteration: int, error: Exception):
    """Trainer.run_iteration, which raises once in that iteration."""
    original, left = Trainer.run_iteration, [error]

    def run_iteration(trainer):
        if trainer.iteration == iteration and left:
            raise left.pop()
        original(trainer)

    return run_iteration


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (UserError("mine.py:3: gives a list"), "mine.py:3: gives a list"),
        (MemoryError(), "there is not enough memory; use fewer cluster.workers"),
        (ZeroDivisionError("division by zero"), "test_failures.py:"),  # the user's own code, with its place
    ],
)
def test_why_stands_in_its_folder_and_in_tables_until_it_is_finished(tmp_path, monkeypatch, capsys, error, reason):
    wanted = run(tiny(tmp_path / "whole"))
    monkeypatch.setattr(Trainer, "run_iteration", failing_at(3, error))
    with pytest.raises(type(error)):
        run(tiny(tmp_path / "runs"))
    (folder,) = (tmp_path / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed" and reason in summary["reason"]
    entries = entries_in([folder])
    assert any_runs(entries).rows[0].cells[-1] == f"0 of 1; seed 1 failed ({summary['reason']})"
    monkeypatch.setattr(sys, "argv", ["sasg show", str(folder)])
    assert show.main() == 0 and f"failed: {summary['reason']}" in capsys.readouterr().out
    assert run(tiny(tmp_path / "runs"))["status"] == "finished"
    for name in REPEATABLE:
        assert (folder / name).read_bytes() == (Path(wanted["folder"]) / name).read_bytes()


def test_while_it_goes_on_it_has_not_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("sasg.training.run.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("sasg.training.run._DECIDE_SECONDS", 0.0)
    monkeypatch.setattr(Trainer, "run_iteration", failing_at(5, OSError(errno.EIO, "gone")))
    with pytest.raises(OSError):
        run(tiny(tmp_path))
    seen = []
    original = Trainer.evaluate

    def evaluate(trainer):
        seen.extend(path.exists() for path in tmp_path.glob("*/summary.json"))
        return original(trainer)

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    assert run(tiny(tmp_path))["status"] == "finished"
    assert not any(seen) and "resumed at iteration" in next(tmp_path.glob("*/console.log")).read_text()


class TestProcesses:
    """Several processes: whoever started them tells why."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch) -> RunFolder:
        """A run that had begun, and whose processes fail."""
        self.config = tiny(tmp_path, "cluster=distributed", "cluster.processes=2")
        whole = run(tiny(tmp_path / "whole"))
        identity = json.loads((Path(whole["folder"]) / "config.json").read_text())
        folder = folder_of(self.config, identity["data_sha256"], "cpu")
        with folder.held():
            pass

        def launch(config):
            raise ClusterError("rank 1 (workers 5-9) was killed")

        monkeypatch.setattr("sasg.cluster.launch.launch", launch)
        return folder

    def test_why_stands_in_its_folder(self, folder):
        with pytest.raises(ClusterError):
            run(self.config)
        assert entries_in([folder.path])[0].words == "failed (rank 1 (workers 5-9) was killed)"

    def test_but_not_where_another_process_is_at_work(self, folder):
        with folder.held(), pytest.raises(ClusterError):
            run(self.config)
        assert not (folder.path / "summary.json").exists()
