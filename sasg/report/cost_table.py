"""Table I: what one iteration costs, the paper's formulas beside what the runs' ledgers counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sasg.cluster.ledger import uplink_bits
from sasg.report.curves import Series, all_series
from sasg.report.names import method_name, task_name
from sasg.report.published import published
from sasg.report.runs import Entry
from sasg.report.tables import Table, write_documents

_CAPTION = "Cost of one iteration: the paper's formulas, and what was counted (means over seeds and iterations)"
_NOTES = """M workers, d parameters, k uploaded values, |S| workers that upload (S in the table). Paper bits are 32 k or
32 d an upload; with indices: 32 bits for each, and a flag per worker where workers may skip. Downlink: unicast.
"""
HEADER = ["Task", "Method", "Rounds (paper)", "Rounds", "Bits (paper)", "Values per upload", "Paper bits"]
HEADER += ["With indices", "Downlink", "Runs"]


def write(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Write FILE.md, FILE.csv and FILE.tex; returns what to print."""
    counted = [numbers(one) for one in all_series(entries)]
    rows = [row(one) for one in counted]
    written = write_documents(folder, Table(counted, HEADER, rows, _CAPTION, _NOTES).documents(file))
    return f"written: {', '.join(str(folder / name) for name in written)}"


def numbers(one: Series) -> dict[str, Any]:
    """A method on a task: per iteration, the means over its runs; None where it was not run."""
    formula = published("table1").get(("", one.method), {})
    found: dict[str, Any] = {
        "task": one.task,
        "method": one.method,
        "rounds_published": formula.get("rounds"),
        "bits_published": formula.get("bits"),
        **dict.fromkeys(("rounds", "values_per_upload", "paper_bits", "uplink_bits_int32", "downlink_bits_int32")),
        "n": len(one.runs),
        "n_planned": one.num_planned,
    }
    if one.runs:
        totals = [run.summary["totals"] for run in one.runs]
        iterations = [run.summary["iterations"] for run in one.runs]
        per_upload = {total["paper_bits"] / 32 / total["rounds"] for total in totals}
        found |= {
            "rounds": _mean([total["rounds"] for total in totals], iterations),
            "values_per_upload": float(np.mean(list(per_upload))),
            "paper_bits": _mean([total["paper_bits"] for total in totals], iterations),
            "uplink_bits_int32": _mean([uplink_bits(total, "int32") for total in totals], iterations),
            "downlink_bits_int32": _mean([total["downlink_unicast_bits_int32"] for total in totals], iterations),
        }
    return found


def _mean(totals: Sequence[int], iterations: Sequence[int]) -> float:
    return float(np.mean([total / k for total, k in zip(totals, iterations, strict=True)]))


def row(numbers: dict[str, Any]) -> list[str]:
    """What stands below `HEADER` for what `numbers` returned."""
    counted = ["not run"] * 5
    if numbers["n"]:
        counted = [f"{numbers['rounds']:.3g}", f"{numbers['values_per_upload']:,.0f}"]
        counted += [f"{numbers[key]:.3E}" for key in ("paper_bits", "uplink_bits_int32", "downlink_bits_int32")]
    rounds, values, *bits = counted
    name = method_name(numbers["method"])
    formulas = [(numbers[key] or "").replace("|S|", "S") for key in ("rounds_published", "bits_published")]
    status = f"{numbers['n']} of {numbers['n_planned']}"
    return [task_name(numbers["task"]), name, formulas[0], rounds, formulas[1], values, *bits, status]
