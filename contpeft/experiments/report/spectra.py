"""What is inside adapters, drawn: spectra as heat maps, likeness as a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from contpeft.errors import UsageError
from contpeft.experiments.report.theme import INK, MUTED, PAPER, SCORES, picture, shorten, strip
from contpeft.merging.similarity import Similarity
from contpeft.store import AdapterReport, Inspection

__all__ = ["inspection_picture"]

# Opposed, unlike, alike: two hues that differ to every eye, light in the middle.
_COSINES = LinearSegmentedColormap.from_list(
    "cosines", ["#b35900", "#f0b27a", "#f7f7f5", "#7fbcbd", "#2a4a86"]
)
_ALARM = "#d55e00"
_CELL = 0.3
_WRITTEN = 16


@picture
def inspection_picture(found: Inspection) -> Figure:
    """Returns a PNG of what was found inside adapters.

    Of one adapter, the singular values of each module, a ring at its effective rank, and the names of
    modules unlike those of the family marked. Of several, the spectrum over all modules of each (the root
    of the mean square of the k-th singular values) beside the matrix of cosines, both in the order of the
    cluster tree, clusters framed.

    Raises:
        UsageError: if no adapter, or only one of several, is a sum of low-rank updates.
    """
    if len(found.adapters) == 1 and found.adapters[0].modules:
        return _one(found.adapters[0])
    if found.similarity is not None:
        return _several(found, found.similarity)
    remarks = "; ".join(f"{each.ref}: {each.remark}" for each in found.adapters if each.remark)
    raise UsageError(f"there are no spectra to draw: {remarks}")


def _one(adapter: AdapterReport) -> Figure:
    modules, marked = adapter.modules, {module.module for module in adapter.outliers}
    names = [shorten(module.module, 44) for module in modules]
    spectra = _padded([module.spectrum.values for module in modules])
    figure, ax, _ = _sheet(names, spectra.shape[1])
    _heat(figure, ax, spectra)
    ax.scatter(
        [m.spectrum.effective_rank - 0.5 for m in modules],
        np.arange(len(modules)) + 0.5,
        s=18,
        facecolors="none",
        edgecolors=INK,
        linewidths=1,
    )
    ax.set_yticks(np.arange(len(modules)) + 0.5, names)
    for label, module in zip(ax.get_yticklabels(), modules, strict=True):
        if module.module in marked:
            label.set(color=_ALARM, fontweight="bold")
    ax.set_title(f"{shorten(adapter.ref, 40)}: singular values by module")
    unlike = f"        bold: unlike its family ({len(marked)})" if marked else ""
    ax.set_xlabel(f"k-th singular value        ring: effective rank{unlike}")
    return figure


def _several(found: Inspection, likeness: Similarity) -> Figure:
    reports = {adapter.ref: adapter for adapter in found.adapters}
    names = [shorten(ref, 28) for ref in likeness.order]
    spectra = _padded([_mean_spectrum(reports[ref]) for ref in likeness.order])
    size = len(names)
    figure, left, right = _sheet(names, spectra.shape[1], beside=size)
    _heat(figure, left, spectra)
    left.set_yticks(np.arange(size) + 0.5, names)
    left.set_title("spectra, mean of modules")
    left.set_xlabel("k-th singular value")
    _matrix(figure, right, likeness, names)
    return figure


def _matrix(figure: Figure, ax: Axes, likeness: Similarity, names: Sequence[str]) -> None:
    places = [likeness.names.index(ref) for ref in likeness.order]
    cosines = np.array(likeness.cosines)[np.ix_(places, places)]
    size = len(places)
    ax.pcolormesh(cosines, cmap=_COSINES, norm=Normalize(-1, 1), edgecolors=PAPER, linewidth=1)
    if size <= _WRITTEN:
        for i, j in np.ndindex(size, size):
            colour = PAPER if abs(cosines[i, j]) > 0.75 else INK
            text = f"{cosines[i, j]:.2f}".replace("0.", ".")
            ax.text(j + 0.5, i + 0.5, text, ha="center", va="center_baseline", color=colour, fontsize=6.5)
    for group in likeness.clusters:
        first = min(likeness.order.index(ref) for ref in group)
        frame = Rectangle((first, first), len(group), len(group), fill=False, edgecolor=INK, linewidth=1.3)
        frame.set_clip_on(False)
        ax.add_patch(frame)
    ax.set(xlim=(0, size), ylim=(size, 0))
    ax.set_xticks(np.arange(size) + 0.5, names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks([])
    ax.set_title("cosines")
    ax.set_xlabel("framed: clusters")
    strip(ax)
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), _COSINES), ax=ax, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)


def _mean_spectrum(adapter: AdapterReport) -> list[float]:
    """Returns the root of the mean square over modules of the k-th singular values."""
    rows = zip_longest(*(module.spectrum.values for module in adapter.modules), fillvalue=0.0)
    return [math.sqrt(sum(value**2 for value in row) / len(adapter.modules)) for row in rows]


def _padded(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Returns spectra as the rows of one matrix, NaN where they end."""
    return np.array(list(zip_longest(*rows, fillvalue=math.nan)), dtype=np.float64).reshape(-1, len(rows)).T


def _sheet(names: Sequence[str], columns: int, beside: int = 0) -> tuple[Figure, Axes, Axes]:
    """Returns a figure for a heat map with a row for each name, its axes, and those of a matrix beside it.

    Without a matrix the axes are the same.
    """
    cells = [max(columns, 6), max(beside, 5)] if beside else [max(columns, 6)]
    width = 0.068 * max(map(len, names)) + _CELL * sum(cells) + 1.3 * len(cells)
    figure = Figure(figsize=(max(width, 5.5), max(_CELL * len(names) + 1.4, 2.4)), layout="constrained")
    axes = figure.subplots(1, len(cells), squeeze=False, width_ratios=cells)[0]
    return figure, axes[0], axes[-1]


def _heat(figure: Figure, ax: Axes, values: NDArray[np.float64]) -> None:
    there = values[values > 0]
    scale = LogNorm(there.min(), there.max() * (1 + 1e-9)) if there.size else LogNorm(0.1, 1)
    shown = np.ma.masked_invalid(values)
    ax.pcolormesh(np.ma.masked_less_equal(shown, 0), cmap=SCORES, norm=scale, edgecolors=PAPER, linewidth=1)
    rows, columns = values.shape
    ax.set(xlim=(0, columns), ylim=(rows, 0))
    step = max(1, columns // 8)
    ax.set_xticks(np.arange(0, columns, step) + 0.5, [str(k + 1) for k in range(0, columns, step)])
    strip(ax)
    bar = figure.colorbar(ScalarMappable(scale, SCORES), ax=ax, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("singular value", color=MUTED)
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
