"""Times the `triton` engine's convolutions on ResNet18's layers, tile by tile, beside cuDNN and im2col + batched GEMMs.

python benchmarks/gpu_kernels.py OUT.json        (one NVIDIA GPU; a few minutes, most of them compiling)
"""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
import torch.nn.functional as F

WORKERS, BATCH = 10, 10
# (channels in, channels out, image size, kernel, stride): how often ResNet18 has it
LAYERS = {
    (3, 64, 32, 3, 1): 1, (64, 64, 32, 3, 1): 4,
    (64, 128, 32, 3, 2): 1, (64, 128, 32, 1, 2): 1, (128, 128, 16, 3, 1): 3,
    (128, 256, 16, 3, 2): 1, (128, 256, 16, 1, 2): 1, (256, 256, 8, 3, 1): 3,
    (256, 512, 8, 3, 2): 1, (256, 512, 8, 1, 2): 1, (512, 512, 4, 3, 1): 3,
}  # fmt: skip
TILES = [
    (128, 64, 32, 4, 3),
    (128, 64, 32, 4, 4),
    (128, 128, 32, 8, 3),
    (128, 128, 32, 8, 4),
    (64, 128, 32, 4, 4),
    (64, 64, 32, 4, 4),
    (64, 64, 64, 4, 3),
    (64, 256, 32, 8, 3),
    (256, 64, 32, 8, 3),
    (128, 128, 32, 4, 3),
    (128, 256, 32, 8, 3),
]
GRADIENT_TILES = [
    (64, 64, 32, 4, 3),
    (128, 128, 32, 4, 3),
    (128, 128, 32, 8, 3),
    (128, 64, 32, 4, 3),
    (64, 64, 32, 2, 3),
    (128, 64, 32, 2, 3),
    (64, 64, 64, 4, 3),
    (32, 64, 32, 4, 3),
    (64, 64, 16, 2, 4),
    (64, 128, 32, 4, 3),
    (32, 128, 32, 4, 3),
]


