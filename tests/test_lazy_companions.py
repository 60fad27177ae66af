"""CADA, CSGD, CMFL, CLAG and LAQ: against naive loops in float64, what they are at the ends, and their theory."""

from fractions import Fraction

import pytest
import torch
from naive import Settings
from naive_companions import Adam, top_k
from naive_lazy import NaiveCADA, NaiveCLAG, NaiveCMFL, NaiveCSGD, NaiveLAQ
from suite_config import config
from test_companions import trained
from test_reference import compared, set_up

from sasg.algorithms.parts.uniform_grid import UniformGrid
from sasg.cluster import SimulatedCluster
from sasg.errors import UserError
from sasg.problem.building import load_dataset
from sasg.training.trainer import Trainer

ITERATIONS = 40
TRIGGER = "algorithm.trigger"
CADA = (f"{TRIGGER}.max_delay=4", f"{TRIGGER}.window=5")
CASES = {  # words for the suite, the naive loop and its options, reasons that must each occur
    "cada1": ((*CADA, f"{TRIGGER}.scale=20.0"), NaiveCADA, {"rule": "cada1", "c": 20.0, "window": 5}, ("forced",)),
    "cada2": ((*CADA, f"{TRIGGER}.scale=10.0"), NaiveCADA, {"rule": "cada2", "c": 10.0, "window": 5}, ("forced",)),
    "csgd": (
        (f"{TRIGGER}.initial=20.0", f"{TRIGGER}.rate=0.95"),
        NaiveCSGD,
        {"initial": 20.0, "rate": 0.95},
        (),
    ),
    "cmfl": ((f"{TRIGGER}.share=0.55",), NaiveCMFL, {"share": 0.55}, ("nothing to compare",)),
    "cmfl paper": (
        ("preset=paper", f"{TRIGGER}.share=1.0", f"{TRIGGER}.schedule=sqrt"),
        NaiveCMFL,
        {"share": 1.0, "decays": True},
        ("nothing to compare",),
    ),
    "clag": (
        ("algorithm.compressor.density=0.1", "algorithm.compressor.scope=vector", "algorithm.zeta=1.0"),
        NaiveCLAG,
        {"zeta": 1.0, "compress": top_k(0.1)},
        (),
    ),
    "clag identity": (
        ("~algorithm.compressor", "+algorithm.compressor={kind:identity}", "algorithm.zeta=1.3"),
        NaiveCLAG,
        {"zeta": 1.3},
        (),
    ),
    "laq": (
        ("algorithm.compressor.num_bits=3", "algorithm.window=4", "algorithm.longest_silence=3", "algorithm.xi=0.3"),
        NaiveLAQ,
        {"num_bits": 3, "window": 4, "longest_silence": 3, "xi": 0.3},
        ("forced",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_same_decisions_and_parameters_as_the_naive_loop(case):
    words, kind, options, occur = CASES[case]
    trainer, net, step_sizes = set_up("fc", "auto", f"algorithm={case.split()[0]}", *words)
    settings = Settings("lasg", 5, step_sizes, 0.0, 4, 0.0, published=True)
    if kind is NaiveCADA:
        options = {**options, "server": Adam(True, False, 0.02)}
    naive = kind(net, settings, trainer.problem.parameters.clone(), **options)
    start = naive.parameters
    reasons = compared(trainer, naive, ITERATIONS)
    assert (naive.parameters - start).norm() > 0.05
    assert min(reasons[reason] for reason in (*occur, "threshold", None)) >= 5, reasons


# -- what they are at the ends --------------------------------------------------------------------

EVERY_ENTRY = ("algorithm.compressor.density=0.1", "algorithm.compressor.scope=vector")
SAME = {  # in parameters and uploads
    "cada1, c = 0: AMSGrad": (("cada1", f"{TRIGGER}.scale=0.0"), ("sgd_amsgrad",)),
    "cada2, c = 0: AMSGrad": (("cada2", f"{TRIGGER}.scale=0.0"), ("sgd_amsgrad",)),
    "csgd, t0 = 0: SGD": (("csgd", f"{TRIGGER}.initial=0.0"), ("sgd",)),
    "cmfl, share 0: SGD": (("cmfl", f"{TRIGGER}.share=0.0"), ("sgd",)),
    "clag, zeta = 0: EF21": (("clag", "algorithm.zeta=0.0", *EVERY_ENTRY), ("ef21", *EVERY_ENTRY)),
}


@pytest.mark.parametrize("case", SAME)
def test_what_they_are_at_the_ends(case):
    one, other = (trained(f"algorithm={words[0]}", *words[1:]) for words in SAME[case])
    torch.testing.assert_close(one.problem.parameters, other.problem.parameters, rtol=0, atol=1e-12)
    uploads = [trainer.cluster.ledger.totals()["value_bits"] for trainer in (one, other)]
    assert uploads[0] == uploads[1] > 0


def test_nothing_moves_where_nobody_uploads_and_then_everyone_does():
    """Of CMFL: no gradient agrees with the last change in every entry."""
    words = ("algorithm=cmfl", f"{TRIGGER}.share=1.0")
    after = [trained(*words, iterations=n) for n in range(1, 5)]
    one, two, three, four = (trainer.problem.parameters for trainer in after)
    assert torch.equal(one, two) and not torch.equal(two, three) and torch.equal(three, four)
    assert [trainer.cluster.ledger.totals()["rounds"] for trainer in after] == [4, 4, 8, 8]
    sgd = trained("algorithm=sgd", iterations=1)
    torch.testing.assert_close(one, sgd.problem.parameters, rtol=0, atol=1e-12)


# -- theory ---------------------------------------------------------------------------------------


def descended(*words: str, iterations: int = 240) -> tuple[float, int]:
    """f - min f and the uploads, of full gradients on a convex problem whose workers disagree on the minimum."""
    cfg = config("task=linear_regression", "task.step_size=0.3/L", "objective.l2=1.0", *words)
    trainer = Trainer(cfg, load_dataset(cfg), SimulatedCluster(cfg.cluster.workers, torch.device("cpu")), torch.float64)
    for _ in range(iterations // 20):
        for _ in range(20):
            trainer.run_iteration()
        trainer.records.take(trainer.cluster)
    return trainer.evaluate()[0]["objective_error"], trainer.cluster.ledger.totals()["rounds"]


RATE = f"{TRIGGER}.rate"
EXACT = {
    "csgd": ("algorithm=csgd", f"{TRIGGER}.initial=1.0", f"{RATE}=0.8"),
    "clag": ("algorithm=clag", "algorithm.compressor.density=0.3", "algorithm.zeta=4.0"),
    "laq": ("algorithm=laq",),
}


@pytest.mark.parametrize("case", EXACT)
def test_they_reach_the_minimum_exactly_with_fewer_uploads(case):
    error, rounds = descended(*EXACT[case])
    assert error < 1e-12 and rounds < 0.8 * 5 * 240, (error, rounds)


def test_a_constant_threshold_of_csgd_leaves_an_error():
    error, rounds = descended("algorithm=csgd", f"{TRIGGER}.initial=1.0", f"{RATE}=1.0")
    assert error > 1e-6, (error, rounds)


@pytest.mark.parametrize("num_bits", [1, 3, 8])
def test_the_grid_is_that_of_the_definition(num_bits):
    """Levels in exact fractions; of zero the upper of the two that are as near; an error of at most t R."""
    torch.manual_seed(3)
    vectors = torch.cat([torch.randn(4, 30, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)], 1)
    payload = UniformGrid(num_bits)(vectors, None)
    t = Fraction(1, 2**num_bits - 1)
    for row, sent, side in zip(vectors.tolist(), payload.values, payload.side.flatten().tolist(), strict=True):
        radius = max(map(abs, row))
        assert side == radius
        levels = [(Fraction(v) + Fraction(radius)) / (2 * t * Fraction(radius)) + Fraction(1, 2) for v in row]
        exact = [float(2 * t * Fraction(radius) * (level.__floor__()) - Fraction(radius)) for level in levels]
        torch.testing.assert_close(sent, torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-14)
        assert (sent - torch.tensor(row)).abs().max() <= float(t) * radius * (1 + 1e-12)


def test_nothing_has_changed():
    """A radius of zero: zeros, and no NaN."""
    payload = UniformGrid(4)(torch.zeros(2, 5), None)
    assert torch.equal(payload.values, torch.zeros(2, 5)) and torch.equal(payload.side, torch.zeros(2, 1))


@pytest.mark.parametrize(
    "words, says",
    [
        (("cada1", f"{TRIGGER}.scale=-1.0"), "scale=-1.0: must not be negative"),
        (("csgd", f"{TRIGGER}.initial=-1.0"), "initial=-1.0: must be at least 0"),
        (("csgd", f"{TRIGGER}.rate=0.0"), "rate=0.0: must be in (0, 1]"),
        (("cmfl", f"{TRIGGER}.share=1.5"), "share=1.5: must be in [0, 1]"),
        (("clag", "algorithm.zeta=-0.1"), "zeta=-0.1: must be at least 0"),
        (("laq", "algorithm.xi=-0.1"), "xi=-0.1: must be at least 0"),
        (("laq", "algorithm.window=0"), "window=0: must be at least 1"),
        (("laq", "algorithm.longest_silence=-1"), "longest_silence=-1: must be at least 0"),
        (("laq", "algorithm.compressor.num_bits=17"), "num_bits=17: must be in 1..16"),
    ],
)
def test_impossible_options_are_refused(words, says):
    with pytest.raises(UserError) as raised:
        trained(f"algorithm={words[0]}", *words[1:], iterations=0)
    assert says in str(raised.value)
