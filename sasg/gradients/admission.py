"""What a model must be to be trained here. Everything else is refused in one line, before anything is trained.

A run is a function of its configuration, and what a worker computes one of its parameters and its samples. So a model
must draw nothing, remember nothing of what it has seen but BatchNorm's running statistics (which the suite keeps, see
`normalisation`), and leave its input and its parameters alone. docs/extending.md tells users.
"""

import copy
import json
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from sasg.errors import UserError
from sasg.gradients.layout import trained_parameters
from sasg.gradients.normalisation import expose_batch_statistics, tracked_layers

_TORCH = Path(torch.__file__).parent
_LONGEST = 160  # characters of an exception's text


@torch.no_grad()
def materialise(model: nn.Module, inputs: Tensor) -> None:
    """Gives lazy modules (LazyLinear, ...) their parameters, by a pass over inputs [n, ...] in evaluation mode.

    UserError: the pass fails, or does not reach all of them.
    """
    if not any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        return
    with refused("model: its lazy modules cannot be given their shapes"):
        model.eval()(inputs)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise UserError(f"model: {name} has no shape after a pass: its module is not called; leave it out")


def signature(model: nn.Module, identity: Any) -> tuple:
    """Equal for models that need to be tried once alone; identity: plain data that names the model."""
    parts = tuple((name, type(module)) for name, module in model.named_modules())
    shapes = tuple((name, parameter.shape, parameter.requires_grad) for name, parameter in model.named_parameters())
    return json.dumps(identity, sort_keys=True), parts, shapes


_admitted: set[tuple] = set()
"""In this process."""


def admit(model: nn.Module, inputs: Tensor, output_shape: tuple[int, ...], batch: str, identity: Any) -> None:
    """UserError if the model cannot be trained; `inputs` [2, n, ...] are two mini-batches, `batch` their name.

    output_shape: of what it must give for one sample, [outputs], or of a text [T, outputs].
    identity: plain data that names the model; what was admitted once is not tried again.
    """
    key = signature(model, identity), inputs.shape, output_shape
    if key not in _admitted:
        _try_out(model, inputs, output_shape, batch)
        _admitted.add(key)


@torch.no_grad()
def _try_out(model: nn.Module, inputs: Tensor, output_shape: tuple[int, ...], batch: str) -> None:
    _check_parts(model)
    takes = f"model: does not take {batch}"
    with refused("model: cannot be copied"):
        first, second, untrained = (copy.deepcopy(model).train() for _ in range(3))
    outputs = _watched_pass(first, inputs[0], takes)
    _check_outputs(outputs, len(inputs[0]), output_shape)
    _check_unchanged(model, first)
    with refused(takes):
        if not _same(first(inputs[1]), second(inputs[1])):
            raise UserError(
                "model: gives other outputs when it is asked again (it draws at random, or remembers): "
                "a run could not be repeated; leave that out"
            )
    with refused(f"{takes} in evaluation"):
        _restore_statistics(first, model)
        outputs, again = untrained.eval()(inputs[0]), first.eval()(inputs[0])
    _check_outputs(outputs, len(inputs[0]), output_shape)
    if not _same(outputs, again):
        raise UserError(
            "model: in evaluation it depends on what it has seen in training, beside BatchNorm's running statistics; "
            "leave that out"
        )
    if len(output_shape) > 1:
        _check_causal(untrained, inputs[0], outputs)


@contextmanager
def refused(what: str) -> Iterator[None]:
    """What a model raises in this block becomes a UserError: `what` (the reason)."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} ({reason(error)})") from None


def reason(error: Exception) -> str:
    """An exception in a model's code on one line, with its place where that is neither torch's nor the suite's."""
    lines = str(error).strip().splitlines() or [""]
    plain = isinstance(error, (RuntimeError, ValueError)) and lines[0]
    text = lines[0] if plain else f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
    text = shorten(text, _LONGEST, placeholder=" ...")
    suite = Path(__file__).parent.parent
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".py")]
    users = [f for f in frames if not any(Path(f.filename).is_relative_to(known) for known in (_TORCH, suite))]
    return f"{text}, {Path(users[-1].filename).name}:{users[-1].lineno}" if users else text


def _check_parts(model: nn.Module) -> None:
    for name, module in model.named_modules():
        part = f"its {type(module).__name__} {name!r}" if name else f"the {type(module).__name__}"
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(f"model: {part} is TorchScript, whose parameters cannot be exchanged; give a plain module")
        if type(module).__name__ == "OptimizedModule":
            raise UserError(f"model: {part} is compiled; give the module without torch.compile")
        if isinstance(module, nn.SyncBatchNorm):
            raise UserError(f"model: {part} mixes the workers' statistics; use BatchNorm1d, 2d or 3d")
    trained = trained_parameters(model)
    if not trained:
        raise UserError("model: has no parameters to train")
    for name, parameter in trained.items():
        if not parameter.is_floating_point():
            raise UserError(f"model: its parameter {name} is of type {parameter.dtype}; use real numbers")
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise UserError(f"model: its parameter {name} has a hook, which the suite does not call; leave it out")


