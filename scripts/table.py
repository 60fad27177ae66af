#!/usr/bin/env python
"""`sasg table` from a checkout, without installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.composing import telling_errors
from experiments.table import main

if __name__ == "__main__":
    sys.exit(telling_errors(main))
