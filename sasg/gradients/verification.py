"""Engines are used once they have shown to give what `loop` gives, on the model and the shapes of a run.

Two workers' real mini-batches are enough, with parameters near the model's own, the same for both and each its own:
losses, gradients (also their sum, and the factors that they are products of) and batch statistics are compared, tensor
by tensor. Two comparisons are made.

* In float64, where an engine can only be wrong or right: with r the reference of `loop`, of one tensor and of all,

      || g_t - r_t || <= sqrt(eps) (|| r_t || + || r || / 100),    sqrt(eps) = 1.5e-8.

  What is right has errors of 1e-16 times the few powers of ten that deep networks amplify them by; what is wrong is
  wrong in the first digits. `triton`, which has no float64, is `batched` with other kernels, and is held to it as that.
* As the run computes (float32, TF32, bfloat16), against the same reference, so that broken kernels are seen:

      || g_t - r_t || <= 4 || l_t - r_t || + (|| r_t || + || r || / 100) / 10,    l: `loop`, as the run computes.

  Rounding alone moves an activation across ReLU's kink now and then, which changes a small layer's gradient by some
  percents.

`batched` merges mini-batches, so a proof that samples are treated alone comes first (`rows_alone`). On a CPU `auto`
also asks for equal bits with and without the other worker: results then do not depend on who shares a process.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from sasg.errors import UserError
from sasg.gradients.admission import reason, refused
from sasg.gradients.batched import BatchedEngine
from sasg.gradients.engine import Engine, PerSampleLoss
from sasg.gradients.layout import Layout, trained_parameters
from sasg.gradients.loop import LoopEngine
from sasg.gradients.rows_alone import objection
from sasg.kernels.precision import whole_precision

EXACT = torch.finfo(torch.float64).eps ** 0.5
ROUNDED = 0.1
_OF_ALL = 0.01  # how much of the whole gradient's norm counts for each of its tensors
_AMPLIFIED = 4.0


@dataclass(frozen=True)
class Trial:
    """What engines are tried on: mini-batches x [n, B, ...], y [n, B] or [n, B, T] and parameters [d], [n, d]."""

    x: Tensor
    y: Tensor
    shared: Tensor
    own: Tensor

    def of(self, worker: int) -> "Trial":
        """One worker's part."""
        one = slice(worker, worker + 1)
        return replace(self, x=self.x[one], y=self.y[one], own=self.own[one])

    def double(self) -> "Trial":
        x = self.x.double() if self.x.is_floating_point() else self.x
        return replace(self, x=x, shared=self.shared.double(), own=self.own.double())

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return self.shared.dtype


Found = dict[str, Tensor]
"""By what it is: [n], [n, d] or [n, s]; a sum over workers has one row."""


