"""Companions: against naive loops in float64, and what is known of them (bias, contraction, torch's optimisers)."""

from itertools import pairwise

import pytest
import torch
from naive import Settings
from naive_companions import (
    Adam,
    HeavyBall,
    NaiveCompanion,
    NaiveEstimates,
    NaiveMarina,
    Numbers,
    bfloat16,
    float16,
    majority,
    natural,
    qsgd,
    random_k,
    scaled_sign,
    sign,
    terngrad,
    top_k,
)
from suite_config import config, iterate, without_ties
from test_independence import ProductsByShape, _Held
from test_reference import compared, set_up
from torch import Tensor, nn

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.compressors import Compressor, TopK
from sasg.algorithms.parts.draws import number_streams
from sasg.algorithms.parts.half import HalfPrecision
from sasg.algorithms.parts.natural import Natural
from sasg.algorithms.parts.qsgd import QSGD
from sasg.algorithms.parts.random_k import RandomK
from sasg.algorithms.parts.signs import ScaledSign, Sign
from sasg.algorithms.parts.terngrad import TernGrad
from sasg.algorithms.parts.uniform_grid import UniformGrid
from sasg.cluster import Payload, SimulatedCluster
from sasg.cluster.wire import WireFormat
from sasg.errors import UserError
from sasg.problem.building import load_dataset
from sasg.training.trainer import Trainer

ITERATIONS = 40
SEED = 1
CPU = torch.device("cpu")
FC_12 = [64 * 12, 12, 12 * 10, 10]  # entries of the parameter tensors


def by_workers(**options):
    return {"numbers": Numbers(SEED), **options}


DENSE = "algorithm.compressor.density=0.05"
BUCKETS = ("algorithm.compressor.num_levels=3", "algorithm.compressor.bucket_size=100")
LAZY = ("task.max_delay=3", "task.alpha.default={}")
# method: words for the suite, options of the naive loop, alpha of its rule
CASES = {
    "random_k": ([DENSE], by_workers(compress=random_k(0.05, False), shares_numbers=True, has_memory=True)),
    "random_k_unbiased": ([DENSE], by_workers(compress=random_k(0.05, True), shares_numbers=True)),
    "qsgd": (BUCKETS, by_workers(compress=qsgd(3, 100))),
    "natural": ([], by_workers(compress=natural)),
    "terngrad": ([], by_workers(compress=terngrad(FC_12))),
    "ef_sign": ([], {"compress": scaled_sign(FC_12), "has_memory": True}),
    "ef_sign paper": (["preset=paper"], {"compress": scaled_sign([sum(FC_12)]), "has_memory": True}),
    "sign_majority": ([], {"compress": sign, "scales_uploads": False, "server": majority(0.01)}),
    "sign_majority paper": (["preset=paper"], {"compress": sign, "scales_uploads": False, "server": majority(0.01)}),
    "signum": ([], {"compress": sign, "scales_uploads": False, "server": majority(0.01), "momentum": 0.9}),
    "fp16": ([], {"compress": float16, "scales_uploads": False}),
    "bf16": ([], {"compress": bfloat16, "scales_uploads": False}),
    "lasg_qsgd": ([*LAZY, *BUCKETS], by_workers(compress=qsgd(3, 100)), 8.0),
    "lasg_sign": (LAZY, {"compress": scaled_sign(FC_12), "has_memory": True}, 5.0),
    "lasg_natural": (LAZY, by_workers(compress=natural), 15.0),
    "lasg_fp16": (LAZY, {"compress": float16, "scales_uploads": False}, 15.0),
    "sgd_momentum": ([], {"server": HeavyBall(0.9, False, 0.1)}),
    "sgd_momentum paper": (
        ["preset=paper", "algorithm.optimiser.nesterov=true"],
        {"server": HeavyBall(0.9, True, 0.1)},
    ),
    "sasg_momentum": (
        [*LAZY, DENSE, "algorithm.compressor.scope=vector"],
        {"compress": top_k(0.05), "has_memory": True, "server": HeavyBall(0.9, False, 0.1)},
        16.0,
    ),
    "sgd_adam": ([], {"scales_uploads": False, "server": Adam(False, True, 0.02)}),
    "sgd_amsgrad": ([], {"scales_uploads": False, "server": Adam(True, False, 0.02)}),
}


