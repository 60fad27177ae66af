"""Batch normalisation with each worker's own statistics, fused with a residual sum and a ReLU: Triton, channels last.

Legend: W workers, R = B * H * W rows of C channels per worker, cut into S parts. Two passes forward (statistics,
normalise) and two backward (sums, apply); the parts are combined in a fixed order, so that results repeat bit for bit.
"""
# fmt: off
# (one argument per line would make the kernels unreadable)

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS = 32
MOST_CHANNELS = 64  # per program
MOST_PARTS = 32


@triton.jit
def _statistics(x, partial, rows, channels, chunk, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    # Mean and sum of squared deviations of each part, relative to the part's first row, so that nothing cancels.
    part, worker = tl.program_id(1), tl.program_id(2).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    start = part * chunk
    end = tl.minimum(start + chunk, rows)
    x += worker * rows * channels + c[None, :]
    known = (c < channels)[None, :]
    shift = tl.load(x + start * channels, mask=known, other=0.0).to(tl.float32)
    first = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.float32)
    second = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.float32)
    for row in range(start, end, BLOCK_R):
        r = row + tl.arange(0, BLOCK_R)[:, None]
        mask = (r < end) & known
        value = tl.where(mask, tl.load(x + r * channels, mask=mask, other=0.0).to(tl.float32) - shift, 0.0)
        first += value
        second += value * value
    total = tl.sum(first, axis=0)[None, :]
    count = (end - start).to(tl.float32)
    out = partial + (worker * tl.num_programs(1) + part) * channels + c[None, :]
    tl.store(out, shift + total / count, mask=known)
    tl.store(
        out + tl.num_programs(2) * tl.num_programs(1) * channels,
        tl.sum(second, axis=0)[None, :] - total * total / count, mask=known,
    )


@triton.jit
def _combine_sums(partial, worker, c, channels, PARTS: tl.constexpr):
    s = tl.arange(0, PARTS)[:, None]
    mask = (s < tl.num_programs(1)) & (c < channels)[None, :]
    at = partial + (worker * tl.num_programs(1) + s) * channels + c[None, :]
    stride = tl.num_programs(2) * tl.num_programs(1) * channels
    return tl.load(at, mask=mask, other=0.0), tl.load(at + stride, mask=mask, other=0.0)


@triton.jit
def _normalise(
    x, residual, weight, bias, y, partial, saved, mean_out, variance_out, parameter_stride, statistics_stride, rows,
    channels, chunk, eps, RESIDUAL: tl.constexpr, RELU: tl.constexpr, TRACKED: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):
    part, worker = tl.program_id(1), tl.program_id(2).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < channels
    means, squares = _combine_sums(partial, worker, c, channels, PARTS)
    s = tl.arange(0, PARTS)[:, None]
    counts = tl.maximum(tl.minimum(rows - s * chunk, chunk), 0).to(tl.float32)
    mean = tl.sum(means * counts, axis=0) / rows
    deviations = means - mean[None, :]
    square = tl.sum(squares + counts * deviations * deviations, axis=0)
    scale = 1.0 / tl.sqrt(square / rows + eps)
    if part == 0:
        tl.store(saved + worker * channels + c, mean, mask=known)
        tl.store(saved + (tl.num_programs(2) + worker) * channels + c, scale, mask=known)
        if TRACKED:
            tl.store(mean_out + worker * statistics_stride + c, mean, mask=known)
            tl.store(variance_out + worker * statistics_stride + c, square / tl.maximum(rows - 1, 1), mask=known)
    gain = scale * tl.load(weight + worker * parameter_stride + c, mask=known, other=0.0)
    offset = tl.load(bias + worker * parameter_stride + c, mask=known, other=0.0)
    base = worker * rows * channels
    end = tl.minimum((part + 1) * chunk, rows)
    for row in range(part * chunk, end, BLOCK_R):
        r = row + tl.arange(0, BLOCK_R)[:, None]
        mask = (r < end) & known[None, :]
        at = base + r * channels + c[None, :]
        value = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean[None, :]) * gain[None, :] + offset[None, :]
        if RESIDUAL:
            value += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        if RELU:
            value = tl.maximum(value, 0.0)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _positive(y, deviation, gain, offset, mask, RESIDUAL: tl.constexpr):
    # Where the ReLU's output is positive; without a residual that is computed anew, which costs less than reading it.
    if RESIDUAL:
        return tl.load(y, mask=mask, other=0.0) > 0
    else:
        return deviation * gain + offset > 0


