"""Adapters that stay made: few, the right ones, and never the wrong weights."""

from __future__ import annotations

import pytest
import torch
from adapters_tiny import CLASSES, Module, logits, trained, version
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from contpeft.adapters import AdaptedModel, attaching, composing
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec, AdapterState, Single, Version

Stored = dict[str, tuple[Version, AdapterState]]
SPECS = [AdapterSpec("lora", r=4), AdapterSpec("lora", r=2), AdapterSpec("ia3"), AdapterSpec("pfeiffer")]


def learnt(count: int) -> tuple[Stored, dict[str, Tensor]]:
    """Returns versions of four forms, and what each answers."""
    kept, told = {}, {}
    for n in range(count):
        torch.manual_seed(n)
        adapted = AdaptedModel.of(Module())
        ref = f"a{n}@1"
        state = trained(adapted, SPECS[n % len(SPECS)], classes=CLASSES)
        kept[ref], told[ref] = (version(state, adapted.base, ref), state), logits(adapted.module)
    return kept, told


@pytest.fixture(scope="module")
def stored() -> tuple[Stored, dict[str, Tensor]]:
    return learnt(12)


def ask(module: nn.Module, kept: Stored, ref: str) -> Tensor:
    with AdaptedModel.of(module).applied(Single(ref), kept.__getitem__):
        return logits(module)


@given(st.integers(1, 5), st.lists(st.integers(0, 11), max_size=25), st.sets(st.integers(0, 11), max_size=2))
@settings(max_examples=15, deadline=None)
def test_whatever_was_asked_before_each_answers_as_when_trained(
    stored: tuple[Stored, dict[str, Tensor]], slots: int, order: list[int], pinned: set[int]
) -> None:
    kept, told = stored
    module = Module()
    plain = logits(module)
    residents = AdaptedModel.of(module).residents
    residents.slots = slots
    pins = [f"a{n}@1" for n in sorted(pinned)[:slots]]
    for ref in pins:
        residents.pin(kept[ref][0])
    asked: set[str] = set()
    for n in order:
        assert torch.equal(ask(module, kept, f"a{n}@1"), told[f"a{n}@1"])
        asked.add(f"a{n}@1")
        assert len(residents) <= slots + len(pins)
        assert all(kept[ref][0] in residents for ref in asked.intersection(pins))
    assert torch.equal(logits(module), plain)


def test_the_one_that_has_not_answered_for_longest_leaves(stored: tuple[Stored, dict[str, Tensor]]) -> None:
    kept, _ = stored
    module = Module()
    residents = AdaptedModel.of(module).residents
    residents.slots = 2
    for ref in ("a0@1", "a1@1", "a0@1", "a2@1"):
        ask(module, kept, ref)
    assert [kept[ref][0] in residents for ref in ("a0@1", "a1@1", "a2@1")] == [True, False, True]
    residents.slots = 1
    assert [kept[ref][0] in residents for ref in ("a0@1", "a2@1")] == [False, True]


def test_what_is_there_is_not_made_again(
    stored: tuple[Stored, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, told = stored
    made = []

    def counted(*arguments: object) -> object:
        made.append(1)
        return attaching.attach_stored(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(composing, "attach_stored", counted)
    module = Module()
    residents = AdaptedModel.of(module).residents
    residents.slots = 1
    for ref in ("a0@1", "a0@1", "a4@1", "a8@1", "a0@1"):  # all of one form: the layers stay
        assert torch.equal(ask(module, kept, ref), told[ref])
    assert len(made) == 1
    ask(module, kept, "a1@1")  # another rank
    assert len(made) == 2


def test_a_version_that_says_it_is_another_is_found_out(stored: tuple[Stored, dict[str, Tensor]]) -> None:
    kept, told = stored
    module = Module()
    forged = {"a0@1": (kept["a0@1"][0], kept["a4@1"][1])}
    assert torch.equal(ask(module, kept, "a0@1"), told["a0@1"])
    assert torch.equal(ask(module, forged, "a0@1"), told["a4@1"])


def test_a_base_whose_modules_were_replaced_is_met_with_new_layers(
    stored: tuple[Stored, dict[str, Tensor]],
) -> None:
    kept, told = stored
    module = Module()
    ask(module, kept, "a0@1")
    attention = module.model.encoder.layer[0].attention.self
    query = nn.Linear(16, 16)
    query.load_state_dict(attention.query.state_dict())
    attention.query = query
    assert torch.equal(ask(module, kept, "a0@1"), told["a0@1"])
    assert attention.query is query


def test_slots_and_pins_are_checked(stored: tuple[Stored, dict[str, Tensor]]) -> None:
    kept, _ = stored
    residents = AdaptedModel.of(Module()).residents
    with pytest.raises(SpecError, match="0 slots hold no adapter"):
        residents.slots = 0
    residents.slots = 1
    residents.pin(kept["a0@1"][0])
    with pytest.raises(SpecError, match="a1@1 cannot be pinned: all 1 slots are"):
        residents.pin(kept["a1@1"][0])
    residents.unpin(kept["a0@1"][0])
    residents.pin(kept["a1@1"][0])