class Verification:
    """Tries engines on one model, a loss and two mini-batches x [n, B, ...], y [n, B] in the run's type, on its device.

    bfloat16: whether the run's passes are under autocast. UserError: plain PyTorch itself cannot train the model, or
    `loop` does not give what it gives.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss, x: Tensor, y: Tensor, bfloat16: bool = False):
        self.model, self.loss, self.bfloat16 = model, loss, bfloat16
        with _quiet():
            self.loop = LoopEngine(model, loss)
            self.layout, self.statistics = self.loop.layout, self.loop.statistics
            self.trial = Trial(x, y, *_points(model, len(x)))
            self._compare_loop_with_plain_pytorch()

    def objection(self, exact: type[Engine], engine: type[Engine], alone: bool) -> str | None:
        """Why an engine is not to be used, in words, or None. exact: its kind in float64; alone: ask for equal bits."""
        try:
            with _quiet():
                return None if engine is LoopEngine else self._objection(exact, engine, alone)
        except UserError as error:  # what the engine says of the model, without its name and its advice
            return str(error).partition(": ")[2].partition(";")[0]
        except Exception as error:
            return f"fails ({reason(error)})"

    def _objection(self, exact: type[Engine], engine: type[Engine], alone: bool) -> str | None:
        run, trial = engine(self.model, self.loss), self.trial
        if isinstance(run, BatchedEngine):
            found = objection(self.model, self.loss, trial.x.flatten(0, 1), trial.y.flatten())
            if found is not None:
                return f"samples are not known to be treated alone ({found})"
        if self._reference is not None:
            if exact is not engine or trial.dtype != torch.float64:
                double = exact(copy.deepcopy(self.model).double(), self.loss)
                if found := self._difference(_passes(double, trial.double()), self._reference, None):
                    return found
        elif not isinstance(run, LoopEngine):
            return "cannot be compared in float64, which the model does not take"
        together = self._as_the_run(run, trial)
        if found := self._difference(together, self._reference or self._rounded, self._rounded):
            return found
        if alone and len(trial.x) > 1:
            return next(filter(None, (self._changes_alone(run, together, m) for m in range(len(trial.x)))), None)
        return None

    def _changes_alone(self, engine: Engine, together: Found, worker: int) -> str | None:
        for what, values in self._as_the_run(engine, self.trial.of(worker), everything=False).items():
            if not torch.equal(values[0], together[what][worker]):
                return f"gives a worker other bits when its process holds others ({what})"
        return None

    def waits_for_the_host(self, engine: Engine) -> str | None:
        """What keeps a pass from being captured in a CUDA graph, in words, or None."""
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            self._as_the_run(engine, self.trial)
        except RuntimeError as error:
            return reason(error)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return None

    @cached_property
    def _reference(self) -> Found | None:
        """Of `loop` in float64; None where the model itself does not take it."""
        if self.trial.dtype == torch.float64:
            return self._rounded
        try:
            loop = LoopEngine(copy.deepcopy(self.model).double(), self.loss)
            return _passes(loop, self.trial.double(), everything=False)
        except Exception:
            return None

    @cached_property
    def _rounded(self) -> Found:
        return self._as_the_run(self.loop, self.trial, everything=False)

    def _as_the_run(self, engine: Engine, trial: Trial, everything: bool = True) -> Found:
        with torch.autocast(trial.x.device.type, torch.bfloat16, enabled=self.bfloat16):
            return _passes(engine, trial, everything)

    def _difference(self, found: Found, reference: Found, rounded: Found | None) -> str | None:
        """The first tensor that is further from the reference than the head of this file says."""
        for what, values in found.items():
            expected = _of_loop(what, reference)
            exact = rounded is None or values.dtype == torch.float64
            if what == "squared distance" and not exact:
                continue  # of which rounding may leave nothing
            tolerance = EXACT if exact else ROUNDED
            whole = _OF_ALL * expected.norm(dim=-1) if expected.dim() > 1 else torch.zeros(())
            if expected.dim() > 1 and ((values - expected).norm(dim=-1) <= tolerance * whole).all():
                continue  # then so it is of each of its tensors
            noise = torch.zeros_like(expected) if exact else _of_loop(what, rounded) - expected
            parts = zip(*(self._parts(what, tensor).items() for tensor in (values, expected, noise)), strict=True)
            for (name, ours), (_, theirs), (_, its_noise) in parts:
                off, size = (ours - theirs).norm(dim=-1), theirs.norm(dim=-1)
                if not (off <= _AMPLIFIED * its_noise.norm(dim=-1) + tolerance * (size + whole)).all():
                    return f"differs from loop ({what}{name}, by {float((off / size).max()):.2g} of its norm)"
        return None

    def _parts(self, what: str, values: Tensor) -> Found:
        """The tensors that rows [n, d] or [n, s] consist of, flat; anything else is one, of one entry a row."""
        for kind, layout in (("gradient", self.layout), ("statistics", self.statistics)):
            if what.startswith(kind):
                parts = values.split(layout.sizes, dim=-1)
                return {f" of {name}": part for name, part in zip(layout.names, parts, strict=True)}
        return {"": values.unsqueeze(-1)}

    def _compare_loop_with_plain_pytorch(self) -> None:
        """One worker's gradient at the model's own parameters, from the user's object itself."""
        x, y = self.trial.x[:1], self.trial.y[:1]
        dtype = self.trial.dtype
        trains = f"model: cannot be trained in {str(dtype).removeprefix('torch.')} on {x.device.type}"
        with refused(trains), whole_precision():  # a deep net can amplify the noise of TF32 too far to tell two apart
            plain = _plain_gradient(self.model, self.loss, x[0], y[0])
            own = _flat(trained_parameters(self.model), self.layout)
            found = own.new_full((1, self.layout.size), torch.nan)
            self.loop.per_worker(own, x, y, found, own.new_empty(1, self.statistics.size))
        if not plain.isfinite().all():
            return  # the run ends as diverged
        precision = torch.finfo(dtype).eps
        for name, ours, theirs in zip(self.layout.names, *(t.split(self.layout.sizes) for t in (found[0], plain))):
            if not (ours - theirs).norm() <= precision**0.5 * (theirs.norm() + _OF_ALL * plain.norm()):
                raise UserError(
                    f"model: a copy of it has another gradient of {name} than the model itself (a reference to the "
                    "model that is kept outside of it, or a hook?); leave that out"
                )


