"""Scripts that no other test starts are still held to the modules that they name."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {"with_fedlab.py", "with_flower.py", "with_fluke.py"}  # each in an environment of its framework
SCRIPTS = [
    path.relative_to(ROOT)
    for folder in ("benchmarks", "scripts", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name not in ELSEWHERE
]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_it_finds_what_it_imports(script, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(ROOT / script), run_name="imported")
