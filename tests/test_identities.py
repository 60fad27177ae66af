"""Identities of the composed family (spec: the four methods are corners of one square), tested in float64."""

import pytest
import torch
from suite_config import config, iterate
from torch import nn

from sasg.algorithms.parts.compressors import TopK
from sasg.algorithms.parts.feedback import ErrorMemory
from sasg.cluster import SimulatedCluster
from sasg.problem.building import build_model, load_dataset
from sasg.training.trainer import Trainer

ALWAYS = "algorithm.trigger={kind:always}"
LATEST = "algorithm.aggregation={kind:sum_of_latest}"


def trained(*overrides, iterations=40):
    cfg = config("precision=fp64", "model.hidden=[16]", "task.max_delay=3", "task.alpha.default=4.0", *overrides)
    cluster = SimulatedCluster(cfg.cluster.workers, torch.device("cpu"))
    trainer = Trainer(cfg, load_dataset(cfg), cluster, torch.float64)
    iterate(trainer, iterations)
    return trainer


def assert_same(one, other):
    torch.testing.assert_close(one.problem.parameters, other.problem.parameters, rtol=0, atol=1e-12)
    assert one.cluster.ledger.totals()["rounds"] == other.cluster.ledger.totals()["rounds"]


def without_trigger_options(algorithm):
    """SASG or LASG with the trigger that always fires; its latest payloads are this round's."""
    return trained(f"algorithm={algorithm}", "~algorithm.trigger", "+" + ALWAYS)


def test_trigger_always_gives_sparse():
    assert_same(without_trigger_options("sasg"), trained("algorithm=sparse"))


def test_trigger_always_turns_lasg_into_sgd():
    assert_same(without_trigger_options("lasg"), trained("algorithm=sgd"))


def test_everything_kept_turns_sasg_into_lasg():
    lasg = trained("algorithm=lasg")
    assert lasg.cluster.ledger.totals()["rounds"] < 400
    assert_same(trained("algorithm=sasg", "algorithm.compressor.density=1.0"), lasg)


def test_everything_kept_turns_sparse_into_sgd():
    assert_same(trained("algorithm=sparse", "algorithm.compressor.density=1.0"), trained("algorithm=sgd"))


def test_a_threshold_of_zero_turns_sasg_into_sparse():
    assert_same(trained("algorithm=sasg", "task.alpha.default=0.0"), trained("algorithm=sparse"))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_one_worker_that_keeps_everything_is_plain_sgd(reduction):
    overrides = ("algorithm=sasg", "algorithm.compressor.density=1.0", "task.alpha.default=0.0", "cluster.workers=1")
    trainer = trained(*overrides, f"algorithm.reduction={reduction}", iterations=0)
    cfg = config("precision=fp64", "model.hidden=[16]", *overrides)
    model = build_model(cfg, load_dataset(cfg)).double().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=cfg.task.step_size)
    for k in range(30):
        iterate(trainer, 1)
        x, y = trainer.problem.batches.batch(torch.tensor(k))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[0]), y[0]).backward()
        optimiser.step()
    flat = nn.utils.parameters_to_vector(model.parameters())
    torch.testing.assert_close(trainer.problem.parameters, flat, rtol=0, atol=1e-12)


def test_mean_at_m_times_the_step_size_is_the_same_trajectory():
    assert_same(trained("algorithm=sasg", "algorithm.reduction=mean"), trained("algorithm=sasg"))


def test_sent_and_kept_make_the_given_vector():
    """v = S + e exactly: the kept entries of e are zero, the others equal v."""
    memory, compressor = ErrorMemory(), TopK(density=0.1)
    workspace = trained("algorithm=sparse", iterations=0).algorithm  # any workspace will do: take its sizes
    segments = workspace.compressor.segments
    compressor.segments, compressor._select = segments, workspace.compressor._select
    vectors = torch.randn(4, sum(s.size for s in segments), dtype=torch.float64)
    memory.memory = vectors.clone()
    sent = torch.tensor([True, False, True, True])
    payload = memory(_Zero(), torch.tensor(1.0), compressor, sent)
    for m in range(4):
        if sent[m]:
            transmitted = torch.zeros_like(vectors[m]).index_put_((payload.indices[m],), payload.values[m])
            assert torch.equal(transmitted + memory.memory[m], vectors[m])
            assert not memory.memory[m][payload.indices[m]].any()
        else:
            assert torch.equal(memory.memory[m], vectors[m])


class _Zero:
    """A gradient of zero."""

    def add_(self, target, scale, sent, entries=None):
        pass

    def product(self, entries):
        return None
