"""Imported once, by the server that tests' processes are forked from: what they import and compile is there already."""

import torch
import torch.distributed

import sasg.cluster.launch  # noqa: F401
from sasg.cluster import SimulatedCluster
from sasg.problem.building import load_dataset
from sasg.training import run  # noqa: F401
from sasg.training.trainer import Trainer
from tests import study_parts  # noqa: F401
from tests.ranks import WORKERS, configuration

torch.set_num_threads(1)
for precision, dtype in (("fp64", torch.float64), ("fp32", torch.float32)):
    for method in ("lasg", "sasg"):
        config = configuration(method, precision=precision)
        trainer = Trainer(config, load_dataset(config), SimulatedCluster(WORKERS, torch.device("cpu")), dtype)
        for _ in range(3):
            trainer.run_iteration()
        trainer.evaluate()
