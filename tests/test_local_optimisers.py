"""Optimisers at the workers, and what is made with them: against naive loops in float64, and what is known of them."""

from collections import Counter
from functools import partial
from itertools import pairwise
from math import ceil

import pytest
import torch
from naive import Settings
from naive_local import SGD, AdamW, Heavy, NaiveAdamW, NaiveLocal, NaiveSparseLoCo
from suite_config import iterate
from test_companions import FC_12, trained
from test_reference import compared, set_up
from torch import Tensor, nn

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.chunks import ChunkedTopK
from sasg.algorithms.parts.optimisers import Adam, Momentum
from sasg.algorithms.parts.quantisers import TwoMagnitudes
from sasg.cluster import Ledger, Payload, SimulatedCluster
from sasg.cluster.wire import WireFormat
from sasg.errors import UserError

CPU = torch.device("cpu")
TYPES = [torch.float32, torch.float64]
THREE = "algorithm.local_steps=3"
ITERATIONS = 15
ADAMW = partial(AdamW, 0.1, 0.02)


def follow(words, kind=NaiveLocal, max_delay: int = 10**9, **options):
    """Exchanges that are those of the naive loop: the trainer, and why workers uploaded."""
    trainer, net, step_sizes = set_up("fc", "auto", *words, THREE)
    settings = Settings("", 5, step_sizes, 0.0, max_delay, 0.0, published=True)
    naive = kind(net, settings, trainer.problem.parameters.clone(), **options)
    start, reasons = naive.parameters, Counter()
    for k in range(ITERATIONS):
        epoch, position = divmod(k, trainer.iterations_per_epoch)
        iterate(trainer, 1)
        batches = [trainer.problem.batches.batch(torch.tensor(3 * position + h)) for h in range(3)]
        expected, sent = naive.step(batches, epoch), trainer.algorithm.sent
        assert ([True] * 5 if sent is None else sent.tolist()) == [reason is not None for reason in expected], k
        torch.testing.assert_close(trainer.problem.parameters, naive.parameters, rtol=0, atol=1e-10)
        reasons.update(expected)
    assert (naive.parameters - start).norm() > 0.05 and epoch >= 1
    totals = trainer.cluster.ledger.totals()
    assert totals["rounds"] == 5 * ITERATIONS - reasons[None]
    assert totals["flag_bits"] == (0 if "always" in reasons else 5 * ITERATIONS)
    return trainer, reasons


# -- against naive loops --------------------------------------------------------------------------

