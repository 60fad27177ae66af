"""The `batched` engine with Triton kernels: CUDA only, float32 parameters.

Each layer is a few large kernels over all workers: worker-batched convolutions, per-worker weight gradients written
straight into the flat gradient, and batch normalisation fused with the residual sum and the ReLU that follow it.

Shared parameters go through the same kernels as each worker's own (with a stride of zero from worker to worker), not
through faster ones for one large batch: so equal parameters give equal bits, and the difference of two passes, which
lazy triggers compare with a threshold, holds no rounding of two kinds. Only `total`, after which nothing is compared,
uses cuDNN.
"""

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sasg.gradients import batched
from sasg.gradients.batched import BatchedEngine
from sasg.gradients.engine import PerSampleLoss
from sasg.kernels.convolution import CHANNEL_MULTIPLE, convolve, pack, weight_gradient
from sasg.kernels.normalisation import GhostBatchNorm


class TritonEngine(BatchedEngine):
    """Worker-batched Triton kernels for Conv2d and BatchNorm2d.

    TF32 where `torch.backends.cudnn.allow_tf32` says so, bfloat16 under autocast.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss):
        super().__init__(model, loss)
        for name, module in list(self.model.named_modules()):
            if type(module) is batched._BatchNorm_:
                module.__class__ = _TritonBatchNorm
            elif type(module) is batched._Conv2d and _fits(model.get_submodule(name)):
                module.__class__ = _TritonConv2d
        self.model = fuse(self.model)

    def per_worker(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor) -> Tensor:
        if parameters.dim() == 1 and out.dim() == 2:
            parameters = parameters.expand(len(x), -1)
        return super().per_worker(parameters, x, y, out, statistics)


class _TritonConv2d(batched._Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        p = self.current
        if torch.is_autocast_enabled("cuda"):
            x = x.to(torch.get_autocast_dtype("cuda"))
        x = x.contiguous(memory_format=torch.channels_last)
        return _ConvFunction.apply(
            p.anchor, x, p.num_workers, p.parameters[self.weight], p.gradients[self.weight], self.geometry
        )


def _fits(layer: nn.Conv2d) -> bool:
    """Whether the Triton kernels compute this convolution."""
    channels = layer.in_channels < CHANNEL_MULTIPLE or layer.in_channels % CHANNEL_MULTIPLE == 0
    square = layer.stride[0] == layer.stride[1] and layer.padding in ((p, p) for p in range(layer.kernel_size[0]))
    plain = layer.bias is None and layer.groups == 1 and layer.dilation == (1, 1)
    return plain and square and channels and layer.out_channels % CHANNEL_MULTIPLE == 0


class _ConvFunction(torch.autograd.Function):
    """Convolution of x [W * B, CI, H, W], channels last, without bias; the backward pass overwrites `gradient`.

    weight and gradient: [W, CO, CI, KH, KW], or [CO, CI, KH, KW], shared and summed over workers.
    """

    @staticmethod
    def forward(ctx, anchor, x, num_workers, weight, gradient, geometry):
        ctx.gradient, ctx.num_workers, ctx.geometry = gradient, num_workers, geometry
        if weight.dim() == 4:
            weight = weight.to(x.dtype).contiguous(memory_format=torch.channels_last)
            ctx.save_for_backward(x, weight)
            return F.conv2d(x, weight, None, *geometry)
        x = _padded(x)
        forward, transposed = pack(weight, x.dtype)
        ctx.save_for_backward(x, transposed)
        kernel = weight.shape[-2:]
        size = [(i + 2 * p - k) // s + 1 for i, k, s, p in zip(x.shape[2:], kernel, *geometry[:2], strict=True)]
        return convolve(x, forward, num_workers, _short(kernel, geometry), tuple(size), _precision())

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = None
        if ctx.gradient.dim() == 4:
            dx, dw, _ = batched._conv_backward(dy, x, weight, ctx.geometry, (ctx.needs_input_grad[1], True))
            ctx.gradient.copy_(dw)
            return None, dx, None, None, None, None
        short, precision = _short(ctx.gradient.shape[-2:], ctx.geometry), _precision()
        if ctx.needs_input_grad[1]:
            dx = convolve(dy, weight, ctx.num_workers, short, tuple(x.shape[2:]), precision, transposed=True)
        weight_gradient(x, dy, ctx.gradient, short, precision)
        return None, dx, None, None, None, None


def _short(kernel: tuple[int, int], geometry) -> tuple[int, int, int, int]:
    return (*kernel, geometry[0][0], geometry[1][0])


def _precision() -> str:
    return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"


def _padded(x: Tensor) -> Tensor:
    """x with zero channels up to the multiple that the kernels need."""
    missing = -x.shape[1] % CHANNEL_MULTIPLE
    return F.pad(x, (0, 0, 0, 0, 0, missing)).contiguous(memory_format=torch.channels_last) if missing else x


class _TritonBatchNorm(batched._BatchNorm_):
    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        p = self.current
        weight, bias = self.pair(p.parameters)
        if weight is None or x.dim() != 4:
            y = super().forward(x) if residual is None else super().forward(x) + residual
            return F.relu(y) if relu else y
        x = x.contiguous(memory_format=torch.channels_last)
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
        statistics = (p.statistics[self.running_mean], p.statistics[self.running_var]) if self.tracked else None
        gradients = self.pair(p.gradients)
        return GhostBatchNorm.apply(
            p.anchor, x, residual, p.num_workers, weight, bias, gradients, statistics, self.eps, relu
        )


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, batched._Swap) or super().is_leaf_module(module, qualified_name)


def fuse(model: nn.Module) -> nn.Module:
    """Lets each batch normalisation also do the sum and the ReLU that directly follow it.

    A model that cannot be traced stays as it is.
    """
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError):
        return model
    for node in list(graph.nodes):
        if not _is(model, node, (F.relu, torch.relu), nn.ReLU):
            continue
        before = node.args[0]
        norm, residual = _sum_of_norm(model, before)
        if norm is None:
            continue
        with graph.inserting_before(node):
            node.replace_all_uses_with(
                graph.call_module(norm.target, (norm.args[0],), {"residual": residual, "relu": True})
            )
        for done in (node, before, norm) if residual is not None else (node, norm):
            graph.erase_node(done)
    return fx.GraphModule(model, graph)


def _sum_of_norm(model: nn.Module, node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """(norm, residual) if the node is norm + residual, or a norm alone, used nowhere else; else (None, None)."""

    def only_norm(node):
        return _is(model, node, (), _TritonBatchNorm) and len(node.users) == 1

    if only_norm(node):
        return node, None
    if _is(model, node, (operator.add, operator.iadd, torch.add), ()) and len(node.users) == 1 and not node.kwargs:
        for norm, residual in (node.args, node.args[::-1]):
            if only_norm(norm) and isinstance(residual, fx.Node):
                return norm, residual
    return None, None


def _is(model: nn.Module, node, functions: tuple, modules) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if node.op == "call_module":
        return isinstance(model.get_submodule(node.target), modules)
    return node.op == "call_function" and node.target in functions
