#!/usr/bin/env python
"""Table III on this machine's links: measure, compare with the paper and with the link model."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from sasg.environment import require  # noqa: E402

require("torch", "pandas")

import torch  # noqa: E402

from benchmarks.table3 import replay as table3  # noqa: E402
from benchmarks.table3.namespaces import INTERFACE, SERVER_ADDRESS, can_shape, shaped_star  # noqa: E402
from benchmarks.table3.replay import LAZY, METHODS, NUM_WORKERS, Replay, published_row  # noqa: E402
from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.cluster.accounting.links import Link  # noqa: E402
from sasg.command_line import Parser  # noqa: E402
from sasg.report.writing import as_csv, as_markdown  # noqa: E402
from sasg.training.run_folder import write_text  # noqa: E402


def main() -> int:
    torch.set_num_threads(1)
    options = _options()
    if options.rank_of:
        result = table3.replay(Replay.read(options.rank_of))
        if os.environ["RANK"] == "0":
            options.rank_of.with_suffix(".result").write_text(json.dumps(result))
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # so that the links are removed
    try:
        return _measure(options)
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--mbit", type=float, default=1000.0, help="egress of each worker in Mbit/s (1000)")
    parser.add_argument("--iterations", type=int, default=100, help="iterations that are replayed (100)")
    parser.add_argument("--reception", choices=("serial", "parallel"), default="serial", help="as in the paper: serial")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--unshaped", action="store_true", help="measure this machine's own links even as root")
    parser.add_argument("--runs", type=Path, default=ROOT / "results/runs", help="where recorded runs are looked up")
    parser.add_argument("--out", type=Path, default=ROOT / "results/table3")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> int:
    decisions, origins = {}, {}
    for method in LAZY:
        found = sorted(options.runs.glob(f"cifar10-{method}-s*/uploads.npz"))
        drawn, origins[method] = table3.recorded_decisions(found[0] if found else None, method, options.iterations)
        decisions[method] = drawn.astype(int).tolist()
    shared = Replay(tuple(options.methods), decisions, options.iterations, options.reception)
    seconds, device = table3.gradient_seconds()
    reason = "asked for" if options.unshaped else can_shape()
    shaped = f"{options.mbit:g} Mbit/s egress of each worker (tc tbf)"
    links = f"links: {f'unshaped ({reason})' if reason else shaped}"
    print(links, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay.json"
        shared.write(path)
        with _nodes(reason is None, options.mbit) as (prefixes, address, interface, port):
            _run_ranks(path, prefixes, address, interface, port)
        measured = json.loads(path.with_suffix(".result").read_text())
    link = None if reason else Link(up_bits_per_second=options.mbit * 1e6, reception=options.reception)
    rows = [_row(method, measured[method], seconds, shared, link) for method in options.methods]
    notes = [
        f"{links}, gloo, {options.reception} reception, {options.iterations} iterations, nine remote workers of ten",
        *(f"decisions of {method}: {origins[method]}" for method in LAZY if method in options.methods),
        f"extra computation: {options.iterations} gradients of one worker, {seconds * 1e3:.1f} ms each on {device}",
        "extra server memory: stored payloads as allocated, with SASG's 64-bit indices; the paper counts "
        "SASG's values alone",
        "the link model knows bandwidth alone: no protocol overhead, and no work of this machine's processors",
    ]
    _write(options.out, "table3_unshaped" if reason else "table3", rows, notes)
    return 0


@contextmanager
def _nodes(shaped: bool, mbit: float) -> Iterator[tuple]:
    """Command prefix of each rank, the server's address, the interface and a port."""
    if shaped:
        with shaped_star(NUM_WORKERS, mbit) as prefixes:
            yield prefixes, SERVER_ADDRESS, INTERFACE, 29500
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        yield [[]] * NUM_WORKERS, "127.0.0.1", "lo", port


def _run_ranks(path: Path, prefixes: list[list[str]], address: str, interface: str, port: int) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), "--rank-of", str(path)]
    ranks = []
    try:
        for rank, prefix in enumerate(prefixes):
            environment = table3.rank_environment(rank, address, interface, port)
            ranks.append(subprocess.Popen([*prefix, *command], env=environment))
        for rank, process in enumerate(ranks):
            if process.wait() != 0:
                raise SystemExit(f"error: rank {rank} failed; what it printed stands above")
    finally:
        for process in ranks:
            process.kill()
            process.wait()


def _row(method: str, measured: dict, gradient: float, shared: Replay, link: Link | None) -> dict:
    published = published_row(method)
    communication = measured["communication_seconds"]
    row = {
        "method": method,
        "communication_s_measured": round(communication, 2),
        "communication_s_published": published["communication_seconds"],
        "communication_s_modelled": None,
        "model_error": None,
        "server_s_measured": round(measured["server_seconds"], 2),
        "received_MB": round(measured["received_bytes"] / 1e6, 2),
        "extra_computation_s_measured": round(gradient * shared.iterations, 2) if method in LAZY else None,
        "extra_computation_s_published": published["extra_computation_seconds"],
        "extra_memory_MiB_measured": round(measured["server_mebibytes"], 2) if method in LAZY else None,
        "extra_memory_MiB_published": published["extra_server_memory_mib"],
    }
    if link is not None:
        modelled = table3.predicted_seconds(method, shared, link)
        row |= {"communication_s_modelled": round(modelled, 2), "model_error": f"{modelled / communication - 1:+.1%}"}
    return row


def _write(folder: Path, file: str, rows: list[dict], notes: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cells = [["-" if value is None else str(value) for value in row.values()] for row in rows]
    listed = "".join(f"* {note}\n" for note in notes)
    text = f"# Table III, measured\n\n{as_markdown(list(rows[0]), cells)}\n{listed}"
    write_text(folder / f"{file}.csv", as_csv(rows))
    write_text(folder / f"{file}.md", text)
    print(text)


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
