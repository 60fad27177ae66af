"""How figures look: one colour, marker and line per method; sizes and fonts of a two-column paper.

The colours are Okabe and Ito's, which the colour-blind tell apart, in an order of lightness that a grey print keeps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure

from sasg.report.appearance import appearances
from sasg.report.names import family

COLUMN, PAGE = 3.5, 7.16  # inches: the widths of a column and of a page of a two-column paper
PNG_DPI = 200

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same bytes
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "legend.fontsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "sasg",
}


@dataclass(frozen=True)
class Look:
    """A method's name and its appearance, which is the same in every figure."""

    label: str
    color: str
    marker: str
    line: str


_LOOKS = {
    "sgd": ("#333333", "o", "--"),
    "sparse": ("#0072B2", "s", "-."),
    "lasg": ("#56B4E9", "^", (0, (5, 1.2, 1, 1.2, 1, 1.2))),
    "sasg": ("#D55E00", "D", "-"),
    "local_sgd": ("#CC79A7", "P", "--"),
    "lasg_wk1": ("#009E73", "v", "-"),
    "lasg_wk2": ("#E69F00", "X", "-."),
    "lasg_ps": ("#882255", "p", "-"),
    "lasg_pse": ("#999933", "<", "--"),
    "gd": ("#333333", "o", "-"),
    "lag": ("#56B4E9", "v", "-."),
    "qgd": ("#882255", "p", ":"),
    "top_j": ("#0072B2", "s", ":"),
    "iag": ("#999933", "<", "--"),
    "gd_sec": ("#D55E00", "d", "-"),
    "gd_soec": ("#E69F00", "X", "--"),
    "gd_sec_coordinate": ("#CC79A7", "P", "-."),
    "gd_sec_scheduled": ("#009E73", "v", "--"),
    "qgd_sec": ("#332288", ">", "-"),
    "sgd_sec": ("#D55E00", "d", "--"),
    "qsgd_sec": ("#332288", ">", "--"),
}
_OTHERS = (
    ("#009E73", "v", "-"),
    ("#CC79A7", "P", "--"),
    ("#E69F00", "X", "-."),
    ("#882255", "p", "-"),
    ("#999933", "<", "--"),
    ("#332288", ">", "-."),
    ("#8C510A", "h", "-"),
    ("#009E73", "d", ":"),
    ("#CC79A7", "*", "-"),
)
_MARKERS = "osD^v<>pPX"
_SCALE = (0.0, 0.88)
"""The part of the colour scale that is told apart from a white page."""


class Named(Protocol):
    """What has a look: the runs of a method, with the name that tells them from others."""

    @property
    def method(self) -> str: ...

    @property
    def label(self) -> str: ...


def looks(series: Iterable[Named]) -> dict[str, Look]:
    """Looks by label. A method has its own in every figure, by its YAML or ours; the first of two variants has it, too.

    Three and more variants are shades of one scale, in their order, with the method's kind of line. Others take the
    next look that is free, those with a colour of their own first, in the order of their labels.
    """
    wanted = {one.label: family(one.method) for one in series}
    found: dict[str, tuple] = {}
    said: dict[str, tuple] = {}  # None where a YAML leaves something open
    for method in dict.fromkeys(wanted.values()):
        labels = [label for label, of in wanted.items() if of == method]
        own = _own_look(method)
        if len(labels) > 2:
            found |= _shades(labels, own[2] or _OTHERS[0][2])
        elif all(own) and own not in found.values():
            found[labels[0]] = own
        elif any(own):
            said[labels[0]] = own
    colors = {look[0] for look in (*found.values(), *said.values())}
    free = [look for look in _OTHERS if look not in found.values()] or list(_OTHERS)
    free.sort(key=lambda look: look[0] in colors)
    for number, label in enumerate(sorted(wanted.keys() - found.keys())):
        found[label] = free[number % len(free)]
    for label, own in said.items():
        found[label] = tuple(one or other for one, other in zip(own, found[label], strict=True))
    return {label: Look(label, *found[label]) for label in wanted}


def _own_look(method: str) -> tuple:
    """(color, marker, line) of a method: what its YAML says, else ours, else None."""
    ours = _LOOKS.get(method, (None, None, None))
    if method not in (said := appearances()):
        return ours
    return tuple(own or usual for own, usual in zip(said[method].look, ours, strict=True))


def _shades(labels: Sequence[str], line: str | tuple) -> dict[str, tuple]:
    colors = matplotlib.colormaps["viridis"](np.linspace(*_SCALE, len(labels)))
    shades = [matplotlib.colors.to_hex(color) for color in colors]
    return {
        label: (color, _MARKERS[number % len(_MARKERS)], line)
        for number, (label, color) in enumerate(zip(labels, shades, strict=True))
    }


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """A figure of this size in inches, and its axes [rows, columns]; to be called within `drawing()`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.03)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def drawing():
    """The context in which figures are made: no settings of the user's get in."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **STYLE})


def save(figure: Figure, folder: Path, file: str) -> str:
    """Write FILE.pdf and FILE.png, the same bytes for the same figure; returns what to print."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{file}.pdf", folder / f"{file}.png"]
    with drawing():
        figure.savefig(paths[0], metadata={"CreationDate": None, "Creator": None, "Producer": None})
        figure.savefig(paths[1], dpi=PNG_DPI, metadata={"Software": None})
    return f"written: {', '.join(map(str, paths))}"
