"""The notebooks run from top to bottom, show their figures, and are stored without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
NAMES = ["01-tour", "02-add-a-method", "03-read-the-results", "04-from-an-idea-to-a-figure"]
PICTURES = {"01-tour": 2, "02-add-a-method": 1, "03-read-the-results": 1, "04-from-an-idea-to-a-figure": 1}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_these_are_all():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_stored_without_outputs(name):
    for cell in read(name).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_runs(name, monkeypatch, tmp_path):
    monkeypatch.setenv("SASG_NOTEBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SASG_NOTEBOOK_STUDY", "demo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = read(name)
    if name.startswith("03"):
        _two_runs(tmp_path / "runs")
    monkeypatch.delenv("SASG_CONF", raising=False)  # set by whoever composed before, in this process
    place = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources=place).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in shown) == PICTURES[name]
    assert "<Figure" not in "".join(output.get("text", "") for output in shown)


def _two_runs(runs_dir: Path) -> None:
    """SGD and SASG of the demo, one seed; the other runs are missing, which the notebook has to say."""
    from experiments.study import study_configs
    from sasg.training.run import run

    for config in study_configs("demo", str(runs_dir)):
        if config.seed == 1 and config.algorithm["name"] in ("sgd", "sasg"):
            run(config)
