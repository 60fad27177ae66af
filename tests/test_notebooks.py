"""The notebooks run from top to bottom and show their figures; what is stored of their outputs is small."""

from pathlib import Path

import nbformat
import pytest

from scripts.notebooks import NOTEBOOKS, executed

PICTURES = {"01-tour": 2, "02-add-a-method": 1, "03-read-the-results": 1, "04-from-an-idea-to-a-figure": 1}
LARGEST = 400_000  # bytes of a notebook


def test_these_are_all():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_stored(name):
    """Neither errors, nor what a run said of its progress, nor this machine's paths."""
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    for output in outputs(nbformat.read(path, as_version=4)):
        assert output.output_type in ("execute_result", "display_data", "stream")
        assert output.get("name") != "stderr"
        texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
        assert not any(place in text for text in texts for place in ("/tmp/", "/home/", str(NOTEBOOKS.parent)))


@pytest.mark.parametrize("name", PICTURES)
def test_runs(name, monkeypatch, tmp_path):
    monkeypatch.setenv("SASG_NOTEBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SASG_NOTEBOOK_STUDY", "demo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if name.startswith("03"):
        _two_runs(tmp_path / "runs")
    monkeypatch.delenv("SASG_CONF", raising=False)  # set by whoever composed before, in this process
    shown = outputs(executed(NOTEBOOKS / f"{name}.ipynb"))
    assert sum("image/png" in output.get("data", {}) for output in shown) == PICTURES[name]
    assert not any("<Figure" in output.get("text", "") for output in shown)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Of all its cells."""
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def _two_runs(runs_dir: Path) -> None:
    """SGD and SASG of the demo, one seed; the other runs are missing, which the notebook has to say."""
    from experiments.study import study_configs
    from sasg.training.run import run

    for config in study_configs("demo", str(runs_dir)):
        if config.seed == 1 and config.algorithm["name"] in ("sgd", "sasg"):
            run(config)
