#!/usr/bin/env python
"""Run the notebooks and store what they show: results and pictures, not the progress of runs.

scripts/notebooks.py                          # all of them; two minutes
scripts/notebooks.py notebooks/01-tour.ipynb
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sasg.environment import require

require("nbclient")

import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402
from nbclient.exceptions import CellExecutionError  # noqa: E402

from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.command_line import Parser  # noqa: E402
from sasg.errors import UserError  # noqa: E402

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def main() -> int:
    """Run and store what the command line names."""
    parser = Parser(__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb")))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for path in parser.parse_args().notebooks:
        try:
            notebook = executed(path)
        except CellExecutionError as error:
            raise UserError(f"{path}: a cell ends with {error.ename}: {error.evalue}; nothing was stored") from None
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times
            if "outputs" in cell:
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, path)
        print(path)
    return 0


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook after all its cells have run, in its own folder. UserError: it is none."""
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no notebook ({getattr(error, 'strerror', None) or 'not in its format'})") from None
    place = {"metadata": {"path": str(path.resolve().parent)}}
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources=place).execute()
    return notebook


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
