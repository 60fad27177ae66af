"""Convolutions of several workers in one kernel launch: implicit GEMMs in Triton, channels last.

Legend: W workers, B samples each, CI and CO channels, T = KH * KW taps. Images are `[W * B, C, H, W]` tensors in the
channels-last memory format. Weights come as a view `[W, CO, CI, KH, KW]` of a flat parameter matrix and are repacked
once per pass, so that both operands of every product are contiguous along its inner dimension, which the TF32 tensor
cores want. The weight gradient goes into the flat gradient matrix in its canonical order. All is deterministic: there
are no atomics.
"""
# fmt: off
# (one argument per line would make the kernels unreadable)

import torch
import triton
import triton.language as tl

CHANNEL_MULTIPLE = 16


@triton.jit
def _pack(
    weight, forward, transposed, worker_stride, CI, CO, PADDED, T: tl.constexpr, PADDED_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # A block of [o, i, t] is read as it lies and written in two orders, each time along its last dimension.
    worker = tl.program_id(2).to(tl.int64)
    o = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None, None]
    i = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :, None]
    t = tl.arange(0, PADDED_T)[None, None, :]
    value = tl.load(
        weight + worker * worker_stride + (o * CI + i) * T + t, mask=(o < CO) & (i < CI) & (t < T), other=0.0
    )
    value = value.to(forward.dtype.element_ty)
    base = worker * T * CO * PADDED
    mask = (o < CO) & (i < PADDED) & (t < T)
    at = base + (t * CO + o) * PADDED + i
    tl.store(forward + tl.permute(at, (2, 0, 1)), tl.permute(value, (2, 0, 1)), mask=tl.permute(mask, (2, 0, 1)))
    at = base + (t * PADDED + i) * CO + o
    tl.store(transposed + tl.permute(at, (2, 1, 0)), tl.permute(value, (2, 1, 0)), mask=tl.permute(mask, (2, 1, 0)))