def _watched_pass(model: nn.Module, inputs: Tensor, takes: str) -> Any:
    """The outputs of a training pass, which must draw nothing, leave `inputs` alone and call each BatchNorm once."""
    expose_batch_statistics(model)
    watch = _Watch(model)
    given, states = inputs.clone(), _generator_states()
    with refused(takes), watch:
        outputs = model(given)
    if watch.draws is not None or states != _generator_states():
        part = f"its {watch.draws} draws" if watch.draws else "it draws"
        raise UserError(
            f"model: {part} at random while it trains (dropout?): a run could not be repeated; leave it out"
        )
    if not torch.equal(given, inputs):
        raise UserError("model: changes its input in place; let it work on a copy, x.clone()")
    for name, layer in tracked_layers(model):
        part = f"its {type(layer).__name__} {name!r}"
        calls = watch.calls.get(name, 0)
        if calls != 1:
            raise UserError(
                f"model: {part} is called {calls} times in a pass, and its running statistics are kept for one call; "
                "use a layer for each call, or track_running_stats=False"
            )
        expected, found = watch.moments[name], (layer.running_mean, layer.running_var)
        if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in zip(expected, found)):
            raise UserError(f"model: {part} keeps other running statistics than a BatchNorm; leave it out")
    return outputs


def _generator_states() -> tuple:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, keys.tobytes(), *rest


class OperatorMode(TorchDispatchMode):
    """Sees operators as they run, without torch's compiler, whose import takes a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Watch(OperatorMode):
    """Which module draws at random, and how often, on what, each tracked BatchNorm is called."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.draws: str | None = None
        self.calls: dict[str, int] = {}
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._inside = [""]
        self._hooks = []
        tracked = dict(tracked_layers(model))
        for name, module in model.named_modules():
            enter, leave = self._visits(f"{type(module).__name__} {name!r}".removesuffix(" ''"))
            self._hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
            if name in tracked:
                self._hooks.append(module.register_forward_pre_hook(self._statistics_of(name)))

    def _visits(self, name: str) -> tuple[Callable, Callable]:
        return lambda *_: self._inside.append(name), lambda *_: self._inside.pop() and None

    def _statistics_of(self, name: str) -> Callable:
        def hook(layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            others = [axis for axis in range(inputs[0].dim()) if axis != 1]
            variance, mean = torch.var_mean(inputs[0], others, correction=1)
            self.moments[name] = mean, variance

        return hook

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        if torch.Tag.nondeterministic_seeded not in function.tags or self.draws is not None:
            return function(*arguments, **keywords)
        before = torch.get_rng_state()  # attention without dropout is such an operator, too, and draws nothing
        result = function(*arguments, **keywords)
        if keywords.get("generator") is not None or not torch.equal(before, torch.get_rng_state()):
            self.draws = self._inside[-1]
        return result

    def __exit__(self, *raised) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*raised)


def _check_causal(model: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
    """The outputs [n, T, o] before the middle of the inputs [n, T] must not depend on what comes after it."""
    middle = inputs.shape[1] // 2
    changed = torch.cat([inputs[:, :middle], inputs.flip(0)[:, middle:]], 1)
    if not torch.allclose(model(changed)[:, :middle], outputs[:, :middle], rtol=1e-4, atol=1e-5, equal_nan=True):
        raise UserError("model: its predictions depend on characters that come later, which they are to predict")


def _check_outputs(outputs: Any, num_samples: int, output_shape: tuple[int, ...]) -> None:
    *places, num_outputs = output_shape
    wanted = f"{num_outputs} classes" if num_outputs > 1 else "one prediction"
    if places:
        wanted += f" at each of {places[0]} places"
    if not isinstance(outputs, Tensor):
        shape = ", ".join(map(str, output_shape))
        raise UserError(f"model: gives a {type(outputs).__name__}; it must give one tensor, [n, {shape}]")
    if outputs.shape != (num_samples, *output_shape):
        raise UserError(f"model: gives {list(outputs.shape[1:])} outputs for {wanted}")
    if not outputs.is_floating_point():
        raise UserError(f"model: gives outputs of type {outputs.dtype}; they must be real numbers")


def _check_unchanged(before: nn.Module, after: nn.Module) -> None:
    kept = {f"{name}.{kind}" for name, _ in tracked_layers(after) for kind in ("running_mean", "running_var")}
    kept |= {f"{name}.num_batches_tracked" for name, _ in tracked_layers(after)}
    kept = {name.removeprefix(".") for name in kept}
    changed = dict(after.named_buffers())
    for name, buffer in before.named_buffers():
        if name not in kept and not (name in changed and _same(buffer, changed[name])):
            raise UserError(
                f"model: its buffer {name} changes in a training pass; only running statistics of BatchNorm1d, 2d and "
                "3d are kept; leave it out"
            )
    for (name, ours), theirs in zip(before.named_parameters(), after.parameters(), strict=True):
        if not _same(ours, theirs):
            raise UserError(f"model: changes its parameter {name} in a pass; leave that to the method")


def _restore_statistics(changed: nn.Module, original: nn.Module) -> None:
    names = dict(tracked_layers(changed))
    for name, layer in original.named_modules():
        if name in names:
            names[name].running_mean.copy_(layer.running_mean)
            names[name].running_var.copy_(layer.running_var)


def _same(left: Tensor, right: Tensor) -> bool:
    """Bit for bit, but for what is not a number."""
    return left.shape == right.shape and torch.equal(torch.nan_to_num(left), torch.nan_to_num(right))
