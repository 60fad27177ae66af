"""Times the codes of positions and values on one upload of ResNet18, and tells how many bytes they take.

python benchmarks/codes.py [--density 0.01] [--devices cpu cuda] [--repeats 20] [--json OUT.json]

Positions are drawn at random in each tensor, as many as top-k keeps. Milliseconds are medians: on a CPU processor time
of one thread, so that other load does not count; on a GPU until it is done. What is decoded is compared with what was
encoded.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.table3.replay import model_shapes
from sasg.cluster import IntegerLevelCode, LevelCode, Payload, Segment
from sasg.cluster.accounting.codes import WRITABLE, packed_bits, position_bits
from sasg.cluster.wire import WireFormat


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    results = []
    for name in options.devices:
        device = torch.device(name)
        payload = upload(options.density, device)
        title = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
        k, size = payload.values.shape[1], payload.size
        tensors = f"{len(payload.segments)} tensors, float32"
        print(f"\n{title}: {k:,} of {size:,} entries of {tensors}; torch {torch.__version__}")
        print(f"{'':28}{'bytes':>12}{'bits/entry':>12}{'encode ms':>12}{'decode ms':>12}")
        for what, num_bytes, encode, decode in rows(payload, options.repeats):
            per_entry = num_bytes and 8 * num_bytes / k
            cells = (_cell(num_bytes, ",d"), *(_cell(number, ".2f") for number in (per_entry, encode, decode)))
            print(f"{what:28}" + "".join(f"{cell:>12}" for cell in cells))
            numbers = {"bytes": num_bytes, "encode_ms": encode, "decode_ms": decode}
            results.append({"device": title, "code": what, **numbers})
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


def upload(density: float, device: torch.device) -> Payload:
    """One worker's, with normal values."""
    generator = torch.Generator().manual_seed(0)
    sizes = [prod(shape) for shape in model_shapes()]
    segments = tuple(Segment(n, max(1, int(density * n))) for n in sizes)
    parts, begin = [], 0
    for segment in segments:
        parts.append(torch.randperm(segment.size, generator=generator)[: segment.kept].sort().values + begin)
        begin += segment.size
    indices = torch.cat(parts).unsqueeze(0).to(device)
    values = torch.randn(1, indices.shape[1], generator=generator).to(device)
    return Payload(values, indices, segments, in_range=True)


Row = tuple[str, int | None, float | None, float | None]


def rows(payload: Payload, repeats: int) -> list[Row]:
    """What, bytes, milliseconds to encode and to decode."""
    indices, segments, device = payload.indices, payload.segments, payload.indices.device
    positions = Payload(None, indices, segments, in_range=True)
    found: list[Row] = []
    for code in WRITABLE:
        num_bytes = (int(position_bits(code, indices, None, segments)) + 7) // 8
        form = replace(WireFormat.of(positions), position_code=code, announced_position_bytes=num_bytes)
        found.append((f"positions, {code}", *both_ways(form, positions, repeats)))
    choice = timed(lambda: packed_bits(indices, None, segments), device, repeats)
    found.append(("which is the shortest", None, choice, None))
    for wire in ("plain", "packed"):
        found.append((f"{wire} wire, float32", *both_ways(announced(payload, wire), payload, repeats)))
    for name, coded in quantised(payload).items():
        found.append((f"packed wire, {name}", *both_ways(announced(coded, "packed"), coded, repeats)))
    return found


def announced(payload: Payload, wire: str) -> WireFormat:
    form = WireFormat.of(payload, wire)
    return form.announced(form.headers(payload.indices, None)[0], "it") if form.num_headers else form


def quantised(payload: Payload) -> dict[str, Payload]:
    """The same upload with values that codes can express."""
    norm = payload.values.norm(dim=1, keepdim=True)
    qsgd = IntegerLevelCode(7)
    levels = (payload.values / norm * 7 * payload.values.shape[1] ** 0.5).round().clamp(-7, 7)
    magnitudes = torch.linspace(0.1, 2.0, 8, device=norm.device).unsqueeze(0)
    groups = torch.where(payload.values < 0, -1, 1) * magnitudes[0, (4 * payload.values.abs()).long().clamp(max=7)]
    return {
        "QSGD, 4 bits": replace(payload, values=qsgd.dequantise(levels, norm), code=qsgd, side=norm),
        "8 levels, 4 bits": replace(payload, values=groups, code=LevelCode(4), side=magnitudes),
    }


def both_ways(form: WireFormat, payload: Payload, repeats: int) -> tuple[int, float, float]:
    device = payload.indices.device
    data = torch.empty(form.num_bytes, dtype=torch.uint8, device=device)
    values, side = (None if x is None else x[0] for x in (payload.values, payload.side))
    encode = timed(lambda: form.pack(values, payload.indices[0], data, side), device, repeats)
    decode = timed(lambda: form.parts(data, device), device, repeats)
    arrived, _, places = form.parts(data, device)
    assert torch.equal(places, payload.indices[0]) and (values is None or torch.equal(arrived, values))
    return form.num_bytes, encode, decode


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Milliseconds of a call, the median."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    taken = []
    for _ in range(repeats + 3):
        begin = clock()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        taken.append(1000 * (clock() - begin))
    return median(taken[3:])


def _cell(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--devices", nargs="+", default=devices, choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", help="write the table there, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
