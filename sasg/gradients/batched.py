"""All workers' samples as one batch, through layers that know which worker a sample belongs to.

The model's own forward runs on the merged batch [W*B, ...]. Its layers with parameters are swapped for
worker-aware ones, which take their weights from the flat parameters and write each worker's weight
gradient straight into its row of the result.

On the CPU the products of linear layers are made worker by worker, each from a worker's own samples alone: how a
library orders a sum depends on the shapes that it is given, and so a worker's bits do not depend on who else is held
by its process. Where only the sum over workers is asked for, and on a GPU, shared parameters meet one large batch.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sasg.errors import UserError
from sasg.gradients.engine import Engine, PerSampleLoss
from sasg.gradients.forms import FactoredGradients, Factors, write_product_
from sasg.gradients.normalisation import tracked_layers
from sasg.kernels.rows import aligned

_FACTORED_BATCH = 64  # samples per worker up to which Gram matrices are smaller than gradients


@dataclass
class _Pass:
    """The tensors of the pass in progress, by parameter or buffer name."""

    num_workers: int = 0
    merged: bool = False  # whether a product may be one of all workers' samples, so that its rounding depends on them
    parameters: dict[str, Tensor] | None = None  # [*shape] shared, or [W, *shape]; [H, *shape] with rows
    rows: list[int] | None = None  # [W], each worker's row of the parameters
    gradients: dict[str, Tensor] | None = None  # [*shape] summed over workers, or [W, *shape]; None: keep factors
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # (x, delta) by weight name
    statistics: dict[str, Tensor] | None = None  # [W, C]
    anchor: Tensor | None = None  # requires grad, so that backward reaches the first layer


def only_linear(model: nn.Module) -> bool:
    """Whether every parameter belongs to a Linear."""
    return all(type(m) is nn.Linear for m in model.modules() if list(m.parameters(recurse=False)))


class BatchedEngine(Engine):
    """Merged batch with worker-aware Linear, Conv2d and BatchNorm; other layers must act on samples alone."""

    def __init__(self, model: nn.Module, loss: PerSampleLoss):
        super().__init__(model, loss)
        if not self.supports(model):
            kinds = ", ".join(kind.__name__ for kind in SWAPS)
            raise UserError(f"gradients=batched: the model has parameters outside {kinds}; use gradients=auto")
        self._only_linear = only_linear(model)
        self._pass = _Pass(anchor=torch.zeros((), requires_grad=True))
        for name, module in list(self.model.named_modules()):
            if type(module) in SWAPS:
                self.model = _replaced(self.model, name, SWAPS[type(module)](name, module, self._pass))

    @staticmethod
    def supports(model: nn.Module) -> bool:
        """Whether every parameter and every running statistic belongs to a layer that can be swapped."""
        held = [module for module in model.modules() if list(module.parameters(recurse=False))]
        held += [layer for _, layer in tracked_layers(model)]
        return all(type(module) in SWAPS for module in held) and all(
            module.padding_mode == "zeros" and not isinstance(module.padding, str)
            for module in held
            if isinstance(module, nn.Conv2d)
        )

    def per_worker(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor) -> Tensor:
        return self._dense(parameters, x, y, out, statistics, merged=x.is_cuda)

    def total(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor) -> Tensor:
        return self._dense(parameters, x, y, out, statistics, merged=True)

    def _dense(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor, merged: bool) -> Tensor:
        self._pass.gradients = self.layout.views(out)
        self._pass.statistics = self.statistics.views(statistics)
        return self._run(parameters, x, y, merged)

    def can_factor(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and self._only_linear and x.shape[1] <= _FACTORED_BATCH

    def factored(
        self, parameters: Tensor, x: Tensor, y: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, FactoredGradients]:
        p = self._pass
        p.gradients, p.factors = None, {}
        p.rows = None if rows is None else rows.tolist()
        loss = self._run(parameters, x, y, merged=False)
        offsets = dict(zip(self.layout.names, self.layout.offsets, strict=True))
        factors = [
            Factors(x, delta, offsets[name], offsets.get(name.removesuffix("weight") + "bias"))
            for name, (x, delta) in p.factors.items()
        ]
        return loss, FactoredGradients(factors, self.layout.size)

    def _run(self, parameters: Tensor, x: Tensor, y: Tensor, merged: bool) -> Tensor:
        p = self._pass
        p.num_workers, p.merged = len(x), merged
        p.parameters = self.layout.views(parameters if parameters.dim() == 1 else aligned(parameters))
        with torch.enable_grad():
            losses = self.loss(self.model(x.flatten(0, 1)), y.flatten())
        losses.backward(torch.ones_like(losses) / x.shape[1])  # of each worker's mean
        p.parameters = p.rows = p.gradients = p.statistics = None
        return losses.detach().view(len(x), -1).mean(1)


def _replaced(root: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """`root` with the submodule `name` replaced; "" is the root itself."""
    if not name:
        return module
    root.set_submodule(name, module)
    return root


class _Swap(nn.Module):
    """A layer whose parameters come from the pass in progress."""

    def __init__(self, name: str, layer: nn.Module, current: _Pass):
        super().__init__()
        prefix = f"{name}." if name else ""
        self.weight, self.bias = f"{prefix}weight", f"{prefix}bias"
        self.running_mean, self.running_var = f"{prefix}running_mean", f"{prefix}running_var"
        self.current = current

    def pair(self, tensors: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        return tensors.get(self.weight), tensors.get(self.bias)


class _Linear(_Swap):
    def forward(self, x: Tensor) -> Tensor:
        p = self.current
        return _LinearFunction.apply(p.anchor, x, p.num_workers, self.pair(p.parameters), self)


class _LinearFunction(torch.autograd.Function):
    """x [W * B, ..., in] -> [W * B, ..., out]."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # autocast is for convolutions
    def forward(ctx, anchor, x, num_workers, parameters, layer):
        weight, bias = parameters
        ctx.layer, ctx.num_workers = layer, num_workers
        ctx.merged, ctx.rows = layer.current.merged, layer.current.rows
        ctx.save_for_backward(x, weight)
        if ctx.merged and weight.dim() == 2:
            return F.linear(x, weight, bias)
        x_W = aligned(x.reshape(num_workers, -1, x.shape[-1]))
        if x.is_cuda:
            y_W = torch.bmm(x_W, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), x_W, weight.mT)
        else:
            y_W = aligned(x.new_empty(*x_W.shape[:2], weight.shape[-2]))
            own = _of_workers(weight, 2, ctx), _of_workers(bias, 1, ctx)
            for x_m, weight_m, bias_m, y_m in zip(x_W, *own, y_W, strict=True):
                if bias is None:
                    torch.mm(x_m, weight_m.t(), out=y_m)
                else:
                    torch.addmm(bias_m, x_m, weight_m.t(), out=y_m)
        return y_W.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy_W, x_W = (t.reshape(ctx.num_workers, -1, t.shape[-1]) for t in (dy, x))
        if not ctx.merged:
            dy_W, x_W = aligned(dy_W), aligned(x_W)
        p = ctx.layer.current
        if p.gradients is None:
            p.factors[ctx.layer.weight] = (x_W.detach(), dy_W)
        else:
            _linear_gradients(x_W, dy_W, *ctx.layer.pair(p.gradients))
        dx = None
        if ctx.needs_input_grad[1]:
            if ctx.merged and weight.dim() == 2:
                dx = dy @ weight
            elif dy.is_cuda:
                dx = torch.bmm(dy_W, weight).view_as(x)
            else:
                dx = aligned(x_W.new_empty(x_W.shape))
                for dy_m, weight_m, dx_m in zip(dy_W, _of_workers(weight, 2, ctx), dx, strict=True):
                    torch.mm(dy_m, weight_m, out=dx_m)
                dx = dx.reshape(x.shape)
        return None, dx, None, None, None


