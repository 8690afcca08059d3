"""Heat maps of accuracy matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from contpeft.experiments.report.result import ProtocolResult, RunResult, WayResult
from contpeft.experiments.report.scale import Scale, scale_of
from contpeft.experiments.report.theme import INK, MUTED, PAPER, SCORES, picture, shorten, strip
from contpeft.metrics import Matrix
from contpeft.spec import Protocol

__all__ = ["heat_map", "heat_map_grid"]

_FOOTNOTES = {
    "blank": "blank: not measured",
    "copied": "dot: copied, nothing that answers had changed",
    "ahead": "right of the line: tasks still to come",
}


@dataclass(frozen=True)
class _Sheet:
    """Where the panels of a figure stand. All lengths are inches.

    Attributes:
        cell: width and height of a cell.
        size: number of tasks.
        names: the tasks as they are written along the panels.
        columns: panels beside each other.
        rows: panels below each other.
    """

    cell: float
    size: int
    names: tuple[str, ...]
    columns: int
    rows: int

    @property
    def panel(self) -> float:
        return self.size * self.cell

    @property
    def label(self) -> float:
        return 0.066 * max(map(len, self.names)) + 0.08

    @property
    def pitch(self) -> tuple[float, float]:
        return max(self.panel, 2.1) + 0.4, self.panel + 0.65 * self.label + 0.75

    @property
    def shape(self) -> tuple[float, float]:
        width, height = self.pitch
        return 0.3 + self.label + self.columns * width + 0.75, max(self.rows * height + 0.35, 2.6)

    def axes(self, figure: Figure, k: int) -> Axes:
        (width, height), (pitch_x, pitch_y) = self.shape, self.pitch
        left = 0.3 + self.label + (k % self.columns) * pitch_x
        top = 0.55 + (k // self.columns) * pitch_y
        share = (left / width, 1 - (top + self.panel) / height, self.panel / width, self.panel / height)
        return figure.add_axes(share)


@picture
def heat_map(result: RunResult, way: WayResult, protocol: Protocol) -> Figure:
    """Returns a PNG of one way's matrix.

    Cells hold the score (in percent where it is a share); a dot marks a copied cell, and what was
    not measured is blank. Where tasks were scored before they were learned, a line parts them.
    """
    return _figure(result, [way], protocol, smallest=0.37, widest=4.6)


@picture
def heat_map_grid(result: RunResult, protocol: Protocol) -> Figure:
    """Returns a PNG of the matrices of all ways under one protocol, on one colour scale."""
    return _figure(result, result.scored(protocol), protocol, smallest=0.25, widest=3.0)


def _figure(
    result: RunResult, ways: Sequence[WayResult], protocol: Protocol, *, smallest: float, widest: float
) -> Figure:
    size, scale = len(result.tasks), scale_of(result)
    names = tuple(shorten(task.name, 18) for task in result.tasks)
    cell = max(smallest, min(0.58, widest / size))
    columns = min(len(ways), max(1, int(12 // (size * cell + 0.4))), 4)
    sheet = _Sheet(cell, size, names, columns, math.ceil(len(ways) / columns))
    figure = Figure(figsize=sheet.shape)
    for k, way in enumerate(ways):
        ax = sheet.axes(figure, k)
        _draw(ax, way.protocols[protocol], scale, sheet, labelled=k % columns == 0)
        _title(ax, way, protocol, scale, limit=int(sheet.pitch[0] / 0.098))
    _colour_bar(figure, scale, result.metric, sheet)
    note = _footnote([way.protocols[protocol] for way in ways])
    figure.text(0.1 / sheet.shape[0], 0.08 / sheet.shape[1], note, fontsize=7.5, color=MUTED)
    return figure


def _title(ax: Axes, way: WayResult, protocol: Protocol, scale: Scale, limit: int) -> None:
    ax.set_title(shorten(way.label, limit), pad=19)
    below = f"ACC {scale.text(way.protocols[protocol].summary.acc)}" + ("  bound" if way.bound else "")
    ax.annotate(below, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=8, color=MUTED)


def _footnote(scored: Sequence[ProtocolResult]) -> str:
    matrices = [one.matrix for one in scored]
    holds = {
        "blank": any(value is None for m in matrices for row in m.rows for value in row),
        "copied": any(one.copied for one in scored),
        "ahead": any(map(_looks_ahead, matrices)),
    }
    return "        ".join(text for key, text in _FOOTNOTES.items() if holds[key])


def _looks_ahead(matrix: Matrix) -> bool:
    return any(value is not None for i, row in enumerate(matrix.rows) for value in row[i + 1 :])


def _draw(ax: Axes, scored: ProtocolResult, scale: Scale, sheet: _Sheet, *, labelled: bool) -> None:
    matrix, size, middles = scored.matrix, sheet.size, np.arange(sheet.size) + 0.5
    values = np.array(matrix.rows, dtype=np.float64)
    ax.pcolormesh(values, cmap=_colours(scale), norm=_norm(scale), edgecolors=PAPER, linewidth=1.2)
    for i, row in enumerate(matrix.rows):
        for j, value in enumerate(row):
            if value is not None:
                _annotate(ax, i, j, value, scale, sheet.cell)
    _mark_copied(ax, scored, scale, sheet.cell)
    ax.set(xlim=(0, size), ylim=(size, 0))
    ax.set_xticks(middles, sheet.names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(middles, sheet.names if labelled else [""] * size)
    ax.set_ylabel("after learning" if labelled else "")
    strip(ax)
    if _looks_ahead(matrix):
        steps = np.repeat(np.arange(size), 2)
        ax.plot(steps[:-1] + 1, steps[1:], color=INK, linewidth=1.3, solid_joinstyle="miter")


def _annotate(ax: Axes, i: int, j: int, value: float, scale: Scale, cell: float) -> None:
    text = f"{scale.shown(value):.0f}" if scale.percent and cell < 0.33 else scale.text(value)
    size, colour = 2.6 + 11 * cell, _ink(value, scale)
    ax.text(j + 0.5, i + 0.5, text, ha="center", va="center_baseline", color=colour, fontsize=size)


def _mark_copied(ax: Axes, scored: ProtocolResult, scale: Scale, cell: float) -> None:
    column = {task: j for j, task in enumerate(scored.matrix.tasks)}
    places = sorted((i, column[task]) for i, task in scored.copied)
    colours = [_ink(scored.matrix.rows[i][j] or 0.0, scale) for i, j in places]
    x, y = [j + 0.87 for _, j in places], [i + 0.14 for i, _ in places]
    ax.scatter(x, y, s=(5 * cell) ** 2, c=colours, alpha=0.8, linewidths=0)


def _ink(value: float, scale: Scale) -> str:
    return PAPER if scale.goodness(value) > 0.62 else INK


def _colours(scale: Scale) -> Colormap:
    return SCORES.reversed() if scale.lower_is_better else SCORES


def _norm(scale: Scale) -> Normalize:
    return Normalize(scale.low, scale.high)


def _colour_bar(figure: Figure, scale: Scale, metric: str, sheet: _Sheet) -> None:
    width, height = sheet.shape
    length = min(height - 1.0, 2.4)
    ax = figure.add_axes((1 - 0.7 / width, 1 - (0.55 + length) / height, 0.11 / width, length / height))
    bar = figure.colorbar(ScalarMappable(_norm(scale), _colours(scale)), cax=ax)
    bar.outline.set_visible(False)
    ax.yaxis.set_major_formatter(lambda value, _: f"{scale.shown(value):g}")
    bar.set_label(f"{metric}, %" if scale.percent else metric)
