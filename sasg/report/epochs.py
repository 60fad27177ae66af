"""Runs by epoch, as published logs tell them."""

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from operator import sub
from pathlib import Path

from sasg.errors import UserError
from sasg.report.runs import Run

_TITLE = re.compile(r"\s*(\w+)\s+lr:.*\bseed:\s*(\d+)")
_EPOCH = re.compile(
    r"\s*epoch\s+\d+,\s*skip_num\s+(\d+),\s*loss\s+([\d.]+),\s*train acc\s+[\d.]+%,\s*test acc\s+([\d.]+)%"
)


@dataclass(frozen=True)
class Epoch:
    """What a run did in an epoch, and the test accuracy at its end."""

    num_skipped: int  # uploads
    training_loss: float  # mean over workers and iterations
    top1: float  # fraction

    def minus(self, other: "Epoch") -> "Epoch":
        """The differences."""
        return Epoch(*map(sub, astuple(self), astuple(other)))


@dataclass(frozen=True)
class LogRun:
    """A run in a published log."""

    method: str  # in small letters
    seed: int
    epochs: list[Epoch]


def largest(differences: Sequence[Epoch]) -> Epoch:
    """The largest magnitude of each."""
    return Epoch(*(max(map(abs, numbers)) for numbers in zip(*map(astuple, differences), strict=True)))


def epochs_of(run: Run) -> list[Epoch]:
    """A run's whole epochs. UserError: their ends were not evaluated."""
    metrics = run.metrics
    length = round(metrics.iteration.iloc[-1] / metrics.epoch.iloc[-1])
    ends = [0, *metrics.iteration[metrics.iteration % length == 0]]
    if len(ends) != metrics.iteration.iloc[-1] // length + 1:
        raise UserError(f"{run.path}: its epochs' ends are not all evaluated; leave evaluate_epochs=true")
    num_iterations = metrics.iteration.diff().fillna(metrics.iteration)  # that a row's loss is the mean over
    losses = (metrics.training_loss * num_iterations).cumsum()
    rows = metrics[["rounds", "top1"]].assign(losses=losses).set_index(metrics.iteration)
    rows.loc[0] = 0
    epochs = []
    for start, end in pairwise(ends):
        num_uploads = int(rows.rounds[end] - rows.rounds[start])
        loss = float(rows.losses[end] - rows.losses[start]) / length
        epochs.append(Epoch(length * run.identity["cluster"]["workers"] - num_uploads, loss, float(rows.top1[end])))
    return epochs


def read_log(path: Path) -> list[LogRun]:
    """The runs of a published log. UserError: it cannot be read, or has none.

    A run begins with a line such as "SASG  lr:0.005--h:0.01--epoch:20--worker:10--seed:1"; its epochs follow, as
    "epoch 3, skip_num 3040, loss 0.1227, train acc 96.667%, test acc 96.880%". Other lines are passed over.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a published log") from None
    runs: list[LogRun] = []
    for line in lines:
        if title := _TITLE.match(line):
            runs.append(LogRun(title[1].lower(), int(title[2]), []))
        elif (found := _EPOCH.match(line)) and runs:
            runs[-1].epochs.append(Epoch(int(found[1]), float(found[2]), float(found[3]) / 100))
    if not any(run.epochs for run in runs):
        raise UserError(f"{path}: has no line of an epoch below one that names method and seed; give a published log")
    return runs
