"""What only a GPU can show: engines equal float64, top-k equals the CPU's, a captured run an eager one."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

import zoo

from benchmarks.gpu import METHODS, VOTES, configuration, make_trainer, random_dataset
from sasg.algorithms.parts.top_k import TopKSelector
from sasg.cluster import Ledger, Payload, Positions, Segment, SimulatedCluster, Update
from sasg.cluster.accounting.codes import CODES, MORE_CODES
from sasg.errors import UserError
from sasg.gradients.engines import make_engine
from sasg.kernels.normalisation import GhostBatchNorm
from sasg.training.graph import Captured

WORKERS, SAMPLES = 3, 4


def relative(ours, reference):
    return float((ours.double() - reference.double()).norm() / reference.double().norm())


class Smooth(nn.Module):
    """All that ResNet18 has, without ReLU's kinks, at which rounding moves gradients by more than the tolerance."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, 2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.shortcut = nn.Conv2d(32, 64, 1, 2, bias=False)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.softplus(self.norm1(self.stem(x)))
        x = F.softplus(self.norm2(self.conv2(x)) + self.shortcut(x))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["loop", "vmap", "batched", "streams", "triton"])
def test_engines_equal_float64(name, shared, exact):
    torch.manual_seed(0)
    model = Smooth().cuda()

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    reference = make_engine("loop", model.double(), loss)
    engine = make_engine(name, model.float(), loss)
    d, s = reference.layout.size, reference.statistics.size
    x = torch.randn(WORKERS, SAMPLES, 3, 16, 16, device="cuda")
    y = torch.randint(0, 10, (WORKERS, SAMPLES), device="cuda")
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    if not shared:
        parameters = parameters + 0.02 * torch.randn(WORKERS, d, device="cuda")
    expected = [torch.zeros(WORKERS, n, dtype=torch.float64, device="cuda") for n in (d, s)]
    found = [torch.zeros(WORKERS, n, device="cuda") for n in (d, s)]
    expected_loss = reference.per_worker(parameters.double(), x.double(), y, *expected)
    loss_found = engine.per_worker(parameters, x, y, *found)
    assert relative(loss_found, expected_loss) < 1e-6
    assert relative(found[0], expected[0]) < 1e-5
    assert relative(found[1], expected[1]) < 1e-5
    if shared:
        total = torch.zeros(d, device="cuda")
        engine.total(parameters, x, y, total, found[1])
        assert relative(total, expected[0].sum(0)) < 1e-5


@pytest.mark.parametrize("residual", [True, False])
def test_fused_batchnorm(residual):
    channels = 20
    x, r, g = (
        torch.randn(WORKERS * SAMPLES, channels, 5, 5, device="cuda").to(memory_format=torch.channels_last)
        for _ in range(3)
    )
    weight, bias = torch.randn(2, WORKERS, channels, device="cuda")
    gradients, statistics = (
        torch.empty(2, WORKERS, channels, device="cuda"),
        torch.empty(2, WORKERS, channels, device="cuda"),
    )
    leaves = [x.clone().requires_grad_(), r.clone().requires_grad_()]
    y = GhostBatchNorm.apply(
        torch.zeros((), requires_grad=True), leaves[0], leaves[1] if residual else None, WORKERS, weight, bias,
        tuple(gradients), tuple(statistics), 1e-5, True,
    )  # fmt: skip
    y.backward(g)
    wide = [t.double().requires_grad_() for t in (x, r, weight, bias)]
    parts = zip(wide[0].chunk(WORKERS), wide[2], wide[3], strict=True)
    expected = torch.cat([F.batch_norm(part, None, None, w, b, training=True) for part, w, b in parts])
    expected = torch.where(y > 0, expected + wide[1] if residual else expected, 0)
    expected.backward(g.double())
    assert relative(y, expected) < 1e-6
    assert relative(leaves[0].grad, wide[0].grad) < 1e-6
    assert not residual or relative(leaves[1].grad, wide[1].grad) < 1e-6
    assert relative(gradients[0], wide[2].grad) < 1e-6
    assert relative(gradients[1], wide[3].grad) < 1e-6
    per_worker = x.double().view(WORKERS, SAMPLES, channels, -1).transpose(1, 2).flatten(2)
    assert relative(statistics[0], per_worker.mean(2)) < 1e-6
    assert relative(statistics[1], per_worker.var(2)) < 1e-6


