"""What a table's columns are: declared once, with the one rule for runs that are missing, diverged or never cross."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.report.judging import final_name, judged_by
from sasg.report.names import METRICS, method_name, metric_text, percent, task_name
from sasg.report.runs import Run
from sasg.report.series import Series, metric_of
from sasg.report.statistics import Statistics, over_seeds

NO_BASELINE = "no baseline"
NOT_RUN = "not run"


def count(value: float) -> str:
    """A whole number for readers."""
    return f"{value:,.0f}"


def scientific(value: float) -> str:
    """A number of bits for readers."""
    return f"{value:.2E}"


@dataclass(frozen=True)
class OverSeeds:
    """A quantity of a run, over the runs of a series.

    at: "baseline" is up to the crossing, which a run that diverges later has had; "end" is of runs that finished.
    Where not all runs that ended have a value there is no mean, and the cell says how many do.
    """

    key: str  # in the CSV
    title: str  # for readers
    of: Callable[[Run], float | None]
    form: Callable[[float], str]
    at: Literal["baseline", "end"] = "end"
    spread: bool = False  # the standard deviation stands beside the mean

    def by_seed(self, one: Series) -> dict[int, float | None]:
        """The values of the runs that ended."""
        return {run.identity["seed"]: self._value(run) for run in one.runs}

    def statistics(self, one: Series) -> Statistics:
        return over_seeds(list(self.by_seed(one).values()))

    def _value(self, run: Run) -> float | None:
        return self.of(run) if run.status == "finished" or self.at == "baseline" else None

    def cell(self, one: Series) -> str:
        """For readers."""
        if self.at == "baseline" and one.config.task.baseline is None:
            return NO_BASELINE
        found = self.statistics(one)
        if not found.n:
            return one.missing
        if found.mean is None:
            if self.at == "baseline":
                return f"{found.n - found.num_missing} of {found.n} cross"
            return "–" if one.num_finished == found.n else f"{one.num_finished} of {found.n} finish"
        spread = f" ± {self.text(found.sd, one)}" if self.spread and found.sd is not None else ""
        return f"{self.text(found.mean, one)}{spread}"

    def text(self, value: float, one: Series) -> str:
        """A value for readers."""
        return self.form(value)

    def numbers(self, one: Series) -> dict[str, Any]:
        """For the CSV."""
        found = self.statistics(one)
        return {self.key: found.mean, f"{self.key}_sd": found.sd}


@dataclass(frozen=True)
class Given:
    """What is known of a series without its runs."""

    key: str
    title: str
    of: Callable[[Series], Any]
    form: Callable[[Any], str] = str

    def cell(self, one: Series) -> str:
        value = self.of(one)
        return "" if value is None else self.form(value)

    def numbers(self, one: Series) -> dict[str, Any]:
        return {self.key: self.of(one)}


def whole_seconds(seconds: float) -> str:
    """Seconds for readers; below half a second, which would be none, to two digits."""
    return count(seconds) if seconds >= 0.5 else f"{seconds:.2g}"


@dataclass(frozen=True)
class Runs:
    """How many runs are behind a row, and what became of the others."""

    key: str = "n"
    title: str = "Runs"

    def cell(self, one: Series) -> str:
        return one.status

    def numbers(self, one: Series) -> dict[str, Any]:
        return {"n": len(one.runs), "n_planned": one.num_planned, "status": one.status}


Column = OverSeeds | Given | Runs
OfLedger = Callable[[Mapping[str, Any]], float]

TASK = Given("task", "Task", lambda one: one.task, task_name)
METHOD = Given("method", "Method", lambda one: one.method, method_name)


def settings_columns(series: Sequence[Series]) -> list[Given]:
    """A column for each setting in which rows differ."""

    def column(key: str) -> Given:
        return Given(key, key, lambda one: one.setting(key))

    return [column(key) for key in dict.fromkeys(key for one in series for key in one.settings)]


def at_baseline(
    key: str, title: str, of: OfLedger, form: Callable[[float], str] = scientific, **more: Any
) -> OverSeeds:
    """A quantity of the ledger at the crossing."""
    return OverSeeds(key, title, lambda run: of(run.crossing) if run.crossing else None, form, "baseline", **more)


def of_totals(key: str, title: str, of: OfLedger, form: Callable[[float], str] = scientific, **more: Any) -> OverSeeds:
    """A quantity of the ledger at the end."""
    return OverSeeds(key, title, lambda run: of(run.summary["totals"]), form, **more)


def uplink_to_baseline(code: str) -> OverSeeds:
    """All uplink bits up to the crossing, with indices in `code`."""
    return at_baseline(f"uplink_bits_{code}", f"Uplink bits {code}", lambda totals: uplink_bits(totals, code))


ROUNDS = at_baseline("rounds", "Rounds", lambda totals: totals["rounds"], count, spread=True)
PAPER_BITS = at_baseline("paper_bits", "Paper bits", lambda totals: totals["paper_bits"])
SKIPPED = OverSeeds("skipped_share", "Skipped", lambda run: run.summary["skipped_share"], percent)


class _Final(OverSeeds):
    """What a task is judged by, at the end; named where it is top-5."""

    def text(self, value: float, one: Series) -> str:
        return metric_text(metric_of([one]), value)

    def cell(self, one: Series) -> str:
        metric = metric_of([one])
        known = metric != "top5" or self.statistics(one).mean is None
        return super().cell(one) + ("" if known else f" {METRICS[metric]}")


def final(series: Sequence[Series]) -> OverSeeds:
    """What the tasks are judged by, at the end."""
    name = final_name(series)
    return _Final(f"final_{name}", f"Final {name}", lambda run: run.summary["final"][judged_by(run)], str, spread=True)
