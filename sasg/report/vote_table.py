"""Majority voting's compression: the published formula beside the bits that runs really uploaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

from sasg.cluster.ledger import uplink_bits
from sasg.report.curves import Series, all_series
from sasg.report.names import method_name, percent, task_name
from sasg.report.published import published
from sasg.report.runs import Entry, Run
from sasg.report.statistics import over_seeds
from sasg.report.tables import Table

CODES = ("log2", "delta", "entropy")
_CAPTION = "Majority voting: compression of the uplink, against 32 d H bits for the H mini-batches of an iteration"
_NOTES = """Formula: 32 H / (density * bits per value + bits of the positions), where a mask of density p costs
p (log2(1/p) + 2) bits for each of the d entries, and an add-drop vote two masks of the density of changes.
Measured: all uplink bits of the ledger after the dense warm-up (values, group means, lengths, and positions in the
code named), means over seeds. log2: the fewest whole bits that number the entries; delta: Golomb-Rice coded gaps,
really encoded; entropy: log2 C(n, K). Whole run: delta, warm-up included. Accuracy: top-1 at the end.
"""
HEADER = ["Task", "Method", "H", "Published", "Formula", *(f"Measured {code}" for code in CODES), "Whole run"]
HEADER += ["Accuracy", "Runs"]
NOT_RUN = "not run"


@dataclass(frozen=True)
class Scheme:
    """What decides how many bits a worker uploads for H mini-batches, as shares of the d entries."""

    density: float  # of the uploaded values
    change_density: float | None  # of the entries that enter, and of those that leave; None: a whole mask is uploaded
    bits_per_value: float
    local_steps: int

    @property
    def compression(self) -> float:
        """32 d H / uploaded bits, by the published formula (arXiv 2011.06495)."""
        if self.density == 1:
            return 32 * self.local_steps / self.bits_per_value
        whole = self.change_density is None
        positions = mask_bits(self.density) if whole else 2 * mask_bits(self.change_density)
        return 32 * self.local_steps / (self.density * self.bits_per_value + positions)

    @classmethod
    def of(cls, algorithm: Mapping[str, Any]) -> "Scheme":
        """Of a method's configuration: majority voting's, or a composed one's."""
        vote, compressor = algorithm.get("vote") or {}, algorithm.get("compressor") or {}
        quantiser = algorithm.get("quantiser")
        return cls(
            algorithm.get("density", compressor.get("density", 1.0)),
            vote.get("change_density"),
            1 + log2(quantiser["num_groups"]) if quantiser else 32,
            algorithm.get("local_steps", 1),
        )


def mask_bits(density: float) -> float:
    """Bits for each entry of a vector to tell which of them are in a mask of this density: p (log2(1/p) + 2)."""
    return density * (log2(1 / density) + 2)


def write(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Write FILE.md, FILE.csv and FILE.tex: published, formula and measured, by method; returns what to print.

    The published numbers have their rows even where a study has no runs for them.
    """
    found = [numbers(one) for one in all_series(entries)]
    named = {row["method"] for row in found}
    found += [_published_row(name, row) for (_, name), row in published("majority_vote").items() if name not in named]
    rows = [_cells(row) for row in found]
    return Table(found, HEADER, rows, _CAPTION, _NOTES).write(folder, file)


def numbers(one: Series) -> dict[str, Any]:
    """A `Series` as a row of the CSV: compressions, and the accuracy as a fraction; None where it was not run."""
    scheme = Scheme.of(one.config.algorithm)
    known = published("majority_vote").get(("", one.method), {})
    done = [run for run in one.runs if run.summary["status"] == "finished"]
    measured = {f"measured_{code}": _mean([compression(run, code) for run in done]) for code in CODES}
    return {
        "task": one.task,
        "method": one.method,
        "local_steps": scheme.local_steps,
        "published": known.get("compression"),
        "formula": scheme.compression,
        **measured,
        "whole_run_delta": _mean([compression(run, "delta", with_warmup=True) for run in done]),
        "top1": _mean([run.summary["final"]["top1"] for run in done]),
        "n": len(done),
        "n_planned": one.num_planned,
    }


def compression(run: Run, code: str, with_warmup: bool = False) -> float | None:
    """32 d H / uplink bits per worker and iteration, with positions in `code`; after the warm-up, or of the whole run.

    None if the ledger did not count in this code, or if the run ended within the warm-up. 32 d H bits are what dense
    SGD uploads for the same mini-batches.
    """
    metrics, algorithm = run.metrics, run.identity["algorithm"]
    if f"index_bits_{code}" not in metrics:
        return None
    before = metrics[metrics["epoch"] <= (0 if with_warmup else algorithm.get("warmup_epochs", 0))].tail(1)
    last = metrics.iloc[-1]
    iterations, bits = last["iteration"], uplink_bits(last, code)
    if len(before):
        iterations, bits = iterations - before["iteration"].item(), bits - uplink_bits(before.iloc[0], code)
    if not iterations:
        return None
    dense_bits = 32 * run.summary["num_parameters"] * algorithm.get("local_steps", 1)
    return float(dense_bits * iterations * run.identity["cluster"]["workers"] / bits)


def _published_row(name: str, row: Mapping[str, str]) -> dict[str, Any]:
    changes = row["change_density"]
    local_steps = int(row["local_steps"])
    scheme = Scheme(
        float(row["density"]), float(changes) if changes else None, float(row["bits_per_value"]), local_steps
    )
    return {
        "task": "",
        "method": name,
        "local_steps": local_steps,
        "published": row["compression"],
        "formula": scheme.compression,
        **{f"measured_{code}": None for code in CODES},
        "whole_run_delta": None,
        "top1": None,
        "n": 0,
        "n_planned": 0,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    return over_seeds(values).mean


def _cells(row: Mapping[str, Any]) -> list[str]:
    planned = bool(row["n_planned"])
    measured = [row[key] for key in (*(f"measured_{code}" for code in CODES), "whole_run_delta")]
    texts = [(NOT_RUN if not row["n"] else "") if value is None else f"x{value:.0f}" for value in measured]
    accuracy = NOT_RUN if row["top1"] is None else percent(row["top1"])
    return [
        task_name(row["task"]) if planned else "any",
        method_name(row["method"]),
        str(row["local_steps"]),
        f"x{row['published']}" if row["published"] else "",
        f"x{row['formula']:.0f}",
        *texts,
        accuracy,
        f"{row['n']} of {row['n_planned']}" if planned else NOT_RUN,
    ]