def test_top_k_selects_what_the_cpu_selects():
    segments = (Segment(20_000, 200), Segment(64, 1), Segment(10, 10), Segment(5_003, 50))
    d = sum(segment.size for segment in segments)
    on_cpu, on_gpu = TopKSelector(segments), TopKSelector(segments)
    torch.manual_seed(0)
    start = torch.randn(WORKERS, d)
    cases = [
        start,
        start + 0.1 * torch.randn(WORKERS, d),
        0.1 * start,
        (2 * start).round(),
        torch.zeros(WORKERS, d),
        start * (start > 2),
    ]
    sent = torch.tensor([True, False, True])
    for vectors in cases:
        for flags in (None, sent):
            expected = on_cpu(vectors, flags)
            found = on_gpu(vectors.cuda(), None if flags is None else flags.cuda())
            rows = [0, 1, 2] if flags is None else [0, 2]
            assert torch.equal(found[0].cpu()[rows], expected[0][rows])
            assert torch.equal(found[1].cpu()[rows], expected[1][rows])


def lazy(kind: str) -> dict:
    return {**configuration("mnist", "lasg").algorithm, "trigger": {"kind": kind}}


TOP_K = {"kind": "top_k", "density": 0.01}
WARMUP = {**TOP_K, "kind": "top_k_warmup", "warmup": [0.25]}
ADAMW = {"kind": "adam", "weight_decay": 0.1, "scale": 0.02}
NESTEROV = {"kind": "momentum", "nesterov": True, "scale": 0.7}
DILOCO = {"kind": "local_sgd", "local_steps": 3, "local_optimiser": ADAMW, "optimiser": NESTEROV, "outer": "difference"}
LEVELS = {"kind": "random_rounding", "num_levels": 127, "bucket_size": 512}


def composed(**parts: dict) -> dict:
    return {**configuration("mnist", "sparse").algorithm, **parts}


OTHERS = {
    "local_sgd": {"kind": "local_sgd", "local_steps": 3},
    "lasg_wk1": lazy("wk1"),
    "lasg_wk2": lazy("wk2"),
    "lag": lazy("lag"),
    "lasg_ps": {"kind": "server_triggered", "smoothness": 5.0},
    "lasg_pse": {"kind": "server_triggered", "smoothness": None},
    "slowmo": {"kind": "local_sgd", "local_steps": 3, "optimiser": {"kind": "momentum", "momentum": 0.7}},
    "cada1": {**lazy("cada1"), "scaled": "update", "optimiser": {"kind": "adam", "amsgrad": True, "scale": 0.02}},
    "cada2": {**lazy("cada2"), "scaled": "update", "optimiser": {"kind": "adam", "amsgrad": True, "scale": 0.02}},
    "csgd": {**lazy("censoring"), "trigger": {"kind": "censoring", "initial": 30.0, "rate": 0.999}},
    "cmfl": {**lazy("relevance"), "aggregation": {"kind": "mean_of_senders"}},
    "clag": {"kind": "clag", "zeta": 1.0, "compressor": {"kind": "top_k", "density": 0.01}},
    "laq": {"kind": "laq", "compressor": {"kind": "uniform_grid", "num_bits": 4}},
    "power_sgd": {"kind": "power_sgd", "rank": 2, "optimiser": {"kind": "added_momentum", "scale": 0.0909}},
    "scalecom": {"kind": "scalecom", "density": 0.01, "rate": 0.1},
    "demo": {"kind": "demo", "scale": 0.01},
    "dgc": composed(compressor=WARMUP, feedback={"kind": "momentum_memory"}),
    "qsparse_local_sgd": {"kind": "qsparse_local_sgd", "local_steps": 3, "density": 0.01, "quantiser": LEVELS},
    "cser": {"kind": "cser", "local_steps": 3, "compressor": TOP_K, "reset": {"kind": "random_k", "density": 0.1}},
    "adamw": composed(compressor={"kind": "identity"}, feedback={"kind": "no_feedback"}, optimiser=ADAMW),
    "diloco": DILOCO,
    "lazy_diloco": {**DILOCO, "kind": "lazy_local_sgd", "scale": 0.05, "max_delay": 5},
    "sparse_loco": {
        **{"kind": "sparse_loco", "local_steps": 3, "quantiser": {"kind": "two_magnitudes"}},
        **{"local_optimiser": ADAMW},
    },
    "sasg_downlink": {**configuration("mnist", "sasg").algorithm, "downlink": TOP_K},
}


