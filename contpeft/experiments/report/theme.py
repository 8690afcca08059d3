"""The look of every picture: colours, type, and the way from a drawing to the bytes of a PNG."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from contpeft.experiments.report.result import WayResult

__all__ = [
    "DPI",
    "GRID",
    "INK",
    "MUTED",
    "PAPER",
    "SCORES",
    "WASH",
    "picture",
    "shorten",
    "strip",
    "way_looks",
]

INK, MUTED, GRID, WASH, PAPER = "#1c2530", "#64707d", "#e3e7ec", "#f4f6f8", "#ffffff"

DPI = 144

# Lightness falls evenly from worst to best, so the order survives any colour blindness and print.
SCORES = LinearSegmentedColormap.from_list(
    "scores", ["#fbf6ea", "#e2ead6", "#b5d6c8", "#7fbcbd", "#4b9bb5", "#2c73a3", "#2a4a86", "#2b2560"]
)

# Okabe & Ito (2008), Color Universal Design, without the yellow that paper swallows.
_WAY_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_BOUND_COLOURS = ("#3d4752", "#8a949e")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
_BOUND_DASHES: tuple[Any, ...] = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))

_TYPE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a task's name is a dollar
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
}

P = ParamSpec("P")


def picture(draw: Callable[P, Figure]) -> Callable[P, bytes]:
    """Decorates a function that draws a figure into one that returns the bytes of a PNG.

    The theme holds inside only, whatever the user's own matplotlib settings are, and equal
    drawings give equal bytes: nothing about time or software is written into the file.
    """

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> bytes:
        buffer = io.BytesIO()
        with style.context(["default", _TYPE]):
            draw(*args, **kwargs).savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    return drawn


def strip(axes: Axes, *sides: str) -> None:
    """Takes away the lines around a plot, but for those of ``sides``."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in sides)


def shorten(text: str, limit: int) -> str:
    """Returns ``text`` with an ellipsis in its middle where it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}\u2026{text[len(text) - (limit - 1 - head) :]}"


def way_looks(ways: Sequence[WayResult]) -> dict[str, dict[str, Any]]:
    """Returns, for the label of each way, its colour and its line: coloured ways, grey bounds."""
    looks: dict[str, dict[str, Any]] = {}
    for bound, colours, dashes in ((False, _WAY_COLOURS, _DASHES), (True, _BOUND_COLOURS, _BOUND_DASHES)):
        for k, way in enumerate(way for way in ways if way.bound is bound):
            turn = k if bound else k // len(colours)
            looks[way.label] = {
                "color": colours[k % len(colours)],
                "linestyle": dashes[turn % len(dashes)],
            }
    return looks