def _of_workers(parameter: Tensor | None, dims: int, ctx) -> list[Tensor | None]:
    """Each worker's view of a parameter that has `dims` dimensions where all share it."""
    if parameter is None or parameter.dim() == dims:
        return [parameter] * ctx.num_workers
    return list(parameter) if ctx.rows is None else [parameter[row] for row in ctx.rows]


def _linear_gradients(x: Tensor, delta: Tensor, weight_gradient: Tensor, bias_gradient: Tensor | None) -> None:
    """Write a linear layer's gradients, by worker or summed, from x [W, B, in] and delta [W, B, out]."""
    if weight_gradient.dim() == 2:
        torch.mm(delta.flatten(0, 1).t(), x.flatten(0, 1), out=weight_gradient)
    elif x.is_cuda:
        torch.bmm(delta.mT, x, out=weight_gradient)
    else:
        for target, delta_m, x_m in zip(weight_gradient, delta, x, strict=True):
            write_product_(target, delta_m, x_m)
    if bias_gradient is not None:
        torch.sum(delta, dim=(0, 1) if bias_gradient.dim() == 1 else 1, out=bias_gradient)


class _Conv2d(_Swap):
    def __init__(self, name: str, layer: nn.Conv2d, current: _Pass):
        super().__init__(name, layer, current)
        self.geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        p = self.current
        return _ConvFunction.apply(
            p.anchor, x, p.num_workers, self.pair(p.parameters), self.pair(p.gradients), self.geometry
        )


