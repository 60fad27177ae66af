"""Majority voting's compression: the published formula beside the bits that runs really uploaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.report.columns import NOT_RUN, Given, OverSeeds
from sasg.report.names import method_name, percent
from sasg.report.published import published
from sasg.report.runs import Entry, Run
from sasg.report.series import all_series
from sasg.report.writing import Row, Table

CODES = ("log2", "delta", "entropy")
_CAPTION = "Majority voting: compression of the uplink, against 32 d H bits for the H mini-batches of an iteration"
_NOTES = """Formula: 32 H / (density * bits per value + bits of the positions), where a mask of density p costs
p (log2(1/p) + 2) bits for each of the d entries, and an add-drop vote two masks of the density of changes.
Measured: all uplink bits of the ledger after the dense warm-up (values, group means, lengths, and positions in the
code named), means over seeds. log2: the fewest whole bits that number the entries; delta: Golomb-Rice coded gaps,
really encoded; entropy: log2 C(n, K). Whole run: delta, warm-up included. Accuracy: top-1 at the end.
"""


@dataclass(frozen=True)
class Scheme:
    """What decides how many bits a worker uploads for H mini-batches, as shares of the d entries."""

    density: float  # of the uploaded values
    change_density: float | None  # of the entries that enter, and of those that leave; None: a whole mask is uploaded
    bits_per_value: float
    local_steps: int

    @property
    def compression(self) -> float:
        """32 d H / uploaded bits, by the published formula (arXiv 2011.06495)."""
        if self.density == 1:
            return 32 * self.local_steps / self.bits_per_value
        whole = self.change_density is None
        positions = mask_bits(self.density) if whole else 2 * mask_bits(self.change_density)
        return 32 * self.local_steps / (self.density * self.bits_per_value + positions)

    @classmethod
    def of(cls, algorithm: Mapping[str, Any]) -> "Scheme":
        """Of a method's configuration: majority voting's, or a composed one's."""
        vote, compressor = algorithm.get("vote") or {}, algorithm.get("compressor") or {}
        quantiser = algorithm.get("quantiser")
        return cls(
            algorithm.get("density", compressor.get("density", 1.0)),
            vote.get("change_density"),
            1 + log2(quantiser["num_groups"]) if quantiser else 32,
            algorithm.get("local_steps", 1),
        )


def mask_bits(density: float) -> float:
    """Bits for each entry of a vector to tell which of them are in a mask of this density: p (log2(1/p) + 2)."""
    return density * (log2(1 / density) + 2)


def table(entries: Sequence[Entry]) -> Table:
    """Published, formula and measured compressions, by method.

    The published numbers have their rows even where a study has no runs for them.
    """
    known = published("majority_vote")
    series = all_series(entries)
    columns = [
        Given("local_steps", "H", lambda one: Scheme.of(one.config.algorithm).local_steps),
        Given("published", "Published", lambda one: known.get(("", one.method), {}).get("compression"), "x{}".format),
        Given("formula", "Formula", lambda one: Scheme.of(one.config.algorithm).compression, _times),
        *(_measured(f"measured_{code}", f"Measured {code}", code) for code in CODES),
        _measured("whole_run_delta", "Whole run", "delta", with_warmup=True),
        OverSeeds("top1", "Accuracy", lambda run: run.summary["final"]["top1"], percent),
    ]
    paper = ("Task", "Method", "H", "Published", "Formula", "Measured delta", "Accuracy")
    made = Table.of(_CAPTION, series, columns, _NOTES, paper=paper)
    others = [name for _, name in known if name not in {one.method for one in series}]
    return replace(made, rows=(*made.rows, *(_published_row(name, known["", name], made) for name in others)))


def _measured(key: str, title: str, code: str, with_warmup: bool = False) -> OverSeeds:
    return OverSeeds(key, title, lambda run: compression(run, code, with_warmup), _times)


def _times(ratio: float) -> str:
    return f"x{ratio:.0f}"


def compression(run: Run, code: str, with_warmup: bool = False) -> float | None:
    """32 d H / uplink bits per worker and iteration, with positions in `code`; after the warm-up, or of the whole run.

    None if the ledger did not count in this code, or if the run ended within the warm-up. 32 d H bits are what dense
    SGD uploads for the same mini-batches.
    """
    metrics, algorithm = run.metrics, run.identity["algorithm"]
    if f"index_bits_{code}" not in metrics:
        return None
    before = metrics[metrics["epoch"] <= (0 if with_warmup else algorithm.get("warmup_epochs", 0))].tail(1)
    last = metrics.iloc[-1]
    iterations, bits = last["iteration"], uplink_bits(last, code)
    if len(before):
        iterations, bits = iterations - before["iteration"].item(), bits - uplink_bits(before.iloc[0], code)
    if not iterations:
        return None
    dense_bits = 32 * run.summary["num_parameters"] * algorithm.get("local_steps", 1)
    return float(dense_bits * iterations * run.identity["cluster"]["workers"] / bits)


def _published_row(name: str, row: Mapping[str, str], table: Table) -> Row:
    """A row of published numbers alone."""
    changes, local_steps = row["change_density"], int(row["local_steps"])
    density, bits = float(row["density"]), float(row["bits_per_value"])
    formula = Scheme(density, float(changes) if changes else None, bits, local_steps).compression
    told = {"method": method_name(name), "local_steps": str(local_steps), "published": f"x{row['compression']}"}
    told |= {"task": "any task", "formula": _times(formula)}
    numbers = dict.fromkeys(table.rows[0].numbers) | {"task": "", "method": name, "local_steps": local_steps}
    numbers |= {"published": row["compression"], "formula": formula, "n": 0, "n_planned": 0, "status": NOT_RUN}
    keys = list(numbers)[: list(numbers).index("formula") + 1]
    cells = [told.get(key, "") for key in keys]
    return Row((*cells, *[NOT_RUN] * (len(table.header) - len(cells))), numbers)
