"""A finished run as one small picture: for W&B, whose pages are looked at run by run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LABELS = {"loss": "validation loss", "top1": "top-1 test accuracy", "training_loss": "training loss"}


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG of validation loss and test accuracy (where there are such) and training loss against rounds.

    rows: of metrics.csv. ImportError: there is no matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    shown = {column: label for column, label in _LABELS.items() if rows and column in rows[0]}
    (axes,) = figure.subplots(1, max(1, len(shown)), squeeze=False)
    for axis, (column, label) in zip(axes, shown.items(), strict=False):
        axis.plot([row["rounds"] for row in rows], [row[column] for row in rows])
        axis.set(xlabel="rounds (uploads)", ylabel=label, yscale="log" if column == "training_loss" else "linear")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
