"""For all tests: one thread, since on few cores a second OpenMP thread costs more than it gives; no W&B."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "disabled"  # whoever is logged in

if "SASG_TEST_WITHOUT_NUMBA" in os.environ:
    sys.modules["numba"] = None  # an import fails, as where it is not installed
