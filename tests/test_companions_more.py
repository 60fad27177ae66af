"""Companions with exchanges and memories of their own: against naive loops in float64, and what is known of them."""

import pytest
import torch
from naive import Settings
from naive_companions import Numbers, identity, qsgd, scaled_sign, top_k
from naive_more import NaiveCSER, NaiveDGC, NaiveDownlink, NaivePowerSGD, NaiveQsparse, NaiveScaleCom
from suite_config import iterate
from test_companions import FC_12, trained
from test_reference import ALPHA, compared, set_up
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.methods.power_sgd import PowerSGD, orthonormalise_
from sasg.algorithms.parts.draws import number_streams
from sasg.cluster import Compressed, Payload, Segment, SimulatedCluster
from sasg.errors import ContractError, UserError

ITERATIONS = 40
SEED = 1
CPU = torch.device("cpu")


def follow(words, kind, iterations: int = ITERATIONS, model: str = "fc", **options):
    """Iterations of one mini-batch that are those of the naive loop; the trainer and the loop after them."""
    trainer, net, step_sizes = set_up(model, "auto", *words)
    settings = Settings("sgd", 5, step_sizes, 0.0, 3, 0.0, published=True)
    naive = kind(net, settings, trainer.problem.parameters.clone(), **options)
    start, local_steps = naive.parameters, trainer.algorithm.local_steps
    for k in range(iterations):
        epoch, position = divmod(k, trainer.iterations_per_epoch)
        iterate(trainer, 1)
        batches = [trainer.problem.batches.batch(torch.tensor(local_steps * position + h)) for h in range(local_steps)]
        naive.step(*(batches[0] if local_steps == 1 else [batches]), epoch)
        assert trainer.algorithm.sent is None
        torch.testing.assert_close(trainer.problem.parameters, naive.parameters, rtol=0, atol=1e-10)
    assert (naive.parameters - start).norm() > 0.05 and epoch >= 1
    return trainer, naive


# -- PowerSGD -------------------------------------------------------------------------------------

PLAIN = "algorithm.optimiser=null"


@pytest.mark.parametrize("model, rank, words, options", [
    ("fc", 1, (), {"momentum": 0.9, "scale": 0.0909}),
    ("fc", 2, (), {"momentum": 0.9, "scale": 0.0909}),
    ("fc", 4, (PLAIN,), {}),
    ("batchnorm", 2, (), {"momentum": 0.9, "scale": 0.0909}),
])  # fmt: skip
def test_power_sgd_equals_the_naive_loop(model, rank, words, options):
    words = ("algorithm=power_sgd", f"algorithm.rank={rank}", *words)
    trainer, _ = follow(words, NaivePowerSGD, model=model, rank=rank, numbers=Numbers(SEED), **options)
    totals = trainer.cluster.ledger.totals()
    if model == "fc":
        numbers = rank * (12 + 64 + 10 + 12) + 12 + 10
        assert totals["paper_bits"] == totals["downlink_unicast_bits_none"] // 2 == 32 * 5 * ITERATIONS * numbers
        assert totals["rounds"] == 2 * 5 * ITERATIONS


def test_what_power_sgd_keeps_is_what_it_did_not_apply():
    """avg e grows by avg g - D' in every iteration: nothing is lost."""
    with_memory = trained("algorithm=power_sgd", PLAIN, "algorithm.rank=1", iterations=0)
    problem, algorithm = with_memory.problem, with_memory.algorithm
    before, w = algorithm.memory.mean(0), problem.parameters.clone()
    for k in range(12):
        iterate(with_memory, 1)
        applied = (w - problem.parameters) / (4 * with_memory.schedule(0))
        x, y = problem.batches.batch(torch.tensor(k))
        gradients = torch.zeros_like(algorithm.memory)
        problem.oracle.engine.per_worker(w, x, y, gradients, problem.oracle.statistics)
        torch.testing.assert_close(applied + algorithm.memory.mean(0), gradients.mean(0) + before, rtol=0, atol=1e-12)
        before, w = algorithm.memory.mean(0), problem.parameters.clone()
    assert before.norm() > 1e-3


