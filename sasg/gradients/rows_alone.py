"""Proof that a model treats each sample alone, which the `batched` engine needs: it merges the workers' mini-batches.

The forward pass and the loss run once, on n samples, and every operator that touches a tensor with a row for each
sample must be one of those below, used so that row i of its result depends on rows i of its arguments alone. That is
known of the operators, not found by trying them on data. Derivatives then treat rows alone, too, unless somebody wrote
them by hand, so custom autograd functions and hooks on tensors are not taken. What Python computes from tensors'
entries would go unseen, so it must not read them. The layers that the engine swaps know about workers; each must be
called once, with one row a sample.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from sasg.gradients.admission import OperatorMode
from sasg.gradients.batched import SWAPS
from sasg.gradients.engine import PerSampleLoss


def _operators(names: str) -> frozenset[str]:
    return frozenset(names.split())


#: on entries; other arguments are numbers, or the same for all rows. A trailing _ (in place) is left out here.
ENTRYWISE = _operators(
    """abs add addcdiv addcmul bitwise_and bitwise_not bitwise_or binary_cross_entropy
    binary_cross_entropy_with_logits ceil celu clamp clamp_max clamp_min copy cos cosh div elu eq erf exp exp2
    expm1 fill floor floor_divide fmod ge gelu gt hardsigmoid hardswish hardtanh huber_loss isfinite isinf
    isnan le leaky_relu lerp log log10 log1p log2 log_sigmoid log_sigmoid_forward logical_and logical_not
    logical_or logical_xor lt masked_fill maximum minimum mish mse_loss mul ne neg nan_to_num pow reciprocal
    relu remainder round rsqrt rsub sgn sigmoid sign silu sin sinh smooth_l1_loss soft_margin_loss softplus
    softshrink hardshrink sqrt square sub tan tanh threshold trunc where zero xlogy"""
)
#: what has the same number of rows afterwards has the same rows
RESHAPING = _operators("alias clone detach expand lift_fresh reshape to_copy unsafe_view view")
#: along axes other than that of the samples
ALONG_AXES = _operators(
    """amax amin aminmax any all argmax argmin cat cummax cummin cumprod cumsum flip linalg_vector_norm
    log_softmax logcumsumexp logsumexp max mean median min norm permute prod roll select slice softmax sort
    split split_with_sizes squeeze stack std std_mean sum topk transpose unbind unsqueeze var var_mean"""
)
#: of each sample's own channels and positions
OF_SAMPLES = _operators(
    """adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d
    channel_shuffle im2col max_pool2d_with_indices max_pool3d_with_indices native_group_norm pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d upsample_bicubic2d
    upsample_bilinear2d upsample_nearest1d upsample_nearest2d"""
)
#: the same number in every entry
FILLED = _operators("empty_like full full_like new_full new_ones new_zeros ones ones_like zeros zeros_like")
_LOSSES = _operators(
    """binary_cross_entropy binary_cross_entropy_with_logits huber_loss mse_loss nll_loss_forward smooth_l1_loss
    soft_margin_loss"""
)
_AXES = ("dim", "dims", "dim0", "dim1")
_INPUT_AXES = {nn.Linear: (2,), nn.Conv2d: (4,), nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,)}


def objection(model: nn.Module, loss: PerSampleLoss, x: Tensor, y: Tensor) -> str | None:
    """Why samples are not known to be treated alone, in words, or None. x [n, ...], y [n]; what forward raises, too."""
    if (found := _object_to_layers(model)) is not None:
        return found
    model = copy.deepcopy(model).train()
    proof = _Proof(len(x), (x, y))
    proof.watch(model)
    with torch.enable_grad(), _NoWayAround(proof), proof:
        losses = loss(model(x), y)
    proof.expect(losses.shape == y.shape and proof.has_rows(losses), "the losses do not have a row for each sample")
    for name, calls in proof.calls.items():
        proof.expect(calls == 1, f"{name} is called {calls} times")
    custom = next((node for node in _nodes(losses.grad_fn) if isinstance(node, BackwardCFunction)), None)
    proof.expect(custom is None, f"{type(custom).__name__.removesuffix('Backward')} is a custom autograd function")
    return proof.objection


def _object_to_layers(model: nn.Module) -> str | None:
    """What layers that are swapped must not have, as their swaps would not."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if len(names) > len(list(model.parameters())):
        return "parameters are tied"
    for name, layer in model.named_modules():
        if type(layer) not in SWAPS:
            continue
        part = _words(name, layer)
        hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
        if any(hooks):
            return f"{part} has a hook"
        if "forward" in vars(layer):
            return f"{part} has a forward of its own"
        if not all(parameter.requires_grad for parameter in layer.parameters()):
            return f"{part} is frozen"
    for name, layer in copy.deepcopy(model).train().named_modules():
        if type(layer) in SWAPS and not layer.training:
            return f"{_words(name, layer)} stays in evaluation mode"
    return None


def _words(name: str, module: nn.Module) -> str:
    return f"{type(module).__name__} {name!r}" if name else f"the {type(module).__name__}"


_UNSEEN = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)


class _NoWayAround(TorchFunctionMode):
    """Objects to what is done to tensors without operators: hooks, and entries that Python reads."""

    def __init__(self, proof: "_Proof"):
        super().__init__()
        self.proof = proof

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        self.proof.expect(function is not Tensor.register_hook, "a tensor has a hook")
        self.proof.expect(function not in _UNSEEN, f"Python reads a tensor with {getattr(function, '__name__', '')}")
        return function(*arguments, **(keywords or {}))


