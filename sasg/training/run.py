"""One run from its configuration to its summary."""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from sasg.cluster import Cluster
from sasg.cluster.factory import needs_launch, open_cluster
from sasg.config import Config, digest
from sasg.errors import ClusterError, UserError, lack_of_memory
from sasg.lifetime import LastingStream
from sasg.origins import described, fault_of_user
from sasg.problem.building import load_dataset
from sasg.problem.datasets import Dataset
from sasg.training.commands import said_of_finished
from sasg.training.phases import phase_columns, phases_table
from sasg.training.progress import Progress, counted, metric_text
from sasg.training.provenance import code_sha256, device_name, git_commit, processor, versions
from sasg.training.run_folder import CHECKPOINT, NoFolder, RunFolder, folder_of
from sasg.training.tracker import Tracker, make_tracker
from sasg.training.trainer import Trainer, check_parts

CHECKPOINT_SECONDS = 60.0
_DECIDE_SECONDS, _LONGEST_WAIT = 0.5, 100  # iterations
_GO_ON, _SAVE, _STOP = range(3)  # what the processes of a run decide together, the strongest wish counts


def run(config: Config, dataset: Dataset | None = None) -> dict[str, Any]:
    """Do one run, or what is missing of it, and return its summary with its `folder`.

    The status is "finished", "diverged" (the loss stopped being finite), or "stopped" (budget, SIGINT or
    SIGTERM; SIGHUP too under torchrun), after which another call goes on to exactly the result of an uninterrupted run.
    dataset: what `load_dataset` gives, if it was called already. In a distributed run the server alone returns
    a summary, the other processes just the folder.
    """
    tracker = make_tracker(config.tracker)
    device, dtype = prepare_torch(config)
    check_parts(config)
    if needs_launch(config.cluster):
        return _launched(config, dataset, device)
    with open_cluster(config.cluster, device) as cluster:
        dataset = dataset or cluster.in_turn(lambda: load_dataset(config))
        cluster.check_equal({"configuration": config.shared(), "code": code_sha256(), "data set": dataset.sha256})
        folder = folder_of(config, dataset.sha256, device.type, RunFolder if cluster.is_server else NoFolder)
        done = folder.summary()
        if not cluster.largest(done is not None):
            trainer = Trainer(config, dataset, cluster, dtype)
            with folder.held():
                done = folder.summary()
                if not cluster.largest(done is not None):
                    follower = tracker if cluster.is_server else Tracker()
                    summary = _Run(config, folder, trainer, dataset, cluster, follower).finish()
        cluster.largest(0)  # nobody leaves before the server has written
    if done is not None:
        return _told({**done, "folder": str(folder.path)})
    return {**(summary if cluster.is_server else {}), "folder": str(folder.path)}


def _told(summary: dict[str, Any]) -> dict[str, Any]:
    """The same summary, of a run that was finished before; the user is told."""
    print(said_of_finished(summary), file=LastingStream(sys.stderr))
    return summary


def _launched(config: Config, dataset: Dataset | None, device: torch.device) -> dict[str, Any]:
    """The run in processes of its own, if it still needs any. What is wrong with the data is told before."""
    from sasg.cluster.launch import launch  # with torchrun's agent, which others need not import

    folder = folder_of(config, (dataset or load_dataset(config)).sha256, device.type)
    if (done := folder.summary()) is not None:
        return _told({**done, "folder": str(folder.path)})
    try:
        return launch(config)
    except (ClusterError, UserError) as error:
        if (folder.path / "config.json").exists():
            with contextlib.suppress(UserError), folder.held():  # or another process is at work there
                folder.record_failure(_reason(error))
        raise


def _reason(error: Exception) -> str:
    """In one line why a run ended."""
    if isinstance(error, (ClusterError, UserError)):
        return str(error)
    return lack_of_memory(error) or fault_of_user(error) or described(error)


def prepare_torch(config: Config) -> tuple[torch.device, torch.dtype]:
    """Set torch up as the configuration says: its device and the type of its states."""
    torch.set_num_threads(config.threads)
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise UserError("device=cuda: torch sees no GPU here; use device=cpu")
    device = torch.device("cuda" if config.device != "cpu" and has_gpu else "cpu")
    if config.precision == "bf16" and device.type == "cpu":
        raise UserError("precision=bf16: needs a GPU; use fp32 or fp64 on the CPU")
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with it
        torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision in ("tf32", "bf16")
    return device, torch.float64 if config.precision == "fp64" else torch.float32


