"""Modelled communication times: a run's ledger under a link model (conf/link)."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from sasg.cluster.accounting.links import Link
from sasg.errors import UserError
from sasg.parts import build
from sasg.places import files
from sasg.report.curves import frame
from sasg.report.runs import Run


def links() -> dict[str, Link]:
    """The link models of conf/link, and a user's own, by name, the fastest first. UserError: one is not right."""
    return _read(tuple(files("link").items()))


def link_of(name: str) -> Link:
    """A link model by its name. UserError: there is none."""
    if name not in links():
        raise UserError(f"link={name}: there is none in conf/link; choose one of {', '.join(links())}")
    return links()[name]


@cache
def _read(named: tuple[tuple[str, Path], ...]) -> dict[str, Link]:
    found = {name: build(str(path), yaml.safe_load(path.read_text()), Link) for name, path in named}
    return dict(sorted(found.items(), key=lambda item: -(item[1].up_bits_per_second or np.inf)))


def seconds(metrics: pd.DataFrame, link: Link, num_workers: int) -> pd.DataFrame:
    """Seconds of upload, flags and download since the start at each row of a run's metrics."""
    return pd.DataFrame(link.seconds_at(metrics.to_dict("records"), num_workers), index=metrics.index)


def frame_with_seconds(run: Run, link: Link) -> pd.DataFrame:
    """A run's frame with `seconds`, all of its communication under a link so far: upload, flags and download."""
    table = frame(run)
    table["seconds"] = seconds(table, link, run.identity["cluster"]["workers"]).sum(axis=1)
    return table


def seconds_to_baseline(run: Run, link: Link) -> float | None:
    """Seconds of communication up to the crossing; None if the run never crosses."""
    if not run.crossing:
        return None
    table = run.metrics
    table = table[table["iteration"] <= run.crossing["iteration"]]
    return float(seconds(table, link, run.identity["cluster"]["workers"]).iloc[-1].sum())