def pack(weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies `[W, CO, CI, KH, KW]` weights to `[W, T, CO, CI']` (forward pass) and `[W, T, CI', CO]` (data gradient).

    CI' is CI, padded with zero weights to a multiple of 16.
    """
    if weight.stride(0) == 0:  # shared: once for all
        weight = weight[:1]
    num_workers, co, ci, kh, kw = weight.shape
    taps = kh * kw
    padded = triton.cdiv(ci, CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE
    forward = torch.empty(num_workers, taps, co, padded, dtype=dtype, device=weight.device)
    transposed = torch.empty(num_workers, taps, padded, co, dtype=dtype, device=weight.device)
    grid = (triton.cdiv(co, 16), triton.cdiv(padded, 16), num_workers)
    _pack[grid](
        weight, forward, transposed, weight.stride(0), ci, co, padded, T=taps, PADDED_T=triton.next_power_of_2(taps),
        BLOCK=16, num_warps=4,
    )
    return forward, transposed


@triton.jit
def _convolve(
    x, weight, y, worker_stride, BATCH: tl.constexpr, IH: tl.constexpr, IW: tl.constexpr, CI: tl.constexpr,
    OH: tl.constexpr, OW: tl.constexpr, CO: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STRIDE: tl.constexpr,
    PADDING: tl.constexpr, TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    # Rows are output pixels, columns output channels. A transposed convolution (the data gradient) with a stride treats
    # the STRIDE^2 parity classes of output pixels apart, as each meets only its own taps.
    STEP: tl.constexpr = STRIDE if TRANSPOSED else 1
    ROWS: tl.constexpr = (OH + STEP - 1) // STEP
    COLS: tl.constexpr = (OW + STEP - 1) // STEP
    BLOCKS_PER_TAP: tl.constexpr = CI // BLOCK_K
    worker = tl.program_id(2).to(tl.int64)
    parity = tl.program_id(0) % (STEP * STEP)
    row_phase = parity // STEP
    col_phase = parity % STEP
    m = (tl.program_id(0) // (STEP * STEP)) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    sample = m // (ROWS * COLS)
    oh = row_phase + STEP * (m % (ROWS * COLS) // COLS)
    ow = col_phase + STEP * (m % COLS)
    inside = (sample < BATCH) & (oh < OH) & (ow < OW)
    x += (worker * BATCH + sample)[:, None] * (IH * IW * CI) + k[None, :]
    weight += worker * worker_stride + n[None, :] * CI + k[:, None]
    if TRANSPOSED:
        first_h = (row_phase + PADDING) % STRIDE
        first_w = (col_phase + PADDING) % STRIDE
        taps_h = (KH - first_h + STRIDE - 1) // STRIDE
        taps_w = (KW - first_w + STRIDE - 1) // STRIDE
    else:
        first_h = 0
        first_w = 0
        taps_h = KH
        taps_w = KW
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(taps_h * taps_w * BLOCKS_PER_TAP):
        tap = step // BLOCKS_PER_TAP
        channel = (step % BLOCKS_PER_TAP) * BLOCK_K
        kh = first_h + (tap // taps_w) * STEP
        kw = first_w + (tap % taps_w) * STEP
        if TRANSPOSED:
            ih = (oh + PADDING - kh) // STRIDE
            iw = (ow + PADDING - kw) // STRIDE
            outside = (oh + PADDING < kh) | (ow + PADDING < kw)
        else:
            ih = oh * STRIDE + kh - PADDING
            iw = ow * STRIDE + kw - PADDING
            outside = (ih < 0) | (iw < 0)
        valid = inside & (ih < IH) & (iw < IW) & (outside == 0)
        left = tl.load(x + (ih * IW + iw)[:, None] * CI + channel, mask=valid[:, None], other=0.0)
        right = tl.load(weight + (kh * KW + kw) * (CO * CI) + channel)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    pixel = ((worker * BATCH + sample) * OH + oh) * OW + ow
    tl.store(y + pixel[:, None] * CO + n[None, :], total.to(y.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _weight_gradient(
    x, gradient, parts, BATCH: tl.constexpr, IH: tl.constexpr, IW: tl.constexpr, CI: tl.constexpr, OH: tl.constexpr,
    OW: tl.constexpr, CO: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STRIDE: tl.constexpr,
    PADDING: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # Rows are output channels, columns input channels of one tap; the sum over a worker's pixels is cut in SPLIT parts.
    PIXELS: tl.constexpr = BATCH * OH * OW
    STEPS: tl.constexpr = (PIXELS + BLOCK_K * SPLIT - 1) // (BLOCK_K * SPLIT)
    TILES_N: tl.constexpr = CI // BLOCK_N
    worker = tl.program_id(2).to(tl.int64)
    part = tl.program_id(1) // (KH * KW)
    tap = tl.program_id(1) % (KH * KW)
    m = (tl.program_id(0) // TILES_N) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tl.program_id(0) % TILES_N) * BLOCK_N + tl.arange(0, BLOCK_N)
    gradient += worker * PIXELS * CO + m[None, :]
    x += worker * BATCH * IH * IW * CI + n[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(STEPS):
        pixel = (part * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        ih = pixel % (OH * OW) // OW * STRIDE + tap // KW - PADDING
        iw = pixel % OW * STRIDE + tap % KW - PADDING
        inside = pixel < PIXELS
        valid = inside & (ih >= 0) & (ih < IH) & (iw >= 0) & (iw < IW)
        left = tl.load(gradient + pixel[:, None] * CO, mask=inside[:, None], other=0.0)
        right = tl.load(x + ((pixel // (OH * OW) * IH + ih) * IW + iw)[:, None] * CI, mask=valid[:, None], other=0.0)
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    parts += ((part * tl.num_programs(2) + worker) * (KH * KW) + tap) * (CO * CI)
    tl.store(parts + m[:, None] * CI + n[None, :], total)


@triton.jit
def _unpack(
    parts, out, out_stride, CI, size, WANTED, T: tl.constexpr, PADDED_T: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Adds the SPLIT parts [T, CO * CI] and writes them as [CO, WANTED, T]; the turn goes through shared memory.
    worker = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    t = tl.arange(0, PADDED_T)
    total = tl.zeros((PADDED_T, BLOCK), dtype=tl.float32)
    for part in tl.static_range(SPLIT):
        at = parts + (part * tl.num_programs(1) + worker) * T * size + t[:, None] * size + n[None, :]
        total += tl.load(at, mask=(t < T)[:, None] & (n < size)[None, :], other=0.0)
    place = (n // CI * WANTED + n % CI) * T
    mask = ((n < size) & (n % CI < WANTED))[:, None] & (t < T)[None, :]
    tl.store(out + worker * out_stride + place[:, None] + t[None, :], tl.trans(total), mask=mask)


def _tile(size: int, most: int) -> int:
    """The largest power of two that divides `size`, at most `most`."""
    return min(most, size & -size)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, num_workers: int, geometry: tuple[int, int, int, int],
    out_size: tuple[int, int], precision: str, transposed: bool = False, blocks: dict | None = None,
) -> torch.Tensor:
    """`[W * B, CI, ...]` to `[W * B, CO, *out_size]` with packed weights `[W or 1, T, CO, CI]`.

    transposed: the gradient of a convolution of this geometry (kernel height, width, stride, padding) by its input.
    """
    kh, kw, stride, padding = geometry
    samples, ci, ih, iw = x.shape
    batch, co = samples // num_workers, weight.shape[2]
    y = torch.empty(samples, co, *out_size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    blocks = blocks or (
        forward_blocks(batch * out_size[0] * out_size[1], co, ci) if precision == "tf32" else _small_blocks(co, ci)
    )
    step = stride if transposed else 1
    rows = batch * triton.cdiv(out_size[0], step) * triton.cdiv(out_size[1], step)
    grid = (triton.cdiv(rows, blocks["BLOCK_M"]) * step * step, co // blocks["BLOCK_N"], num_workers)
    worker_stride = weight.stride(0) if len(weight) > 1 else 0
    _convolve[grid](
        x, weight, y, worker_stride, BATCH=batch, IH=ih, IW=iw, CI=ci, OH=out_size[0], OW=out_size[1], CO=co,
        KH=kh, KW=kw, STRIDE=stride, PADDING=padding, TRANSPOSED=transposed, PRECISION=precision, **blocks,
    )
    return y


def forward_blocks(rows: int, co: int, ci: int) -> dict:
    """Tile sizes of `convolve`: the fastest of those tried for ResNet18 on an H100."""
    if co >= 512 and rows <= 256:
        return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": _tile(ci, 64), "num_warps": 4, "num_stages": 3}
    if rows < 2048:
        return {"BLOCK_M": 64, "BLOCK_N": _tile(co, 128), "BLOCK_K": _tile(ci, 32), "num_warps": 4, "num_stages": 4}
    return {"BLOCK_M": 128, "BLOCK_N": _tile(co, 128), "BLOCK_K": _tile(ci, 32), "num_warps": 4, "num_stages": 3}


def gradient_blocks(pixels: int, co: int, ci: int) -> dict:
    """Tile sizes of `weight_gradient`; two warps keep Triton from wgmma, which would transpose the operands."""
    split = 4 if co * ci <= 64 * 64 else 1
    return {
        "BLOCK_M": _tile(co, 64),
        "BLOCK_N": _tile(ci, 128),
        "BLOCK_K": 32,
        "SPLIT": split,
        "num_warps": 2,
        "num_stages": 3,
    }


def _small_blocks(n: int, k: int) -> dict:
    """For exact float32 products, which the tensor cores do not have."""
    return {"BLOCK_M": 16, "BLOCK_N": _tile(n, 32), "BLOCK_K": 16, "num_warps": 4, "num_stages": 2}


def weight_gradient(
    x: torch.Tensor, gradient: torch.Tensor, out: torch.Tensor, geometry: tuple[int, int, int, int], precision: str,
    blocks: dict | None = None,
) -> None:
    """Overwrites `out` [W, CO, CI, KH, KW] with each worker's weight gradient.

    x [W * B, CI', ...] may have more channels than CI, all zero.
    """
    kh, kw, stride, padding = geometry
    num_workers, co, wanted = out.shape[:3]
    samples, ci, ih, iw = x.shape
    oh, ow = gradient.shape[2:]
    blocks = blocks or (
        gradient_blocks(samples // num_workers * oh * ow, co, ci)
        if precision == "tf32"
        else {**_small_blocks(ci, 16), "SPLIT": 1}
    )
    split = blocks["SPLIT"]
    parts = torch.empty(split, num_workers, kh * kw, co * ci, dtype=torch.float32, device=out.device)
    grid = (co // blocks["BLOCK_M"] * (ci // blocks["BLOCK_N"]), kh * kw * split, num_workers)
    _weight_gradient[grid](
        x, gradient, parts, BATCH=samples // num_workers, IH=ih, IW=iw, CI=ci, OH=oh, OW=ow, CO=co, KH=kh, KW=kw,
        STRIDE=stride, PADDING=padding, PRECISION=precision, **blocks,
    )
    _unpack[triton.cdiv(co * ci, 128), num_workers](
        parts, out, out.stride(0), ci, co * ci, wanted, T=kh * kw, PADDED_T=triton.next_power_of_2(kh * kw),
        SPLIT=split, BLOCK=128,
    )
