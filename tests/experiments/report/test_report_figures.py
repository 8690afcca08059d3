"""Pictures are checked as drawings (texts, lines, places) and as bytes; beauty needs eyes."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from contpeft.experiments.report import (
    ProtocolResult,
    RunResult,
    WayResult,
    accuracy_bars,
    heat_map,
    heat_map_grid,
    lineage_picture,
    task_curves,
)
from contpeft.experiments.report.theme import SCORES, shorten, way_looks
from contpeft.metrics import Matrix, summarise, task_forgetting
from contpeft.spec import Parent, Task


def drawing(picture: Callable[..., bytes], *args: Any) -> Figure:
    """The figure behind a picture, before it becomes bytes."""
    return picture.__wrapped__(*args)  # type: ignore[attr-defined, no-any-return]


def title(ax: Axes) -> str:
    return ax.get_title() or ax.get_title(loc="left")


def made(label: str, rows: tuple[tuple[float | None, ...], ...], lower: bool = False) -> WayResult:
    m = Matrix(tuple(f"task${k}$" for k in range(len(rows))), rows)
    scored = ProtocolResult(
        m, summarise(m, lower_is_better=lower), task_forgetting(m), {}, {}, frozenset(), {}
    )
    return WayResult(label, "main", label, {"task_aware": scored}, None, ())


def with_ways(result: RunResult, *ways: WayResult, lower: bool = False) -> RunResult:
    names = ways[0].protocols["task_aware"].matrix.tasks
    tasks = tuple(Task(name, ("x", "y"), "m", lower) for name in names)
    return dataclasses.replace(result, tasks=tasks, ways=ways, lineage=())


def test_heat_map_writes_each_score_into_its_cell(result: RunResult) -> None:
    sequential = result.ways[2]
    rows = sequential.protocols["all_classes"].matrix.rows
    ax = drawing(heat_map, result, sequential, "all_classes").axes[0]
    texts = {t.get_position(): t.get_text() for t in ax.texts if t.get_text()[0].isdigit()}
    assert texts == {
        (j + 0.5, i + 0.5): f"{100 * value:.1f}"
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
        if value is not None
    }
    assert len(texts) == 15
    coloured = np.ma.getdata(ax.collections[0].get_array())
    np.testing.assert_array_equal(coloured, np.array(rows, dtype=float))
    assert ax.get_ylim() == (5, 0)
    assert title(ax) == "sequential"
    assert ax.texts[-1].get_text() == "ACC 24.2"


def test_heat_map_marks_exactly_the_copied_cells(result: RunResult) -> None:
    isolated = result.ways[3]
    for protocol, want in (
        ("task_aware", {(i, j) for i in range(5) for j in range(i)}),
        ("all_classes", set()),
    ):
        figure = drawing(heat_map, result, isolated, protocol)
        dots = figure.axes[0].collections[1].get_offsets()
        assert {(int(y), int(x)) for x, y in np.asarray(dots)} == want
        assert ("dot: copied" in figure.texts[0].get_text()) is bool(want)


def test_all_heat_maps_share_one_scale_from_0_to_100(result: RunResult) -> None:
    figure = drawing(heat_map_grid, result, "all_classes")
    panels = [ax for ax in figure.axes if title(ax)]
    assert [title(ax) for ax in panels] == [way.label for way in result.ways]
    assert {ax.collections[0].get_clim() for ax in panels} == {(0.0, 1.0)}
    bar = figure.axes[-1]
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "20", "40", "60", "80", "100"]


def test_heat_map_pixels_have_the_colour_of_their_score(result: RunResult) -> None:
    way = made("w", ((0.0, None), (1.0, 0.5)))
    image = imread(io.BytesIO(heat_map(with_ways(result, way), way, "task_aware")))
    colours = {tuple(pixel) for pixel in np.round(image[..., :3].reshape(-1, 3), 2)}
    for score in (0.0, 0.5, 1.0):
        near = min(np.abs(np.array(colour) - to_rgba(SCORES(score))[:3]).max() for colour in colours)
        assert near < 0.01


def test_a_line_parts_tasks_to_come_where_they_were_scored(result: RunResult) -> None:
    blank, full = made("a", ((0.5, None), (0.5, 0.5))), made("b", ((0.5, 0.25), (0.5, 0.5)))
    assert drawing(heat_map, with_ways(result, blank), blank, "task_aware").axes[0].lines[:] == []
    (line,) = drawing(heat_map, with_ways(result, full), full, "task_aware").axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), [(1, 0), (1, 1), (2, 1)])


def test_lower_is_better_turns_the_colours(result: RunResult) -> None:
    way = made("w", ((9.0, None), (2.0, 4.0)), lower=True)
    ax = drawing(heat_map, with_ways(result, way, lower=True), way, "task_aware").axes[0]
    assert ax.collections[0].get_clim() == (2.0, 9.0)
    assert ax.collections[0].cmap(1.0) == SCORES(0.0)
    assert [t.get_text() for t in ax.texts] == ["9", "2", "4", "ACC 3"]


def test_twenty_tasks_stay_readable(result: RunResult) -> None:
    row = tuple(0.5 for _ in range(20))
    way = made("w", (row,) * 20)
    big = with_ways(result, *(dataclasses.replace(way, label=f"w{k}") for k in range(3)))
    alone, grid = drawing(heat_map, big, way, "task_aware"), drawing(heat_map_grid, big, "task_aware")
    assert {t.get_text() for t in alone.axes[0].texts[:400]} == {"50.0"}
    assert {t.get_text() for t in grid.axes[0].texts[:400]} == {"50"}
    assert alone.axes[0].texts[0].get_fontsize() > 6
    assert grid.axes[0].texts[0].get_fontsize() > 5
    assert grid.get_size_inches()[0] < 14
    curves = drawing(task_curves, big, "task_aware")
    assert [title(ax) for ax in curves.axes if ax.get_visible()][1:] == [task.name for task in big.tasks]
    assert curves.get_size_inches()[0] < 14


def test_curves_show_each_task_and_the_mean_of_tasks_so_far(result: RunResult) -> None:
    figure = drawing(task_curves, result, "all_classes")
    titles = [title(ax) for ax in figure.axes]
    assert titles == ["mean of tasks so far", *(task.name for task in result.tasks)]
    rows = np.array(result.ways[2].protocols["all_classes"].matrix.rows, dtype=float) * 100
    mean, *columns = (
        ax.lines[2].get_ydata() if k == 0 else ax.lines[3].get_ydata() for k, ax in enumerate(figure.axes)
    )
    np.testing.assert_allclose(mean, [rows[k, : k + 1].mean() for k in range(5)])
    np.testing.assert_allclose(np.array(columns).T, rows)
    dotted = [ax.lines[0].get_xdata()[0] for ax in figure.axes[1:]]
    assert dotted == [1, 2, 3, 4, 5]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [way.label for way in result.ways]


def test_bars_have_the_length_of_acc_and_a_line_at_the_best_bound(result: RunResult) -> None:
    figure = drawing(accuracy_bars, result)
    for ax, protocol in zip(figure.axes, ("task_aware", "all_classes"), strict=True):
        want = [100 * (way.protocols[protocol].summary.acc or 0) for way in result.ways]
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(want)
        assert ax.lines[0].get_xdata()[0] == pytest.approx(max(want[:2]))
        assert [text.get_text() for text in ax.texts] == [f"{value:.1f}" for value in want]


def test_a_bar_without_a_value_is_left_out(result: RunResult) -> None:
    ways = made("a", ((0.5, None), (None, None))), made("b", ((0.5, None), (0.5, 0.25)))
    ax = drawing(accuracy_bars, with_ways(result, *ways)).axes[0]
    assert [text.get_text() for text in ax.texts] == ["\u2013", "37.5"]
    assert len(ax.patches) == 1
    assert ax.get_ylim() == (1.5, -0.5)
    assert ax.lines[:] == []


def test_looks_tell_ways_apart_and_grey_the_bounds(result: RunResult) -> None:
    ways = [dataclasses.replace(result.ways[2], way=f"w{k}", label=f"w{k}") for k in range(14)]
    looks = way_looks([*result.ways[:2], *ways])
    assert len({(look["color"], str(look["linestyle"])) for look in looks.values()}) == 16
    assert len({look["color"] for look in list(looks.values())[:6]}) == 6
    for label in ("frozen: class-means", "frozen: lda"):
        red, green, blue, _ = to_rgba(looks[label]["color"])
        assert max(red, green, blue) - min(red, green, blue) < 0.1


def test_lineage_draws_every_version_and_every_edge(result: RunResult) -> None:
    ax = drawing(lineage_picture, result).axes[0]
    texts = [text.get_text() for text in ax.texts]
    boxes = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    arrows = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert (len(boxes), len(arrows)) == (16, 8)
    sides = (
        {round(box.get_x(), 3) for box in boxes},
        {round(box.get_x() + box.get_width(), 3) for box in boxes},
    )
    for arrow in arrows:
        start, *_, end = arrow.get_path().vertices[:, 0][:3]
        assert min(abs(start - right) for right in sides[1]) < 0.1
        assert min(abs(end - left) for left in sides[0]) < 0.1
    assert {"statistics@3", "sequential@5", "guns-mideast@1", "joint@1", "3  crypt-space"} <= set(texts)
    assert f"lora  {result.lineage[5].fingerprint[:7]}" in texts


def test_lineage_shows_parents_from_before_the_run_and_kinds_of_edges(result: RunResult) -> None:
    one = dataclasses.replace(
        result.lineage[5], parents=(Parent("support@3"), Parent("billing@2", "fused", 0.5))
    )
    two = dataclasses.replace(one, ref="newsgroups-s0.merged@1", parents=(Parent(one.ref, "fused"),))
    late = dataclasses.replace(one, ref="late@1", way="other", step=4, parents=(Parent(one.ref, "frozen"),))
    ax = drawing(lineage_picture, dataclasses.replace(result, lineage=(one, two, late))).axes[0]
    boxes = {t.get_text(): t.get_position() for t in ax.texts if "@" in t.get_text()}
    assert list(boxes) == ["support@3", "billing@2", "sequential@1", "merged@1", "late@1"]
    (x0, y0), (x1, y1), (x2, y2), (x3, y3), (x4, y4) = boxes.values()
    assert x0 == x1 < x2 == x3 < x4
    assert y0 == y2 < y1 == y3 < y4
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "continued from",
        "fused from",
        "frozen beside",
    ]


def test_lineage_leaves_room_for_parents_that_outnumber_the_versions(result: RunResult) -> None:
    parents = tuple(Parent(f"old@{k}") for k in range(1, 4))
    row = dataclasses.replace(result.lineage[5], parents=parents)
    figure = drawing(lineage_picture, dataclasses.replace(result, lineage=(row,)))
    lowest = max(y for _, y in (t.get_position() for t in figure.axes[0].texts))
    assert lowest < figure.get_size_inches()[1]


@pytest.mark.parametrize("picture", [accuracy_bars, lineage_picture])
def test_pictures_do_not_depend_on_settings_and_leave_none(
    result: RunResult, picture: Callable[[RunResult], bytes]
) -> None:
    before = dict(mpl.rcParams)
    first = picture(result)
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"font.size": 20, "figure.dpi": 30, "patch.linewidth": 7, "xtick.major.pad": 40}):
        assert picture(result) == first
    assert first.startswith(b"\x89PNG")
    assert b"Software" not in first


def test_a_failing_picture_leaves_no_settings_behind(result: RunResult) -> None:
    before = dict(mpl.rcParams)
    with pytest.raises(KeyError):
        heat_map(result, result.ways[0], "seen_classes")
    assert dict(mpl.rcParams) == before


def test_dollars_in_names_are_dollars(result: RunResult) -> None:
    ways = [made(label, ((0.5, None), (0.5, 0.25))) for label in (r"a_$\frac{$", "a_$x$", "a_x")]
    pictures = {accuracy_bars(with_ways(result, way)) for way in ways}
    assert len(pictures) == 3


def test_shorten_keeps_both_ends() -> None:
    assert shorten("atheism-christian", 17) == "atheism-christian"
    assert shorten("atheism-christian", 9) == "athe\u2026tian"
    assert shorten("atheism-christian", 8) == "ath\u2026tian"
