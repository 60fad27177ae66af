#!/usr/bin/env python
"""Run the notebooks and store what they show: results and pictures, not the progress of runs.

scripts/notebooks.py                          # all of them; two minutes
scripts/notebooks.py notebooks/01-tour.ipynb
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sasg.environment import require

require("nbclient")

import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb")))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for path in parser.parse_args().notebooks:
        notebook = executed(path)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times
            if "outputs" in cell:
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, path)
        print(path)


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook after all its cells have run, in its own folder."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.resolve().parent)}}
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources=place).execute()
    return notebook


if __name__ == "__main__":
    main()