def timed(call, sets=3, repeats=5):
    """Microseconds per call(set index) in a captured graph that rotates over the sets."""
    for i in range(sets):
        call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(2 * sets):
            call(i % sets)
    graph.replay()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / (2 * sets))
    return sorted(times)[len(times) // 2]


def cases():
    for layer in LAYERS:
        ci, co = max(layer[0], 16), layer[1]
        for bm, bn, bk, warps, stages in TILES:
            for op, channels_in, channels_out in (("forward", ci, co), ("data", co, ci)):
                if op == "data" and layer[0] == 3:
                    continue
                if bn <= channels_out and (bk <= channels_in or (channels_in == 16 and bk == 32)):
                    yield (
                        layer,
                        op,
                        dict(BLOCK_M=bm, BLOCK_N=bn, BLOCK_K=min(bk, channels_in), num_warps=warps, num_stages=stages),
                    )
        for bm, bn, bk, warps, stages in GRADIENT_TILES:
            if bm <= co and (bn <= ci or (ci == 16 and bn == 64)):
                for split in (1, 4) if ci <= 64 else (1,):
                    yield (
                        layer,
                        "weight",
                        dict(
                            BLOCK_M=bm, BLOCK_N=min(bn, ci), BLOCK_K=bk, SPLIT=split, num_warps=warps, num_stages=stages
                        ),
                    )


def make(layer, op, sets):
    from sasg.kernels import convolution as tc

    ci, co, size, k, s = layer
    ci = max(ci, 16)
    p, out = k // 2, (size - 1) // s + 1
    geometry = (k, k, s, p)
    gen = torch.Generator("cuda").manual_seed(0)

    def image(channels, side):
        x = torch.randn(WORKERS * BATCH, channels, side, side, device="cuda", generator=gen)
        return x.to(memory_format=torch.channels_last)

    xs, gs = [image(ci, size) for _ in range(sets)], [image(co, out) for _ in range(sets)]
    weights = [torch.randn(WORKERS, co, ci, k, k, device="cuda", generator=gen) for _ in range(sets)]
    if op == "weight":
        outs = [torch.empty(WORKERS, co, ci, k, k, device="cuda") for _ in range(sets)]
        return lambda i, blocks: tc.weight_gradient(xs[i], gs[i], outs[i], geometry, "tf32", blocks)
    packed = [tc.pack(w, torch.float32)[op == "data"] for w in weights]
    if op == "forward":
        return lambda i, blocks: tc.convolve(xs[i], packed[i], WORKERS, geometry, (out, out), "tf32", False, blocks)
    return lambda i, blocks: tc.convolve(gs[i], packed[i], WORKERS, geometry, (size, size), "tf32", True, blocks)


def compile_case(case):
    torch.backends.cudnn.allow_tf32 = True
    layer, op, blocks = case
    try:
        make(layer, op, 1)(0, blocks)
        torch.cuda.synchronize()
    except Exception as error:  # too much shared memory, say: left out
        return f"{case}: {error}"[:200]
    return None


def alternatives(layer):
    """Microseconds of cuDNN with shared weights and of im2col + batched GEMMs with a worker axis."""
    ci, co, size, k, s = layer
    p, out = k // 2, (size - 1) // s + 1

    def image(channels, side):
        x = torch.randn(3, WORKERS * BATCH, channels, side, side, device="cuda")
        return [one.to(memory_format=torch.channels_last) for one in x]

    xs, gs = image(ci, size), image(co, out)
    w = torch.randn(co, ci, k, k, device="cuda").to(memory_format=torch.channels_last)

    def backward(i, *wanted):
        return torch.ops.aten.convolution_backward(
            gs[i], xs[i], w, None, (s, s), (p, p), (1, 1), False, (0, 0), 1, (*wanted, False)
        )

    result = {"cudnn forward": timed(lambda i: F.conv2d(xs[i], w, None, s, p))}
    if ci > 3:
        result["cudnn data"] = timed(lambda i: backward(i, True, False))
    result["cudnn weight (summed)"] = timed(lambda i: backward(i, False, True))

    def columns(i):
        padded = F.pad(xs[i], (p, p, p, p)).contiguous(memory_format=torch.channels_last)
        n, c, h, v = padded.stride()
        return padded.as_strided((WORKERS * BATCH, out, out, k, k, ci), (n, s * h, s * v, h, v, c)).reshape(
            WORKERS, -1, k * k * ci
        )

    cols = [columns(i) for i in range(3)]
    own = torch.randn(WORKERS, co, k * k * ci, device="cuda")
    rows = [g.permute(0, 2, 3, 1).reshape(WORKERS, -1, co) for g in gs]
    result["im2col"] = timed(columns)
    result["bmm forward"] = timed(lambda i: torch.bmm(cols[i], own.mT))
    result["bmm weight"] = timed(lambda i: torch.bmm(rows[i].mT, cols[i]))
    return result


def times_of(layer, op, every):
    """(microseconds, tiles) of all tilings of one kernel, fastest first."""
    call = make(layer, op, 3)
    found = []
    for case_layer, case_op, blocks in every:
        if (case_layer, case_op) == (layer, op):
            try:
                found.append((timed(lambda i, blocks=blocks: call(i, blocks)), blocks))
            except Exception as error:  # too much shared memory, say
                print("failed", layer, op, blocks, str(error)[:80])
    return sorted(found, key=lambda pair: pair[0])


def main(path):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    every = list(cases())
    start = time.time()
    with ProcessPoolExecutor(14, mp_context=get_context("spawn")) as pool:
        failed = [r for r in pool.map(compile_case, every, chunksize=4) if r]
    print(f"{len(every)} kernels compiled in {time.time() - start:.0f} s; {len(failed)} failed", *failed[:3], sep="\n")
    results, totals = [], {}
    for layer, count in LAYERS.items():
        for op in ("forward", "data", "weight"):
            if found := times_of(layer, op, every):
                results.append({"layer": layer, "op": op, "times": found})
                totals[op] = totals.get(op, 0) + count * found[0][0]
                best = [f"{t:.0f} us " + "/".join(map(str, blocks.values())) for t, blocks in found[:4]]
                print(layer, op, *best, f"worst {found[-1][0]:.0f}", sep=" | ", flush=True)
        other = alternatives(layer)
        results.append({"layer": layer, "alternatives": other})
        for op, t in other.items():
            totals[op] = totals.get(op, 0) + count * t
        print("   ", {op: round(t) for op, t in other.items()}, flush=True)
        torch.cuda.empty_cache()
    with open(path, "w") as file:
        json.dump({"results": results, "totals": totals}, file)
    print({op: round(t) for op, t in totals.items()})


if __name__ == "__main__":
    main(sys.argv[1])
