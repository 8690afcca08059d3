"""How the score of each task moves while later tasks are learned, and where all ways end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from contpeft.experiments.report.result import RunResult, WayResult
from contpeft.experiments.report.scale import Scale, scale_of
from contpeft.experiments.report.tables import PROTOCOL_TITLES
from contpeft.experiments.report.theme import INK, MUTED, WASH, picture, shorten, strip, way_looks
from contpeft.metrics import Matrix
from contpeft.spec import Protocol

__all__ = ["accuracy_bars", "task_curves"]

_NAN = float("nan")


@picture
def task_curves(result: RunResult, protocol: Protocol) -> Figure:
    """Returns a PNG with one small plot for each task, one line for each way.

    The first plot is the mean over the tasks learned so far. A dotted vertical line stands where
    the task was learned.
    """
    ways, scale, size = result.scored(protocol), scale_of(result), len(result.tasks)
    rows = math.ceil((size + 1) / (4 if size < 12 else 6))
    columns = math.ceil((size + 1) / rows)
    width = max(1.9, min(3.2, 10.4 / columns))
    figure = Figure(figsize=(width * columns + 0.6, (0.9 + 0.4 * width) * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    looks = way_looks(result.ways)
    _panel(axes[0], "mean of tasks so far", scale, size)
    for way in ways:
        _line(axes[0], _means_so_far(way.protocols[protocol].matrix), scale, looks[way.label])
    for j, task in enumerate(result.tasks):
        _panel(axes[j + 1], task.name, scale, size, learned=j)
        for way in ways:
            _line(axes[j + 1], way.protocols[protocol].matrix.column(j), scale, looks[way.label])
    for ax in axes[size + 1 :]:
        ax.set_visible(False)
    _legend(figure, ways, looks)
    figure.supylabel(f"{result.metric}, %" if scale.percent else result.metric, fontsize=8.5, color=MUTED)
    figure.supxlabel("tasks learned (dotted: when this one was)", fontsize=8.5, color=MUTED)
    return figure


@picture
def accuracy_bars(result: RunResult) -> Figure:
    """Returns a PNG of ACC of all ways, one column of bars for each protocol.

    Bounds are outlined, not filled; a dashed line carries the best of them across the others.
    """
    scale, protocols, looks = scale_of(result), result.protocols, way_looks(result.ways)
    figure = Figure(
        figsize=(3.3 * len(protocols) + 1.7, 0.36 * len(result.ways) + 0.95), layout="constrained"
    )
    axes = figure.subplots(1, len(protocols), squeeze=False, sharey=True)[0]
    for ax, protocol in zip(axes, protocols, strict=True):
        _bars(ax, result.ways, protocol, scale, looks)
        ax.set_title(PROTOCOL_TITLES[protocol])
    axes[0].set_yticks(range(len(result.ways)), [shorten(way.label, 28) for way in result.ways], color=INK)
    axes[0].set_ylim(len(result.ways) - 0.5, -0.5)
    unit = f"ACC, {result.metric}" + (" in %" if scale.percent else "")
    dashed = "        dashed: best bound" if any(way.bound for way in result.ways) else ""
    figure.supxlabel(unit + dashed, fontsize=8.5, color=MUTED)
    return figure


def _panel(ax: Axes, title: str, scale: Scale, size: int, learned: int | None = None) -> None:
    strip(ax, "bottom")
    ax.grid(axis="y")
    ax.set_title(shorten(title, 26), fontsize=9)
    ax.set_xlim(0.6, size + 0.4)
    ax.set_xticks(range(1, size + 1, 1 if size <= 10 else math.ceil(size / 7)))
    low, high = scale.shown(scale.low), scale.shown(scale.high)
    ax.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    if learned is not None:
        ax.axvline(learned + 1, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)


def _line(ax: Axes, values: Sequence[float | None], scale: Scale, look: dict[str, Any]) -> None:
    shown = [_NAN if value is None else scale.shown(value) for value in values]
    alone = sum(value is not None for value in values) == 1
    ax.plot(
        range(1, len(values) + 1),
        shown,
        marker="D" if alone else "o",
        markersize=4.4 if alone else 3.2,
        markeredgewidth=0,
        linewidth=1.6,
        **look,
    )


def _means_so_far(matrix: Matrix) -> list[float | None]:
    rows = [row[: k + 1] for k, row in enumerate(matrix.rows)]
    known = [[value for value in row if value is not None] for row in rows]
    return [fmean(have) if len(have) == len(row) else None for have, row in zip(known, rows, strict=True)]


def _legend(figure: Figure, ways: Sequence[WayResult], looks: dict[str, dict[str, Any]]) -> None:
    handles = [Line2D([], [], linewidth=1.8, label=shorten(w.label, 28), **looks[w.label]) for w in ways]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 5), fontsize=8.5)


def _bars(
    ax: Axes, ways: Sequence[WayResult], protocol: Protocol, scale: Scale, looks: dict[str, dict[str, Any]]
) -> None:
    strip(ax, "left")
    ax.set_xlim(scale.shown(min(0.0, scale.low)), scale.shown(scale.high))
    ax.grid(axis="x")
    scored = {way.label: way.protocols[protocol].summary.acc for way in ways if protocol in way.protocols}
    for k, way in enumerate(ways):
        value, colour = scored.get(way.label), looks[way.label]["color"]
        text = scale.text(value)
        ax.annotate(
            text, (1.13, k), xycoords=ax.get_yaxis_transform(), ha="right", va="center", annotation_clip=False
        )
        if value is not None:
            ax.barh(k, scale.shown(value), 0.6, color=WASH if way.bound else colour, edgecolor=colour)
    bounds = [acc for way in ways if way.bound and (acc := scored.get(way.label)) is not None]
    if bounds:
        best = min(bounds) if scale.lower_is_better else max(bounds)
        ax.axvline(scale.shown(best), color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
