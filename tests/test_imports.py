"""Dependencies point one way: no package imports one above it (the layers stand in scripts/imports.py)."""

from pathlib import Path

from scripts.imports import as_mermaid, by_package, complaints, imports_by_module

ROOT = Path(__file__).resolve().parent.parent


def test_no_import_runs_upwards():
    imports = imports_by_module(ROOT)
    assert len(imports) > 100
    assert complaints(imports) == []


def test_what_is_refused(tmp_path):
    """At the top of a file or inside a function, as a package or from it; and a package that nobody placed."""
    for path, code in {
        "sasg/errors.py": "import torch\n",
        "sasg/problem/data.py": "def load():\n    from sasg.training.run import run\n",
        "sasg/training/__init__.py": "import experiments.study\nfrom sasg import errors\n",
        "sasg/attic/old.py": "from sasg import problem\n",
        "experiments/study.py": "import sasg.training.run\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(code)
    imports = imports_by_module(tmp_path)
    assert imports["sasg.training"] == {"errors", "experiments"}
    assert complaints(imports) == [
        "attic has no place in LAYERS of scripts/imports.py",
        "sasg.problem.data imports training, which stands above it",
        "sasg.training imports experiments, which stands above it",
    ]


def test_the_graph_leaves_out_what_follows_from_other_arrows():
    graph = by_package({"sasg.errors": set(), "sasg.config": {"errors"}, "sasg.training.run": {"config", "errors"}})
    assert list(as_mermaid(graph)) == ["graph TD", "    training --> config", "    config --> errors"]
