"""An engine that is wrong is not used, and a model that mixes samples is not merged: both are found, and said."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sasg.errors import UserError
from sasg.gradients import engines as gradients
from sasg.gradients.batched import BatchedEngine
from sasg.gradients.engines import choose_engine
from sasg.gradients.forms import DenseGradients
from sasg.gradients.loop import LoopEngine
from sasg.gradients.rows_alone import objection
from sasg.gradients.vmap import VmapEngine

SHAPE = (1, 8, 8)


def cross_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def batches(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, *SHAPE, generator=generator, dtype=dtype), torch.arange(10).view(2, 5) % 10


def small(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(32)] if norm else []
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32, bias=not norm), *middle, nn.Tanh(), nn.Linear(32, 10)).double()


class Sabotaged(BatchedEngine):
    """What one of its results is multiplied by, all but unnoticeably."""

    what = "gradient"
    factor = 1 + 1e-6

    def per_worker(self, parameters, x, y, out, statistics):
        loss = super().per_worker(parameters, x, y, out, statistics)
        for what, tensor in (("loss", loss), ("gradient", out), ("statistics", statistics)):
            if what == self.what:
                tensor.mul_(self.factor)
        if self.what == "last tensor":
            out[..., -10:].mul_(self.factor)
        return loss

    def total(self, parameters, x, y, out, statistics):
        loss = BatchedEngine.per_worker(self, parameters, x, y, out, statistics)
        if self.what == "sum":
            out.mul_(self.factor)
        return loss

    def factored(self, parameters, x, y, rows=None):
        if self.what == "rows" and rows is not None:
            rows = rows.roll(1)
        loss, factors = super().factored(parameters, x, y, rows)
        return loss, DenseGradients(factors.dense() * self.factor) if self.what == "factors" else factors


def choose(monkeypatch, name, what, factor=1 + 1e-6, model=None, **options):
    monkeypatch.setattr(gradients, "BatchedEngine", type("Sabotaged", (Sabotaged,), {"what": what, "factor": factor}))
    return choose_engine(name, model or small(), cross_entropy, *batches(), **options)


def test_what_is_right_is_used():
    for name, norm in (("auto", False), ("batched", False), ("batched", True), ("vmap", True)):
        choice = choose_engine(name, small(norm), cross_entropy, *batches())
        assert type(choice.engine) is (VmapEngine if name == "vmap" else BatchedEngine)
        assert choice.notes == () and choice.capturable


def test_other_layers_take_the_loop_on_a_cpu():
    choice = choose_engine("auto", small(norm=True), cross_entropy, *batches())
    assert type(choice.engine) is LoopEngine and choice.notes == ()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("loss", "loss at shared parameters"),
        ("gradient", "gradient at shared parameters of 1.weight, by 1e-06"),
        ("last tensor", "gradient at shared parameters of 3.bias, by 1e-06"),
        ("sum", "gradient, summed of 1.weight"),
    ],
)
def test_what_differs_is_found(monkeypatch, what, words):
    choice = choose(monkeypatch, "auto", what)
    assert type(choice.engine) is LoopEngine
    assert choice.notes[0].startswith(f"gradients: loop (not batched: differs from loop ({words}")
    with pytest.raises(UserError, match=r"gradients=batched: differs from loop .*; use gradients=auto"):
        choose(monkeypatch, "batched", what)


def test_wrong_statistics_are_found(monkeypatch):
    with pytest.raises(UserError, match=r"statistics at shared parameters of 2\.running_mean"):
        choose(monkeypatch, "batched", "statistics", model=small(norm=True))


@pytest.mark.parametrize(("what", "words"), [("factors", "factored|squared"), ("rows", "by row")])
def test_wrong_factors_are_found(monkeypatch, what, words):
    with pytest.raises(UserError, match=words):
        choose(monkeypatch, "batched", what)


def test_a_failure_is_told(monkeypatch):
    monkeypatch.setattr(Sabotaged, "total", lambda *_: 1 / 0)
    choice = choose(monkeypatch, "auto", "nothing")
    line = Sabotaged.total.__code__.co_firstlineno
    place = f"ZeroDivisionError: division by zero, test_verification.py:{line}"
    assert choice.notes == (f"gradients: loop (not batched: fails ({place}))",)


def test_bits_that_depend_on_the_other_worker(monkeypatch):
    """Within rounding, so that it may be named, but `auto` does not take it."""

    def per_worker(self, parameters, x, y, out, statistics):
        loss = BatchedEngine.per_worker(self, parameters, x, y, out, statistics)
        if len(x) > 1:
            out.mul_(1 + 2e-16)
        return loss

    monkeypatch.setattr(Sabotaged, "per_worker", per_worker)
    assert "other bits when its process holds others" in choose(monkeypatch, "auto", "nothing").notes[0]
    assert isinstance(choose(monkeypatch, "batched", "nothing").engine, BatchedEngine)


def test_all_processes_take_the_same(monkeypatch):
    """Another one's engine is further down the list."""
    others = iter([1, 0, 1, 0])  # their first good one, that all have the same, and again
    choice = choose(monkeypatch, "auto", "nothing", agree=lambda wish: max(wish, next(others)))
    assert type(choice.engine) is LoopEngine and "is not right in another process" in choice.notes[0]


