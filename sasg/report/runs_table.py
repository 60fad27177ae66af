"""A table of any runs: a row per task, method and settings, means over the seeds."""

from collections.abc import Callable, Sequence

from sasg.cluster.ledger import uplink_bits
from sasg.report.curves import Series, all_series, metric_of
from sasg.report.names import METRICS, metric_text, percent, task_name
from sasg.report.runs import Entry, Run
from sasg.report.statistics import over_seeds
from sasg.report.times import links, seconds_to_baseline

HEADER = ["Task", "Method", "Runs", "Rounds to baseline", "Paper bits", "Uplink bits int32", "Uplink bits log2"]
HEADER += ["Final accuracy", "Skipped"]
NO_BASELINE = "no baseline"


def header(link: str | None = None) -> list[str]:
    """The columns' names; with a link of conf/link, also of the communication time that it would take."""
    return [*HEADER, f"Seconds to baseline ({link}, modelled)"] if link else HEADER


def rows(entries: Sequence[Entry], link: str | None = None) -> list[list[str]]:
    """What stands below `header(link)`."""
    return [_row(one, link) for one in all_series(entries)]


def _row(one: Series, link: str | None) -> list[str]:
    done = [run for run in one.runs if run.summary["status"] == "finished"]
    crossings = [run.summary["crossing"] for run in done]
    cells = [
        _mean([crossing and crossing["rounds"] for crossing in crossings], "{:,.0f}".format),
        _mean([crossing and crossing["paper_bits"] for crossing in crossings], "{:.3E}".format),
    ]
    for code in ("int32", "log2"):
        cells.append(_mean([crossing and uplink_bits(crossing, code) for crossing in crossings], "{:.3E}".format))
    seconds = [_mean([seconds_to_baseline(run, links()[link]) for run in done], "{:,.4g}".format)] if link else []
    if one.config.task.baseline is None:
        cells, seconds = ([NO_BASELINE] * len(of_baseline) for of_baseline in (cells, seconds))
    runs = f"{len(done)} of {one.num_planned}"
    return [task_name(one.task), one.label, runs, *cells, *_at_end(one, done), *seconds]


def _at_end(one: Series, done: Sequence[Run]) -> list[str]:
    metric = metric_of([one])
    finals = [run.summary["final"][metric] for run in done]
    accuracy = _mean(finals, lambda value: f"{metric_text(metric, value)} {METRICS[metric]}")
    return [accuracy, _mean([run.summary["skipped_share"] for run in done], lambda share: percent(share, 1))]


def _mean(values: Sequence[float | None], text: Callable[[float], str]) -> str:
    found = over_seeds(values)
    if not found.n:
        return "not run"
    return text(found.mean) if found.mean is not None else f"{found.n - found.num_missing} of {found.n} cross"