HEAVY = "+algorithm.local_optimiser={kind:momentum,momentum:0.8,scale:0.5,nesterov:%s}"
OUTER = partial(Heavy, 0.9, True, 0.7)
CASES = {
    "DiLoCo": (("algorithm=diloco",), {"local": ADAMW, "server": OUTER}),
    "SGD inside": (("algorithm=diloco", "algorithm.local_optimiser=null"), {"local": SGD, "server": OUTER}),
    "momentum inside": (("algorithm=local_sgd", HEAVY % "false"), {"local": partial(Heavy, 0.8, False, 0.5)}),
    "Nesterov inside SlowMo": (
        ("algorithm=slowmo", HEAVY % "true"),
        {"local": partial(Heavy, 0.8, True, 0.5), "server": partial(Heavy, 0.7), "by_gradient": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_local_optimisers_equal_the_naive_loop(case):
    """Also where the step size decays, after nine exchanges: what the server remembers is then of another size."""
    words, options = CASES[case]
    options = options | ({"server": options["server"]()} if "server" in options else {})
    trainer, _ = follow(words, **options)
    d = len(trainer.problem.parameters)
    assert trainer.cluster.ledger.totals()["paper_bits"] == 32 * 5 * ITERATIONS * d


def test_lazy_diloco_equals_the_naive_loop():
    rule = {"scale": 0.08, "window": 4}
    words = ("algorithm=lazy_diloco", "algorithm.scale=0.08", "algorithm.window=4", "task.max_delay=3")
    trainer, reasons = follow(words, max_delay=3, local=ADAMW, server=OUTER(), **rule)
    assert reasons["first"] == 5 and min(reasons[reason] for reason in ("forced", "threshold", None)) >= 5, reasons
    assert trainer.cluster.ledger.totals()["value_bits"] == 64 * len(trainer.problem.parameters) * (75 - reasons[None])


@pytest.mark.parametrize("words, options", [
    ((), {}),
    (("algorithm.quantiser=null",), {"quantises": False}),
    (("+algorithm.optimiser={kind:momentum,momentum:0.9,nesterov:true,scale:0.7}",), {"server": OUTER}),
    (("algorithm.scope=vector", "algorithm.decay=1.0"), {"tensors": (sum(FC_12),), "decay": 1.0}),
])  # fmt: skip
def test_sparse_loco_equals_the_naive_loop(words, options):
    """Chunks of 41, of which 7 are kept: an odd number, shorter chunks, and tensors that are sent whole."""
    options = {"tensors": tuple(FC_12), **options}
    if "server" in options:
        options["server"] = options["server"]()
    words = ("algorithm=sparse_loco", "algorithm.kept=7", "algorithm.chunk=41", *words)
    trainer, _ = follow(words, NaiveSparseLoCo, local=ADAMW, kept=7, chunk=41, **options)
    chunks = [min(41, n - start) for n in options["tensors"] for start in range(0, n, 41)]
    kept, totals = sum(min(7, n) for n in chunks), trainer.cluster.ledger.totals()
    assert totals["value_bits"] == 5 * ITERATIONS * kept * (2 if options.get("quantises", True) else 64)
    assert totals["index_bits_log2"] == 5 * ITERATIONS * sum(min(7, n) * (n - 1).bit_length() for n in chunks)
    if options.get("quantises", True):
        assert totals["side_bits"] == 5 * ITERATIONS * 2 * 64 * len(chunks)


def test_adamw_equals_the_naive_loop():
    trainer, net, step_sizes = set_up("fc", "auto", "algorithm=adamw")
    settings = Settings("sgd", 5, step_sizes, 0.0, 3, 0.0, published=True)
    naive = NaiveAdamW(net, settings, trainer.problem.parameters.clone(), weight_decay=0.1, scale=0.02)
    start = naive.parameters
    compared(trainer, naive, 40)
    assert (naive.parameters - start).norm() > 0.05


# -- the optimisers themselves --------------------------------------------------------------------

D = 1003  # no multiple of what a processor adds at once
OPTIMISERS = {
    "heavy ball": (lambda: Momentum(0.9), torch.optim.SGD, {"momentum": 0.9}),
    "Nesterov": (lambda: Momentum(0.9, True), torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "Adam": (Adam, torch.optim.Adam, {}),
    "AdamW": (lambda: Adam(weight_decay=0.3), torch.optim.AdamW, {"weight_decay": 0.3}),
    "AMSGrad, decayed": (
        lambda: Adam(amsgrad=True, weight_decay=0.3),
        torch.optim.AdamW,
        {"amsgrad": True, "weight_decay": 0.3},
    ),
}


def ready(name: str, place: str, num_workers: int = 1, dtype=torch.float64):
    optimiser = OPTIMISERS[name][0]()
    optimiser.place = place
    optimiser.setup(Workspace(((D,),), SimulatedCluster(num_workers, CPU), CPU, dtype, seed=1))
    return optimiser


@pytest.mark.parametrize("place", ["server", "shared", "worker"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_row_is_torchs_optimiser(name, place):
    torch.manual_seed(1)
    rows = (3,) if place == "worker" else ()
    w = torch.randn(*rows, D, dtype=torch.float64)
    ours, theirs = w.clone(), [nn.Parameter(row.clone()) for row in w.view(-1, D)]
    optimiser = ready(name, place, 3)
    _, kind, arguments = OPTIMISERS[name]
    others = [kind([row], lr=0.1, **arguments) for row in theirs]
    for k in range(10):
        gradient = torch.randn_like(ours)
        rate = 0.1 / (1 + k)
        ours = ours - rate * optimiser(gradient, ours)
        for other, row, g in zip(others, theirs, gradient.view(-1, D), strict=True):
            other.param_groups[0]["lr"], row.grad = rate, g
            other.step()
    torch.testing.assert_close(ours.view(-1, D), torch.stack([row.data for row in theirs]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_workers_direction_does_not_depend_on_the_others(name, dtype):
    torch.manual_seed(2)
    gradients, models = torch.randn(2, 4, 5, D, dtype=dtype)

    def directions(a: int, b: int) -> Tensor:
        optimiser = ready(name, "worker", b - a, dtype)
        optimiser(gradients[0, a:b], models[0, 0])  # at parameters that are the same for all
        for g, w in zip(gradients[1:], models[1:], strict=True):
            last = optimiser(g[a:b], w[a:b])
        return last

    whole = directions(0, 5)
    for a, b in [(0, 2), (2, 5), *pairwise(range(6))]:
        assert torch.equal(directions(a, b), whole[a:b])


def test_where_the_state_of_an_optimiser_is():
    for place, rows in (("server", ()), ("shared", ()), ("worker", (3,))):
        state = ready("AMSGrad, decayed", place, 3).state(place)
        assert {name: tuple(tensor.shape) for name, tensor in state.items() if name != "iteration"} == {
            name: (*rows, D) for name in ("first", "second", "largest")
        }
        common = "shared" if place == "worker" else place
        assert ready("AMSGrad, decayed", place, 3).state(common)["iteration"].shape == ()


# -- what they are at the ends --------------------------------------------------------------------

PLAIN_OUTER = ("algorithm.optimiser.momentum=0.0", "algorithm.optimiser.scale=1.0")
SAME = {
    "DiLoCo with SGD, and without momentum: local SGD": (
        ("algorithm=diloco", THREE, "algorithm.local_optimiser=null", *PLAIN_OUTER),
        ("algorithm=local_sgd", THREE),
    ),
    "DiLoCo's server at a constant step size: SlowMo": (
        ("algorithm=diloco", THREE, "algorithm.local_optimiser=null", "algorithm.optimiser.nesterov=false"),
        ("algorithm=slowmo", THREE, "algorithm.optimiser.momentum=0.9", "algorithm.optimiser.scale=0.7"),
    ),
    "one worker, one step: AdamW": (
        ("algorithm=diloco", "algorithm.local_steps=1", *PLAIN_OUTER, "cluster.workers=1"),
        ("algorithm=adamw", "cluster.workers=1"),
    ),
    "AdamW without weight decay: Adam": (
        ("algorithm=adamw", "algorithm.optimiser.weight_decay=0.0"),
        ("algorithm=sgd_adam",),
    ),
    "lazy DiLoCo with threshold 0: DiLoCo": (
        ("algorithm=lazy_diloco", THREE, "algorithm.scale=0.0"),
        ("algorithm=diloco", THREE),
    ),
    "SparseLoCo of everything: DiLoCo with its server": (
        ("algorithm=sparse_loco", THREE, "algorithm.kept=4096", "algorithm.quantiser=null"),
        ("algorithm=diloco", THREE, "algorithm.optimiser=null"),
    ),
    "SparseLoCo of everything, with momentum: DiLoCo": (
        (
            *("algorithm=sparse_loco", THREE, "algorithm.kept=4096", "algorithm.quantiser=null"),
            "+algorithm.optimiser={kind:momentum,momentum:0.9,nesterov:true,scale:0.7}",
        ),
        ("algorithm=diloco", THREE),
    ),
    "SparseLoCo of one chunk, without decay: Qsparse-local-SGD with AdamW": (
        (
            *("algorithm=sparse_loco", THREE, "algorithm.kept=5", "algorithm.chunk=100000", "algorithm.scope=vector"),
            *("algorithm.quantiser=null", "algorithm.decay=1.0"),
        ),
        (
            *("algorithm=qsparse_local_sgd", THREE, "algorithm.density=0.00821", "algorithm.scope=vector"),
            *("algorithm.quantiser=null", "+algorithm.local_optimiser={kind:adam,weight_decay:0.1,scale:0.02}"),
        ),
    ),
    "lazy local SGD of one step: LAG": (
        (
            *("algorithm=lazy_diloco", *PLAIN_OUTER, "algorithm.local_optimiser=null", "algorithm.local_steps=1"),
            *("algorithm.scale=5.0", "task.max_delay=5"),
        ),
        ("algorithm=lag", "algorithm.trigger.scale=5.0", "algorithm.trigger.max_delay=5"),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_what_they_are_at_the_ends(case):
    one, other = SAME[case]
    ours, theirs = (trained(*words, "task.batch_size=20", iterations=20) for words in (one, other))
    torch.testing.assert_close(ours.problem.parameters, theirs.problem.parameters, rtol=0, atol=1e-12)
    totals = [trainer.cluster.ledger.totals() for trainer in (ours, theirs)]
    if "kept=4096" not in str(one):  # whose positions are counted
        assert totals[0]["rounds"] == totals[1]["rounds"] and totals[0]["value_bits"] == totals[1]["value_bits"]
    if "LAG" in case:
        assert 30 < totals[0]["rounds"] < 50


# -- two bits a value -----------------------------------------------------------------------------

SIZES = (4096, 5000, 37, 1)
CHUNKS = (4096, 4096, 904, 37, 1)


def sparse_payload(num_workers: int, rows: slice, dtype) -> Payload:
    """Of SparseLoCo, as it is uploaded."""
    torch.manual_seed(3)
    vectors = torch.randn(5, sum(SIZES), dtype=dtype)
    vectors[:, 9:40] = vectors[:, 8:9]  # ties
    vectors[:, 9096:9133] = 0
    cluster = SimulatedCluster(num_workers, CPU)
    top_k, quantiser = ChunkedTopK(), TwoMagnitudes()
    for part in (top_k, quantiser):
        part.setup(Workspace(tuple((n,) for n in SIZES), cluster, CPU, dtype, seed=1))
    quantiser.expect(tuple(segment.kept for segment in top_k.segments))
    payload = top_k(vectors[rows], None)
    values, side = quantiser(payload.values)
    return Payload(values, payload.indices, payload.segments, code=quantiser.code, side=side)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("wire", ["plain", "packed"])
def test_two_magnitudes_go_over_the_wire_as_they_are(wire, dtype):
    payload = sparse_payload(5, slice(0, 5), dtype)
    form = WireFormat.of(payload, wire)
    if wire == "packed":
        form = form.announced(form.headers(payload.indices, None)[0], "worker 0")
    data = torch.zeros(form.num_bytes, dtype=torch.uint8)
    form.pack(payload.values[0], payload.indices[0], data, payload.side[0])
    for found, sent in zip(form.parts(data, CPU), (payload.values, payload.side, payload.indices), strict=True):
        assert torch.equal(found, sent[0])
    numbers = payload.code._numbers(payload.values[0], payload.side[0])
    assert set(numbers.tolist()) == {0, 1, 2, 3}


def test_the_ledger_counts_two_bits_a_value_and_twelve_a_position():
    ledger = Ledger(5, CPU, extra_columns=("side_bits",))
    ledger.count_uploads(sparse_payload(5, slice(0, 5), torch.float32), None)
    totals, kept = ledger.totals(), [64, 64, 64, 37, 1]
    assert totals["value_bits"] == 5 * 2 * sum(kept) and totals["side_bits"] == 5 * 2 * 32 * len(kept)
    assert totals["index_bits_log2"] == 5 * (64 * 12 + 64 * 12 + 64 * 10 + 37 * 6 + 0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_workers_two_magnitudes_do_not_depend_on_the_others(dtype):
    whole = sparse_payload(5, slice(0, 5), dtype)
    for a, b in [(0, 2), (2, 5), *pairwise(range(6))]:
        part = sparse_payload(b - a, slice(a, b), dtype)
        assert torch.equal(part.values, whole.values[a:b]) and torch.equal(part.side, whole.side[a:b])


def test_what_two_magnitudes_are():
    values = torch.tensor([[3.0, -1.0, 0.0, -5.0, 1.0, 2.0], [0.0, 0.0, 0.0, -0.5, 0.5, 0.5]])
    whole, parts = TwoMagnitudes(), TwoMagnitudes()
    rounded, side = whole(values[:1])
    assert rounded[0].tolist() == pytest.approx([10 / 3, -2 / 3, 2 / 3, -10 / 3, 2 / 3, 10 / 3])
    assert side[0].tolist() == pytest.approx([10 / 3, 2 / 3])
    parts.expect((5, 1))
    rounded, side = parts(values)
    assert rounded[0].tolist() == [3.0, -3.0, 0.5, -3.0, 0.5, 2.0]  # of 1 and -1, the first belongs to the larger ones
    assert side.tolist() == [[3.0, 2.0, 0.5, 0.0], [pytest.approx(1 / 3), 0.5, 0.0, 0.0]]


def test_chunks_are_cut_from_tensors_or_from_the_vector():
    for scope, sizes in (("tensor", CHUNKS), ("vector", (4096, 4096, 942))):
        top_k = ChunkedTopK(scope=scope)
        top_k.setup(Workspace(tuple((n,) for n in SIZES), SimulatedCluster(1, CPU), CPU, torch.float32, seed=1))
        assert [(one.size, one.kept) for one in top_k.segments] == [(n, min(64, n)) for n in sizes]
        assert len(sizes) >= ceil(sum(SIZES) / 4096)


@pytest.mark.parametrize(
    "words, says",
    [
        (("adamw", "algorithm.optimiser.weight_decay=-1.0"), "weight_decay=-1.0: must not be negative"),
        (("diloco", "algorithm.local_steps=0"), "local_steps=0: must be at least 1"),
        (("diloco", "algorithm.local_steps=100"), "local_steps=100: an epoch has only"),
        (("diloco", "algorithm.outer=delta"), "algorithm.outer=delta: "),
        (("diloco", "algorithm.local_optimiser.beta1=1.0"), "algorithm.local_optimiser: beta1=1.0: must be in [0, 1)"),
        (("diloco", "algorithm.local_optimiser.kind=top_k"), "algorithm.local_optimiser"),
        (("lazy_diloco", "algorithm.scale=-0.1"), "scale=-0.1: must be at least 0"),
        (("lazy_diloco", "algorithm.window=0"), "window=0: must be at least 1"),
        (("lazy_diloco", "algorithm.max_delay=0"), "max_delay=0: must be at least 1"),
        (("sparse_loco", "algorithm.kept=0"), "kept=0: must be at least 1"),
        (("sparse_loco", "algorithm.chunk=63"), "chunk=63: must be at least kept=64"),
        (("sparse_loco", "algorithm.decay=0.0"), "decay=0.0: must be in (0, 1]"),
    ],
)
def test_impossible_options_are_refused(words, says):
    with pytest.raises(UserError) as raised:
        trained(f"algorithm={words[0]}", *words[1:], iterations=0)
    assert says in str(raised.value)