@triton.jit
def _gradient_sums(
    gradient, x, y, weight, bias, partial, saved, parameter_stride, rows, channels, chunk, RESIDUAL: tl.constexpr,
    RELU: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):
    # Sums over each part of g and g * xhat, where g is the gradient behind the ReLU.
    part, worker = tl.program_id(1), tl.program_id(2).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < channels
    mean = tl.load(saved + worker * channels + c, mask=known, other=0.0)[None, :]
    scale = tl.load(saved + (tl.num_programs(2) + worker) * channels + c, mask=known, other=0.0)[None, :]
    gain = scale * tl.load(weight + worker * parameter_stride + c, mask=known, other=0.0)[None, :]
    offset = tl.load(bias + worker * parameter_stride + c, mask=known, other=0.0)[None, :]
    first = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.float32)
    second = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.float32)
    end = tl.minimum((part + 1) * chunk, rows)
    for row in range(part * chunk, end, BLOCK_R):
        r = row + tl.arange(0, BLOCK_R)[:, None]
        mask = (r < end) & known[None, :]
        at = worker * rows * channels + r * channels + c[None, :]
        g = tl.load(gradient + at, mask=mask, other=0.0).to(tl.float32)
        deviation = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean
        if RELU:
            g = tl.where(_positive(y + at, deviation, gain, offset, mask, RESIDUAL), g, 0.0)
        first += g
        second += g * deviation * scale
    out = partial + (worker * tl.num_programs(1) + part) * channels + c
    tl.store(out, tl.sum(first, axis=0), mask=known)
    tl.store(out + tl.num_programs(2) * tl.num_programs(1) * channels, tl.sum(second, axis=0), mask=known)