@pytest.mark.parametrize("method", ["sgd", "sparse", "lasg", "sasg", *OTHERS])
def test_captured_iterations_equal_eager_ones(method):
    data = random_dataset("mnist", 2000)
    runs = []
    for capture in (True, False):
        config = configuration("mnist", "sgd" if method in OTHERS else method, deterministic=True)
        if method in OTHERS:
            config = replace(config, algorithm={**OTHERS[method], "name": method})
        trainer = make_trainer(config, data)
        if not capture:
            trainer._run_step = trainer._step
        for _ in range(30):
            trainer.run_iteration()
        runs.append((trainer.problem.parameters, trainer.cluster.ledger.counters))
    torch.use_deterministic_algorithms(False)
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("method", VOTES)
def test_voting_is_captured_by_phase(method):
    """20 dense iterations, then 40 with votes: two graphs, and what eager iterations give."""
    data = random_dataset("mnist", 2000)
    runs = []
    for capture in (True, False):
        trainer = make_trainer(configuration("mnist", method, deterministic=True, warmup_epochs=1), data)
        graphs = set()
        if not capture:
            trainer._captures, trainer._run_step = False, trainer._step
        for _ in range(60):
            trainer.run_iteration()
            graphs.add(id(trainer._run_step))
        assert len(graphs) == (2 if capture else 1)
        runs.append((trainer.problem.parameters, trainer.algorithm.memory, trainer.cluster.ledger.counters))
    torch.use_deterministic_algorithms(False)
    for captured, eager in zip(*runs, strict=True):
        assert torch.equal(captured, eager)


def test_votes_follow_the_cpu():
    """The same masks and ledgers for two iterations, before rounding flips a vote."""
    data = random_dataset("mnist", 2000)
    for method in VOTES:
        found = []
        for device in ("cpu", "cuda"):
            trainer = make_trainer(configuration("mnist", method, precision="fp32", device=device), data)
            for _ in range(2):
                trainer.run_iteration()
            found.append((trainer.problem.parameters.cpu(), trainer.cluster.ledger.counters.cpu()))
        assert relative(found[1][0], found[0][0]) < 1e-2, method
        assert relative(found[1][1], found[0][1]) < 1e-2, method


def test_gpu_follows_the_cpu():
    data = random_dataset("mnist", 2000)
    losses = []
    for device in ("cpu", "cuda"):
        trainer = make_trainer(configuration("mnist", "sasg", precision="fp32", device=device), data)
        for _ in range(12):
            trainer.run_iteration()
        losses.append(trainer.problem.oracle.loss.cpu())
    assert relative(losses[1], losses[0]) < 1e-3


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_resnet18_learns(precision):
    trainer = make_trainer(configuration("cifar10", "sasg", precision=precision), random_dataset("cifar10", 1000))
    losses = []
    for _ in range(30):
        trainer.run_iteration()
        losses.append(float(trainer.problem.oracle.loss.mean()))
    assert losses[-1] < 0.9 * losses[0]


def test_equal_parameters_give_equal_gradients():
    """A lazy trigger compares two passes: they must not differ by two kinds of rounding (1e-3 of the norm in TF32)."""
    trainer = make_trainer(configuration("cifar10", "sasg"), random_dataset("cifar10", 1000))
    trainer._start_epoch(0)
    own = trainer.problem.parameters.repeat(10, 1)
    rows = torch.arange(10, device=own.device)
    oracle = trainer.problem.oracle
    with torch.no_grad():
        oracle.begin()
        gradients = oracle(trainer.problem.parameters)
        distance = gradients.squared_distance(oracle.at(own, rows))
        assert torch.all(distance <= 1e-6 * gradients.dense().square().sum(1))


