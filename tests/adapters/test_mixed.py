"""Batches whose rows are answered by versions of their own, against each one alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapters_tiny import IDS, Module, logits, look, same, trained, values, version
from torch import Tensor

from contpeft.adapters import AdaptedModel
from contpeft.errors import BaseMismatchError, SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, AdapterState, BaseModel, Single, Version

Stored = dict[str, tuple[Version, AdapterState]]
FORMS = {
    "a@1": (3, AdapterSpec("lora", r=4)),
    "b@1": (5, AdapterSpec("lora", r=2, targets=["query", "dense"])),
    "c@1": (4, AdapterSpec("lora", r=8, use_rslora=True)),
}


@pytest.fixture(scope="module")
def stored() -> tuple[Stored, dict[str, Tensor]]:
    kept, told = {}, {}
    for seed, (ref, (classes, spec)) in enumerate(FORMS.items()):
        torch.manual_seed(seed)
        adapted = AdaptedModel.of(Module(classes))
        state = trained(adapted, spec, steps=4, classes=tuple(f"{ref}{k}" for k in range(classes)))
        kept[ref], told[ref] = (version(state, adapted.base, ref), state), logits(adapted.module)
    return kept, told


def linear(kept: Stored) -> Stored:
    """Returns the versions with heads that are rebuilt, whatever the module's own is."""
    return {
        ref: (entry, replace(state, head=replace(state.head, kind="linear")))
        for ref, (entry, state) in kept.items()
    }


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 2, 0], [1, 1, 1]])
def test_each_row_is_answered_by_its_own_version_and_head(
    stored: tuple[Stored, dict[str, Tensor]], rows: list[int]
) -> None:
    kept, told = linear(stored[0]), stored[1]
    module = Module()
    adapted = AdaptedModel.of(module)
    before, held, plain = look(module), values(module), logits(module)
    mixed = adapted.mixed([Single(ref) for ref in kept], kept.__getitem__)
    with adapted.applied_by_row(mixed, rows):
        scores = logits(module)
    assert scores.shape == (3, max(len(mixed.classes[row]) for row in rows))
    for row, choice in enumerate(rows):
        width = len(mixed.classes[choice])
        expected = told[list(kept)[choice]][row]
        torch.testing.assert_close(scores[row, :width], expected, rtol=1e-4, atol=1e-5)
        assert torch.isinf(scores[row, width:]).all()
    assert look(module) == before
    assert same(values(module), held)
    assert torch.equal(logits(module), plain)


def test_a_row_may_answer_with_the_head_of_another(stored: tuple[Stored, dict[str, Tensor]]) -> None:
    kept = linear(stored[0])
    module = Module()
    adapted = AdaptedModel.of(module)
    lent = Single("b@1", "a@1")
    mixed = adapted.mixed([Single("a@1"), lent], kept.__getitem__)
    with adapted.applied_by_row(mixed, torch.tensor([1, 0, 1])):
        scores = logits(module)
    with adapted.applied(lent, kept.__getitem__):
        torch.testing.assert_close(scores[[0, 2]], logits(module)[[0, 2]], rtol=1e-4, atol=1e-5)


def test_what_does_not_belong_together_is_refused(stored: tuple[Stored, dict[str, Tensor]]) -> None:
    kept = linear(stored[0])
    module = Module()
    adapted = AdaptedModel.of(module)
    before, plain = look(module), logits(module)
    mixed = adapted.mixed([Single("a@1"), Single("b@1")], kept.__getitem__)
    with (
        pytest.raises(SpecError, match="a row names version 2 of 2"),
        adapted.applied_by_row(mixed, [0, 2, 1]),
    ):
        pass
    with pytest.raises(SpecError, match="a batch of 3 rows meets"), adapted.applied_by_row(mixed, [0, 1]):
        module(IDS)
    other = AdaptedModel.of(Module())
    state = trained(other, AdapterSpec("ia3"))
    kept["i@1"] = version(state, other.base, "i@1"), state
    with pytest.raises(UnsupportedError, match="method 'ia3' is no sum"):
        adapted.mixed([Single("a@1"), Single("i@1")], kept.__getitem__)
    far = version(kept["a@1"][1], BaseModel("far", "f" * 64, 1), "f@1"), kept["a@1"][1]
    with pytest.raises(BaseMismatchError, match="f@1 was trained on 'far'"):
        adapted.mixed([Single("f@1")], {"f@1": far}.__getitem__)
    assert look(module) == before
    assert torch.equal(logits(module), plain)
