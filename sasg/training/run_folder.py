"""A run's folder: what is written where, so that an interruption loses nothing and nothing is run twice."""

import contextlib
import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from sasg.config import Config, digest
from sasg.errors import UserError

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
BUSY = "another process is at work on this run"


class RunFolder:
    """The files of one run (see README, "A run's folder"). `identity` is what its name's hash covers."""

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path = path
        self.identity = identity

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process. UserError if another one does, or if it is not this run's."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); choose another runs_dir") from None
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path}: {BUSY}; wait for it or stop it") from None
            self._check_identity()
            yield

    def is_held(self) -> bool:
        """Whether another process is at work here just now."""
        try:
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _check_identity(self) -> None:
        config = self.path / "config.yaml"
        if not config.exists():
            write_text(config, json.dumps(self.identity, indent=2) + "\n")
        elif not isinstance(found := _json(config), dict) or digest(found) != digest(self.identity):
            raise UserError(f"{config}: is damaged or of another configuration; move its folder away")

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run; None if it is not finished, or if its metrics are not complete."""
        summary = self._summary_of_ended()
        if summary is None:
            return None
        try:
            text = (self.path / "metrics.csv").read_bytes()
            complete = text.endswith(b"\n") and text.count(b"\n") == 1 + summary["num_rows"]
        except OSError:
            complete = summary["num_rows"] == 0
        return summary if complete and (self.path / "uploads.npz").exists() else None

    def is_damaged(self) -> bool:
        """Whether the run was finished, but its metrics or uploads are not complete any more."""
        return self._summary_of_ended() is not None and self.summary() is None

    def _summary_of_ended(self) -> dict[str, Any] | None:
        summary = _json(self.path / "summary.json")
        ended = isinstance(summary, dict) and summary.get("status") in ("finished", "diverged")
        return summary if ended else None

    def write_rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Replace a CSV file by these rows."""
        if rows:
            write_text(self.path / name, _csv_text(rows, header=True))
        else:
            (self.path / name).unlink(missing_ok=True)

    def append_row(self, name: str, row: dict[str, Any]) -> None:
        """Add a row to a CSV file; the header comes with the first."""
        with (self.path / name).open("a", newline="") as file:
            file.write(_csv_text([row], header=file.tell() == 0))

    def write_uploads(self, uploads: np.ndarray) -> None:
        """Who uploaded when: bool [iterations, M], bit-packed."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, packed=np.packbits(uploads), shape=np.array(uploads.shape))
        _write_bytes(self.path / "uploads.npz", buffer.getvalue())

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint; the last one stays as its predecessor until the next."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        current = self.path / CHECKPOINT
        partial = _write_partial(current, buffer.getbuffer())
        if current.exists():
            os.replace(current, self.path / PREVIOUS)
        os.replace(partial, current)

    def load_checkpoint(self, device: torch.device) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest checkpoint that can be read (None: there is none), and what to tell the user about others."""
        notes = []
        for name in (CHECKPOINT, PREVIOUS):
            path = self.path / name
            if not path.exists():
                continue
            try:
                state = torch.load(path, map_location=device, weights_only=True)
                identity = state["identity"]
            except Exception as error:  # torch raises many kinds for a damaged file
                notes.append(f"{path}: damaged ({type(error).__name__}), not used")
                continue
            if identity != digest(self.identity):
                raise UserError(f"{path}: is a checkpoint of another configuration; move it away")
            return state, notes
        return None, notes

    def remove_checkpoints(self) -> None:
        """A finished run is never resumed."""
        for name in (CHECKPOINT, PREVIOUS):
            (self.path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Begin anew: remove what an interrupted run without a usable checkpoint left."""
        for name in ("metrics.csv", "timing.csv", "summary.json", "uploads.npz", "console.log"):
            (self.path / name).unlink(missing_ok=True)


def folder_of(config: Config, data_sha256: str, device_type: str, kind: type[RunFolder] = RunFolder) -> RunFolder:
    """The folder of a configuration's run on this data and kind of device."""
    identity = config.identity(data_sha256, device_type)
    return kind(Path(config.runs_dir) / config.run_name(identity), identity)


class NoFolder(RunFolder):
    """The run's folder for a process that is not the server: there is nothing, and nothing is written."""

    def held(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def summary(self) -> None:
        return None

    def is_damaged(self) -> bool:
        return False

    def load_checkpoint(self, device: torch.device) -> tuple[None, list[str]]:
        return None, []

    def _ignore(self, *content: Any) -> None:
        pass

    write_rows = append_row = write_uploads = write_summary = save_checkpoint = remove_checkpoints = clear = _ignore


def read_identity(path: Path) -> dict[str, Any] | None:
    """What a run's folder says its run is (config.yaml); None if it does not, or not readably."""
    identity = _json(path / "config.yaml")
    return identity if isinstance(identity, dict) and {"data_sha256", "device"} <= identity.keys() else None


def read_uploads(path: Path) -> np.ndarray:
    """Who uploaded when, bool [iterations, M], from an uploads.npz. UserError: it is damaged."""
    try:
        with np.load(path) as file:
            shape = tuple(file["shape"])
            return np.unpackbits(file["packed"], count=int(np.prod(shape))).astype(bool).reshape(shape)
    except (EOFError, ValueError, KeyError, BadZipFile):
        raise UserError(f"{path}: is damaged") from None


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step."""
    _write_bytes(path, text.encode())


def _write_bytes(path: Path, content: bytes) -> None:
    os.replace(_write_partial(path, content), path)


def _write_partial(path: Path, content: bytes | memoryview) -> Path:
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return partial


def _csv_text(rows: list[dict[str, Any]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


