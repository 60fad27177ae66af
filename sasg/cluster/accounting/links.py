"""Link models: what a ledger would take in seconds on given links. Modelled times, never measured ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.errors import UserError

SENT_CODE = "int32"
"""The index code of what the distributed cluster really sends."""


@dataclass(frozen=True)
class Link:
    """What lies between the server and each of its workers. None: infinitely fast.

    reception: the server takes uploads one at a time ("serial"), or all at once ("parallel") as fast as each
    worker's own link and `server_bits_per_second`, which they share, allow.
    """

    up_bits_per_second: float | None = None  # of each worker
    down_bits_per_second: float | None = None
    latency_seconds: float = 0.0  # one way
    reception: Literal["serial", "parallel"] = "serial"
    server_bits_per_second: float | None = None

    def __post_init__(self) -> None:
        for name in ("up_bits_per_second", "down_bits_per_second", "server_bits_per_second"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"link.{name}={getattr(self, name)}: must be positive, or null for infinitely fast")
        if not self.latency_seconds >= 0:
            raise UserError(f"link.latency_seconds={self.latency_seconds}: must not be negative")

    def upload_seconds(self, num_uploads: np.ndarray, bits: float) -> np.ndarray:
        """Seconds of iterations in which `num_uploads` [n] remote workers upload `bits` each."""
        num_uploads = np.asarray(num_uploads, dtype=float)
        alone = _seconds(bits, self.up_bits_per_second) + self.latency_seconds
        if self.reception == "serial":
            return num_uploads * alone
        shared = num_uploads * _seconds(bits, self.server_bits_per_second) + self.latency_seconds
        return np.where(num_uploads > 0, np.maximum(alone, shared), 0.0)

    def run_seconds(
        self, totals: Mapping[str, int], iterations: int, num_workers: int, code: str, num_local: int = 0
    ) -> dict:
        """Seconds of uploads, flags and downloads of `iterations` whose ledger columns add up to `totals`.

        code: of the indices. num_local: workers in the server's process, whose share of the uploads takes no time.
        The ledger does not say how uploads spread over iterations: evenly, here; votes travel with uploads of values.
        With more than one upload of each worker, an iteration has as many exchanges, each with an update of its own.
        Where nobody uploads, flags and the update to every worker take their time all the same.
        """
        bits = (uplink_bits(totals, code) - totals["flag_bits"]) / max(1, totals["rounds"])
        exchanges = max(iterations, totals["rounds"] / num_workers)
        remote = totals["rounds"] / exchanges * (1 - num_local / num_workers)
        flag_seconds = self.latency_seconds + _seconds(1, self.up_bits_per_second) if totals["flag_bits"] else 0.0
        down = _seconds(totals[f"downlink_broadcast_bits_{code}"], self.down_bits_per_second)
        return {
            "upload": exchanges * float(self.upload_seconds(np.array(remote), bits)),
            "flags": iterations * flag_seconds,
            "download": exchanges * self.latency_seconds + down,
        }

    def seconds_at(self, rows: Iterable[Mapping], num_workers: int) -> list[dict[str, float]]:
        """Seconds of upload, flags and download since the start at each of the `rows` of a run's metrics.

        One of the workers lives in the server's process, as in the paper's cluster, and its uploads take no time.
        """
        times = []
        before: Mapping = {}
        total = dict.fromkeys(("upload", "flags", "download"), 0.0)
        for row in rows:
            since = {key: row[key] - before.get(key, 0) for key in row if key == "rounds" or "_bits" in key}
            iterations = int(row["iteration"] - before.get("iteration", 0))
            spent = self.run_seconds(since, iterations, num_workers, SENT_CODE, num_local=1)
            total = {kind: total[kind] + spent[kind] for kind in total}
            times.append(total)
            before = row
        return times

    def __str__(self) -> str:
        """For people: 20 Mbit/s up, 100 Mbit/s down, 30 ms, parallel reception by a server of 1,000 Mbit/s."""
        words = [
            f"{_megabits(self.up_bits_per_second)} up",
            f"{_megabits(self.down_bits_per_second)} down",
            f"{1e3 * self.latency_seconds:g} ms",
            f"{self.reception} reception",
        ]
        server = self.server_bits_per_second
        return ", ".join(words) + (f" by a server of {_megabits(server)}" if server is not None else "")


def _megabits(bits_per_second: float | None) -> str:
    return "infinitely fast" if bits_per_second is None else f"{bits_per_second / 1e6:,g} Mbit/s"


def _seconds(bits: float, bits_per_second: float | None) -> float:
    return 0.0 if bits_per_second is None else bits / bits_per_second
