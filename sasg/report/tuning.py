"""What tuning tried, what it chose, and what it cost."""

from collections.abc import Sequence

from sasg.report.runs import Entry

HELD_OUT = "held_out"
"""The kind of data set that tells trials from other runs: training samples are tested on."""


def is_trial(entry: Entry) -> bool:
    """Whether it is a trial of a step size."""
    return entry.config.dataset.get("kind") == HELD_OUT


def without_trials(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if not is_trial(entry)]
