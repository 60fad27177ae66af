"""Where the time of an iteration goes, measured in distributed runs.

A stopwatch is always in one phase: entering the next one ends the last. A captured iteration of a simulated
run has no phases, so there it is a NoStopwatch.
"""

import time

import torch

PHASES = ("gradient", "comparison", "selection", "upload", "server", "download", "other")
"""gradient, comparison: the oracle's passes; selection: trigger, feedback, top-k; upload: flags and payloads,
at the server with the wait for the slowest worker; server: aggregation; download: packing and broadcast of the
update, at a worker with the wait for it; other: mini-batches and the application of the update."""


class NoStopwatch:
    """Measures nothing."""

    def enter(self, phase: str | None) -> None:
        """Now `phase` begins; None: what follows is not measured."""

    def take(self) -> dict[str, float | None]:
        """Seconds of each phase since the last call."""
        return dict.fromkeys(PHASES)


class Stopwatch(NoStopwatch):
    """Measures in host time; on a GPU each phase waits for the work that was queued in it."""

    def __init__(self, device: torch.device):
        self._wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._phase: str | None = None

    def enter(self, phase: str | None) -> None:
        self._wait()
        now = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def take(self) -> dict[str, float | None]:
        taken, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return taken