@pytest.mark.parametrize("case", CASES)
def test_same_decisions_and_parameters_as_the_naive_loop(case):
    words, options, *alpha = CASES[case]
    words = [word.format(*alpha) for word in words]
    trainer, net, step_sizes = set_up("fc", "auto", f"algorithm={case.split()[0]}", *words)
    settings = Settings("lasg" if alpha else "sgd", 5, step_sizes, *(alpha or [0.0]), 3, 0.0, published=True)
    naive = NaiveCompanion(net, settings, trainer.problem.parameters.clone(), **options)
    start = naive.parameters
    reasons = compared(trainer, naive, ITERATIONS)
    assert (naive.parameters - start).norm() > 0.05
    if alpha:
        assert min(reasons[reason] for reason in ("first", "forced", "threshold", None)) >= 5, reasons


TOP_K = ("algorithm.compressor.density=0.1", "algorithm.compressor.scope=vector")
ESTIMATES = {
    "ef21": (TOP_K, NaiveEstimates, {"compress": top_k(0.1)}),
    "ef21_sgdm": (TOP_K, NaiveEstimates, {"compress": top_k(0.1), "weight": 0.1}),
    "diana": (BUCKETS, NaiveEstimates, by_workers(compress=qsgd(3, 100), rate=0.2363)),
    "marina": (
        ("algorithm.probability=0.2", "algorithm.compressor.density=0.1"),
        NaiveMarina,
        {"probability": 0.2, "compress": random_k(0.1, True), "numbers": Numbers(SEED), "coins": Numbers(SEED, 1)},
    ),
}