class _ConvFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor, x, num_workers, parameters, gradients, geometry):
        weight, bias = parameters
        ctx.gradients, ctx.num_workers, ctx.geometry = gradients, num_workers, geometry
        ctx.save_for_backward(x, weight)
        if weight.dim() == 4:
            return F.conv2d(x, weight, bias, *geometry)
        biases = [None] * num_workers if bias is None else bias
        chunks = zip(x.chunk(num_workers), weight, biases)
        return torch.cat([F.conv2d(x_m, weight_m, bias_m, *geometry) for x_m, weight_m, bias_m in chunks])

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        weight_gradient, bias_gradient = ctx.gradients
        per_worker = weight_gradient.dim() == 5
        groups = ctx.num_workers if per_worker or weight.dim() == 5 else 1
        dx = []
        for m, (dy_m, x_m) in enumerate(zip(dy.chunk(groups), x.chunk(groups))):
            weight_m = weight if weight.dim() == 4 else weight[m]
            dx_m, dw_m, _ = _conv_backward(dy_m, x_m, weight_m, ctx.geometry, (ctx.needs_input_grad[1], True))
            (weight_gradient[m] if per_worker else weight_gradient).copy_(dw_m)
            dx.append(dx_m)
        if bias_gradient is not None:
            if per_worker:
                dy_W = dy.view(ctx.num_workers, -1, *dy.shape[1:])
                torch.sum(dy_W, dim=(1, 3, 4), out=bias_gradient)
            else:
                torch.sum(dy, dim=(0, 2, 3), out=bias_gradient)
        return None, torch.cat(dx) if ctx.needs_input_grad[1] else None, None, None, None, None


def _conv_backward(dy, x, weight, geometry, wanted):
    """Gradients (input, weight, bias) of a two-dimensional convolution; `wanted` selects the first two."""
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        dy, x, weight, None, stride, padding, dilation, False, (0, 0), groups, (*wanted, False)
    )


class _BatchNorm_(_Swap):
    """Ghost batch normalisation: each worker's samples are normalised with their own statistics."""

    def __init__(self, name: str, layer: _BatchNorm, current: _Pass):
        super().__init__(name, layer, current)
        self.eps = layer.eps
        self.tracked = layer.track_running_stats

    def forward(self, x: Tensor) -> Tensor:
        p = self.current
        x_W = x.view(p.num_workers, -1, *x.shape[1:]).transpose(0, 1)  # [B, W, C, ...]
        merged = x_W.reshape(x_W.shape[0], -1, *x.shape[2:])  # [B, W*C, ...]
        mean = variance = None
        if self.tracked:
            mean, variance = (x.new_zeros(merged.shape[1]) for _ in range(2))
        normalised = F.batch_norm(merged, mean, variance, training=True, momentum=1.0, eps=self.eps)
        if self.tracked:
            for name, value in ((self.running_mean, mean), (self.running_var, variance)):
                p.statistics[name].copy_(value.view(p.num_workers, -1))
        normalised = normalised.view(x_W.shape).transpose(0, 1)  # [W, B, C, ...]
        weight, bias = self.pair(p.parameters)
        if weight is None:
            return normalised.flatten(0, 1)
        return _AffineFunction.apply(p.anchor, normalised, weight, bias, self.pair(p.gradients)).flatten(0, 1)


class _AffineFunction(torch.autograd.Function):
    """weight * x + bias for x [W, B, C, ...] and weight, bias [C] or [W, C]."""

    @staticmethod
    def forward(ctx, anchor, x, weight, bias, gradients):
        ctx.gradients = gradients
        ctx.save_for_backward(x, weight)
        return x * _channels(weight, x) + _channels(bias, x)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        weight_gradient, bias_gradient = ctx.gradients
        others = [axis for axis in range(dy.dim()) if axis != 2 and (axis != 0 or weight_gradient.dim() == 1)]
        torch.sum(dy * x, dim=others, out=weight_gradient)
        torch.sum(dy, dim=others, out=bias_gradient)
        return None, dy * _channels(weight, x), None, None, None


def _channels(per_channel: Tensor, x: Tensor) -> Tensor:
    """[C] or [W, C], shaped to be combined with x [W, B, C, ...]."""
    workers = per_channel.shape[0] if per_channel.dim() == 2 else 1
    return per_channel.view(workers, 1, -1, *[1] * (x.dim() - 3))


SWAPS: dict[type[nn.Module], type[_Swap]] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Conv2d,
    nn.BatchNorm1d: _BatchNorm_,
    nn.BatchNorm2d: _BatchNorm_,
}
