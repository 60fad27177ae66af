"""Per-worker losses and gradients: interchangeable engines behind one interface.

`loop` is the reference (plain PyTorch, one worker after another), `vmap` vectorises models with torch.func, `batched`
runs the workers' samples as one batch through layers that know about workers. On a CUDA device there are also
`streams`, the reference with workers side by side, and `triton`, `batched` with own kernels. A run uses an engine once
it has shown to give what `loop` gives (`verification`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from sasg.errors import UserError
from sasg.gradients.admission import signature
from sasg.gradients.batched import BatchedEngine, only_linear
from sasg.gradients.engine import Engine, PerSampleLoss
from sasg.gradients.forms import DenseGradients
from sasg.gradients.loop import LoopEngine
from sasg.gradients.streams import StreamsEngine
from sasg.gradients.verification import Verification
from sasg.gradients.vmap import VmapEngine

__all__ = ["ENGINES", "Choice", "DenseGradients", "Engine", "PerSampleLoss", "choose_engine", "make_engine"]

ENGINES = ("loop", "vmap", "batched", "streams", "triton")


def make_engine(name: str, model: nn.Module, loss: PerSampleLoss) -> Engine:
    """The engine called `name`, as it is: `choose_engine` verifies it. UserError: it cannot have this model."""
    return _kind(name, model)(model, loss)


def _kind(name: str, model: nn.Module) -> type[Engine]:
    if name not in ENGINES:
        raise UserError(f"gradients={name}: unknown engine; choose one of auto, {', '.join(ENGINES)}")
    if name in ("streams", "triton") and not next(model.parameters()).is_cuda:
        raise UserError(f"gradients={name}: needs a CUDA device; use gradients=auto")
    if name == "triton":
        from sasg.gradients.triton_engine import TritonEngine

        return TritonEngine
    return {"loop": LoopEngine, "vmap": VmapEngine, "batched": BatchedEngine, "streams": StreamsEngine}[name]


@dataclass(frozen=True)
class Choice:
    """An engine that was verified; what is to be said about it; whether its passes can be captured in a CUDA graph."""

    engine: Engine
    notes: tuple[str, ...]
    capturable: bool


_known: dict[tuple, Any] = {}
"""What was found out in this process, by engine, model and shapes."""


def choose_engine(
    name: str,
    model: nn.Module,
    loss: PerSampleLoss,
    x: Tensor,
    y: Tensor,
    bfloat16: bool = False,
    agree: Callable[[int], int] = int,
    identity: Any = None,
) -> Choice:
    """The engine called `name`, or with "auto" the fastest that gives what `loop` gives, on x [n, B, ...], y [n, B].

    bfloat16: whether passes are under autocast. agree: the largest of the processes' numbers, so that all take the same
    engine. identity: plain data that names the model and the loss; what is found out is kept for it in this process.
    UserError: the model cannot be trained, or the engine that was named is not right for it.
    """
    known = _Findings(model, loss, x, y, bfloat16, identity)
    if name != "auto":
        if (found := known.objection(name, alone=False)) is not None:
            raise UserError(f"gradients={name}: {found}; use gradients=auto")
        chosen, notes = name, []
    else:
        candidates = _candidates(model)
        chosen, found = known.first_good(candidates, agree)
        notes = [f"gradients: {chosen} (not {candidates[0]}: {found})"] if found else []
    engine = make_engine(chosen, model, loss)
    waits = known.waits_for_the_host(chosen, engine) if x.is_cuda else None
    if waits:
        notes.append(f"gradients: without CUDA graphs, as a pass waits for the host ({waits})")
    return Choice(engine, tuple(notes), not waits)


def _candidates(model: nn.Module) -> tuple[str, ...]:
    """Engines from the fastest on; the last one is right for every model."""
    first = next(model.parameters())
    can_batch = BatchedEngine.supports(model)
    if not first.is_cuda:  # where convolutions of some workers together could round otherwise than each by itself
        return ("batched", "loop") if can_batch and only_linear(model) else ("loop",)
    if can_batch and not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return ("batched", "streams", "loop")
    on_tensor_cores = first.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    if can_batch and on_tensor_cores and find_spec("triton"):
        return ("triton", "streams", "loop")
    return ("streams", "loop")


class _Findings:
    """What verification finds, tried only where nothing is kept."""

    def __init__(self, model: nn.Module, loss: PerSampleLoss, x: Tensor, y: Tensor, bfloat16: bool, identity: Any):
        self._arguments = model, loss, x, y, bfloat16
        self._verification: Verification | None = None
        self._key = None
        if identity is not None:
            dtypes = x.dtype, next(model.parameters()).dtype
            kinds = x.shape, dtypes, x.device.type, bfloat16, torch.backends.cudnn.allow_tf32
            self._key = signature(model, identity), kinds

    def objection(self, name: str, alone: bool) -> str | None:
        """Why the engine is not to be used."""
        kind = _kind(name, self._arguments[0])
        exact = BatchedEngine if issubclass(kind, BatchedEngine) else kind
        return self._kept((name, alone), lambda tried: tried.objection(exact, kind, alone))

    def waits_for_the_host(self, name: str, engine: Engine) -> str | None:
        return self._kept((name, "waits"), lambda tried: tried.waits_for_the_host(engine))

    def first_good(self, candidates: tuple[str, ...], agree: Callable[[int], int]) -> tuple[str, str | None]:
        """The first candidate without an objection in any process, and the objection to the first of all."""
        on_cpu = not self._arguments[2].is_cuda
        place, first = 0, None
        while True:
            while (found := self.objection(candidates[place], alone=on_cpu)) is not None:
                if place == len(candidates) - 1:
                    raise UserError(f"gradients={candidates[place]}: {found}")
                first = first or found
                place += 1
            together = agree(place)
            if not agree(int(place != together)):
                return candidates[place], first if place else None
            first, place = first or "is not right in another process", together

    def _kept(self, what: tuple, find: Callable[[Verification], Any]) -> Any:
        if self._key is not None and (*what, self._key) in _known:
            return _known[*what, self._key]
        if self._verification is None:
            self._verification = Verification(*self._arguments)
        found = find(self._verification)
        if self._key is not None:
            _known[*what, self._key] = found
        return found
