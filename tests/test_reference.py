"""The suite against an independent naive loop, in float64: the same decisions, the same parameters."""

import itertools
from collections import Counter

import pytest
import torch
from naive import NaiveLASG, NaiveServer, Settings
from suite_config import config, iterate, without_ties
from torch import nn

from sasg.cluster import SimulatedCluster
from sasg.problem.building import build_model, load_dataset
from sasg.training.trainer import Trainer

ITERATIONS = 45
MAX_DELAY = 3
DECAY_EPOCH = 1  # after 28 iterations, so that the step size decays within the test

# alpha_d times the step size with which rule (6) skips, uploads and is overruled, each several times
ALPHA = {("lasg", "reference"): 15.0, ("lasg", "paper"): 4.0, ("sasg", "reference"): 5.0, ("sasg", "paper"): 2.0}

MODELS = {
    "fc": ("model=fc", "model.hidden=[12]"),
    "batchnorm": ("model.kind=suite_config.small_batchnorm", "~model.hidden", "+model.width=4"),
}


CASES = [
    *itertools.product(["sgd", "sparse", "lasg", "sasg"], MODELS, ["reference", "paper"], ["auto"]),
    *itertools.product(["sasg"], MODELS, ["reference"], ["loop", "vmap"]),
    ("sasg", "fc", "paper", "loop"),
    ("lasg", "batchnorm", "paper", "vmap"),
]


@pytest.mark.parametrize("method, model, preset, engine", CASES)
def test_same_decisions_and_parameters(method, model, preset, engine):
    alpha = ALPHA.get((method, preset), 1.0)
    trainer, net, epochs = set_up(
        model,
        engine,
        f"algorithm={method}",
        f"preset={preset}",
        f"task.max_delay={MAX_DELAY}",
        f"task.alpha.default={alpha}",
        *(["algorithm.compressor.density=0.05"] if method in ("sparse", "sasg") else []),
    )
    settings = Settings(method, 5, epochs, alpha, MAX_DELAY, 0.05, published=preset == "reference")
    naive = NaiveServer(net, settings, trainer.problem.parameters.clone())
    reasons = compared(trainer, naive)
    if method in ("lasg", "sasg"):
        assert min(reasons[reason] for reason in ("first", "forced", "threshold", None)) >= 5, reasons


def set_up(model: str, engine: str, *words: str) -> tuple[Trainer, nn.Module, list[float]]:
    """Five workers in float64 whose step size decays once: the trainer, its model anew, the step size by epoch."""
    cfg = config(
        *words,
        *MODELS[model],
        f"gradients={engine}",
        "precision=fp64",
        "cluster.workers=5",
        "task.batch_size=10",
        "task.step_size=0.05",
        f"+task.decay_epochs=[{DECAY_EPOCH}]",
    )
    dataset = without_ties(load_dataset(cfg))
    trainer = Trainer(cfg, dataset, SimulatedCluster(5, torch.device("cpu")), torch.float64)
    return trainer, build_model(cfg, dataset).double().train(), [trainer.schedule(epoch) for epoch in range(5)]


def compared(trainer, naive, num_iterations: int = ITERATIONS) -> Counter:
    """The reasons for which workers of both upload, or not, in iterations that are the same."""
    reasons = Counter()
    for k in range(num_iterations):
        epoch, position = divmod(k, trainer.iterations_per_epoch)
        iterate(trainer, 1)
        x, y = trainer.problem.batches.batch(torch.tensor(position))
        expected = naive.step(x, y, epoch)
        sent = trainer.algorithm.sent
        assert ([True] * 5 if sent is None else sent.tolist()) == [reason is not None for reason in expected], k
        torch.testing.assert_close(trainer.problem.parameters, naive.parameters, rtol=0, atol=1e-10)
        reasons.update(expected)
    assert trainer.cluster.ledger.totals()["rounds"] == 5 * num_iterations - reasons[None]
    return reasons


# the scale with which a rule skips, uploads and is overruled, each several times
SCALE = {"lasg_wk1": 1.0, "lasg_wk2": 1.0, "lag": 8.0, "lasg_ps": 1.0, "lasg_pse": 1.0}
SMOOTHNESS = 4.0


@pytest.mark.parametrize("rule, model, engine", [
    *itertools.product(SCALE, MODELS, ["auto"]),
    *itertools.product(SCALE, ["fc"], ["loop"]),
    ("lasg_pse", "batchnorm", "vmap"),
])  # fmt: skip
def test_the_rules_of_lasg_and_lag(rule, model, engine):
    prefix = "algorithm." if rule in ("lasg_ps", "lasg_pse") else "algorithm.trigger."
    trainer, net, epochs = set_up(
        model,
        engine,
        f"algorithm={rule}",
        "preset=paper",
        f"{prefix}max_delay=4",
        f"{prefix}window=5",
        f"{prefix}scale={SCALE[rule]}",
        *([f"algorithm.smoothness={SMOOTHNESS}"] if rule == "lasg_ps" else []),
    )
    settings = Settings("lasg", 5, epochs, SCALE[rule], 4, 1.0, published=False)
    parameters = trainer.problem.parameters.clone()
    smoothness = SMOOTHNESS if rule == "lasg_ps" else 0.0
    naive = NaiveLASG(net, settings, parameters, rule=rule.removeprefix("lasg_"), window=5, smoothness=smoothness)
    reasons = compared(trainer, naive)
    assert min(reasons[reason] for reason in ("first", "forced", "threshold", None)) >= 5, reasons
