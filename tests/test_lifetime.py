"""A run outlives its terminal, whoever reads what it prints, and a machine without a home for its user."""

import errno
import fcntl
import io
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from suite_config import config

from experiments import train
from experiments.composing import telling_errors
from sasg.__main__ import telling_user_errors
from sasg.errors import UserError
from sasg.lifetime import LastingStream, ensure_home
from sasg.training.run_folder import RunFolder
from tests.forks import CONTEXT

ROOT = Path(__file__).resolve().parent.parent
TINY = ("dataset.kind=tests.study_parts.tiny", "model.hidden=[8]", "task.batch_size=2", "max_iterations=20")


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_a_run_ends_well_with_stderr_closed_and_nobody_reading_stdout(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config(*TINY, f"runs_dir={tmp_path / 'runs'}").as_dict()))
    command = [sys.executable, "-m", "sasg", str(tmp_path / "config.json")]
    pipe = closed_pipe()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=pipe, env=environment, check=False)
    os.close(pipe)
    assert done.returncode == 0
    (folder,) = (tmp_path / "runs").iterdir()
    log = (folder / "console.log").read_text().splitlines()
    assert log[0].startswith("epoch 1.0") and log[-1].startswith("finished after 20 iterations")
    assert (folder / "metrics.csv").read_text().splitlines()[0].startswith("iteration,")  # not what stderr was sent


def _hang_up(path: str) -> None:
    """A run whose terminal goes away at its beginning: what it prints fails, and it gets SIGHUP."""
    os.dup2(closed_pipe(), 1)
    os.dup2(closed_pipe(), 2)
    sys.argv[1:] = [path]

    from sasg.__main__ import main
    from sasg.training.progress import Progress

    evaluated = Progress.evaluated

    def hanging_up(*arguments):
        os.kill(os.getpid(), signal.SIGHUP)
        evaluated(*arguments)

    Progress.evaluated = hanging_up
    raise SystemExit(telling_user_errors(main))


def test_a_run_outlives_its_terminal(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config(*TINY, f"runs_dir={tmp_path / 'runs'}").as_dict()))
    process = CONTEXT.Process(target=_hang_up, args=(str(tmp_path / "config.json"),))
    process.start()
    process.join()
    assert process.exitcode == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


class TestStream:
    def test_what_cannot_be_written_is_dropped(self):
        with open(closed_pipe(), "w") as gone:
            lasting = LastingStream(gone)
            for _ in range(3):
                print("words", file=lasting, flush=True)
        print("words", file=lasting, flush=True)  # closed in this process

    def test_there_may_be_none(self):
        print("words", file=LastingStream(None), flush=True)

    def test_letters_that_a_terminal_lacks(self):
        kept = io.BytesIO()
        terminal = io.TextIOWrapper(kept, encoding="ascii")
        print("runs in ünï", file=LastingStream(terminal), flush=True)
        assert kept.getvalue() == b"runs in \\xfcn\\xef\n"

    def test_nothing_is_dropped_otherwise(self):
        kept = io.StringIO()
        print("words", file=LastingStream(LastingStream(kept)))
        assert kept.getvalue() == "words\n" and not LastingStream(kept).isatty()


def test_a_script_whose_reader_has_gone_ends_without_a_word(capsys):
    def main() -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    assert telling_user_errors(main) == 1
    assert capsys.readouterr().err == ""


class TestHome:
    @pytest.fixture(autouse=True)
    def temporary(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_HOME"):
            monkeypatch.setenv(name, "to be restored")
            monkeypatch.delenv(name)

    @pytest.fixture
    def homeless(self, monkeypatch):
        """Neither HOME nor an entry in passwd."""

        def unknown(user: int):
            raise KeyError(user)

        monkeypatch.setenv("HOME", "to be restored")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", unknown)

    def test_a_home_for_who_has_none(self, homeless, tmp_path):
        with pytest.raises(RuntimeError):
            Path.home()
        ensure_home()
        assert Path.home() == tmp_path / f"sasg-home-{os.getuid()}"
        assert stat.S_IMODE(Path.home().stat().st_mode) == 0o700
        os.environ.pop("HOME")
        ensure_home()  # again: the same
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("kind", ["link", "open to all", "file"])
    def test_not_where_another_user_may_have_been_first(self, homeless, tmp_path, kind):
        taken = tmp_path / f"sasg-home-{os.getuid()}"
        if kind == "link":
            (tmp_path / "theirs").mkdir(mode=0o700)
            taken.symlink_to(tmp_path / "theirs")
        elif kind == "file":
            taken.touch(mode=0o700)
        else:
            taken.mkdir()
            taken.chmod(0o777)
        ensure_home()
        assert Path.home().parent == tmp_path and Path.home() != taken
        assert stat.S_IMODE(Path.home().stat().st_mode) == 0o700

    def test_caches_have_a_place_where_home_is_not_to_be_written(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path / "not there"))
        ensure_home()
        assert os.environ["HOME"] == str(tmp_path / "not there")  # what lies there, such as .netrc, is still read
        assert Path(os.environ["XDG_CACHE_HOME"]).parent == tmp_path / f"sasg-home-{os.getuid()}"

    def test_nothing_changes_with_a_home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        ensure_home()
        assert not list(tmp_path.iterdir()) and "XDG_CACHE_HOME" not in os.environ


def test_a_sweep_leaves_nothing_in_the_temporary_directory(tmp_path, monkeypatch):
    """Two users of one machine have nothing in common there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=1,2"])
    monkeypatch.setattr(train, "_QUEUE", [])
    monkeypatch.setattr(train, "run_config", lambda config: 0)
    assert telling_errors(train.main) == 0
    assert Path(os.environ["SASG_MULTIRUN"]).parent == tmp_path  # Hydra wrote there
    assert not list(tmp_path.iterdir())


class TestLocks:
    @pytest.fixture
    def folder(self, tmp_path) -> RunFolder:
        cfg = config(*TINY)
        identity = cfg.identity("data", "cpu")
        return RunFolder(tmp_path / cfg.run_name(identity), identity)

    def test_a_file_system_without_locks_is_named_with_the_way_out(self, folder, monkeypatch):
        with folder.held():
            pass

        def no_locks(*arguments):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", no_locks)
        for action in (folder.held().__enter__, folder.is_held):
            with pytest.raises(UserError) as caught:
                action()
            words = f"{folder.path}: its file system has no locks (No locks available)"
            assert str(caught.value).startswith(words) and "choose a runs_dir on another" in str(caught.value)

    def test_a_folder_that_may_not_be_written(self, folder, monkeypatch):
        opened = Path.open

        def refused(path, mode="r", *arguments, **options):
            if "w" in mode and path.name == "lock":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return opened(path, mode, *arguments, **options)

        monkeypatch.setattr(Path, "open", refused)
        with pytest.raises(UserError, match=r"cannot be written \(Permission denied\); choose another runs_dir"):
            folder.held().__enter__()