@pytest.mark.parametrize("method", ESTIMATES)
def test_the_same_parameters_as_the_naive_loop_of_estimates(method):
    words, kind, options = ESTIMATES[method]
    trainer, net, step_sizes = set_up("fc", "auto", f"algorithm={method}", *words)
    settings = Settings("sgd", 5, step_sizes, 0.0, 3, 0.0, published=True)
    naive = kind(net, settings, trainer.problem.parameters.clone(), **options)
    for k in range(ITERATIONS):
        epoch, position = divmod(k, trainer.iterations_per_epoch)
        iterate(trainer, 1)
        x, y = trainer.problem.batches.batch(torch.tensor(position))
        naive.step(x, y, epoch)
        assert trainer.algorithm.sent is None
        torch.testing.assert_close(trainer.problem.parameters, naive.parameters, rtol=0, atol=1e-10)
    totals, d = trainer.cluster.ledger.totals(), len(naive.parameters)
    assert totals["rounds"] == 5 * ITERATIONS
    if method == "marina":
        whole = len(naive.heads)
        assert 4 <= whole <= 20
        assert totals["paper_bits"] == 5 * 32 * (whole * d + (ITERATIONS - whole) * (d // 10))
        assert totals["flag_bits"] == 2 * 5 * ITERATIONS


# -- what is known of compressors -----------------------------------------------------------------

SIZES = (37, 1, 4099, 16)
D = sum(SIZES)


def ready(compressor: Compressor, workers: range = range(5), dtype=torch.float64, sizes=SIZES) -> Compressor:
    """Set up for some of five workers."""
    compressor.number = 0
    number_streams(compressor)
    shapes = tuple((n,) for n in sizes)
    compressor.setup(Workspace(shapes, _Held((workers.start, workers.stop), 5, []), CPU, dtype, seed=3))
    return compressor


COMPRESSORS = {
    "top_k": lambda: TopK(0.01),
    "random_k": lambda: RandomK(0.01),
    "random_k by tensor": lambda: RandomK(0.1, "tensor", unbiased=True),
    "qsgd": lambda: QSGD(7, 512),
    "qsgd of all": lambda: QSGD(127),
    "uniform grid": lambda: UniformGrid(4),
    "uniform grid of 16 bits": lambda: UniformGrid(16),
    "natural": Natural,
    "terngrad": TernGrad,
    "scaled sign": ScaledSign,
    "scaled sign by tensor": lambda: ScaledSign("tensor"),
    "sign": Sign,
    "float16": lambda: HalfPrecision("float16"),
    "bfloat16": lambda: HalfPrecision("bfloat16"),
}
VALUES_OF_FLOAT = {"top_k", "random_k", "random_k by tensor"}
TYPES = [torch.float32, torch.float64]


def vectors_of(dtype=torch.float64, num_rows=5) -> Tensor:
    torch.manual_seed(7)
    vectors = torch.randn(num_rows, D, dtype=dtype) * torch.logspace(-6, 0, D, dtype=dtype)
    vectors[:, 50:60] = 0
    return vectors


def dense(payload: Payload, size: int = D) -> Tensor:
    if payload.indices is None:
        return payload.values
    return payload.values.new_zeros(len(payload.values), size).scatter_(1, payload.indices, payload.values)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", COMPRESSORS)
def test_values_go_over_the_wire_as_they_are(name, dtype):
    payload = ready(COMPRESSORS[name](), dtype=dtype)(vectors_of(dtype), None)
    form = WireFormat.of(payload)
    data = torch.zeros(form.num_bytes + 8, dtype=torch.uint8)
    assert (payload.code is None) == (name in VALUES_OF_FLOAT)
    for row in range(5):
        indices = None if payload.indices is None else payload.indices[row]
        form.pack(payload.values[row], indices, data, None if payload.side is None else payload.side[row])
        values, _, _ = form.parts(data, CPU)
        assert torch.equal(values, payload.values[row])
        assert values.dtype == dtype
        if payload.code is not None:
            numbers = payload.code._numbers(payload.values[row], None if payload.side is None else payload.side[row])
            assert numbers.dtype == torch.int64 and numbers.min() >= 0 and numbers.max() < 2**payload.code.bits


BITS = {  # of one upload in float32, from the definitions
    "random_k": 32 * (D // 100),
    "qsgd": 4 * D + 32 * (-(-D // 512)),
    "uniform grid": 4 * D + 32,
    "natural": 9 * D,
    "terngrad": 2 * D + 32 * len(SIZES),
    "scaled sign": D + 32,
    "scaled sign by tensor": D + 32 * len(SIZES),
    "sign": D,
    "float16": 16 * D,
    "bfloat16": 16 * D,
}


@pytest.mark.parametrize("name", BITS)
def test_the_ledger_counts_the_bits_of_the_definition(name):
    cluster = SimulatedCluster(5, CPU)
    cluster.ledger = type(cluster.ledger)(5, CPU, extra_columns=("side_bits",))
    payload = ready(COMPRESSORS[name](), dtype=torch.float32)(vectors_of(torch.float32), None)
    cluster.ledger.count_uploads(payload, None)
    totals = cluster.ledger.totals()
    assert totals["value_bits"] + totals["side_bits"] == 5 * BITS[name]
    assert totals["index_bits_int32"] == totals["index_bits_bitmask"] == 0


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_workers_payload_does_not_depend_on_the_others(name, dtype):
    vectors = vectors_of(dtype)

    def payloads(a, b):
        with ProductsByShape():
            return ready(COMPRESSORS[name](), range(a, b), dtype)(vectors[a:b], None)

    whole = payloads(0, 5)
    for a, b in [(0, 2), (2, 5), *pairwise(range(6))]:
        part = payloads(a, b)
        for one, all_of_them in ((part.values, whole.values), (part.indices, whole.indices), (part.side, whole.side)):
            assert one is None or torch.equal(one, all_of_them[a:b]), (a, b)


SHORT = torch.tensor([[3.0, -4.0, 0.0, 1e-3, 0.7, -0.7, 2.0, 1.0, -0.05, 0.3]]).double()
UNBIASED = {  # and omega, from the definition
    "random_k": (lambda: RandomK(0.3, unbiased=True), 10 / 3 - 1),
    "qsgd": (lambda: QSGD(3, 5), min(5 / 9, 5**0.5 / 3)),
    "natural": (Natural, 1 / 8),
    "terngrad": (lambda: TernGrad(clipping=None), None),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_over_draws_is_the_vector(name):
    make, omega = UNBIASED[name]
    compressor = ready(make(), sizes=(4, 6))
    draws = torch.stack([dense(compressor(SHORT.repeat(5, 1), None), 10) for _ in range(3000)]).flatten(0, 1)
    number = 3000 if name == "random_k" else len(draws)  # there all workers draw the same
    allowed = 4.5 * draws.std(0) / number**0.5 + 1e-12
    assert ((draws.mean(0) - SHORT[0]).abs() < allowed).all()
    assert (draws[:, 2] == 0).all()
    if omega is not None:
        squares = (draws - SHORT).square().sum(1)
        assert squares.mean() < omega * SHORT.square().sum() + 4.5 * squares.std() / number**0.5


def test_clipping_is_all_the_bias_of_terngrad():
    """A large entry comes out too small, by what is clipped."""
    vectors = torch.ones(1, 40, dtype=torch.float64)
    vectors[0, ::2], vectors[0, 3] = -1, 30
    compressor = ready(TernGrad(), sizes=(40,))
    bound = 2.5 * vectors.std(correction=0)
    draws = torch.stack([compressor(vectors.repeat(5, 1), None).values for _ in range(2000)]).flatten(0, 1)
    assert (draws[:, 3] == bound).all() and bound < 30
    others = torch.arange(40) != 3
    allowed = 4.5 * draws.std(0)[others] / len(draws) ** 0.5
    assert ((draws.mean(0) - vectors[0])[others].abs() < allowed).all()


def test_natural_compression_at_the_ends():
    tiny, huge = 2.0**-126, 2.0**127
    vectors = torch.tensor([[0.0, -0.0, tiny, -tiny, huge, 1.9 * huge, 1.0, -0.5]]).repeat(5, 1)
    compressor = ready(Natural(), dtype=torch.float32, sizes=(8,))
    for _ in range(20):
        values = compressor(vectors, None).values
        assert torch.equal(values[:, [0, 1, 2, 3, 4, 6, 7]], vectors[:, [0, 1, 2, 3, 4, 6, 7]])
        assert (values[:, 5] == huge).all()
    below = torch.full((5, 8), 0.25 * tiny)
    share = torch.stack([compressor(below, None).values == tiny for _ in range(200)]).double().mean()
    assert abs(share - 0.25) < 4.5 * (0.25 * 0.75 / 8000) ** 0.5


@pytest.mark.parametrize("name", ["top_k", "random_k", "scaled sign", "scaled sign by tensor", "float16", "bfloat16"])
def test_contraction(name):
    """||C(v) - v||^2 <= (1 - delta) ||v||^2; for the scaled sign it is an equality, segment by segment."""
    vectors = vectors_of()
    compressor = ready(COMPRESSORS[name]())
    lost = torch.stack([dense(compressor(vectors, None)) - vectors for _ in range(60)]).square()
    if name.startswith("scaled"):
        segments = SIZES if "tensor" in name else (D,)
        for part, v in zip(lost[0].split(segments, 1), vectors.split(segments, 1), strict=True):
            expected = v.square().sum(1) - v.abs().sum(1).square() / v.shape[1]
            torch.testing.assert_close(part.sum(1), expected, rtol=1e-12, atol=1e-25)
    elif name == "random_k":
        shares = lost.sum(2).div(vectors.square().sum(1)).mean(1)  # of all workers, which draw the same
        assert abs(shares.mean() - (1 - (D // 100) / D)) < 4.5 * shares.std() / 60**0.5
    elif name == "top_k":
        kept = sum(max(1, n // 100) for n in SIZES)
        assert (lost[0].sum(1) <= (1 - 0.009) * vectors.square().sum(1)).all() and kept >= 0.009 * D
    else:
        significant, smallest = (11, 2.0**-24) if name == "float16" else (8, 2.0**-133)  # of subnormal numbers
        assert (lost[0].sqrt() <= torch.maximum(vectors.abs() * 2.0**-significant, torch.tensor(smallest / 2))).all()


@pytest.mark.parametrize("density", [0.1, 0.35])
def test_every_entry_is_drawn_equally_often(density):
    compressor = ready(RandomK(density, "tensor"), sizes=(20, 40))
    counts = torch.zeros(60)
    for _ in range(1500):
        payload = compressor(torch.ones(5, 60, dtype=torch.float64), None)
        assert (payload.indices == payload.indices[0]).all()
        counts[payload.indices[0]] += 1
    share = counts / 1500
    assert ((share - density).abs() < 4.5 * (density * (1 - density) / 1500) ** 0.5).all()


# -- servers --------------------------------------------------------------------------------------

WIDE = ("precision=fp64", "model.hidden=[8]", "cluster.workers=4", "+task.decay_epochs=[1]")
MOMENTUM = "algorithm.optimiser.kind=momentum"
TORCH = {
    "heavy ball": (("sgd_momentum", "scale=1.0"), torch.optim.SGD, {"momentum": 0.9}),
    "Nesterov": (
        ("sgd_momentum", "scale=1.0", "nesterov=true"),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True},
    ),
    "Adam": (("sgd_adam", "scale=0.1"), torch.optim.Adam, {}),
    "AMSGrad": (("sgd_adam", "scale=0.1", "amsgrad=true"), torch.optim.Adam, {"amsgrad": True}),
}


@pytest.mark.parametrize("scaled", ["uploads", "update"])
@pytest.mark.parametrize("name", TORCH)
def test_servers_are_torchs_optimisers_on_the_mean_gradient(name, scaled):
    """Also where the step size decays, and whether workers scale or not."""
    (method, *options), kind, arguments = TORCH[name]
    prefix = "" if method == "sgd_adam" else "+"
    words = [
        f"algorithm={method}",
        f"{prefix}algorithm.scaled={scaled}",
        *(f"algorithm.optimiser.{o}" for o in options),
    ]
    trainer, net, step_sizes = set_up("fc", "auto", *words)
    scale = float(options[0].removeprefix("scale="))
    nn.utils.vector_to_parameters(trainer.problem.parameters.clone(), net.parameters())
    optimiser = kind(net.parameters(), lr=1.0, **arguments)
    for k in range(ITERATIONS):
        epoch, position = divmod(k, trainer.iterations_per_epoch)
        optimiser.param_groups[0]["lr"] = 5 * step_sizes[epoch] * scale
        iterate(trainer, 1)
        x, y = trainer.problem.batches.batch(torch.tensor(position))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x.flatten(0, 1)), y.flatten()).backward()  # equal shares: the mean of means
        optimiser.step()
        flat = nn.utils.parameters_to_vector(net.parameters())
        torch.testing.assert_close(trainer.problem.parameters, flat, rtol=0, atol=1e-10)


def trained(*words: str, iterations: int = 30) -> Trainer:
    cfg = config("precision=fp64", "model.hidden=[8]", "cluster.workers=4", *words)
    trainer = Trainer(cfg, without_ties(load_dataset(cfg)), SimulatedCluster(cfg.cluster.workers, CPU), torch.float64)
    iterate(trainer, iterations)
    return trainer


def test_estimates_of_everything_are_sgd():
    sgd = trained("algorithm=sgd")
    for words in (
        ("algorithm=ef21", "algorithm.compressor.density=1.0"),
        ("algorithm=marina", "algorithm.probability=1.0"),
    ):
        same = trained(*words)
        torch.testing.assert_close(same.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["ef21", "diana"])
def test_the_servers_estimate_is_the_sum_of_the_workers(method):
    algorithm = trained(f"algorithm={method}").algorithm
    total, estimates = algorithm.aggregation.total, algorithm.feedback.estimate
    torch.testing.assert_close(total, estimates.sum(0), rtol=0, atol=1e-12)
    assert total.norm() > 0.01


def error_after(iterations: int, *words: str) -> float:
    """Of full gradients on a convex problem, whose workers do not agree on the minimum: f - min f."""
    cfg = config("task=linear_regression", "precision=fp64", *words)
    trainer = Trainer(cfg, load_dataset(cfg), SimulatedCluster(cfg.cluster.workers, CPU), torch.float64)
    for _ in range(iterations // 20):
        for _ in range(20):
            trainer.run_iteration()
        trainer.records.take(trainer.cluster)
    return trainer.evaluate()[0]["objective_error"]


LEVELS = "algorithm.compressor.num_levels=2"
QUANTISES = "+algorithm.compressor={kind:qsgd,num_levels:2}"
FORGETS = "+algorithm.feedback={kind:no_feedback}"
EXACT = {  # and what stays away from the minimum with the same compressor
    "ef21": (
        ("algorithm=ef21", "algorithm.compressor.density=0.3"),
        ("algorithm=sparse", "algorithm.compressor.density=0.3", "~algorithm.feedback", FORGETS),
    ),
    "ef21, memory": (
        ("algorithm=ef21", "algorithm.compressor.density=0.3"),
        ("algorithm=sparse", "algorithm.compressor.density=0.3"),
    ),
    "diana": (("algorithm=diana", LEVELS), ("algorithm=qsgd", LEVELS)),
    "marina": (
        ("algorithm=marina", "algorithm.probability=0.3", "~algorithm.compressor", QUANTISES),
        ("algorithm=qsgd", LEVELS),
    ),
}


@pytest.mark.parametrize("case", EXACT)
def test_estimates_reach_the_minimum_exactly(case):
    """Where the workers' own minima differ, the same compressor without them leaves an error that does not vanish."""
    exact, inexact = (error_after(240, *words, "task.step_size=0.3/L", "objective.l2=1.0") for words in EXACT[case])
    assert exact < 1e-12 and inexact > 1e-5, (exact, inexact)


def test_no_momentum_is_sgd_and_scaling_the_update_changes_nothing():
    sgd = trained("algorithm=sgd")
    for words in (
        ("algorithm=sgd_momentum", "algorithm.optimiser.momentum=0.0", "algorithm.optimiser.scale=1.0"),
        ("algorithm=composed", "+algorithm.scaled=update"),
        ("algorithm=composed", "+algorithm.scaled=update", "preset=paper"),
    ):
        same = trained(*words)
        torch.testing.assert_close(same.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)


def test_a_majority_is_told_in_one_bit_an_entry():
    trainer = trained("algorithm=sign_majority", iterations=10)
    totals, d = trainer.cluster.ledger.totals(), len(trainer.problem.parameters)
    assert totals["value_bits"] == 10 * 4 * d
    assert totals["downlink_broadcast_bits_none"] == 10 * d
    assert totals["downlink_unicast_bits_none"] == 10 * 4 * d


@pytest.mark.parametrize(
    "words, says",
    [
        (("random_k", "algorithm.compressor.unbiased=true"), "unbiased random-k sends more than it takes"),
        (("random_k", "algorithm.compressor.density=0.0"), "density=0.0: must be in (0, 1]"),
        (("qsgd", "algorithm.compressor.bucket_size=0"), "bucket_size=0: must be at least 1"),
        (("terngrad", "algorithm.compressor.clipping=0.0"), "clipping=0.0: must be positive"),
        (("sign_majority", "algorithm.scaled=uploads"), "MajoritySign needs scaled=update"),
        (("sign_majority", "algorithm.aggregation.scale=0.0"), "scale=0.0: must be positive"),
        (
            ("sign_majority", "+algorithm.optimiser={kind:momentum}"),
            "MajoritySign gives no sum of gradients",
        ),
        (("signum", "algorithm.feedback.momentum=1.0"), "momentum=1.0: must be in [0, 1)"),
        (("sgd_momentum", "algorithm.optimiser.momentum=-0.1"), "momentum=-0.1: must be in [0, 1)"),
        (("sgd_momentum", "algorithm.optimiser.scale=0.0"), "scale=0.0: must be positive"),
        (("sgd_adam", "algorithm.optimiser.beta2=1.0"), "beta2=1.0: must be in [0, 1)"),
        (("ef21", "algorithm.aggregation.rate=0.5"), "GradientEstimate and SumOfEstimates must keep the same estimate"),
        (
            ("composed", "algorithm.feedback.kind=gradient_estimate"),
            "GradientEstimate and SumOfUploads must keep the same estimate",
        ),
        (("ef21", "algorithm.feedback.weight=0.0"), "weight=0.0: must be in (0, 1]"),
        (("marina", "algorithm.probability=0.0"), "probability=0.0: must be in (0, 1]"),
        (("sgd_adam", "algorithm.optimiser.eps=-1.0"), "eps=-1.0: must not be negative"),
    ],
)
def test_impossible_options_are_refused(words, says):
    with pytest.raises(UserError) as raised:
        trained(f"algorithm={words[0]}", *words[1:], iterations=0)
    assert says in str(raised.value)
