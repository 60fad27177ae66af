"""Iterations of several mini-batches, and local SGD: against a naive loop and SGD itself, in float64."""

import copy

import pytest
import torch
from naive import local_models
from suite_config import config, iterate
from torch import nn

from sasg.cluster import SimulatedCluster
from sasg.errors import UserError
from sasg.problem.building import build_model, load_dataset
from sasg.training.trainer import Trainer

MODELS = {
    "fc": ("model.hidden=[12]",),
    "batchnorm": ("model.kind=suite_config.small_batchnorm", "~model.hidden", "+model.width=4"),
}


def trainer(*overrides: str) -> Trainer:
    cfg = config("algorithm=local_sgd", "precision=fp64", "cluster.workers=5", *overrides)
    return Trainer(cfg, load_dataset(cfg), SimulatedCluster(5, torch.device("cpu")), torch.float64)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ["auto", "loop"])
def test_local_sgd_equals_a_naive_loop(model, engine):
    """Three steps an iteration; 28 mini-batches an epoch make nine iterations, then the step size decays."""
    overrides = (*MODELS[model], f"gradients={engine}", "algorithm.local_steps=3", "+task.decay_epochs=[1]")
    trained = trainer(*overrides)
    assert trained.iterations_per_epoch == 9
    cfg = config("algorithm=local_sgd", "precision=fp64", "cluster.workers=5", *overrides)
    net = build_model(cfg, load_dataset(cfg)).double().train()
    parameters = trained.problem.parameters.clone()
    for k in range(12):
        iterate(trained, 1)
        epoch, position = divmod(k, 9)
        batches = [trained.problem.batches.batch(torch.tensor(3 * position + h)) for h in range(3)]
        models, loss = local_models(net, parameters, batches, step_size=5 * cfg.task.step_size * 0.1**epoch)
        parameters = models.mean(0)
        torch.testing.assert_close(trained.problem.parameters, parameters, rtol=0, atol=1e-10)
        torch.testing.assert_close(trained.problem.oracle.loss, loss, rtol=0, atol=1e-10)
    totals = trained.cluster.ledger.totals()
    assert totals["rounds"] == 12 * 5 and totals["paper_bits"] == 12 * 5 * 32 * len(parameters)


def test_one_local_step_is_sgd():
    overrides = ("precision=fp64", "cluster.workers=5", "model.hidden=[12]", "+task.decay_epochs=[1]")
    one, sgd = trainer("algorithm.local_steps=1", *overrides), trainer("algorithm=sgd", *overrides)
    iterate(one, 40)
    iterate(sgd, 40)
    torch.testing.assert_close(one.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)
    ours, theirs = one.cluster.ledger.totals(), sgd.cluster.ledger.totals()
    assert ours == theirs


def test_slowmo_equals_a_naive_loop():
    """u = 0.7 u + (w - mean of the models) / gamma'; w falls by gamma' u, also where the step size decays."""
    overrides = ("algorithm=slowmo", *MODELS["fc"], "algorithm.local_steps=3", "+task.decay_epochs=[1]")
    trained = trainer(*overrides)
    cfg = config("precision=fp64", "cluster.workers=5", *overrides)
    net = build_model(cfg, load_dataset(cfg)).double().train()
    parameters, velocity = trained.problem.parameters.clone(), 0.0
    for k in range(14):
        iterate(trained, 1)
        epoch, position = divmod(k, 9)
        step = 5 * cfg.task.step_size * 0.1**epoch
        batches = [trained.problem.batches.batch(torch.tensor(3 * position + h)) for h in range(3)]
        models, _ = local_models(net, parameters, batches, step_size=step)
        velocity = 0.7 * velocity + (parameters - models.mean(0)) / step
        parameters = parameters - step * velocity
        torch.testing.assert_close(trained.problem.parameters, parameters, rtol=0, atol=1e-10)
    totals = trained.cluster.ledger.totals()
    assert totals["rounds"] == 14 * 5 and totals["value_bits"] == 14 * 5 * 64 * len(parameters)


def test_what_slowmo_is_at_the_ends():
    """Without momentum local SGD, with one local step the heavy ball at the server."""
    momentum = "algorithm.optimiser.momentum"
    same = (
        (("algorithm=slowmo", f"{momentum}=0.0", "algorithm.local_steps=3"), ("algorithm.local_steps=3",)),
        (
            ("algorithm=slowmo", "algorithm.local_steps=1"),
            ("algorithm=sgd_momentum", f"{momentum}=0.7", "algorithm.optimiser.scale=1.0"),
        ),
    )
    for words in same:
        one, other = (trainer(*own, "model.hidden=[12]", "+task.decay_epochs=[1]") for own in words)
        iterate(one, 20)
        iterate(other, 20)
        torch.testing.assert_close(one.problem.parameters, other.problem.parameters, rtol=0, atol=1e-12)


def test_running_statistics_take_every_training_pass():
    """M workers in turn, mini-batch after mini-batch, as torch's own BatchNorm would (preset reference)."""
    trained = trainer(*MODELS["batchnorm"], "algorithm.local_steps=3")
    cfg = config("algorithm=local_sgd", "precision=fp64", "cluster.workers=5", *MODELS["batchnorm"])
    net = build_model(cfg, load_dataset(cfg)).double().train()
    nets = [copy.deepcopy(net) for _ in range(5)]
    iterate(trained, 1)
    for h in range(3):
        x, y = trained.problem.batches.batch(torch.tensor(h))
        for m, own in enumerate(nets):
            for layer, running in zip(own, net, strict=True):  # one set of running statistics for all workers
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean, layer.running_var = running.running_mean, running.running_var
            own.zero_grad()
            nn.functional.cross_entropy(own(x[m]), y[m]).backward()
            with torch.no_grad():
                for parameter in own.parameters():
                    parameter -= 5 * cfg.task.step_size * parameter.grad
    for name, expected in net.named_buffers():
        if "running" in name:
            found = trained.problem.running.totals(lambda share: share)[0][name]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_state_within_an_epoch_resumes():
    whole, half, rest = (trainer("algorithm.local_steps=3", "model.hidden=[12]") for _ in range(3))
    whole_losses, losses = [], []
    for _ in range(15):
        iterate(whole, 1)
        whole_losses.append(whole.problem.oracle.loss.clone())
    iterate(half, 11)
    rest.load_state(copy.deepcopy(half.state()))
    for _ in range(4):
        iterate(rest, 1)
        losses.append(rest.problem.oracle.loss.clone())
    assert torch.equal(torch.stack(losses), torch.stack(whole_losses[11:]))
    assert torch.equal(rest.problem.parameters, whole.problem.parameters)


@pytest.mark.parametrize("steps, words", [(0, "at least 1"), (-3, "at least 1"), (29, "an epoch has only 28 mini-bat")])
def test_impossible_numbers_of_steps_are_refused(steps, words):
    with pytest.raises(UserError, match=f"local_steps={steps}: .*{words}"):
        trainer(f"algorithm.local_steps={steps}")
