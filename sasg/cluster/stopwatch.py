"""Where the time of an iteration goes, measured in distributed runs.

A stopwatch is always in one phase: entering the next one ends the last. A simulated run has no phases, so there it is
a NoStopwatch.
"""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

PHASES = ("gradient", "comparison", "selection", "upload", "server", "download", "other")
"""gradient, comparison: the oracle's passes; selection: trigger, feedback, top-k; upload: flags and payloads,
at the server with the wait for the slowest worker; server: aggregation; download: packing and broadcast of the
update, at a worker with the wait for it; other: mini-batches and the application of the update."""


Marks = Sequence[tuple[str | None, Any]]
"""Phases that begin, each with the event that says when."""


class NoStopwatch:
    """Measures nothing."""

    def enter(self, phase: str | None) -> None:
        """Now `phase` begins; None: what follows is not measured."""

    def captured(self) -> Marks:
        """The phases that begin in the CUDA graph that was captured just now."""
        return ()

    def replay(self, graph: Callable[[], None], marks: Marks) -> None:
        """Replay a graph in which these phases begin."""
        graph()

    def take(self) -> dict[str, float | None]:
        """Seconds of each phase since the last call."""
        return dict.fromkeys(PHASES)


class Stopwatch(NoStopwatch):
    """Measures in host time."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase: str | None = None

    def enter(self, phase: str | None) -> None:
        now = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def take(self) -> dict[str, float | None]:
        taken, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return taken


def _cuda_event(is_captured: bool) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True, external=is_captured)  # external: recorded anew in every replay
    event.record()
    return event


class DeviceStopwatch(NoStopwatch):
    """Measures in the device's time, between events in its stream, and does not wait for them before it must.

    The events of a graph are the same in every replay, and until the device comes to them they tell the time of the
    last one. So they are read when an event behind the graph has come, and before the next replay: that costs no
    waiting where the host waited for the device in between.
    """

    def __init__(
        self,
        new_event: Callable[[bool], Any] = _cuda_event,
        is_capturing: Callable[[], bool] = torch.cuda.is_current_stream_capturing,
    ):
        """new_event: records one; whether in a graph."""
        self._new_event, self._is_capturing = new_event, is_capturing
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._marks: list[tuple[str | None, Any]] = []  # not read yet; the first is of a phase that may go on
        self._in_graphs: set[int] = set()  # places of those that a graph records
        self._captured: list[tuple[str | None, Any]] = []

    def enter(self, phase: str | None) -> None:
        if self._is_capturing():
            self._captured.append((phase, self._new_event(True)))
            return
        self._marks.append((phase, self._new_event(False)))
        self._read(self._num_done())

    def captured(self) -> Marks:
        marks, self._captured = self._captured, []
        return marks

    def replay(self, graph: Callable[[], None], marks: Marks) -> None:
        pending = {id(event) for _, event in self._marks}
        if any(id(event) in pending for _, event in marks):
            self._read_all()
        graph()
        self._in_graphs |= set(range(len(self._marks), len(self._marks) + len(marks)))
        self._marks += marks
        if marks:
            self._marks.append((marks[-1][0], self._new_event(False)))

    def take(self) -> dict[str, float | None]:
        self._read_all()
        taken, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _num_done(self) -> int:
        """How many marks the device has passed, as far as is known without waiting."""
        done = 0
        for place, (_, event) in enumerate(self._marks):
            if place not in self._in_graphs:
                if not event.query():
                    break
                done = place + 1
        return done

    def _read_all(self) -> None:
        if self._marks:
            self._marks[-1][1].synchronize()
        self._read(len(self._marks))

    def _read(self, num: int) -> None:
        """Add up what lies between the first `num` marks; the last one of them stays, for what follows it."""
        for (phase, began), (_, ended) in pairwise(self._marks[:num]):
            if phase is not None:
                self._seconds[phase] += began.elapsed_time(ended) / 1e3
        gone = max(0, num - 1)
        self._marks = self._marks[gone:]
        self._in_graphs = {place - gone for place in self._in_graphs if place >= gone}
