"""Step sizes along a run: warm-up, decays and cosine, by themselves and together, in the schedule and in runs."""

import pytest
import torch
from suite_config import config, iterate
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from sasg.cluster import SimulatedCluster
from sasg.problem.building import load_dataset
from sasg.training.schedule import StepSchedule
from sasg.training.trainer import Trainer

EPOCHS = 20
WARMUP, FACTOR, LAST = 4, 0.2, 0.05


def of_torch(make, epochs: int = EPOCHS) -> list[float]:
    """The learning rates by epoch of what `make` puts on an optimiser of learning rate 0.3."""
    optimiser = SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler, rates = make(optimiser), []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def warm(optimiser) -> LinearLR:
    return LinearLR(optimiser, FACTOR, total_iters=WARMUP)


def cosine(optimiser, epochs: int) -> CosineAnnealingLR:
    """From the first of so many epochs to the last."""
    return CosineAnnealingLR(optimiser, T_max=epochs - 1, eta_min=LAST * 0.3)


def cosine_after_warmup(optimiser) -> SequentialLR:
    return SequentialLR(optimiser, [warm(optimiser), cosine(optimiser, EPOCHS - WARMUP)], milestones=[WARMUP])


def decays(optimiser) -> MultiStepLR:
    return MultiStepLR(optimiser, [8, 15], gamma=0.3)


WARM = {"warmup_epochs": WARMUP, "warmup_factor": FACTOR}
CASES = {
    "warm-up": (WARM, warm),
    "decays": ({"decay_epochs": (8, 15), "decay_factor": 0.3}, decays),
    "cosine": ({"cosine_factor": LAST}, lambda optimiser: cosine(optimiser, EPOCHS)),
    "cosine after warm-up": ({**WARM, "cosine_factor": LAST}, cosine_after_warmup),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_torchs(case):
    options, make = CASES[case]
    schedule = StepSchedule(0.3, **options, epochs=EPOCHS)
    assert [schedule(epoch) for epoch in range(EPOCHS)] == pytest.approx(of_torch(make), abs=1e-12)


def test_decays_within_a_warm_up_and_after_it_multiply_it():
    schedule = StepSchedule(0.3, (2, 10), 0.5, **WARM, epochs=EPOCHS)
    plain = StepSchedule(0.3, **WARM, epochs=EPOCHS)
    shares = [schedule(epoch) / plain(epoch) for epoch in range(EPOCHS)]
    assert shares == pytest.approx([1.0] * 2 + [0.5] * 8 + [0.25] * 10)


@pytest.mark.parametrize("epochs", [1, 3, 4, 5])
def test_a_run_that_is_hardly_longer_than_its_warm_up(epochs):
    """The first epoch after the warm-up has the full size; there is nothing left in which it could fall."""
    schedule = StepSchedule(0.3, **WARM, cosine_factor=LAST, epochs=epochs)
    full = [0.3 * (FACTOR + (1 - FACTOR) * epoch / WARMUP) for epoch in range(WARMUP)] + [0.3]
    assert [schedule(epoch) for epoch in range(epochs)] == pytest.approx(full[:epochs])


WORDS = ("+task.warmup_epochs=2", "+task.warmup_factor=0.25", "+task.cosine_factor=0.1", "epochs=5", "precision=fp64")


def trainer_of(*words: str) -> Trainer:
    cfg = config("task=digits", "model.hidden=[8]", "cluster.workers=4", "task.decay_epochs=[]", *WORDS, *words)
    return Trainer(cfg, load_dataset(cfg), SimulatedCluster(4, torch.device("cpu")), torch.float64)


def test_a_run_steps_by_it():
    """Plain SGD: w falls by the epoch's step size times the workers' sum of gradients."""
    trainer = trainer_of("algorithm=sgd")
    problem, taken = trainer.problem, []
    for _ in range(5):
        iterate(trainer, trainer.iterations_per_epoch - 1)
        w = problem.parameters.clone()
        x, y = problem.batches.batch(torch.tensor(trainer.iterations_per_epoch - 1))
        gradients = torch.zeros(4, len(w), dtype=torch.float64)
        problem.oracle.engine.per_worker(w, x, y, gradients, problem.oracle.statistics)
        iterate(trainer, 1)
        taken.append(float((w - problem.parameters).norm() / gradients.sum(0).norm()))
    usual = trainer.schedule.step_size
    assert taken == pytest.approx([usual * share for share in (0.25, 0.625, 1.0, 0.55, 0.1)])


@pytest.mark.parametrize("method", ["local_sgd", "demo", "sasg", "sgd_adam"])
def test_a_run_that_resumes_within_it_has_the_same_bits(method):
    whole, half, rest = (trainer_of(f"algorithm={method}") for _ in range(3))
    length = whole.iterations_per_epoch
    iterate(whole, 4 * length)
    for stop in (length + 1, 3 * length):  # within the warm-up, and along the cosine
        iterate(half, stop - half.iteration)
        rest.load_state(half.state())
        iterate(rest, 4 * length - stop)
        assert torch.equal(rest.problem.parameters, whole.problem.parameters), stop
        rest = trainer_of(f"algorithm={method}")
