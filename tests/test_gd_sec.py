"""GD-SEC: the suite against a naive loop, and what the paper says about it, in float64."""

import numpy as np
import pytest
import torch
from naive_gd_sec import NaiveGDSEC
from suite_config import config

from sasg.algorithms.parts.draws import Draws
from sasg.algorithms.parts.qsgd import RandomRounding
from sasg.algorithms.parts.sampling import OneBySmoothness
from sasg.cluster import SimulatedCluster
from sasg.problem.building import load_dataset
from sasg.training.trainer import Trainer

CODES = "index_codes=[none,int32,log2,bitmask,delta]"
LINEAR = ("task=linear_regression", CODES)


def trainer_of(*overrides: str) -> Trainer:
    cfg = config(*overrides)
    return Trainer(cfg, load_dataset(cfg), SimulatedCluster(cfg.cluster.workers, torch.device("cpu")), torch.float64)


def trained(*overrides: str, iterations: int = 100) -> Trainer:
    trainer = trainer_of(*overrides)
    for _ in range(iterations):
        trainer.run_iteration()
        if trainer.iteration % 20 == 0:
            trainer.records.take(trainer.cluster)
    return trainer


def until_target(*overrides: str, at_most: int = 1000) -> tuple[int, dict]:
    """Iterations until the error is below 1e-8 (or at_most), and the last row of metrics."""
    trainer = trainer_of(*LINEAR, *overrides)
    while True:
        for _ in range(20):
            trainer.run_iteration()
        row, _ = trainer.evaluate()
        done = not 1e-8 < row["objective_error"] < 1e6
        if done or trainer.iteration >= at_most:
            return trainer.iteration, row


def naive_of(trainer: Trainer, xi: list[float], **options) -> NaiveGDSEC:
    """On the same shards: f_m = (1/2n) ||X w - y||^2 + (l2/2) ||w||^2, from numpy."""
    x, y = (part.numpy() for part in trainer.problem.batches.whole_shards())
    x, l2 = x.reshape(*y.shape, -1), trainer.problem.objective.l2

    def gradient(m: int, w: list[float]) -> list[float]:
        w = np.array(w)
        return (x[m].T @ (x[m] @ w - y[m]) / len(y[m]) + l2 * w).tolist()

    start = trainer.problem.parameters.tolist()
    return NaiveGDSEC(gradient, start, len(x), trainer.schedule(0), xi, 0.05, **options)


