"""Engines of per-worker gradients: all equal to the loop, for shared and for the workers' own parameters."""

import pytest
import torch
import torch.nn.functional as F
from suite_config import small_batchnorm
from torch import nn

from sasg.errors import UserError
from sasg.gradients.engines import make_engine
from sasg.problem.models import fc, resnet18

W, B = 3, 4
SHAPE = (2, 8, 8)


class Convolutions(nn.Module):
    """Strides, dilation, groups, biases, BatchNorm without affine and over vectors."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, stride=2, bias=True)
        self.b = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.c = nn.Linear(36, 5, bias=False)
        self.d = nn.BatchNorm1d(5)

    def forward(self, x):
        return self.d(self.c(F.relu(self.norm(self.b(self.a(x)))).flatten(1)))


MODELS = {
    "fc": lambda: fc(SHAPE, 5, hidden=(7, 6)),
    "one layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 5)),
    "batchnorm": lambda: small_batchnorm(SHAPE, 5),
    "resnet18": lambda: resnet18(SHAPE, 5, width=4),
    "convolutions": Convolutions,
}


def cross_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(1)
    return MODELS[request.param]().double()


@pytest.mark.parametrize("name", ["vmap", "batched"])
@pytest.mark.parametrize("shared", [True, False])
def test_equals_the_loop(model, name, shared):
    engine, loop = make_engine(name, model, cross_entropy), make_engine("loop", model, cross_entropy)
    x, y = torch.randn(W, B, *SHAPE, dtype=torch.float64), torch.randint(0, 5, (W, B))
    d, s = loop.layout.size, loop.statistics.size
    parameters = torch.randn(*([] if shared else [W]), d, dtype=torch.float64) * 0.3
    results = []
    for e in (engine, loop):
        out, statistics = torch.full((W, d), torch.nan, dtype=torch.float64), torch.zeros(W, s, dtype=torch.float64)
        results.append((e.per_worker(parameters, x, y, out, statistics), out, statistics))
    for mine, reference in zip(*results):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-11)
    if shared:
        total = torch.empty(d, dtype=torch.float64)
        engine.total(parameters, x, y, total, torch.zeros(W, s, dtype=torch.float64))
        torch.testing.assert_close(total, results[1][1].sum(0), rtol=1e-10, atol=1e-11)


def test_statistics_are_each_workers_own(model):
    engine = make_engine("loop", model, cross_entropy)
    if not engine.statistics.size:
        return
    x, y = torch.randn(W, B, *SHAPE, dtype=torch.float64), torch.randint(0, 5, (W, B))
    parameters = nn.utils.parameters_to_vector(model.parameters()).detach()
    statistics = torch.zeros(W, engine.statistics.size, dtype=torch.float64)
    engine.per_worker(parameters, x, y, torch.empty(W, engine.layout.size, dtype=torch.float64), statistics)
    first = next(m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    for worker in range(W):
        first.reset_running_stats()
        first.momentum = 1.0
        model.train()(x[worker])
        mine = next(iter(engine.statistics.views(statistics[worker]).values()))
        torch.testing.assert_close(mine, first.running_mean, rtol=1e-10, atol=1e-12)


def test_factored_gradients_are_those_of_rows():
    model = fc(SHAPE, 5, hidden=(7, 6)).double()
    engine = make_engine("batched", model, cross_entropy)
    x, y = torch.randn(W, B, *SHAPE, dtype=torch.float64), torch.randint(0, 5, (W, B))
    d = engine.layout.size
    shared = nn.utils.parameters_to_vector(model.parameters()).detach()
    own = shared + 0.1 * torch.randn(W, d, dtype=torch.float64)
    rows = {}
    for parameters in (shared, own):
        rows[parameters.dim()] = torch.empty(W, d, dtype=torch.float64)
        engine.per_worker(parameters, x, y, rows[parameters.dim()], torch.empty(W, 0, dtype=torch.float64))
    assert engine.can_factor(x)
    gradients, others = engine.factored(shared, x, y)[1], engine.factored(own, x, y)[1]
    torch.testing.assert_close(gradients.dense(), rows[1], rtol=1e-12, atol=1e-14)
    order = torch.tensor([2, 0, 2])  # workers with the same parameters, and some that nobody has
    picked, reference = engine.factored(own, x, y, order)[1], engine.factored(own[order], x, y)[1]
    torch.testing.assert_close(picked.dense(), reference.dense(), rtol=1e-12, atol=1e-14)
    distance = (rows[1] - rows[2]).square().sum(1)
    torch.testing.assert_close(gradients.squared_distance(others), distance, rtol=1e-10, atol=1e-14)
    sent, scale = torch.tensor([True, False, True]), torch.tensor(0.3, dtype=torch.float64)
    target = torch.randn(W, d, dtype=torch.float64)
    expected = torch.where(sent.unsqueeze(1), target + 0.3 * rows[1], target)
    gradients.add_(target, scale, sent)
    torch.testing.assert_close(target, expected, rtol=1e-12, atol=1e-14)
    gradients.write_(target, scale, None)
    torch.testing.assert_close(target, 0.3 * rows[1], rtol=1e-12, atol=1e-14)


def test_factored_distances_of_nearly_equal_gradients_keep_their_digits():
    """In float32, where a difference of products would lose them."""
    model = fc((1, 28, 28), 10, hidden=(64,))
    engine = make_engine("batched", model, cross_entropy)
    x, y = torch.randn(W, B, 1, 28, 28), torch.randint(0, 10, (W, B))
    shared = nn.utils.parameters_to_vector(model.parameters()).detach()
    own = (shared + 1e-5 * torch.randn(W, engine.layout.size)).clone()
    near = engine.factored(shared, x, y)[1].squared_distance(engine.factored(own, x, y)[1])
    double = make_engine("loop", model.double(), cross_entropy)
    rows = [torch.empty(W, engine.layout.size, dtype=torch.float64) for _ in range(2)]
    for parameters, out in zip((shared, own), rows):
        double.per_worker(parameters.double(), x.double(), y, out, torch.empty(W, 0, dtype=torch.float64))
    torch.testing.assert_close(near.double(), (rows[0] - rows[1]).square().sum(1), rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.LayerNorm(8), nn.Linear(8, 5)),
        nn.Sequential(nn.Conv2d(2, 4, 2, padding="same"), nn.Flatten(), nn.Linear(256, 5)),
    ],
)
def test_batched_refuses_other_layers(model):
    with pytest.raises(UserError, match="gradients=batched: the model has parameters outside"):
        make_engine("batched", model, cross_entropy)


def test_an_unknown_engine_is_named():
    with pytest.raises(UserError, match="gradients=warp: unknown engine"):
        make_engine("warp", fc(SHAPE, 5), cross_entropy)
