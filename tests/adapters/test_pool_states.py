"""Pools as values: how they begin, what a task adds, and what stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from adapters_tiny import encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from pools_oracle import array
from pools_tiny import BANKS, attached, loud_encoder, stored

from contpeft.adapters import AdaptedModel
from contpeft.adapters.pools import BankOptions, fresh_pool, grown_pool
from contpeft.adapters.pools.bank import Bank
from contpeft.errors import SpecError
from contpeft.spec import AdapterState

MODEL = encoder()


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(old=st.integers(1, 4), new=st.integers(1, 4), scale=st.floats(0.01, 100), seed=st.integers(0, 2**20))
def test_new_components_are_at_right_angles_to_all_before_them(
    old: int, new: int, scale: float, seed: int
) -> None:
    bank = BankOptions("attended", layers=(0, 1), length=1, components=old)
    state = fresh_pool(MODEL, [bank], drawn(seed))
    trained = {
        name: scale * torch.randn(each.shape, generator=drawn(seed)) for name, each in state.tensors.items()
    }
    told = {"banks": [bank.to_json() | {"components": new}]}
    grown = grown_pool(AdapterState(state.kind, told, trained), drawn(seed + 1))
    for name, each in grown.tensors.items():
        assert torch.equal(each[:old], trained[name])
        rows, before = array(each[old:].flatten(1)), array(trained[name].flatten(1))
        unit = before / np.linalg.norm(before, axis=1, keepdims=True)
        np.testing.assert_allclose(rows @ unit.T, 0, atol=1e-5)
        np.testing.assert_allclose(rows @ rows.T, np.eye(new), atol=1e-5)


def test_a_pool_begins_at_right_angles_and_its_dependence_is_the_sum_of_squares() -> None:
    model = loud_encoder()
    pool = attached(model, fresh_pool(model, BANKS["attended"], drawn()))
    assert pool.dependence().item() == pytest.approx(0, abs=1e-8)
    with torch.no_grad():
        for parameter in pool.parameters():
            parameter.mul_(1.5).add_(0.1)
    rows = [array(each.flatten(1)) for each in pool.tensors().values()]
    wanted = sum(((each @ each.T - np.eye(3)) ** 2).sum() for each in rows)
    assert len(rows) == 6
    assert pool.dependence().item() == pytest.approx(wanted, rel=1e-5)


def test_more_components_than_directions_are_refused() -> None:
    bank = BankOptions("attended", layers=(0, 1), length=1, components=9)
    state = fresh_pool(MODEL, [bank], drawn())
    with pytest.raises(
        SpecError, match=r"9 \+ 9 components are more than the 16 directions of their attention"
    ):
        grown_pool(state, drawn())


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 4), extra=st.integers(1, 4), rows=st.integers(1, 3), seed=st.integers(0, 2**20))
def test_components_of_weight_zero_change_nothing(count: int, extra: int, rows: int, seed: int) -> None:
    def tensors(number: int) -> dict[str, torch.Tensor]:
        shapes = {"components": (number, 1, 2, 2, 6), "keys": (number, 5), "attention": (number, 5)}
        return {name: torch.randn(shape, generator=source) for name, shape in shapes.items()}

    source = drawn(seed)
    known, more = tensors(count), tensors(extra)
    more["attention"].zero_()  # its cosine to any key is 0
    query = torch.randn(rows, 5, generator=source)
    small = Bank(BankOptions("attended", components=count), known)
    whole = {name: torch.cat([known[name], more[name]]) for name in known}
    large = Bank(BankOptions("attended", components=count), whole)
    torch.testing.assert_close(large(query), small(query), rtol=0, atol=1e-6)
    assert torch.equal(large.weights(query)[:, count:], torch.zeros(rows, extra))


@pytest.mark.parametrize("name", BANKS)
def test_what_earlier_tasks_trained_stays_bit_for_bit(name: str) -> None:
    model = loud_encoder()
    state = stored(model, BANKS[name], tasks=2)
    pool = attached(model, state)
    pool.train()
    trained = AdaptedModel.of(model).train_only()
    assert {id(p) for p in trained} >= {id(p) for p in pool.parameters()}
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.5)
    ids = torch.arange(12).reshape(2, 6)
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(input_ids=ids).last_hidden_state.square().sum()
        (loss + pool.distance() + pool.dependence()).backward()
        optimizer.step()
    after = pool.tensors()
    for number, bank in enumerate(state.config["banks"]):
        frozen = bank["components"] if bank["grows"] else 0
        for each in ("components", "keys", "attention"):
            if f"{number}.{each}" in after:
                rows, before = after[f"{number}.{each}"], state.tensors[f"{number}.{each}"]
                assert torch.equal(rows[:frozen], before[:frozen])
                assert not torch.equal(rows[frozen:], before[frozen:])


def test_what_is_drawn_does_not_hang_on_the_order_of_stored_tensors() -> None:
    state = fresh_pool(MODEL, BANKS["attended"], drawn())
    turned = AdapterState(state.kind, state.config, dict(reversed(state.tensors.items())))
    one, other = (grown_pool(each, drawn(1)).tensors for each in (state, turned))
    assert all(torch.equal(one[name], each) for name, each in other.items())


def test_only_banks_that_grow_get_components() -> None:
    fresh, grown = stored(MODEL, BANKS["dual"]), stored(MODEL, BANKS["dual"], tasks=3)
    assert {name: len(each) for name, each in fresh.tensors.items()} == {
        **{"0.components": 1, "1.components": 1},
        "1.keys": 1,
    }
    assert {name: len(each) for name, each in grown.tensors.items()} == {
        **{"0.components": 1, "1.components": 3},
        "1.keys": 3,
    }
    assert grown.config == fresh.config


def test_the_same_seed_draws_the_same_pool_and_nothing_else() -> None:
    before = torch.get_rng_state()
    one, two, other = (fresh_pool(MODEL, BANKS["attended"], drawn(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one.tensors[name], each) for name, each in two.tensors.items())
    assert not any(torch.equal(one.tensors[name], each) for name, each in other.tensors.items())


def test_a_bank_is_the_same_through_json() -> None:
    bank: Any = BANKS["top"][0]
    assert BankOptions.from_json(bank.to_json()) == bank
    assert bank.to_json()["layers"] == [0, 6]