def test_what_was_found_out_is_kept(monkeypatch):
    tried = []

    def counted(*arguments):
        tried.append(arguments)
        return original(*arguments)

    original = gradients.Verification
    monkeypatch.setattr(gradients, "Verification", counted)
    monkeypatch.setattr(gradients, "_known", {})
    for _ in range(3):
        choose_engine("auto", small(), cross_entropy, *batches(), identity={"kind": "small"})
    assert len(tried) == 1
    choose_engine("auto", small(), cross_entropy, *batches(), identity={"kind": "other options"})
    choose_engine("auto", small(norm=True), cross_entropy, *batches(), identity={"kind": "small"})
    choose_engine("auto", small(), cross_entropy, *(t[:, :4] for t in batches()), identity={"kind": "small"})
    assert len(tried) == 4


class Between(nn.Module):
    def __init__(self, between, loss=cross_entropy):
        super().__init__()
        self.a, self.b = nn.Linear(64, 6), nn.Linear(6, 10)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self.a(x.flatten(1))))


ALONE = {
    "softplus": F.softplus,
    "own mean": lambda x: x - x.mean(1, keepdim=True),
    "constants": lambda x: x * torch.arange(6.0) + torch.ones(1, 6),
    "zeros of that length": lambda x: torch.zeros(len(x), 6).add_(x),
    "columns": lambda x: torch.stack([x[:, 3], *x.unbind(1)[1:]], 1),
    "transposed within": lambda x: x.view(-1, 2, 3).transpose(1, 2).flatten(1),
    "norm": lambda x: F.normalize(x, dim=1),
    "top": lambda x: F.pad(x.topk(3, dim=1).values, (0, 3)),
    "layer norm": lambda x: F.layer_norm(x, (6,)),
}
MIXING = {
    "mean of all": lambda x: x - x.mean(),
    "mean of samples": lambda x: x - x.mean(0),
    "sum of samples": lambda x: x + x.sum(0, keepdim=True),
    "largest": lambda x: x / x.amax(0),
    "softmax over samples": lambda x: x.softmax(0),
    "neighbours": lambda x: x + x.roll(1, 0),
    "order": lambda x: x.flip(0),
    "first": lambda x: x + x[0],
    "half": lambda x: torch.cat([x[:5] * 2, x[5:]]),
    "position": lambda x: x * torch.arange(len(x)).unsqueeze(1),
    "products": lambda x: (x @ x.t()) @ x,
    "broadcast": lambda x: (x.unsqueeze(0) + x.unsqueeze(1)).mean(1),
    "reshaped": lambda x: x.reshape(6, -1).tanh().reshape(-1, 6),
    "transposed": lambda x: x.t().cumsum(1).t(),
    "indices": lambda x: x[x[:, 0].argsort()],
    "mask": lambda x: torch.where(x[:, :1] > 0, x, x).index_put((x[:, 0] > 0,), torch.zeros(())),
    "number": lambda x: x * float(x.sum()),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
    "running sum": lambda x: x.cumsum(0),
    "sorted": lambda x: x.sort(0).values,
}


def objects(between, loss=cross_entropy):
    x, y = batches(torch.float32)
    return objection(Between(between), loss, x.flatten(0, 1), y.flatten())


@pytest.mark.parametrize("name", ALONE)
def test_samples_alone(name):
    assert objects(ALONE[name]) is None


def with_hook(x):
    x.register_hook(lambda gradient: gradient / gradient.norm())
    return x


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda x: x * float(x.detach().numpy().mean()), "numpy"),
        (lambda x: x * sum(x[:, 0].tolist()), "tolist"),
        (lambda x: x * float(np.asarray(x.detach()).mean()), "__array__"),
        (with_hook, "a tensor has a hook"),
    ],
)
def test_what_operators_do_not_show(between, words):
    assert words in objects(between)


@pytest.mark.parametrize("name", MIXING)
def test_samples_mixed(name):
    assert objects(MIXING[name]).endswith("may mix them")


def test_a_loss_of_all_samples():
    def balanced(outputs, targets):
        return cross_entropy(outputs, targets) - outputs.mean(0).sum()

    assert "mean.dim" in objects(torch.tanh, balanced)
    assert "nll_loss_forward" in objects(torch.tanh, lambda o, t: F.cross_entropy(o, t).expand(len(t)))