CASES = {
    "gd_sec": ([], {}),
    "gd_soec": ([], {"corrects": False}),
    "gd_sec_coordinate": ([], {}),
    "gd_sec_scheduled": ([], {"scheduled": lambda k: {2 * k % 5, (2 * k + 1) % 5}}),
    "gd_sec thresholded": (
        ["algorithm.error_correction=false", "+algorithm.state_variable=false"],
        {"corrects": False, "has_state": False},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_same_uploads_and_parameters_as_the_naive_loop(case):
    words, options = CASES[case]
    trainer = trainer_of(*LINEAR, f"algorithm={case.split()[0]}", *words, "algorithm.xi=300")
    xi = np.full(11, 300.0)
    if "coordinate" in case:
        xi = xi / trainer.problem.smoothness.coordinates
    naive = naive_of(trainer, xi.tolist(), **options)
    partial = silent = components = 0
    for _ in range(60):
        expected = naive.step()
        trainer.run_iteration()
        if trainer.iteration % 20 == 0:
            trainer.records.take(trainer.cluster)
        assert trainer.algorithm.sent.tolist() == [bool(sent) for sent in expected]
        components += sum(map(len, expected))
        assert trainer.cluster.ledger.totals()["paper_bits"] == 32 * components
        torch.testing.assert_close(
            trainer.problem.parameters, torch.tensor(naive.w, dtype=torch.float64), rtol=0, atol=1e-11
        )
        partial += sum(0 < len(sent) < 11 for sent in expected)
        silent += sum(not sent for sent in expected)
    assert partial >= 30
    assert silent >= 10 or case in ("gd_sec_coordinate", "gd_soec", "gd_sec thresholded"), silent


def test_a_threshold_of_zero_is_gradient_descent():
    gd = trained(*LINEAR, "algorithm=sgd")
    for words in ((), ("algorithm.beta=1.0",), ("algorithm.error_correction=false",)):
        sec = trained(*LINEAR, "algorithm=gd_sec", "algorithm.xi=0", *words)
        torch.testing.assert_close(sec.problem.parameters, gd.problem.parameters, rtol=0, atol=1e-13)


def test_error_correction_keeps_the_iterations_and_saves_components():
    """The paper's claim; without error correction an error floor appears, the higher the larger xi."""
    gd, of_gd = until_target("algorithm=sgd")
    sec, of_sec = until_target("algorithm=gd_sec", "task=logistic_regression")
    gd_logistic, of_gd_logistic = until_target("algorithm=sgd", "task=logistic_regression")
    assert abs(sec - gd_logistic) <= 25
    assert of_sec["paper_bits"] < of_gd_logistic["paper_bits"] / 10
    sec, of_sec = until_target("algorithm=gd_sec")
    assert abs(sec - gd) <= 50 and of_sec["paper_bits"] < of_gd["paper_bits"] / 4
    floors = [until_target("algorithm=gd_soec", f"algorithm.xi={xi}")[1]["objective_error"] for xi in (300, 600)]
    assert 1e-6 < floors[0] < floors[1]


def test_a_large_beta_with_error_correction_diverges():
    for beta, diverges in ((0.05, False), (1.0, True)):
        _, row = until_target("algorithm=gd_sec", f"algorithm.beta={beta}")
        assert (row["objective_error"] > 1e6) == diverges, (beta, row["objective_error"])


def test_survivors_are_quantised_without_loss_of_the_rest():
    plain, quantised = (trained(*LINEAR, f"algorithm={name}", "algorithm.xi=300") for name in ("gd_sec", "qsgd_sec"))
    totals = quantised.cluster.ledger.totals()
    assert totals["value_bits"] * 32 == totals["paper_bits"] * 8  # a sign and 7 bits
    assert totals["side_bits"] == totals["rounds"] * (64 + 32)  # a norm and a length
    assert plain.cluster.ledger.totals()["value_bits"] == 2 * plain.cluster.ledger.totals()["paper_bits"]
    error = quantised.evaluate()[0]["objective_error"]
    assert error == pytest.approx(plain.evaluate()[0]["objective_error"], rel=0.2)


def test_the_server_state_is_the_sum_of_the_workers():
    trainer = trained(*LINEAR, "algorithm=gd_sec")
    torch.testing.assert_close(trainer.algorithm.total, trainer.algorithm.estimate.sum(0), rtol=0, atol=1e-12)
    assert trainer.algorithm.total.abs().sum() > 0.01


def test_a_quantiser_is_unbiased_and_keeps_zeros():
    trainer = trainer_of(*LINEAR, "algorithm=qgd")
    quantiser: RandomRounding = trainer.algorithm.compressor.quantise
    vectors = torch.tensor([[3.0, -4.0, 0.0, 1e-3]]).double().repeat(5, 1)
    quantiser.code.num_levels = 3
    draws = torch.stack([quantiser(vectors)[0] for _ in range(2000)]).flatten(0, 1)
    assert set((draws[:, :2] / vectors.norm(dim=1)[0] * 3).round(decimals=9).abs().unique().tolist()) == {1.0, 2.0, 3.0}
    assert (draws[:, 2] == 0).all()
    deviation = 5 / 3 / 2 / len(draws) ** 0.5
    assert ((draws.mean(0) - vectors[0]).abs() < 4 * deviation).all()


def test_draws_are_uniform_and_depend_on_the_worker_and_the_iteration():
    trainer = trainer_of(*LINEAR, "algorithm=qgd")
    draws: Draws = trainer.algorithm.compressor.quantise.draws
    first, second = (draws.per_worker(20_000) for _ in range(2))
    for numbers in (first, second):
        assert numbers.min() >= 0 and numbers.max() < 1
        counts = torch.histc(numbers.float(), 10, 0, 1) / numbers.numel()
        assert (counts - 0.1).abs().max() < 5 * (0.09 / numbers.numel()) ** 0.5
    both = torch.cat([first, second])
    assert (torch.corrcoef(both) - torch.eye(10)).abs().max() < 5 / 20_000**0.5


def test_one_worker_is_drawn_by_its_smoothness():
    trainer = trainer_of(*LINEAR, "algorithm=iag", "shards=by_class")
    trigger: OneBySmoothness = trainer.algorithm.trigger
    assert trigger(None, None, None).all()
    sent = torch.stack([trigger(None, None, None) for _ in range(4000)])
    assert (sent.sum(1) == 1).all()
    shares = torch.from_numpy(trainer.problem.smoothness.workers)
    shares = shares / shares.sum()
    assert shares.max() > 1.2 * shares.min()
    assert ((sent.double().mean(0) - shares).abs() < 4 * (shares / 4000).sqrt()).all()


def test_incremental_gradients_reach_the_minimum():
    iterations, row = until_target("algorithm=iag")
    assert row["objective_error"] < 1e-8
    assert row["rounds"] == iterations + 4  # all five in the first