@triton.jit
def _gradient(
    gradient, x, y, weight, bias, dx, dresidual, partial, saved, dweight, dbias, parameter_stride, out_stride, rows,
    channels, chunk, RESIDUAL: tl.constexpr, RELU: tl.constexpr, PARTS: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    part, worker = tl.program_id(1), tl.program_id(2).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < channels
    firsts, seconds = _combine_sums(partial, worker, c, channels, PARTS)
    first, second = tl.sum(firsts, axis=0), tl.sum(seconds, axis=0)
    if part == 0:
        tl.store(dbias + worker * out_stride + c, first, mask=known)
        tl.store(dweight + worker * out_stride + c, second, mask=known)
    mean = tl.load(saved + worker * channels + c, mask=known, other=0.0)[None, :]
    scale = tl.load(saved + (tl.num_programs(2) + worker) * channels + c, mask=known, other=0.0)[None, :]
    gain = scale * tl.load(weight + worker * parameter_stride + c, mask=known, other=0.0)[None, :]
    offset = tl.load(bias + worker * parameter_stride + c, mask=known, other=0.0)[None, :]
    first = (first / rows)[None, :]
    second = (second / rows)[None, :]
    end = tl.minimum((part + 1) * chunk, rows)
    for row in range(part * chunk, end, BLOCK_R):
        r = row + tl.arange(0, BLOCK_R)[:, None]
        mask = (r < end) & known[None, :]
        at = worker * rows * channels + r * channels + c[None, :]
        g = tl.load(gradient + at, mask=mask, other=0.0).to(tl.float32)
        deviation = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean
        if RELU:
            g = tl.where(_positive(y + at, deviation, gain, offset, mask, RESIDUAL), g, 0.0)
        if RESIDUAL:
            tl.store(dresidual + at, g.to(dresidual.dtype.element_ty), mask=mask)
        tl.store(dx + at, (gain * (g - first - deviation * scale * second)).to(dx.dtype.element_ty), mask=mask)


def _launch(x: Tensor, num_workers: int) -> tuple[tuple[int, int, int], dict[str, int], dict[str, int]]:
    """Grid, sizes and blocks for an image tensor [W * B, C, ...] in channels-last order."""
    channels = x.shape[1]
    rows = x.numel() // (num_workers * channels)
    block = min(MOST_CHANNELS, triton.next_power_of_2(channels))
    chunk = triton.cdiv(triton.cdiv(rows, MOST_PARTS), BLOCK_ROWS) * BLOCK_ROWS
    grid = (triton.cdiv(channels, block), triton.cdiv(rows, chunk), num_workers)
    return grid, {"rows": rows, "channels": channels, "chunk": chunk}, {"BLOCK_R": BLOCK_ROWS, "BLOCK_C": block}


class GhostBatchNorm(torch.autograd.Function):
    """relu(batch_norm(x) + residual) for x [W * B, C, H, W], channels last; residual and ReLU are optional.

    weight, bias: [C] or [W, C].
    `gradients`: the weight's and the bias's, [C] (summed over workers) or [W, C], overwritten in the backward pass.
    `statistics`: two tensors [W, C], overwritten with the batch mean and unbiased variance, or None.
    """

    @staticmethod
    def forward(ctx, anchor, x, residual, num_workers, weight, bias, gradients, statistics, eps, relu):
        grid, sizes, blocks = _launch(x, num_workers)
        shape = (2, num_workers, grid[1], sizes["channels"])
        partial = torch.empty(shape, dtype=torch.float32, device=x.device)
        saved = torch.empty(2, num_workers, sizes["channels"], dtype=torch.float32, device=x.device)
        y = torch.empty_like(x)
        own = weight.dim() == 2
        mean, variance = statistics or (saved[0], saved[1])
        _statistics[grid](x, partial, **sizes, **blocks)
        _normalise[grid](
            x, x if residual is None else residual, weight, bias, y, partial, saved, mean, variance,
            weight.stride(0) if own else 0, mean.stride(0), **sizes, eps=eps, RESIDUAL=residual is not None,
            RELU=relu, TRACKED=statistics is not None, PARTS=triton.next_power_of_2(grid[1]), **blocks,
        )
        ctx.save_for_backward(x, y if relu and residual is not None else x, weight, bias, saved)
        ctx.options = num_workers, gradients, residual is not None, relu
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, y, weight, bias, saved = ctx.saved_tensors
        num_workers, gradients, has_residual, relu = ctx.options
        gradient = gradient.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else gradient.contiguous()
        grid, sizes, blocks = _launch(x, num_workers)
        partial = torch.empty(2, num_workers, grid[1], sizes["channels"], dtype=torch.float32, device=x.device)
        dx = torch.empty_like(x)
        dresidual = torch.empty_like(x) if has_residual else None
        summed = gradients[0].dim() == 1
        dweight, dbias = torch.empty_like(saved) if summed else gradients
        stride = weight.stride(0) if weight.dim() == 2 else 0
        fused = {"RESIDUAL": has_residual, "RELU": relu}
        _gradient_sums[grid](gradient, x, y, weight, bias, partial, saved, stride, **sizes, **fused, **blocks)
        _gradient[grid](
            gradient, x, y, weight, bias, dx, dresidual if has_residual else dx, partial, saved, dweight, dbias,
            stride, dweight.stride(0), **sizes, **fused, PARTS=triton.next_power_of_2(grid[1]), **blocks,
        )
        if summed:
            for total, parts in zip(gradients, (dweight, dbias), strict=True):
                torch.sum(parts, dim=0, out=total)
        return None, dx, dresidual, None, None, None, None, None, None, None
