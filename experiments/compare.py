"""From where on do two runs differ? Say, one that was repeated, or the same on a CPU and on a GPU.

    sasg compare results/runs/mnist-sasg-s1-b011dc90 results/runs/mnist-sasg-s1-37d9b912

Exit code 0: metrics and upload decisions are equal bit for bit. 1: they differ.
In a checkout that is not installed: python -m experiments.cli compare.
"""

from pathlib import Path

from sasg.command_line import Parser
from sasg.config import flat
from sasg.errors import UserError
from sasg.report.comparison import compare
from sasg.report.repetition import in_words
from sasg.report.runs import Entry, entries_in


def main() -> int:
    """Print how the two runs differ."""
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("other", type=Path, help="another one's")
    options = parser.parse_args()
    entries = [_entry(path) for path in (options.run, options.other)]
    for line in _settings(*entries):
        print(line)
    found = compare(*(entry.found for entry in entries))
    print("\n".join(in_words(found)))
    return 0 if found.identical else 1


def _entry(path: Path) -> Entry:
    entries = entries_in([path])
    run = entries[0].found
    if len(entries) > 1 or run is None or not all((path / name).exists() for name in ("metrics.csv", "uploads.npz")):
        raise UserError(f"{path}: must be the folder of one run that has results (metrics.csv, uploads.npz)")
    return entries[0]


def _settings(one: Entry, other: Entry) -> list[str]:
    identities = [entry.found.identity for entry in (one, other)]
    data = [(identity["data_sha256"], identity["device"]) for identity in identities]
    a, b = (flat(entry.config.identity(*known)) for entry, known in zip((one, other), data, strict=True))
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    if a["task.name"] != b["task.name"] or a["cluster.workers"] != b["cluster.workers"]:
        raise UserError("these runs have other tasks or numbers of workers; only what is alike can be compared")
    return [f"{key}: {a.get(key)} | {b.get(key)}" for key in keys]
