"""A Python that the suite was not set up for is told what to type."""

import subprocess
import sys
from pathlib import Path

import pytest

from sasg import environment

ROOT = Path(__file__).resolve().parent.parent
ALONE = "imports.py"  # needs nothing
COMMANDS = [
    "experiments/train.py",
    "experiments/reproduce.py",
    *(f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py") if path.name != ALONE),
]


@pytest.mark.parametrize("command", [*COMMANDS, "-m sasg"])
def test_commands_without_the_environment(command):
    """A bare interpreter: neither site-packages nor the variables that lead to them."""
    words = command.split() if command.startswith("-m") else [str(ROOT / command)]
    done = subprocess.run(
        [sys.executable, "-S", "-s", *words, "task=digits"], cwd=ROOT, env={}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "lacks" in line and "bin/activate" in line


def test_the_command_is_shown_where_there_is_an_environment(monkeypatch, capsys, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    monkeypatch.setattr(environment, "_ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiments/train.py", "task=digits", "runs_dir=my runs"])
    with pytest.raises(SystemExit, match="2"):
        environment.require("nowhere_to_be_found")
    python = tmp_path / ".venv" / "bin" / "python"
    said = capsys.readouterr().err
    assert (
        f"{python} experiments/train.py task=digits 'runs_dir=my runs'" in said and "lacks nowhere_to_be_found" in said
    )


def test_an_old_python(monkeypatch, capsys):
    monkeypatch.setattr(environment, "_OLDEST", (9, 9))
    with pytest.raises(SystemExit, match="2"):
        environment.require("torch")
    assert "older than 9.9" in capsys.readouterr().err


def test_nothing_is_said_where_all_is_there(capsys):
    environment.require("torch", "hydra")
    assert capsys.readouterr().err == ""
