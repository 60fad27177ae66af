"""Weights & Biases as a mirror of a run's files. The only file that imports wandb, and only when it is wanted.

The CSV files are the truth: whatever goes wrong here is said once, and the run goes on without it.
"""

import contextlib
import csv
import netrc
import os
import shlex
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sasg.errors import UserError
from sasg.parts import build
from sasg.training.picture import draw_curves

_INIT_SECONDS, _FINISH_SECONDS = 30, 60
_LONGEST_REASON = 200  # characters
_FILES = ("config.json", "metrics.csv", "timing.csv", "summary.json", "uploads.npz")

Say = Callable[[str], None]


class Tracker:
    """Follows one run; this one does nothing."""

    def start(self, folder: Path, identity: Mapping[str, Any], say: Say) -> None:
        """The run in `folder` begins, or goes on after an interruption; `say` tells the user something."""

    def row(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """An evaluation: a row of metrics.csv and of timing.csv."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run has ended, or was stopped, with its files written."""


def make_tracker(spec: Mapping[str, Any] | None) -> Tracker:
    """What conf/tracker names; a Tracker that does nothing for None. UserError: an option is not right."""
    return Tracker() if spec is None else build("tracker", spec, Tracker)


class WandB(Tracker):
    """One W&B run per run, under the name of its folder: the same after an interruption.

    Options
    -------
    project, entity: where it goes; the entity is the user's default one.
    only_if_logged_in: do nothing where nobody is logged in; otherwise it is kept offline there (`wandb sync` later).
    """

    def __init__(self, project: str = "sasg", entity: str | None = None, only_if_logged_in: bool = False):
        self.project, self.entity = project, entity
        self.only_if_logged_in = only_if_logged_in
        self._run: Any = None
        self._say: Say = print

    def start(self, folder: Path, identity: Mapping[str, Any], say: Say) -> None:
        if self.only_if_logged_in and not logged_in():
            return
        self._say, self._folder = say, folder
        self._guarded(lambda: self._start(folder, identity))

    def _start(self, folder: Path, identity: Mapping[str, Any]) -> None:
        import wandb

        name, task, method = folder.name, identity["task"]["name"], identity["algorithm"]["name"]
        quiet = wandb.Settings(silent=True, console="off", init_timeout=_INIT_SECONDS, x_disable_stats=True)
        options = {
            "project": self.project,
            "entity": self.entity,
            "id": name,
            "name": name,
            "resume": "allow",
            "group": f"{task}-{method}",
            "config": dict(identity),
            "dir": str(folder.parent.parent),
            "settings": quiet,
        }
        if not logged_in():
            self._run = wandb.init(mode="offline", **options)
            self._say(f"W&B: this run is kept offline{_how_to_sync(self._run)}")
            return
        try:
            self._run = wandb.init(mode="online", **options)
        except Exception as error:
            _within(_FINISH_SECONDS, wandb.teardown)  # the failed attempt holds the run's id
            self._run = wandb.init(mode="offline", **options)
            reason = " ".join(str(error).split())[:_LONGEST_REASON]
            self._say(f"W&B does not take this run ({reason}): kept offline{_how_to_sync(self._run)}")

    def row(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        values = {key: value for key, value in row.items() if value is not None}
        values |= {f"timing/{key}": value for key, value in timing.items() if key != "iteration"}
        if self._run is not None:
            self._guarded(lambda: self._run.log(values, step=row["iteration"]))

    def finish(self, summary: Mapping[str, Any]) -> None:
        if self._run is not None:
            self._guarded(lambda: self._finish(summary))

    def _finish(self, summary: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(summary))
        if summary["status"] != "stopped":
            self._show_whole_run(summary["iterations"])
        _within(_FINISH_SECONDS, lambda: self._run.finish(exit_code=int(summary["status"] == "diverged")))

    def _show_whole_run(self, iterations: int) -> None:
        """Its rows as a table, its curves as a picture (where there is matplotlib), and all its files."""
        files = {name: self._folder / name for name in _FILES}
        with tempfile.TemporaryDirectory() as scratch:
            picture = {"curves.png": Path(scratch) / "curves.png"}
            with contextlib.suppress(ImportError):
                draw_curves(_rows(files["metrics.csv"]), picture["curves.png"])
            self._run.log(_shown({"metrics.csv": files["metrics.csv"]} | picture), step=iterations)
            self._run.log_artifact(_artifact(self._folder.name, "run", files | picture))

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something with W&B; if it fails, there is no W&B for the rest of the run."""
        try:
            action()
        except Exception as error:
            kept, self._run = _how_to_sync(self._run), None
            self._say(f"W&B failed ({type(error).__name__}: {_first_line(error)}): the run goes on without it{kept}")


def _how_to_sync(run: Any) -> str:
    """What uploads a run's own copy later, if there is one: W&B keeps it in online mode, too."""
    folder = Path(run.dir).parent if getattr(run, "dir", None) else None
    if folder is None or not any(folder.glob("*.wandb")):
        return ""
    return f"; `{shlex.join(['wandb', 'sync', str(folder)])}` uploads what it has"


def publish(
    files: Mapping[str, Path], name: str, folder: Path, project: str = "sasg", entity: str | None = None
) -> str:
    """Upload tables and figures as one artifact; its run shows the pictures, and the CSV files as tables.

    files: by their names there. folder: where W&B keeps its own files. Returns what to tell. UserError: there is no
    wandb, or it cannot upload.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed: pip install wandb") from None
    mode = "online" if logged_in() else "offline"
    quiet = wandb.Settings(silent=True, console="off", init_timeout=_INIT_SECONDS, x_disable_stats=True)
    options = {"project": project, "entity": entity, "job_type": "report", "name": name, "dir": str(folder)}
    try:
        with wandb.init(mode=mode, settings=quiet, **options) as run:
            run.log(_shown(files))
            run.log_artifact(_artifact(name, "report", files))
    except wandb.Error as error:
        raise UserError(f"W&B: {_first_line(error)}; WANDB_MODE=offline keeps it for `wandb sync`") from None
    kept = f"{Path(run.dir).parent}: `wandb sync` uploads it"
    return f"W&B, project {project}: {kept if mode == 'offline' else run.url}"


def logged_in() -> bool:
    """Whether W&B may be written to from here: by its environment variables, or by what `wandb login` left."""
    if os.environ.get("WANDB_MODE") in ("disabled", "offline", "dryrun") or os.environ.get("WANDB_DISABLED"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    candidates = [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]
    path = next((Path(candidate) for candidate in candidates if candidate and Path(candidate).is_file()), None)
    try:
        return path is not None and netrc.netrc(path).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _shown(files: Mapping[str, Path]) -> dict[str, Any]:
    """What a run's page shows of these files: pictures, and CSV files as tables; the others are left out."""
    import wandb

    shown: dict[str, Any] = {}
    for name, path in files.items():
        key = name.rpartition(".")[0]
        if path.suffix == ".png" and path.exists():
            shown[key] = wandb.Image(str(path))
        elif path.suffix == ".csv" and (rows := _rows(path)):
            shown[key] = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
    return shown


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with numbers as numbers, and nothing as None."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts = {key for row in rows for key, value in row.items() if value and not _is_number(value)}
    return [{key: (value if key in texts else float(value)) if value else None for key, value in row.items()}
            for row in rows]  # fmt: skip


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _artifact(name: str, kind: str, files: Mapping[str, Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for file, path in files.items():
        if path.exists():
            artifact.add_file(str(path), name=file)
    return artifact


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Do something that may hang. TimeoutError, and it is left to itself, if it takes longer."""
    failed: list[Exception] = []

    def work() -> None:
        try:
            action()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"not done within {seconds:g} s")
    if failed:
        raise failed[0]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
