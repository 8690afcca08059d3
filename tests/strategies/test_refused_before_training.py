"""What a part cannot work with is said before a task is trained, not once it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from strategies_tiny import Classifier, Way
from torch import nn

from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec
from contpeft.store import AdapterStore
from contpeft.strategies import (
    AccumulateUpdates,
    Each,
    Fisher,
    Follow,
    FromMerged,
    KeepAverage,
    MeasureOverlap,
    MergeFactors,
    OffProtected,
    Orthonormal,
    OutputSensitivity,
    ProtectInputs,
    Recipe,
    ScaledDirections,
    Slow,
    Then,
    find_recipe,
)
from contpeft.strategies.parts import Checked

BOTTLENECK = AdapterSpec("pfeiffer")
FACTORS = r"^{} works on the factors of LoRA adapters, not on one of kind 'pfeiffer'$"


@pytest.mark.parametrize(
    ("part", "who"),
    [
        ({"consolidate": Fisher()}, "the Fisher information"),
        ({"consolidate": Fisher(of="update")}, "the Fisher information"),
        ({"consolidate": OutputSensitivity()}, "the output's sensitivity"),
        ({"consolidate": Then((AccumulateUpdates(),))}, "accumulating updates"),
        ({"consolidate": MeasureOverlap()}, "measuring overlaps"),
        ({"consolidate": ProtectInputs()}, "protecting what a task reads"),
        ({"consolidate": KeepAverage("delta")}, "an average of updates"),
        ({"projection": Each((Slow(), Follow(space="delta")))}, "an average of updates"),
        ({"init": FromMerged()}, "a start from a merged adapter"),
        ({"init": Orthonormal()}, "an orthonormal start"),
        ({"init": OffProtected()}, "starting beside what is protected"),
    ],
    ids=[f"{n}" for n in range(11)],
)
def test_parts_that_work_on_factors_ask_before_training(
    store: AdapterStore, part: dict[str, object], who: str
) -> None:
    recipe = replace(Recipe(), **part)
    with pytest.raises(UnsupportedError, match=FACTORS.format(who)):
        Way(store, recipe, spec=BOTTLENECK).started(0)
    Way(store, recipe).started(0)


def test_factors_are_merged_of_lora_alone(store: AdapterStore) -> None:
    with pytest.raises(UnsupportedError, match=r"^method 'pfeiffer' is no sum of low-rank updates"):
        Way(store, Recipe(consolidate=MergeFactors()), spec=BOTTLENECK).started(0)


def test_a_rank_that_no_layer_has_is_refused_at_once(store: AdapterStore) -> None:
    with pytest.raises(UnsupportedError, match=r"reads 16 values, which have no 17 orthonormal directions"):
        Way(store, find_recipe("slao"), spec=AdapterSpec("lora", r=17)).started(0)


def test_directions_of_several_ranks_are_refused_at_once(store: AdapterStore) -> None:
    spec = AdapterSpec("lora", r=2, rank_pattern={"query": 4})
    with pytest.raises(UnsupportedError, match=r"leave out rank_pattern$"):
        Way(store, Recipe(init=ScaledDirections()), spec=spec).started(0)


@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_rows_to_derive_by_are_asked_for_at_once(store: AdapterStore, name: str) -> None:
    own = replace(find_recipe(name), head=Recipe().head)  # the head asks for none
    with pytest.raises(UnsupportedError, match=r"needs the task's training examples; pass data="):
        Way(store, own, data=False).started(0)


def test_a_module_that_cannot_batch_rows_is_refused_at_once(store: AdapterStore) -> None:
    class Mute(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = Classifier()
            self.model, self.head = whole.model, whole.head

    own = replace(find_recipe("ewc"), head=Recipe().head)
    with pytest.raises(UnsupportedError, match=r"^the Fisher information needs Mute to have collate, encode"):
        Way(store, own, module=Mute()).started(0)


def test_nothing_is_asked_where_nothing_is_trained(store: AdapterStore) -> None:
    frozen = find_recipe("frozen")
    Way(store, replace(frozen, consolidate=Then((frozen.consolidate, Fisher())))).started(0)


def test_parts_without_a_question_are_none_to_ask() -> None:
    assert isinstance(Fisher(), Checked)
    assert isinstance(OutputSensitivity(), Checked)
    assert not isinstance(Slow(), Checked)
