#!/usr/bin/env python
"""`sasg table` from a checkout, without installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sasg.environment import require

require("hydra", "torch", "pandas")

from experiments.composing import telling_errors  # noqa: E402
from experiments.table import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(telling_errors(main))