def test_what_varies_is_counted_without_waiting_for_the_host():
    codes = (*CODES, *MORE_CODES)
    extra = ("side_bits", "vote_bits")
    ledgers = {name: Ledger(3, torch.device(name), codes, extra) for name in ("cuda", "cpu")}
    vectors = torch.randn(3, 500, generator=torch.Generator().manual_seed(1))

    def count(vectors: torch.Tensor, ledger: Ledger) -> None:
        sent = vectors[:, 0] > 0
        payload = Payload.of_survivors(vectors, vectors > 1.0, side=vectors[:, :2])
        ledger.count_uploads(payload, sent)
        update = payload.uploaded(sent).sum(0)
        ledger.count_reply(Update(), update, payload)
        best = vectors.topk(7, dim=1).indices.sort(1).values
        vote = Payload(None, best, (Segment(500, 7),))
        ledger.count_uploads(vote, None)
        ledger.count_reply(Positions(7, 500), best[0], vote)
        ledger.count_request(sent, vectors[0])

    on_gpu = vectors.cuda()
    captured = Captured(lambda: count(on_gpu, ledgers["cuda"]), SimulatedCluster(1, torch.device("cuda")))
    for _ in range(6):
        captured()
        count(vectors, ledgers["cpu"])
    assert ledgers["cuda"].totals() == ledgers["cpu"].totals()


@cache
def few_images():
    return random_dataset("mnist", 400)


def zoo_trainer(name: str, method: str, precision: str, gradients: str):
    model = {"kind": "zoo.build", "case": name}
    options = {"model": model, "workers": WORKERS, "precision": precision, "gradients": gradients}
    return make_trainer(configuration("mnist", method, **options), few_images())


ZOO = [name for name, case in zoo.CASES.items() if case.refused is None]
TRIED = ("batched", "triton", "vmap", "streams", "auto")


@pytest.mark.parametrize("precision", ["fp64", "tf32"])
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_trained_right(name, precision):
    """One gradient of every engine that is taken equals that of the loop in float64; four methods run, captured."""
    case = zoo.CASES[name]
    if case.refused_in_float64 and precision == "fp64":
        with pytest.raises(UserError, match="cannot be trained in float64 on cuda"):
            zoo_trainer(name, "sgd", precision, "auto")
        return
    taken = {}
    for engine in TRIED:
        try:
            taken[engine] = zoo_trainer(name, "sgd", precision, engine)
        except UserError as error:
            assert engine != "auto" and str(error).startswith(f"gradients={engine}: "), error
    assert ("batched" in taken) == case.batched
    assert case.captured or not taken["auto"]._captures
    if precision == "fp64" or not case.heavy:  # in TF32 deep networks on few samples have errors of half a gradient
        for engine, trainer in taken.items():
            assert gradient_error(name, trainer) < (1e-8 if precision == "fp64" else 0.15), engine
    for method in METHODS:
        trainer = zoo_trainer(name, method, precision, "auto")
        for _ in range(6):
            trainer.run_iteration()
        assert trainer.problem.parameters.isfinite().all()
        if precision == "fp64" and not case.heavy:
            loop = zoo_trainer(name, method, precision, "loop")
            loop._captures, loop._run_step = False, loop._step
            for _ in range(6):
                loop.run_iteration()
            assert relative(trainer.problem.parameters, loop.problem.parameters) < 1e-6, method


def gradient_error(name: str, trainer) -> float:
    """Of all rows, relative to the loop's gradient in float64 (where the model takes it)."""
    trainer._start_epoch(0)
    problem = trainer.problem
    x, y = problem.batches.batch(torch.zeros((), dtype=torch.int64, device=problem.parameters.device))
    with torch.no_grad():
        problem.oracle.begin()
        found = problem.oracle(problem.parameters).dense()
    model, w = copy.deepcopy(problem.model), problem.parameters
    if not zoo.CASES[name].refused_in_float64:
        model, x, w = model.double(), x.double(), w.double()
    loop = make_engine("loop", model, problem.objective.losses)
    expected, statistics = (x.new_zeros(WORKERS, n) for n in (loop.layout.size, loop.statistics.size))
    loop.per_worker(w, x, y, expected, statistics)
    return relative(found, expected)


@pytest.mark.parametrize("name", [name for name, case in zoo.CASES.items() if case.refused is not None])
def test_the_zoo_is_refused(name):
    with pytest.raises(UserError, match=zoo.CASES[name].refused.replace("digits", "mnist").replace("8x8", "28x28")):
        zoo_trainer(name, "sgd", "tf32", "auto")
