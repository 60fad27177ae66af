"""A short run that is watched, in whatever cluster this process belongs to."""

import copy
import io
from typing import Any

import torch

from sasg.checks.audit import Audit
from sasg.cluster.factory import open_cluster
from sasg.config import Config
from sasg.problem.building import load_dataset
from sasg.problem.datasets import Dataset
from sasg.training.run import prepare_torch
from sasg.training.trainer import Trainer

_DATASETS: dict[str, Dataset] = {}


def dataset_of(config: Config) -> Dataset:
    """The configuration's data set, which is loaded once."""
    key = repr((config.dataset, config.data, config.data_sha256))
    if key not in _DATASETS:
        _DATASETS[key] = load_dataset(config)
    return _DATASETS[key]


def observe(config: Config, state: dict[str, Any] | None = None, resumes: bool = False) -> dict[str, Any]:
    """Iterate to the end, from the beginning or from the server's `state`; what came of it, at the server [M, ...].

    halfway: the state after 2/5 of the iterations, at the server, as it comes back from a checkpoint.
    spoke: iterations in which workers held here uploaded although the method says that they do not.
    """
    device, dtype = prepare_torch(config)
    with open_cluster(config.cluster, device) as cluster:
        trainer = Trainer(config, dataset_of(config), cluster, dtype)
        if resumes:
            trainer.load_state(state if cluster.is_server else None)
        audit, halfway, spoke = Audit(cluster), None, []
        half = trainer.num_iterations * 2 // 5
        while trainer.iteration < trainer.num_iterations:
            if trainer.iteration == half and not resumes:
                halfway = _stored(trainer.state())
            audit.start_iteration()
            bytes_before = _payload_bytes(cluster)
            trainer.run_iteration()
            says = trainer.algorithm.sent
            silent = torch.zeros_like(audit.uploaded) if says is None else ~says
            if (audit.uploaded & silent).any() or (silent.all() and _payload_bytes(cluster) != bytes_before):
                spoke.append(trainer.iteration - 1)
        final = copy.deepcopy(trainer.algorithm.state("shared"))
        counted = audit.totals()
        row, sent = trainer.evaluate()
        return {
            "parameters": trainer.problem.parameters.clone(),
            "num_parameters": trainer.problem.layout.size,
            "num_iterations": trainer.num_iterations,
            "running": cluster.add_shares(trainer.problem.running.share.clone()),
            "shared": final,
            "row": row,
            "sent": sent,
            "halfway": halfway if cluster.is_server else None,
            "spoke": spoke,
            **counted,
        }


def _payload_bytes(cluster: Any) -> int:
    transport = getattr(cluster, "transport", None)
    return transport.sent["payloads"] if transport else 0


def _stored(state: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a checkpoint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
