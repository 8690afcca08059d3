"""Pictures of what is inside adapters, checked as drawings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from contpeft.errors import UsageError
from contpeft.experiments.report import inspection_picture
from contpeft.merging.similarity import similarity
from contpeft.merging.spectrum import spectrum
from contpeft.store import AdapterReport, Inspection, ModuleReport, TensorNorm


def drawing(found: Inspection) -> Figure:
    """The figure behind a picture, before it becomes bytes."""
    return inspection_picture.__wrapped__(found)  # type: ignore[attr-defined, no-any-return]


def title(ax: Axes) -> str:
    return ax.get_title() or ax.get_title(loc="left")


def adapter(ref: str, *spectra: list[float], scores: dict[str, float] | None = None) -> AdapterReport:
    modules = [
        ModuleReport(
            f"m{k}", spectrum(torch.tensor(s, dtype=torch.float64), (9, 9)), (scores or {}) if k == 0 else {}
        )
        for k, s in enumerate(spectra)
    ]
    return AdapterReport(ref, "lora", tuple(modules))


def test_one_adapter_is_a_heat_map_of_its_spectra() -> None:
    one = adapter("a$b$@1", [4.0, 2.0, 2.0], [8.0], scores={"log_norm": 9.0})
    figure = drawing(Inspection((one,), None, None))
    ax = figure.axes[0]
    drawn = np.ma.masked_invalid(ax.collections[0].get_array())
    np.testing.assert_array_equal(drawn.filled(0), [[4, 2, 2], [8, 0, 0]])
    norm = ax.collections[0].norm
    assert isinstance(norm, LogNorm)
    assert (norm.vmin, norm.vmax) == (2, pytest.approx(8))
    np.testing.assert_allclose(
        ax.collections[1].get_offsets(), [[8 / math.exp(1.5 * math.log(2)) - 0.5, 0.5], [0.5, 1.5]]
    )
    labels = ax.get_yticklabels()
    assert [label.get_text() for label in labels] == ["m0", "m1"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal"]
    assert to_hex(labels[0].get_color()) == "#d55e00"
    assert title(ax) == "a$b$@1: singular values by module"
    assert "bold: unlike its family (1)" in ax.get_xlabel()


def test_several_adapters_are_spectra_beside_cosines_in_one_order() -> None:
    refs = ["a@1", "b@1", "c@1"]
    gram = np.array([[4.0, 0.0, 3.9], [0.0, 1.0, 0.0], [3.9, 0.0, 4.0]])
    relations = similarity(refs, gram)
    reports = (
        *(adapter(ref, [2.0, 1.0], [4.0]) for ref in refs),
        AdapterReport("x@1", "vera", (), remark="is none"),
    )
    figure = drawing(Inspection(reports, None, relations))
    spectra, matrix = (ax for ax in figure.axes if title(ax))
    assert [label.get_text() for label in spectra.get_yticklabels()] == list(relations.order)
    assert [label.get_text() for label in matrix.get_xticklabels()] == list(relations.order)
    np.testing.assert_allclose(spectra.collections[0].get_array(), [[10**0.5, 0.5**0.5]] * 3)
    drawn = np.ma.getdata(matrix.collections[0].get_array())
    places = [refs.index(ref) for ref in relations.order]
    np.testing.assert_allclose(drawn, np.array(relations.cosines)[np.ix_(places, places)])
    assert matrix.texts[0].get_text() == "1.00"
    assert {".97", ".00"} < {text.get_text() for text in matrix.texts}
    frames = [patch for patch in matrix.patches if isinstance(patch, Rectangle)]
    assert sorted(frame.get_width() for frame in frames) == [1, 2]


def test_many_adapters_have_no_numbers_in_their_cells() -> None:
    refs = [f"a@{n}" for n in range(1, 18)]
    relations = similarity(refs, np.eye(17) + 0.1)
    figure = drawing(Inspection(tuple(adapter(ref, [1.0]) for ref in refs), None, relations))
    assert all(not ax.texts for ax in figure.axes)


def test_a_zero_adapter_can_be_drawn() -> None:
    data = inspection_picture(Inspection((adapter("a@1", [], [0.0]),), None, None))
    assert data.startswith(b"\x89PNG")
    assert data == inspection_picture(Inspection((adapter("a@1", [], [0.0]),), None, None))


def test_without_spectra_there_is_no_picture() -> None:
    one = AdapterReport("x@1", "vera", (), (TensorNorm("t", (2,), 1.0),), "is no sum")
    with pytest.raises(UsageError, match="there are no spectra to draw: x@1: is no sum"):
        inspection_picture(Inspection((one,), None, None))
    with pytest.raises(UsageError, match="no spectra"):
        inspection_picture(Inspection((one, one), None, None))