class _Proof(OperatorMode):
    """Follows the tensors that have a row for each of the n samples, in axis 0; the first objection counts."""

    def __init__(self, num_samples: int, given: Iterable[Tensor]):
        super().__init__()
        self.num_samples = num_samples
        self.objection: str | None = None
        self.calls: dict[str, int] = {}
        self._rows: set[tuple] = set()
        self._kept: list[Any] = []  # so that no memory is used again
        self._inside = 0  # swapped layers
        for tensor in given:
            self._mark(tensor)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds and self.objection is None:
            self.objection = otherwise

    def has_rows(self, tensor: Tensor) -> bool:
        return _place(tensor) in self._rows

    def _mark(self, tensor: Tensor) -> None:
        self._kept.append(tensor)
        self._rows.add(_place(tensor))

    def watch(self, model: nn.Module) -> None:
        """Takes the layers of `model` that are swapped as what their swaps are, functions of one worker's rows."""
        for name, layer in model.named_modules():
            if type(layer) in SWAPS:
                self.calls[_words(name, layer)] = 0
                layer.register_forward_pre_hook(self._enter(_words(name, layer)))
                layer.register_forward_hook(self._leave)

    def _enter(self, name: str) -> Callable:
        def hook(layer: nn.Module, inputs: tuple) -> None:
            self.calls[name] += 1
            axes = _INPUT_AXES[type(layer)]
            rows = len(inputs) == 1 and self.has_rows(inputs[0]) and inputs[0].dim() in axes
            self.expect(rows, f"{name} is called on something else than a row of {axes[0] - 1} axes for each sample")
            self._inside += 1

        return hook

    def _leave(self, layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._inside -= 1
        self._mark(output)

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        if self._inside:
            return result
        named = {a.name: a.default_value for a in function._schema.arguments if a.has_default_value()}
        named |= dict(zip((a.name for a in function._schema.arguments), arguments)) | keywords
        name = function._schema.name.removeprefix("aten::").strip("_")
        tensors = [leaf for leaf in tree_leaves(named) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        with_rows = [tensor for tensor in tensors if self.has_rows(tensor)]
        num = self.num_samples
        if not with_rows:
            if name in FILLED:
                for tensor in results:
                    if tensor.dim() and len(tensor) == num:
                        self._mark(tensor)
            return result
        known = name in FILLED or _keeps_rows(name, named, tensors, with_rows, results, num)
        known = known and (not function._schema.is_mutable or self.has_rows(named["self"]))
        self.expect(known, f"the operator {function.name().removeprefix('aten::')} may mix them")
        for tensor in results:
            if tensor.dim() and len(tensor) == num:
                self._mark(tensor)
        return result


def _keeps_rows(
    name: str, named: dict[str, Any], tensors: list[Tensor], with_rows: list[Tensor], results: list[Tensor], num: int
) -> bool:
    """Whether row i of the results is a function of rows i alone; `with_rows` are those of `tensors` that have rows."""
    first = with_rows[0]
    if name in _LOSSES and named["reduction"] != 0:
        return False
    if name == "nll_loss_forward":
        return len(with_rows) == 2 and first.dim() == 2
    if any(tensor.dim() == 0 or len(tensor) != num for tensor in results):
        return False
    if name in ENTRYWISE:
        axes = max(tensor.dim() for tensor in (*tensors, *results))
        same = all(tensor.dim() == axes for tensor in with_rows)
        others = [tensor for tensor in tensors if not any(tensor is own for own in with_rows)]
        uniform = all(tensor.dim() < axes or len(tensor) == 1 for tensor in others)
        return same and uniform
    if name in RESHAPING:
        return len(tensors) == 1 and (name != "expand" or results[0].dim() == first.dim())
    if name in ALONG_AXES:
        return len(with_rows) == len(tensors) and _avoids_samples(name, named, first.dim())
    if name == "constant_pad_nd":
        return len(named["pad"]) // 2 < first.dim()
    if name == "native_layer_norm":
        return len(with_rows) == 1 and len(named["normalized_shape"]) < first.dim()
    given = named.get("self", named.get("input"))
    return name in OF_SAMPLES and len(with_rows) == 1 and given is first and first.dim() > 2


def _avoids_samples(name: str, named: dict[str, Any], num_axes: int) -> bool:
    axes = [axis for key in _AXES if key in named for axis in _listed(named[key])]
    if name in ("unsqueeze", "stack"):
        num_axes += 1
    if name == "permute":
        return axes[0] % num_axes == 0
    if name == "slice" and axes[0] % num_axes == 0:
        return named.get("step", 1) == 1  # all of them, as there are as many as before
    if name == "squeeze" and not axes:
        return True
    return bool(axes) and all(axis is not None and axis % num_axes != 0 for axis in axes)


def _listed(axes: Any) -> list:
    return list(axes) if isinstance(axes, (list, tuple)) else [axes]


def _place(tensor: Tensor) -> tuple:
    """Where a tensor's entries are: equal for tensors that are the same view of the same memory."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()


def _nodes(root: Any) -> Iterable[Any]:
    """The nodes of an autograd graph."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]
