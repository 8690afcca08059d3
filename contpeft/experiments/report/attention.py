"""What a fusion attends to, drawn."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from contpeft.experiments.attention import Attention
from contpeft.experiments.report.theme import INK, PAPER, SCORES, picture, shorten, strip

__all__ = ["attention_picture"]

_CELL = 0.42


@picture
def attention_picture(found: Attention) -> Figure:
    """Returns a PNG of the mean attention of each site on each member, and of each task if there are several.

    Cells hold percent; white is none. The paler the columns of a site, the more it mixes.
    """
    panels = [("mean attention by site", found.sites, np.array(found.means))]
    if len(found.tasks) > 1:
        by_task = np.array([np.mean(each.means, axis=0) for each in found.tasks])
        panels.append(("by task", tuple(each.task for each in found.tasks), by_task))
    heights = [len(names) for _, names, _ in panels]
    labels = 0.066 * max(len(shorten(name, 44)) for _, names, _ in panels for name in names)
    width = max(labels + _CELL * len(found.members) + 1.1, 4.5)
    figure = Figure(figsize=(width, _CELL * sum(heights) + 1.1 * len(panels) + 1.0), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (title, names, values) in zip(axes, panels, strict=True):
        _heat(ax, names, values)
        ax.set_title(title)
    members = [shorten(ref, 24) for ref in found.members]
    axes[-1].set_xticks(_middles(members), members, rotation=40, ha="right", rotation_mode="anchor")
    figure.suptitle(shorten(found.ref, 40), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 100), SCORES), ax=list(axes), fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("attention, %")
    return figure


def _heat(ax: Axes, names: tuple[str, ...], values: NDArray[np.float64]) -> None:
    ax.pcolormesh(values, cmap=SCORES, norm=Normalize(0, 1), edgecolors=PAPER, linewidth=1.2)
    for i, j in np.ndindex(*values.shape):
        colour = PAPER if values[i, j] > 0.62 else INK
        ax.text(
            j + 0.5,
            i + 0.5,
            f"{100 * values[i, j]:.0f}",
            ha="center",
            va="center_baseline",
            color=colour,
            fontsize=7,
        )
    ax.set(xlim=(0, values.shape[1]), ylim=(len(names), 0))
    ax.set_xticks([])
    ax.set_yticks(_middles(names), [shorten(name, 44) for name in names])
    strip(ax)


def _middles(names: tuple[str, ...] | list[str]) -> NDArray[np.float64]:
    return np.arange(len(names), dtype=np.float64) + 0.5
