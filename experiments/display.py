"""What a study shows while it works: a line per run in a terminal, a line per finished run elsewhere."""

import sys
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.pool import Job, Pool, total_seconds
from experiments.several import duration
from sasg.cluster.factory import choose_processes
from sasg.report.runs import Entry
from sasg.training.progress import counted, metric_text


def listing(entries: Sequence[Entry], jobs: Sequence[Job], slots: int) -> str:
    """The study's runs by task and method: what is there, what is missing, and how long that will take here."""
    by_run = {job.config.settings: job for job in jobs}
    lines: dict[tuple[str, str], dict[str, list[str]]] = {}
    seconds: dict[tuple[str, str], float] = {}
    for entry in entries:
        key, seed = (entry.task, entry.method), entry.config.seed
        job = by_run.get(entry.config.settings)
        states = lines.setdefault(key, {"finished": [], "interrupted": [], "damaged": [], "to do": []})
        states[_state(job)].append(str(seed))
        seconds[key] = seconds.get(key, 0.0) + (job.seconds_left if job else 0.0)
    text = []
    widths = [max([least, *map(len, names)]) for least, names in zip((10, 8), zip(*lines))]
    for (task, method), states in lines.items():
        told = "; ".join(f"{state}: seeds {' '.join(seeds)}" for state, seeds in states.items() if seeds)
        text.append(
            f"  {task:<{widths[0]}} {method:<{widths[1]}} {told}"
            + (f"; {duration(seconds[task, method])}" if seconds[task, method] else "")
        )
    if jobs:
        total, to_do = duration(total_seconds(jobs, slots)), f"{len(jobs)} of {counted(len(entries), 'run')} to do"
        spread = [job for job in jobs if job.config.cluster.kind == "distributed"]
        measured = ", as measured in one process without messages" if spread else ""
        text.append(f"  {to_do}, {slots} at a time: about {total}{measured}")
        text += sorted({f"  each in {choice}" for job in spread if (choice := _choice(job))})
    return "\n".join(text)


def _choice(job: Job) -> str | None:
    return choose_processes(job.config.cluster, job.folder.identity["device"], job.config.threads)[1]


def _state(job: Job | None) -> str:
    if job is None:
        return "finished"
    if job.folder.is_damaged():
        return "damaged"
    return "interrupted" if job.iteration else "to do"


class Display:
    """Shows a pool's jobs; use it as a context and call it now and then."""

    def __init__(self, pool: Pool):
        self._pool = pool
        self._told: set[str] = set()
        self._console = Console(stderr=True)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self) -> None:
        for job in self._pool.jobs:
            if job.state in ("finished", "diverged", "failed", "stopped") and job.name not in self._told:
                self._told.add(job.name)
                self._tell(", ".join(filter(None, (f"{job.name}: {job.state}", job.reason or _result(job)))))
        if self._live:
            self._live.update(self._table(), refresh=True)

    def _tell(self, text: str) -> None:
        line = f"[{len(self._told)}/{len(self._pool.jobs)}] {text}"
        if self._live:
            self._console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for job in self._pool.jobs:
            if job.state in ("running", "elsewhere"):
                table.add_row(*_live_cells(job))
        counts = {state: sum(job.state == state for job in self._pool.jobs) for state in ("waiting", "failed")}
        done = f"{len(self._told)} of {len(self._pool.jobs)} done"
        told = [done, *(f"{number} {state}" for state, number in counts.items() if number)]
        table.add_row(", ".join(told), "", "", f"{duration(total_seconds(self._pool.jobs, self._pool.slots))} left")
        return table


def _live_cells(job: Job) -> tuple[str, str, str, str]:
    position = f"{job.iteration:,}/{job.estimate.num_iterations:,}"
    state = " (in another process)" if job.state == "elsewhere" else ""
    return job.name, position + state, _result(job) or "starting", f"{duration(job.seconds_left)} left"


def _result(job: Job) -> str:
    return f"{metric_text(job.row)}, {int(job.row['rounds']):,} rounds" if job.row else ""
