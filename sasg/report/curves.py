"""Runs as curves: several seeds of one method on one task drawn as one line."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.report.runs import Run

CODE = "log2"
"""The index code of "real" bits: the fewest whole bits that number the entries of a segment."""


def frame(run: Run) -> pd.DataFrame:
    """A run's metrics and what follows from them, a row per evaluation.

    uplink_bits: values, indices and flags. downlink_bits: to every worker that receives something. real_bits: both.
    Indices are in `CODE`.
    """
    table = run.metrics
    table["uplink_bits"] = uplink_bits(table, CODE) if len(table) else []
    table["downlink_bits"] = table[f"downlink_unicast_bits_{CODE}"]
    table["real_bits"] = table["uplink_bits"] + table["downlink_bits"]
    return table


def over_runs(frames: Sequence[pd.DataFrame], x: str, y: str) -> pd.DataFrame:
    """y over runs (mean, minimum, maximum) at their mean x, at the iterations that all of them evaluated."""
    tables = [pd.DataFrame({"x": one[x], "y": one[y]}).set_index(one["iteration"]) for one in frames]
    by_iteration = pd.concat(tables).groupby(level=0)
    y_of = by_iteration["y"]
    columns = {"x": by_iteration["x"].mean(), "mean": y_of.mean(), "minimum": y_of.min(), "maximum": y_of.max()}
    return pd.DataFrame(columns)[by_iteration.size() == len(frames)]


def upload_shares(run: Run, num_bins: int) -> np.ndarray:
    """The share of a bin's iterations in which each worker uploaded, [M, bins]; bins of equal length, in order."""
    uploads = run.uploads
    num_bins = max(1, min(num_bins, len(uploads)))
    edges = np.linspace(0, len(uploads), num_bins + 1).round().astype(int)
    return np.stack([uploads[a:b].mean(axis=0) for a, b in pairwise(edges)], axis=1)