class _Run:
    """The loop of one run, its folder held."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        trainer: Trainer,
        dataset: Dataset,
        cluster: Cluster,
        tracker: Tracker,
    ):
        self.config, self.folder, self.trainer, self.dataset, self.cluster = config, folder, trainer, dataset, cluster
        self.tracker = tracker
        self.device = cluster.device
        self.num_iterations = trainer.num_iterations
        self.rows: list[dict[str, Any]] = []
        self.timing: list[dict[str, Any]] = []
        self.uploads: list[np.ndarray] = []  # [n, M] bool per evaluation
        log = folder.path / "console.log" if cluster.is_server else None
        self.progress = Progress(folder.path.name, self.num_iterations, log)
        self._stop_signal = False

    def finish(self) -> dict[str, Any]:
        """Iterate to the end, the budget or a signal; returns the summary."""
        self._resume()
        for note in self.trainer.problem.choice.notes:
            self.progress.say(note)
        self.trainer.tell = self.progress.say
        self.tracker.start(self.folder.path, self.folder.identity, self.progress.say)
        signals = [signal.SIGINT, signal.SIGTERM]
        if "RANK" in os.environ:  # torchrun passes on what ends its terminal; other runs outlive that
            signals.append(signal.SIGHUP)
        previous = {s: signal.signal(s, self._on_signal) for s in signals}
        try:
            status = self._loop()
            if status == "stopped":
                self._save()
            self.folder.write_uploads(self._all_uploads())
            summary = self._summary(status)
            self.folder.write_summary(summary)
            if status != "stopped":
                self.folder.remove_checkpoints()
        except Exception as error:
            self.folder.record_failure(_reason(error))
            raise
        finally:
            if "RANK" not in os.environ:  # a rank may be told once more while it ends that its launcher was killed
                for number, handler in previous.items():
                    signal.signal(number, handler)
        self.tracker.finish(summary)
        for line in phases_table(self.timing):
            self.progress.say(line)
        self.progress.say(_closing_words(summary))
        return summary

    def _on_signal(self, number: int, frame: Any) -> None:
        self._stop_signal = True

    def _loop(self) -> str:
        trainer, every = self.trainer, self.config.evaluate_every
        deadline = time.monotonic() + self.config.budget_seconds
        saved = started = time.monotonic()
        decisions = _Decisions(trainer.iteration, self.cluster)
        while trainer.iteration < self.num_iterations:
            now = time.monotonic()
            stop, save = self._stop_signal or now > deadline, now - saved > CHECKPOINT_SECONDS
            decision = decisions.take(_STOP if stop else _SAVE if save else _GO_ON, trainer.iteration, now)
            if decision == _STOP:
                return "stopped"
            if decision == _SAVE:
                self._save()
                saved = time.monotonic()
            trainer.run_iteration()
            k = trainer.iteration
            epoch_ended = trainer.ends_epoch
            if k % every == 0 or epoch_ended or k == self.num_iterations:
                if not self._evaluate(epoch_ended, started):
                    return "diverged"
                started = time.monotonic()
            self.progress.tick(k)
        return "finished"

    def _evaluate(self, epoch_ended: bool, started: float) -> bool:
        """Add a row; False, and no row, if the loss is not finite."""
        if self.device.type == "cuda":
            self.cluster.settle()
            torch.cuda.synchronize()
        trained = time.monotonic()
        row, sent = self.trainer.evaluate()
        if self.cluster.largest(not math.isfinite(row["training_loss"])):
            return False
        timing = {
            "iteration": row["iteration"],
            "training_seconds": round(trained - started, 6),
            "evaluation_seconds": round(time.monotonic() - trained, 6),
            **phase_columns(self.cluster.stopwatch.take()),
        }
        self.rows.append(row)
        self.timing.append(timing)
        self.uploads.append(sent.numpy())
        self.folder.append_row("metrics.csv", row)
        self.folder.append_row("timing.csv", timing)
        self.tracker.row(row, timing)
        self.progress.evaluated(row, self._skipped_share(), epoch_ended)
        return True

    def _save(self) -> None:
        uploads = self._all_uploads()
        self.folder.save_checkpoint(
            {
                "identity": digest(self.folder.identity),
                "trainer": self.trainer.state(),
                "rows": self.rows,
                "timing": self.timing,
                "uploads": torch.from_numpy(uploads),
            }
        )

    def _resume(self) -> None:
        """Take over the newest usable checkpoint; files go back to what they were when it was written."""
        checkpoint, notes = self.folder.load_checkpoint(self.device)
        if checkpoint is not None and (misfit := self.trainer.misfit(checkpoint["trainer"])):
            raise UserError(
                f"{self.folder.path / CHECKPOINT}: is of another version of the suite (it has {misfit}); "
                "go on with that version, or move the folder away to begin anew"
            )
        resumes = self.cluster.largest(checkpoint is not None)
        if resumes:
            self.trainer.load_state(checkpoint and checkpoint["trainer"])
        if checkpoint is None:
            lost = self.folder.progress()
            if self.folder.is_damaged():
                notes.append("its metrics or uploads are not complete any more: the run starts anew")
            elif lost:
                notes.append(f"there is no whole checkpoint: the run starts anew, and does again what is lost: {lost}")
            self.folder.clear()
        else:
            self.folder.forget_end()
            self.rows, self.timing = checkpoint["rows"], checkpoint["timing"]
            self.uploads = [checkpoint["uploads"].cpu().numpy()]
            self.folder.write_rows("metrics.csv", self.rows)
            self.folder.write_rows("timing.csv", self.timing)
            notes.append(f"resumed at iteration {self.trainer.iteration}")
        for note in notes:
            self.progress.say(note)

    def _skipped_share(self) -> float:
        """Of all workers' iterations, those without an upload; a dense iteration of several exchanges has one."""
        num_uploads = sum(int(part.sum()) for part in self.uploads)
        return 1 - num_uploads / sum(part.size for part in self.uploads)

    def _all_uploads(self) -> np.ndarray:
        return np.concatenate(self.uploads) if self.uploads else np.zeros((0, self.config.cluster.workers), dtype=bool)

    def _summary(self, status: str) -> dict[str, Any]:
        last = self.rows[-1] if self.rows else None
        counted = self.cluster.ledger.columns
        return {
            "status": status,
            "task": self.config.task.name,
            "method": self.config.algorithm["name"],
            "seed": self.config.seed,
            "iterations": self.trainer.iteration,
            "num_rows": len(self.rows),
            "num_parameters": self.trainer.problem.layout.size,
            "crossing": crossing(self.rows, self.config, counted),
            "final": last and {key: value for key, value in last.items() if key not in counted},
            "totals": last and {key: last[key] for key in counted},
            "skipped_share": last and self._skipped_share(),
            "training_seconds": round(sum(row["training_seconds"] for row in self.timing), 3),
            "evaluation_seconds": round(sum(row["evaluation_seconds"] for row in self.timing), 3),
            "device": device_name(self.device),
            "precision": self.config.precision,
            "gradients": type(self.trainer.problem.oracle.engine).__name__,
            "deterministic": self.config.deterministic,
            "threads": self.config.threads,
            "cluster": self.cluster.describe(),
            "data": self.dataset.origin,
            "versions": versions(),
            "processor": processor(),
            "commit": self.config.commit or git_commit(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }


class _Decisions:
    """Taken by all processes together, every few iterations: about twice a second."""

    def __init__(self, iteration: int, cluster: Cluster):
        self._last = self._next = iteration
        self._time = time.monotonic()
        self._cluster = cluster

    def take(self, wish: int, iteration: int, now: float) -> int:
        """The strongest wish of all processes; _GO_ON where no decision is due."""
        if iteration < self._next:
            return _GO_ON
        rate = (iteration - self._last) / max(now - self._time, 1e-9)
        wait = min(_LONGEST_WAIT - 1, max(1, int(_DECIDE_SECONDS * rate)))
        decision, wait = divmod(self._cluster.largest(wish * _LONGEST_WAIT + wait), _LONGEST_WAIT)
        self._last, self._time, self._next = iteration, now, iteration + wait
        return decision


def crossing(rows: list[dict[str, Any]], config: Config, counted: Iterable[str]) -> dict[str, Any] | None:
    """The first of the evaluations every `evaluate_every` iterations that is strictly beyond the baseline.

    With the columns `counted` of the ledger.
    """
    baseline = config.task.baseline
    if baseline is None:
        return None
    for row in rows:
        if row["iteration"] % config.evaluate_every == 0 and baseline.is_passed_by(row[baseline.metric]):
            return {"iteration": row["iteration"], "epoch": row["epoch"], **{key: row[key] for key in counted}}
    return None


def _closing_words(summary: dict[str, Any]) -> str:
    words = f"{summary['status']} after {counted(summary['iterations'], 'iteration')}"
    if summary["status"] == "stopped":
        return f"{words}; the same command goes on from there"
    if summary["status"] == "diverged":
        return f"{words}: the training loss is not finite (a smaller step size may help); the last good rows are kept"
    if summary["final"]:
        words += f", {metric_text(summary['final'])}, {summary['totals']['rounds']} rounds"
    if summary["crossing"]:
        words += f", past the baseline after {summary['crossing']['rounds']} rounds"
    return words
