"""A run's folder: what is written where, so that an interruption loses nothing and nothing is run twice."""

import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch

from sasg.config import Config, digest
from sasg.errors import UserError

CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
BUSY = "another process is at work on this run"
_FULL = (errno.ENOSPC, errno.EDQUOT)  # another folder may not help


class RunFolder:
    """The files of one run (see README, "A run's folder"). `identity` is what its name's hash covers."""

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path = path
        self.identity = identity

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process. UserError if another one does, or if it cannot be this run's."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("w")
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); choose another runs_dir") from None
        with lock:
            if not self._lock(lock, fcntl.LOCK_EX):
                raise UserError(f"{self.path}: {BUSY}; wait for it or stop it")
            self._check_identity()
            yield

    def is_held(self) -> bool:
        """Whether another process is at work here just now. UserError if that cannot be known."""
        try:
            with (self.path / "lock").open() as lock:
                return not self._lock(lock, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    def _lock(self, file: IO[str], kind: int) -> bool:
        """Lock a file of the folder until it is closed; False if another process has locked it."""
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise UserError(
                f"{self.path}: its file system has no locks ({error.strerror}), without which two processes could "
                "write to one run; choose a runs_dir on another (a local disk), or have this one mounted with locks"
            ) from None
        return True

    def _check_identity(self) -> None:
        config = self.path / "config.json"
        if not config.exists():
            write_text(config, json.dumps(self.identity, indent=2) + "\n")
        elif not isinstance(found := _json(config), dict) or digest(found) != digest(self.identity):
            raise UserError(f"{config}: is damaged or of another configuration; move its folder away")

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run; None if it is not finished, or if its metrics are not complete."""
        summary = self._summary_of_ended()
        if summary is None:
            return None
        text = _content(self.path / "metrics.csv")
        if text is None:
            complete = summary["num_rows"] == 0
        else:
            complete = text.endswith(b"\n") and text.count(b"\n") == 1 + summary["num_rows"]
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
        write_bytes(self.path / "uploads.npz", buffer.getvalue())

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def record_failure(self, reason: str) -> None:
        """Tables and figures say of it that it failed, and why; to begin or go on, it counts as not run.

        That the folder cannot be written is left aside: the failure itself is told.
        """
        with contextlib.suppress(OSError):
            self.write_summary({"status": "failed", "reason": reason})

    def forget_end(self) -> None:
        """It goes on: that it had stopped or failed holds no more."""
        (self.path / "summary.json").unlink(missing_ok=True)

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
        """The newest checkpoint that is whole (None: there is none), and what to tell the user about others.

        Damaged is what was read to its end and is not what was written: that one is passed over. UserError, nothing
        touched: a checkpoint cannot be read now, or is of another configuration.
        """
        notes = []
        for path in (self.path / CHECKPOINT, self.path / PREVIOUS):
            try:
                if (content := _content(path)) is None:
                    continue
                if damage := _damage(content):
                    notes.append(f"{path}: damaged ({damage}), not used")
                    continue
                state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            except (MemoryError, RuntimeError) as error:  # torch has no kind of its own for too little memory
                raise _unreadable(path, error) from None
            except pickle.UnpicklingError:
                state = None
            if not isinstance(state, dict) or "identity" not in state:
                notes.append(f"{path}: damaged (not a checkpoint of the suite), not used")
                continue
            if state["identity"] != digest(self.identity):
                raise UserError(f"{path}: is a checkpoint of another configuration; move it away")
            return state, notes
        return None, notes

    def progress(self) -> str | None:
        """How far metrics.csv goes, in words; None without a row."""
        rows = (_content(self.path / "metrics.csv") or b"").decode(errors="replace").splitlines()[1:]
        return f"{len(rows)} rows, up to iteration {rows[-1].partition(',')[0]}" if rows else None

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

    def progress(self) -> None:
        return None

    def _ignore(self, *content: Any) -> None:
        pass

    write_rows = append_row = write_uploads = write_summary = record_failure = forget_end = _ignore
    save_checkpoint = remove_checkpoints = clear = _ignore


def read_identity(path: Path) -> dict[str, Any] | None:
    """What a run's folder says its run is (config.json); None if it does not, or not readably."""
    identity = _json(path / "config.json")
    return identity if isinstance(identity, dict) and {"data_sha256", "device"} <= identity.keys() else None


def read_uploads(path: Path) -> np.ndarray:
    """Who uploaded when, bool [iterations, M], from an uploads.npz. UserError: it is damaged."""
    try:
        with np.load(path) as file:
            shape = tuple(file["shape"])
            return np.unpackbits(file["packed"], count=int(np.prod(shape))).astype(bool).reshape(shape)
    except (EOFError, ValueError, KeyError, BadZipFile):
        raise UserError(f"{path}: is damaged; move its folder away, and the run can be done again") from None


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content in one step."""
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
    """What a file says; None if it is not there or not JSON. UserError: it cannot be read now."""
    content = _content(path)  # its UserError is a ValueError, too
    try:
        return json.loads(content or b"")
    except ValueError:
        return None


def _content(path: Path) -> bytes | None:
    """A whole file; None if it is not there. UserError: it cannot be read now, which says nothing of what is in it."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, MemoryError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
    return UserError(f"{path}: cannot be read now ({reason}); nothing was changed: mend that, and start it again")


def _damage(checkpoint: bytes) -> str | None:
    """What is wrong with a checkpoint's bytes, by the check sums of its archive; None: nothing."""
    try:
        with ZipFile(io.BytesIO(checkpoint)) as archive:
            wrong = archive.testzip()
    except MemoryError:
        raise
    except Exception as error:  # many kinds, by where the damage is
        return str(error)
    return wrong and f"the check sum of {wrong} is wrong"