class _Constant:
    """An oracle whose gradients never change."""

    def __init__(self, rows: Tensor):
        self.rows = rows

    def __call__(self, parameters):
        return self

    def add_(self, target, scale, sent):
        target.add_(self.rows)


def alone(shape: tuple[int, ...], rank: int, num_workers: int = 1) -> PowerSGD:
    algorithm = PowerSGD(rank)
    number_streams(algorithm)
    algorithm.setup(Workspace((shape,), SimulatedCluster(num_workers, CPU), CPU, torch.float64, seed=3))
    algorithm.begin_epoch(0, lambda epoch: 1.0)
    return algorithm


def test_of_a_constant_gradient_it_finds_the_best_approximation():
    """The warm start is a power iteration: D' without memory tends to the truncated SVD."""
    torch.manual_seed(0)
    matrix = torch.randn(12, 5, 4, dtype=torch.float64).flatten(1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = 2.0 ** -torch.arange(12.0, dtype=torch.float64)
    matrix = (left * values) @ right
    best = (left[:, :3] * values[:3]) @ right[:3]
    algorithm = alone((12, 5, 4), 3)
    distances = []
    for _ in range(40):
        parameters = torch.zeros(240, dtype=torch.float64)
        algorithm.step(_Constant(matrix.flatten().unsqueeze(0)), parameters)
        algorithm.memory.zero_()
        distances.append((-parameters.view(12, 20) - best).norm())
    assert distances[0] > 0.1 and distances[-1] < 1e-10


def test_a_matrix_without_a_gradient_is_not_lost():
    """A layer behind one that begins at zero has no gradient at first: its Q would stay zero for ever."""
    algorithm = alone((8, 9), 2)
    parameters = torch.zeros(72, dtype=torch.float64)
    algorithm.step(_Constant(torch.zeros(1, 72, dtype=torch.float64)), parameters)
    assert (parameters == 0).all()
    torch.manual_seed(1)
    gradient = torch.randn(8, 1, dtype=torch.float64) @ torch.randn(1, 9, dtype=torch.float64)
    algorithm.step(_Constant(gradient.flatten().unsqueeze(0)), parameters)
    torch.testing.assert_close(-parameters.view(8, 9), gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_columns_are_orthonormal_even_where_they_depend_on_each_other(dtype):
    torch.manual_seed(2)
    columns = torch.randn(30, 4, dtype=dtype) * torch.tensor([1e-3, 1.0, 1e4, 1.0], dtype=dtype)
    columns[:, 2] = columns[:, 0] + 3 * columns[:, 1]
    spanned = columns[:, :2].clone()
    orthonormalise_(columns)
    eps = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(columns.t() @ columns, torch.eye(4, dtype=dtype), rtol=0, atol=eps)
    torch.testing.assert_close(columns[:, :2] @ (columns[:, :2].t() @ spanned), spanned, rtol=eps, atol=eps)
    zeros = torch.zeros(5, 2, dtype=dtype)
    orthonormalise_(zeros)
    assert (zeros == 0).all()


def test_where_factors_are_no_shorter_power_sgd_is_sgd():
    sgd = trained("algorithm=sgd")
    same = trained("algorithm=power_sgd", PLAIN, "algorithm.rank=8")  # hidden layers of 8
    torch.testing.assert_close(same.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)
    assert same.cluster.ledger.totals() == sgd.cluster.ledger.totals()


@pytest.mark.parametrize("optimiser", ["momentum", "adam"])
def test_an_optimiser_everywhere_is_that_of_the_server(optimiser):
    """Where all is sent whole, PowerSGD with an optimiser is SGD with it at the server."""
    options = {"momentum": "scale=0.1", "adam": "scale=0.02"}[optimiser]
    words = f"algorithm.optimiser={{kind:{optimiser},{options.replace('=', ':')}}}"
    one = trained("algorithm=composed", "+algorithm.scaled=update", f"+{words}")
    other = trained("algorithm=power_sgd", "~algorithm.optimiser", f"+{words}", "algorithm.rank=8")
    torch.testing.assert_close(one.problem.parameters, other.problem.parameters, rtol=0, atol=1e-12)
    assert not other.algorithm.state("server") and len(other.algorithm.state("shared")) > 2


# -- ScaleCom -------------------------------------------------------------------------------------

OF_VECTOR = ("algorithm.density=0.05", "algorithm.scope=vector")


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_scalecom_equals_the_naive_loop(rate):
    words = ("algorithm=scalecom", *OF_VECTOR, f"algorithm.rate={rate}")
    trainer, naive = follow(words, NaiveScaleCom, density=0.05, rate=rate)
    assert len({frozenset(chosen) for chosen in naive.chosen[:5]}) == 5  # each leader chooses its own
    totals, kept = trainer.cluster.ledger.totals(), len(naive.chosen[0])
    assert totals["paper_bits"] == 32 * 5 * ITERATIONS * kept and totals["rounds"] == 5 * ITERATIONS
    assert totals["vote_bits_int32"] == 32 * ITERATIONS * kept and totals["flag_bits"] == 5 * ITERATIONS
    assert totals["index_bits_int32"] == 0
    assert totals["downlink_broadcast_bits_int32"] == (32 + 64) * ITERATIONS * kept


def test_a_single_worker_that_leads_itself_is_sparse():
    ours = ("cluster.workers=1", "algorithm=scalecom", "algorithm.density=0.05", "algorithm.scope=tensor")
    sparse = ("cluster.workers=1", "algorithm=sparse", "algorithm.compressor.density=0.05", "+algorithm.scaled=update")
    one, other = trained(*ours, "algorithm.rate=1.0"), trained(*sparse)
    torch.testing.assert_close(one.problem.parameters, other.problem.parameters, rtol=0, atol=1e-12)


def test_scalecom_of_all_entries_is_sgd():
    same, sgd = trained("algorithm=scalecom", "algorithm.density=1.0"), trained("algorithm=sgd")
    torch.testing.assert_close(same.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)


# -- DGC ------------------------------------------------------------------------------------------

WARMUP = ("algorithm.compressor.warmup=[0.25,0.0625]", "algorithm.compressor.density=0.02")


def test_dgc_equals_the_naive_loop():
    """Through the warm-up: an epoch of 28 iterations for each of its densities, then the last one."""
    words = ("algorithm=dgc", *WARMUP, "algorithm.compressor.scope=vector")
    trainer, naive = follow(words, NaiveDGC, 64, densities=(0.25, 0.0625, 0.02), scale=0.1)
    d = len(naive.parameters)
    kept = 28 * int(0.25 * d) + 28 * int(0.0625 * d) + 8 * int(0.02 * d)
    totals = trainer.cluster.ledger.totals()
    assert totals["value_bits"] == 64 * 5 * kept and totals["index_bits_int32"] == 32 * 5 * kept


def test_a_run_that_resumes_within_the_warmup_goes_on_with_its_density():
    words = ("algorithm=dgc", *WARMUP, "task.batch_size=10")
    whole, half, rest = (trained(*words, iterations=n) for n in (60, 40, 0))
    assert half.epoch == 1
    rest.load_state(half.state())
    iterate(rest, 20)
    assert torch.equal(rest.problem.parameters, whole.problem.parameters)
    assert rest.cluster.ledger.totals() == whole.cluster.ledger.totals()


@pytest.mark.parametrize("rule", ["always", "lazy"])
def test_without_momentum_dgc_is_an_error_memory(rule):
    """Of everything: a worker that skips adds what it did not send, too, while an error memory leaves it out."""
    method = "sparse" if rule == "always" else "sasg"
    sparse = trained(f"algorithm={method}", "algorithm.compressor.density=0.02")
    memory = "+algorithm.feedback={kind:momentum_memory,momentum:0.0}"
    dgc = trained(f"algorithm={method}", "algorithm.compressor.density=0.02", "~algorithm.feedback", memory)
    same = torch.allclose(dgc.problem.parameters, sparse.problem.parameters, rtol=0, atol=1e-12)
    assert same == (rule == "always")


def test_nothing_of_a_momentum_is_left_where_it_was_sent():
    trainer = trained("algorithm=dgc", *WARMUP)
    feedback, compressor = trainer.algorithm.feedback, trainer.algorithm.compressor
    iterate(trainer, 1)
    cleared = feedback.memory == 0
    assert torch.equal(cleared, feedback.velocity == 0)
    assert (cleared.sum(1) >= compressor.num_kept).all() and not cleared.all()


def test_a_phase_of_a_part_is_one_of_the_method():
    trainer = trained("algorithm=dgc", *WARMUP, iterations=1)
    seen = [trainer.algorithm.all_phases()]
    for epoch in range(1, 4):
        trainer.algorithm.begin_epoch(epoch, trainer.schedule)
        seen.append(trainer.algorithm.all_phases())
    assert len(set(seen)) == 3 and seen[2] == seen[3]


# -- local steps: Qsparse-local-SGD, CSER ---------------------------------------------------------

THREE = "algorithm.local_steps=3"
QUANTISERS = {
    "7 levels": (("quantiser.num_levels=7", "quantiser.bucket_size=20"), {"quantise": qsgd(7, 20)}),
    "none": (("quantiser=null",), {"quantise": identity}),
}


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_qsparse_local_sgd_equals_the_naive_loop(quantiser):
    words, options = QUANTISERS[quantiser]
    words = ("algorithm=qsparse_local_sgd", THREE, *OF_VECTOR, *(f"algorithm.{word}" for word in words))
    trainer, naive = follow(words, NaiveQsparse, 20, density=0.05, numbers=Numbers(SEED), **options)
    totals, kept = trainer.cluster.ledger.totals(), len(naive.parameters) // 20
    assert totals["value_bits"] == 5 * 20 * kept * (64 if quantiser == "none" else 4)
    assert totals["index_bits_int32"] == 5 * 20 * kept * 32 and totals["rounds"] == 5 * 20
    if quantiser != "none":
        assert totals["side_bits"] == 5 * 20 * -(-kept // 20) * 64


def test_qsparse_local_sgd_of_everything_is_local_sgd():
    every = ("algorithm.density=1.0", "algorithm.quantiser=null")
    same = trained("algorithm=qsparse_local_sgd", *every, THREE, iterations=20)
    local = trained("algorithm=local_sgd", THREE, iterations=20)
    torch.testing.assert_close(same.problem.parameters, local.problem.parameters, rtol=0, atol=1e-12)
    assert not same.algorithm.memory.any()


def test_what_qsparse_local_sgd_keeps_and_sends_is_what_was_given():
    trainer = trained("algorithm=qsparse_local_sgd", THREE, iterations=5)
    algorithm, given = trainer.algorithm, torch.randn(4, len(trainer.problem.parameters), dtype=torch.float64)
    total = algorithm.memory + given
    algorithm._moved.copy_(given)
    payload = algorithm._payload()
    sent = torch.zeros_like(total).scatter_(1, payload.indices, payload.values)
    torch.testing.assert_close(sent + algorithm.memory, total, rtol=0, atol=1e-14)
    assert algorithm.memory.gather(1, payload.indices).any()  # what rounding took


SPARSE_TWICE = ("algorithm.compressor.density=0.05", "algorithm.reset.density=0.2")


def test_cser_equals_the_naive_loop_and_its_mean_model_goes_the_way_of_the_mean_gradients():
    """Whatever is compressed: the lemma on which CSER rests."""
    words = ("algorithm=cser", THREE, *SPARSE_TWICE)
    numbers = (Numbers(SEED), Numbers(SEED, 1))
    trainer, naive = follow(words, NaiveCSER, 20, densities=(0.05, 0.2), numbers=numbers)
    memory, w = trainer.algorithm.memory, trainer.problem.parameters
    for own, model, e in zip(memory, naive.models, naive.memories, strict=True):
        torch.testing.assert_close(own, e, rtol=0, atol=1e-10)
        torch.testing.assert_close(w + own, model, rtol=0, atol=1e-10)
    torch.testing.assert_close(w + memory.mean(0), naive.anchor, rtol=0, atol=1e-10)
    assert memory.mean(0).norm() > 1e-3
    totals, d = trainer.cluster.ledger.totals(), len(w)
    assert totals["rounds"] == 4 * 5 * 20
    assert totals["paper_bits"] == 32 * 5 * 20 * (3 * int(0.05 * d) + int(0.2 * d))


def test_cser_of_everything_is_sgd():
    one = trained("algorithm=cser", "algorithm.compressor.density=1.0", "algorithm.local_steps=1")
    sgd = trained("algorithm=sgd")
    torch.testing.assert_close(one.problem.parameters, sgd.problem.parameters, rtol=0, atol=1e-12)
    assert not one.algorithm.memory.any()


# -- a compressed downlink ------------------------------------------------------------------------

DOWN = "algorithm.downlink.density=0.1"
LARGEST_DOWN = "+algorithm.downlink={kind:top_k,density:0.1,scope:vector}"
DOWNLINKS = {
    "sasg_downlink": ("sasg", "reference", (DOWN, "algorithm.downlink.scope=vector"), top_k(0.1)),
    "sasg_downlink paper": ("sasg", "paper", (DOWN,), top_k(0.1)),
    "lasg": ("lasg", "reference", (LARGEST_DOWN,), top_k(0.1)),
    "sparse": ("sparse", "reference", (LARGEST_DOWN,), top_k(0.1)),
    "composed": ("sgd", "reference", ("+algorithm.downlink={kind:scaled_sign,scope:tensor}",), scaled_sign(FC_12)),
}


@pytest.mark.parametrize("case", DOWNLINKS)
def test_a_compressed_downlink_equals_the_naive_loop(case):
    method, preset, words, compress = DOWNLINKS[case]
    alpha, density = ALPHA.get((method, preset), 1.0) / 4, "algorithm.compressor.density=0.05"
    words = (
        f"algorithm={case.split()[0]}",
        f"preset={preset}",
        "task.max_delay=3",
        f"task.alpha.default={alpha}",
        *words,
        *([density] if method in ("sasg", "sparse") else []),
    )
    trainer, net, step_sizes = set_up("fc", "auto", *words)
    settings = Settings(method, 5, step_sizes, alpha, 3, 0.05, published=preset == "reference")
    naive = NaiveDownlink(net, settings, trainer.problem.parameters.clone(), compress_update=compress)
    start = naive.parameters
    reasons = compared(trainer, naive)
    assert (naive.parameters - start).norm() > 0.05
    torch.testing.assert_close(trainer.algorithm.downlink.memory[0], naive.memory, rtol=0, atol=1e-10)
    if method in ("lasg", "sasg"):
        assert min(reasons[reason] for reason in ("first", "forced", "threshold", None)) >= 3, reasons
    totals, d, iterations = trainer.cluster.ledger.totals(), len(start), trainer.iteration
    values, positions = (d + 4 * 64, 0) if method == "sgd" else (64 * (d // 10), 32 * (d // 10))
    assert totals["downlink_broadcast_bits_none"] == iterations * values
    assert totals["downlink_broadcast_bits_int32"] == iterations * (values + positions)
    assert totals["downlink_unicast_bits_int32"] == 5 * iterations * (values + positions)


def test_a_server_must_return_the_form_that_it_announced():
    cluster, whole = SimulatedCluster(2, CPU), torch.arange(6.0).view(2, 3)
    some = Payload(whole[:1, :2], torch.tensor([[0, 2]]), (Segment(3, 2),))
    assert cluster.exchange(Payload(whole), None, lambda _: some, Compressed(some)).tolist() == [0, 0, 1]
    assert cluster.ledger.totals()["downlink_unicast_bits_int32"] == 2 * (2 * 32 + 2 * 32)
    for wrong in (whole[0], Payload(whole[:1]), Payload(whole)):
        with pytest.raises(ContractError, match="the server returned a"):
            cluster.exchange(Payload(whole), None, lambda _, wrong=wrong: wrong, Compressed(some))


@pytest.mark.parametrize("method", ["sasg", "sgd_momentum", "ef21"])
def test_a_downlink_that_sends_everything_changes_nothing(method):
    plain = trained(f"algorithm={method}")
    same = trained(f"algorithm={method}", "+algorithm.downlink={kind:top_k,density:1.0}")
    torch.testing.assert_close(same.problem.parameters, plain.problem.parameters, rtol=0, atol=1e-12)
    assert not same.algorithm.downlink.memory.any()


@pytest.mark.parametrize(
    "words, says",
    [
        (("power_sgd", "algorithm.rank=0"), "rank=0: must be at least 1"),
        (("scalecom", "algorithm.rate=0.0"), "rate=0.0: must be in (0, 1]"),
        (("scalecom", "algorithm.density=1.5"), "density=1.5: must be in (0, 1]"),
        (("dgc", "algorithm.compressor.warmup=[0.5,0.0]"), "warmup[1]=0.0: must be in (0, 1]"),
        (
            ("random_k_unbiased", "algorithm.feedback.kind=momentum_memory"),
            "unbiased random-k sends more than it takes",
        ),
        (("dgc", "algorithm.feedback.weight=0.0"), "weight=0.0: must be positive"),
        (("dgc", "algorithm.feedback.momentum=1.0"), "momentum=1.0: must be in [0, 1)"),
        (("dgc", "algorithm.aggregation.kind=sum_of_latest"), "uploads shrink during the warm-up"),
        (
            ("dgc", "~algorithm.compressor", "+algorithm.compressor={kind:scaled_sign}"),
            "MomentumMemory needs a compressor of some entries, as TopK; ScaledSign sends all",
        ),
        (("qsparse_local_sgd", "algorithm.local_steps=0"), "local_steps=0: must be at least 1"),
        (("qsparse_local_sgd", "algorithm.density=0.0"), "density=0.0: must be in (0, 1]"),
        (("composed", "+algorithm.downlink={kind:identity}"), "algorithm.downlink: identity transmits everything"),
        (
            ("sgd_momentum", "+algorithm.downlink={kind:qsgd,num_levels:7}"),
            "algorithm.downlink: QSGD draws random numbers",
        ),
        (("sparse", "~algorithm.compressor", "+algorithm.compressor={kind:sign}"), "signs without a scale are not"),
        (("composed", "+algorithm.downlink={kind:sign}"), "algorithm.downlink: signs without a scale are not"),
        (("signum", "+algorithm.downlink={kind:scaled_sign}"), "algorithm.downlink: MajoritySign gives no sum"),
        (("cser", "algorithm.local_steps=0"), "local_steps=0: must be at least 1"),
        (("cser", "+algorithm.reset.unbiased=true"), "algorithm.reset: unbiased random-k sends more than it takes"),
    ],
)
def test_impossible_options_are_refused(words, says):
    with pytest.raises(UserError) as raised:
        trained(f"algorithm={words[0]}", *words[1:], iterations=0)
    assert says in str(raised.value)