def _points(model: nn.Module, num_workers: int) -> tuple[Tensor, Tensor]:
    """Parameters [d] and [n, d] near the model's own; at those alone zeros would hide what is behind them."""
    layout, parameters = Layout.of_parameters(model), trained_parameters(model)
    start = _flat(parameters, layout)
    sizes = [float(p.detach().double().square().mean().sqrt()) for p in parameters.values()]
    generator = torch.Generator(start.device).manual_seed(0)  # made where it is needed
    points = torch.randn(1 + num_workers, layout.size, generator=generator, device=start.device).to(start.dtype)
    for part, size in zip(points.split(layout.sizes, dim=1), sizes, strict=True):
        part.mul_(0.1 * size + 1e-3)
    points += start
    return points[0], points[1:]


def _flat(parameters: dict[str, Tensor], layout: Layout) -> Tensor:
    first = next(iter(parameters.values()))
    flat = first.new_empty(layout.size, requires_grad=False)
    layout.flatten((parameter.detach() for parameter in parameters.values()), out=flat)
    return flat


def _plain_gradient(model: nn.Module, loss: PerSampleLoss, x: Tensor, y: Tensor) -> Tensor:
    """[d], by loss.backward() on the model itself, whose buffers and gradients are put back."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    parameters = trained_parameters(model)
    try:
        with torch.enable_grad():
            mean = loss(model.train()(x), y).mean()
            if not mean.requires_grad:
                raise UserError("model: its outputs do not depend on its parameters")
            mean.backward()
        zero = {name: torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for name, p in parameters.items()}
        return _flat(zero, Layout.of_parameters(model))
    finally:
        for parameter in parameters.values():
            parameter.grad = None
        for buffer, before in buffers:
            buffer.detach().copy_(before)


def _passes(engine: Engine, trial: Trial, everything: bool = True) -> Found:
    """What an engine is asked for in a run; `everything`: also the sum, which of `loop` follows from the rest."""
    x, y, num = trial.x, trial.y, len(trial.x)
    found: Found = {}
    for name, parameters in (("shared", trial.shared), ("own", trial.own)):
        gradients, statistics = _blank(trial.shared, num, engine.layout), _blank(trial.shared, num, engine.statistics)
        found[f"loss at {name} parameters"] = engine.per_worker(parameters, x, y, gradients, statistics)
        found[f"gradient at {name} parameters"], found[f"statistics at {name} parameters"] = gradients, statistics
    if engine.can_factor(x):
        shared, own = (engine.factored(parameters, x, y)[1] for parameters in (trial.shared, trial.own))
        by_row = engine.factored(torch.stack([trial.shared, *trial.own]), x, y, torch.arange(num) + 1)
        found["squared distance"] = shared.squared_distance(own)
        found["gradient at shared parameters, factored"] = shared.dense()
        found["gradient at own parameters, factored"] = own.dense()
        found["loss at own parameters, by row"], gradients = by_row
        found["gradient at own parameters, by row"] = gradients.dense()
    if everything:
        total, statistics = _blank(trial.shared, 1, engine.layout), _blank(trial.shared, num, engine.statistics)
        found["loss at shared parameters, with the sum"] = engine.total(trial.shared, x, y, total[0], statistics)
        found["gradient, summed"], found["statistics at shared parameters, with the sum"] = total, statistics
    return found


def _blank(like: Tensor, num: int, layout: Layout) -> Tensor:
    """[num, size], of what no result is; finite, as BatchNorm adds zero times the statistics that it overwrites."""
    return like.new_full((num, layout.size), 12345.0)


def _of_loop(what: str, reference: Found) -> Tensor:
    """The reference's counterpart of what only some engines give."""
    if what == "squared distance":
        shared, own = (reference[f"gradient at {name} parameters"] for name in ("shared", "own"))
        return (shared - own).square().sum(1)
    if what == "gradient, summed":
        return reference["gradient at shared parameters"].sum(0, keepdim=True)
    return reference[what.partition(",")[0]]


@contextmanager
def _quiet() -> Iterator[None]:
    """No search for the fastest convolutions: a trial is a few passes, some of a type that the run never has."""
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
