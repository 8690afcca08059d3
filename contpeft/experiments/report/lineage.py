"""The lineage of a run's versions: a column for each step, a band for each way, edges to parents."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from contpeft.experiments.report.result import LineageRow, RunResult
from contpeft.experiments.report.theme import INK, MUTED, PAPER, WASH, picture, shorten, way_looks

__all__ = ["lineage_picture"]

_ROLES: dict[str, tuple[str, Any]] = {
    "continued": ("continued from", "-"),
    "fused": ("fused from", (0, (6, 2))),
    "distilled": ("distilled from", (0, (5, 2, 1, 2))),
    "frozen": ("frozen beside", (0, (1, 1.6))),
}

# All lengths are inches, and the picture is as large as they say.
_LEFT, _TOP, _BOTTOM = 1.55, 0.5, 0.45
_LANE, _BOX, _GAP = 0.62, 0.42, 0.45
_CHARACTER = 0.084


@dataclass(frozen=True)
class _Node:
    """One version: the middle of its box, two lines of text, and its colour."""

    x: float
    y: float
    title: str
    note: str
    colour: str


@dataclass(frozen=True)
class _Layout:
    """Where everything stands, from the upper left corner.

    Attributes:
        column: distance from step to step.
        titles: what stands above each column.
        bands: way to (first lane, number of lanes).
        nodes: reference to its box.
    """

    column: float
    titles: tuple[str, ...]
    bands: Mapping[str, tuple[int, int]]
    nodes: Mapping[str, _Node]

    @property
    def box(self) -> float:
        return self.column - _GAP

    @property
    def size(self) -> tuple[float, float]:
        lanes = sum(lanes for _, lanes in self.bands.values())
        return _LEFT + len(self.titles) * self.column, _TOP + lanes * _LANE + _BOTTOM


@picture
def lineage_picture(result: RunResult) -> Figure:
    """Returns a PNG of all versions a run made and what they were made from.

    Parents that were there before the run stand in a column of their own on the left. What the
    names of a way have in common up to a dot is left out of its boxes.
    """
    layout = _layout(result)
    width, height = layout.size
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    _draw_bands(ax, layout)
    for row in result.lineage:
        for parent in row.parents:
            _draw_edge(ax, layout, layout.nodes[parent.ref], layout.nodes[row.ref], parent.role)
    for node in layout.nodes.values():
        _draw_node(ax, layout, node)
    _draw_legend(ax, result)
    return figure


def _layout(result: RunResult) -> _Layout:
    made = {row.ref for row in result.lineage}
    before = list(dict.fromkeys(p.ref for row in result.lineage for p in row.parents if p.ref not in made))
    titles = [f"{k + 1}  {task.name}" for k, task in enumerate(result.tasks)]
    titles = ["before", *titles] if before else titles
    column = max(1.3, min(1.95, 13.0 / len(titles)))
    bands, lanes = _bands(result.lineage, len(before))
    left, first = _LEFT + (column - _GAP) / 2, 1 if before else 0
    prefixes, looks = _prefixes(result.lineage), way_looks(result.ways)
    colours = {way.way: looks[way.label]["color"] for way in reversed(result.ways)}
    nodes = {ref: _Node(left, _middle(k), ref, "earlier", MUTED) for k, ref in enumerate(before)}
    for row in result.lineage:
        nodes[row.ref] = _Node(
            x=left + (row.step + first) * column,
            y=_middle(lanes[row.ref]),
            title=row.ref.removeprefix(prefixes[row.way]),
            note=f"{row.kind}  {row.fingerprint[:7]}",
            colour=colours.get(row.way, MUTED),
        )
    return _Layout(column, tuple(titles), bands, nodes)


def _middle(lane: int) -> float:
    return _TOP + (lane + 0.5) * _LANE


def _bands(rows: tuple[LineageRow, ...], least: int) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """Returns way to (first lane, number of lanes), and reference to lane; at least ``least`` lanes."""
    bands: dict[str, tuple[int, int]] = {}
    lanes: dict[str, int] = {}
    top = 0
    for way in dict.fromkeys(row.way for row in rows):
        filled: dict[int, int] = {}
        for row in rows:
            if row.way == way:
                lanes[row.ref] = top + filled.get(row.step, 0)
                filled[row.step] = filled.get(row.step, 0) + 1
        bands[way] = (top, max(filled.values()))
        top += max(filled.values())
    if top < least:
        bands[""] = (top, least - top)
    return bands, lanes


def _prefixes(rows: tuple[LineageRow, ...]) -> dict[str, str]:
    """Returns way to what its names have in common, up to a dot."""
    refs: dict[str, list[str]] = {}
    for row in rows:
        refs.setdefault(row.way, []).append(row.ref)
    shared = {way: os.path.commonprefix(own) for way, own in refs.items()}  # noqa: RUF071 - no paths
    return {way: text[: text.rfind(".") + 1] for way, text in shared.items()}


def _draw_bands(ax: Axes, layout: _Layout) -> None:
    for k, (way, (top, lanes)) in enumerate(layout.bands.items()):
        y = _TOP + top * _LANE
        if k % 2 == 0:
            ax.add_patch(Rectangle((0, y), layout.size[0], lanes * _LANE, color=WASH, linewidth=0))
        ax.text(0.15, y + _LANE / 2, shorten(way, 18), va="center", fontsize=9, fontweight="bold")
    for k, title in enumerate(layout.titles):
        text = shorten(title, int(layout.column / 0.08))
        ax.text(_LEFT + k * layout.column, _TOP / 2, text, va="center", fontsize=8.5, color=MUTED)


def _draw_edge(ax: Axes, layout: _Layout, parent: _Node, child: _Node, role: str) -> None:
    """Draws an arrow, bent around the boxes that stand between two ends of one lane or column."""
    half, beside = layout.box / 2, parent.x == child.x
    far = parent.y == child.y and child.x - parent.x > 1.5 * layout.column
    arrow = FancyArrowPatch(
        (parent.x + half, parent.y),
        (child.x + (half if beside else -half), child.y),
        connectionstyle=f"arc3,rad={-0.6 if beside else 0.22 if far else 0.0}",
        arrowstyle="-|>",
        mutation_scale=8,
        linestyle=_ROLES[role][1],
        linewidth=1.1,
        color=child.colour,
        shrinkA=1,
        shrinkB=1,
    )
    ax.add_patch(arrow)


def _draw_node(ax: Axes, layout: _Layout, node: _Node) -> None:
    corner, limit = (node.x - layout.box / 2, node.y - _BOX / 2), int(layout.box / _CHARACTER)
    rounded = "round,pad=0,rounding_size=0.07"
    ax.add_patch(FancyBboxPatch(corner, layout.box, _BOX, rounded, facecolor=PAPER, edgecolor=node.colour))
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    ax.text(node.x, node.y - 0.085, shorten(node.title, limit), **middle, fontsize=8)
    ax.text(node.x, node.y + 0.095, shorten(node.note, limit + 2), **middle, fontsize=7, color=MUTED)


def _draw_legend(ax: Axes, result: RunResult) -> None:
    used = {parent.role for row in result.lineage for parent in row.parents}
    handles = [
        Line2D([], [], color=INK, linewidth=1.1, linestyle=dash, label=words)
        for role, (words, dash) in _ROLES.items()
        if role in used
    ]
    if handles:
        ax.legend(handles=handles, loc="lower left", ncols=len(handles), fontsize=8, handlelength=3)
