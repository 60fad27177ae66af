"""What runs are judged by, in words: accuracies, which should rise above a baseline, or losses, which should fall."""

from collections.abc import Sequence

from sasg.report.names import METRICS
from sasg.report.runs import Run
from sasg.report.series import Series, metric_of


def rises(metric: str) -> bool:
    """Whether more is better: of accuracies. Losses, objectives and norms should fall."""
    return metric.startswith("top")


def judged_by(run: Run) -> str:
    """The metric that a run is judged by: its baseline's, else the first that an evaluation gives."""
    baseline = run.identity["task"].get("baseline")
    return baseline["metric"] if baseline else next(name for name in run.summary["final"] if name in METRICS)


def _to_be_reached(series: Sequence[Series]) -> set[bool]:
    """Whether what the baselines are of rises: {True}, {False}, both, or empty where there is no baseline."""
    return {rises(baseline.metric) for one in series if (baseline := one.config.task.baseline) is not None}


def side(series: Sequence[Series]) -> str:
    """Where a crossing lies, seen from the baseline."""
    kinds = _to_be_reached(series)
    return "beyond" if len(kinds) > 1 else "below" if kinds == {False} else "above"


def baseline_name(series: Sequence[Series]) -> str:
    """What the value to be reached is called; "" where there is none."""
    names = {(): "", (True,): "baseline accuracy", (False,): "target"}
    return names.get(tuple(_to_be_reached(series)), "baseline or target")


def final_name(series: Sequence[Series]) -> str:
    """What the metrics at the end are called together: "accuracy", "loss", or "metric"."""
    kinds = {"accuracy" if rises(metric) else metric for metric in (metric_of([one]) for one in series)}
    return next(iter(kinds)) if kinds in ({"accuracy"}, {"loss"}) else "metric"
