#!/usr/bin/env python
"""The MNIST job in other frameworks, in turns with the suite and a loop in the published style: results/peers.

    benchmarks/peers/compare.py --environments DIR            # DIR/flower, DIR/fluke, DIR/fedlab: see README.md here
    benchmarks/peers/compare.py --environments DIR --turns 9 --rounds 200

In each turn every contestant does the same rounds in a process of its own, one after another; a busy machine slows
all. A contestant whose losses are not those of the same trajectory ends this with an error, and nothing is written. One
whose environment is missing is left out, and the table says so.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from with_suite import make_job  # noqa: E402

from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.config import Data  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.report.writing import Row, Table  # noqa: E402
from sasg.training.provenance import device_name  # noqa: E402
from sasg.training.run_folder import write_text  # noqa: E402

TOLERANCE, CHECKED = 1e-3, 30
"""Of the losses against the suite's, relative, in the first rounds: later on, trajectories that rounding has once sent
apart, by another choice among nearly equal largest entries, do not come back to each other."""


@dataclass
class Contestant:
    """A framework, what it does, and what was measured of it in each turn."""

    title: str
    environment: str  # "" is that of the suite
    script: str
    variant: str
    like: str  # the suite's variant that it is set against
    does: str
    found: list[dict] = field(default_factory=list)

    def python(self, environments: Path) -> Path:
        """The interpreter to run it with."""
        return environments / self.environment / "bin" / "python" if self.environment else Path(sys.executable)


def contestants() -> list[Contestant]:
    """In the order of a turn."""
    return [
        Contestant("suite, SGD", "", "with_suite", "sgd", "sgd", "dense"),
        Contestant("published-style loop, SGD", "", "with_suite", "published_sgd", "sgd", "dense"),
        Contestant("fluke, FedAvg of one step", "fluke", "with_fluke", "dense", "sgd", "dense"),
        Contestant("FedLab, FedAvg of one step", "fedlab", "with_fedlab", "dense", "sgd", "dense"),
        Contestant("Flower and Ray, FedAvg of one step", "flower", "with_flower", "dense", "sgd", "dense"),
        Contestant("suite, Sparse", "", "with_suite", "sparse", "sparse", "top-k of each tensor, error memory"),
        Contestant("published-style loop, Sparse", "", "with_suite", "published_sparse", "sparse", "the same"),
        Contestant("FedLab, its top-k", "fedlab", "with_fedlab", "top_k", "sparse", "the same, memory added"),
        Contestant("suite, SASG", "", "with_suite", "sasg", "sasg", "Sparse, skipped where little changed"),
    ]


def main() -> int:
    """Measure in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder with one environment per framework")
    parser.add_argument("--data", default=Data().root, help="data.root (default: SASG_DATA, else data)")
    parser.add_argument("--turns", type=int, default=5, help="default: 5")
    parser.add_argument("--rounds", type=int, default=60, help="of a turn, the first ten untimed (default: 60)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "peers", help="default: results/peers")
    options = parser.parse_args()
    if options.turns < 1 or options.rounds < 20:
        raise UserError("--turns: at least 1, and --rounds: at least 20, of which ten are not timed")
    os.environ["SASG_DATA"] = str(Path(options.data).resolve())  # contestants run elsewhere
    present = [one for one in contestants() if one.python(options.environments).exists()]
    absent = [one.title for one in contestants() if one.title not in {there.title for there in present}]
    with tempfile.TemporaryDirectory(prefix="sasg-peers-") as folder:
        job = Path(folder) / "job.npz"
        make_job(job, options.rounds, warm_up=10)
        for turn in range(1, options.turns + 1):
            for one in present:
                one.found.append(_measure(one, job, options.environments))
                print(f"turn {turn}: {one.title}: {one.found[-1]['ms']:.1f} ms", flush=True)
            _check_losses(present)
    table = _table(present, absent, options)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in table.documents(options.out, "peers").items():
        write_text(options.out / name, text)
    print(table.markdown(), f"written to {options.out}", sep="\n")
    return 0


def _measure(one: Contestant, job: Path, environments: Path) -> dict:
    """One turn of a contestant. UserError: it failed, with its last words."""
    out = job.with_name("report.json")
    out.unlink(missing_ok=True)
    paths = os.pathsep.join([str(HERE), *([str(ROOT)] if not one.environment else [])])
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    environment = {**os.environ, **quiet, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [str(one.python(environments)), str(HERE / f"{one.script}.py"), str(job), one.variant, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=job.parent)
    if done.returncode or not out.exists():
        last = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()][-1:] or ["it said nothing"]
        raise UserError(f"{one.title}: failed ({last[0].strip()}); try {' '.join(command)}")
    return json.loads(out.read_text())


def _check_losses(present: list[Contestant]) -> None:
    """UserError: the losses of a contestant are not those of the suite's method."""
    of_suite = {one.variant: one.found[-1]["losses"] for one in present if not one.environment}
    for one in present:
        differences = np.abs(np.array(one.found[-1]["losses"]) / of_suite[one.like] - 1)
        if not (first := differences[:CHECKED].max()) < TOLERANCE:
            raise UserError(f"{one.title}: its losses differ from the suite's by up to {first:.1e}: another job")
        one.found[-1]["difference"] = float(differences.max())


_NOTES = """Milliseconds of a round: the median over the timed rounds, then over the turns; lowest and highest turn.
Times the suite: the same turn's milliseconds over those of the suite's method that does the same ({like}), again the
median and the range over turns; this is what a busy machine leaves meaningful. Processor: milliseconds that the process
itself was on a processor, which leaves out Flower's workers (processes of their own). Losses: the largest relative
difference from the suite's in any round. {turns} turns of {rounds} rounds, the first ten of each not timed; {machine},
one thread. Load of the machine when this was written: {load}. {absent}
"""


def _table(present: list[Contestant], absent: list[str], options: argparse.Namespace) -> Table:
    of_suite = {one.variant: one.found for one in present if not one.environment}
    header = ("Contestant", "Exchange", "ms a round", "lowest", "highest", "processor ms", "times the suite")
    header += ("range", "losses differ by", "Versions")
    rows = []
    for one in present:
        ms = [found["ms"] for found in one.found]
        ratios = [mine["ms"] / ours["ms"] for mine, ours in zip(one.found, of_suite[one.like], strict=True)]
        numbers = {
            "contestant": one.title,
            "exchange": one.does,
            "ms": statistics.median(ms),
            "ms_lowest": min(ms),
            "ms_highest": max(ms),
            "processor_ms": statistics.median(found["processor_ms"] for found in one.found),
            "times_suite": statistics.median(ratios),
            "times_suite_lowest": min(ratios),
            "times_suite_highest": max(ratios),
            "losses_differ_by": max(found["difference"] for found in one.found),
            "versions": ", ".join(f"{name} {number}" for name, number in one.found[-1]["versions"].items()),
        }
        rows.append(Row(_cells(numbers), numbers))
    notes = _NOTES.format(
        like="SGD or Sparse; SASG by itself",
        turns=options.turns,
        rounds=options.rounds,
        machine=f"{device_name(torch.device('cpu'))}, Python {platform.python_version()}",
        load=", ".join(f"{load:.1f}" for load in os.getloadavg()) + f" on {os.cpu_count()} cores",
        absent=f"Not measured, for want of an environment: {', '.join(absent)}." if absent else "",
    )
    return Table("A round of the MNIST job beside other frameworks", header, tuple(rows), notes)


def _cells(numbers: dict) -> tuple[str, ...]:
    return (
        numbers["contestant"],
        numbers["exchange"],
        *(f"{numbers[key]:.2f}" for key in ("ms", "ms_lowest", "ms_highest", "processor_ms")),
        f"{numbers['times_suite']:.1f}",
        f"{numbers['times_suite_lowest']:.1f} to {numbers['times_suite_highest']:.1f}",
        f"{numbers['losses_differ_by']:.0e}",
        numbers["versions"],
    )


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
