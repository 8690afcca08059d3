"""The new gate of GainLoRA: shut for what gates have read on earlier tasks, at the start and ever after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from strategies_tiny import Way, learnt, training
from torch import Tensor

from contpeft.adapters.gated import GatedAttachment, GateOptions
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec
from contpeft.store import AdapterStore
from contpeft.strategies import Context, ProjectGate, ProtectGate, WithGate, find_recipe
from contpeft.strategies.gating import kept_off, task_rows
from contpeft.strategies.subspaces import Subspace

STEPS = 60
EXACT = replace(find_recipe("gainlora"), consolidate=ProtectGate(share=1.0))


def second(store: AdapterStore) -> tuple[Context, GatedAttachment, Tensor, Tensor]:
    """Returns the second task at hand, its gate, and what rows of the first task and of its own are to it."""
    context = learnt_one(store).started(1)
    attached = context.adapted.attachment
    assert isinstance(attached, GatedAttachment)
    first = training("ab")
    old = context.features.embedded(first.inputs, first.digest)
    return context, attached, old, task_rows(context, "a test")


def learnt_one(store: AdapterStore) -> Way:
    return learnt(store, EXACT, tasks=1, spec=AdapterSpec("lora", r=2))


def opened(
    context: Context, attached: GatedAttachment, new: Tensor, correct: Callable[[dict[str, Tensor]], object]
) -> None:
    """Opens the gate for rows by AdamW with weight decay."""
    names = {id(p): name for name, p in context.adapted.module.named_parameters()}
    optimizer = torch.optim.AdamW(attached.gate.parameters(), lr=0.02, weight_decay=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-attached.weigh(new)[:, -1].mean()).backward()
        before = {names[id(p)]: p.detach().clone() for p in attached.gate.parameters()}
        optimizer.step()
        correct(before)


def new_weights(attached: GatedAttachment, rows: Tensor) -> Tensor:
    with torch.no_grad():
        return attached.weigh(rows)[:, -1]


def test_the_new_gate_starts_shut_for_earlier_rows_and_open_for_its_own(store: AdapterStore) -> None:
    _, attached, old, new = second(store)
    assert new_weights(attached, old).abs().max() <= 1e-6
    assert new_weights(attached, new).mean() > 0.1


def test_projected_updates_keep_it_shut(store: AdapterStore) -> None:
    context, attached, old, new = second(store)
    start = new_weights(attached, new).mean()
    query = attached.gate.query(old).detach()
    opened(context, attached, new, lambda before: ProjectGate().project(context, before))
    assert new_weights(attached, old).abs().max() <= 1e-6
    torch.testing.assert_close(attached.gate.query(old), query, rtol=0, atol=1e-5)
    assert new_weights(attached, new).mean() > start + 0.05


def test_projected_gradients_do_not(store: AdapterStore) -> None:
    context, attached, old, new = second(store)

    def without(space: Subspace) -> Callable[[Tensor], Tensor]:
        return lambda gradient: gradient - space.onto(gradient)

    for parameter, space in kept_off(context, attached.gate).values():
        hook: Any = parameter.register_hook
        hook(without(space.like(parameter)))
    opened(context, attached, new, lambda before: None)
    assert new_weights(attached, old).abs().max() > 1e-2


def test_unprojected_updates_do_not_either(store: AdapterStore) -> None:
    context, attached, old, new = second(store)
    opened(context, attached, new, lambda before: None)
    assert new_weights(attached, old).abs().max() > 1e-2


def test_what_is_protected_never_shrinks_and_is_told(store: AdapterStore) -> None:
    way = learnt(store, EXACT)
    kept = [store.load(f"way.gate-inputs@{n}") for n in (1, 2, 3)]
    ranks = [
        [int(state.config[f"protected.{name}"].split()[0]) for name in ("0", "1", "key")] for state in kept
    ]
    assert ranks == sorted(ranks)
    assert all(ranks[2][place] > ranks[0][place] for place in (1, 2))
    assert kept[0].config["protected.key"].endswith(" of 128")
    assert [version.name for version in way.history][1::2] == ["way.gate-inputs"] * 3


def test_trained_as_a_recipe_it_stays_shut_for_the_training_rows_of_every_earlier_task(
    store: AdapterStore,
) -> None:
    way = learnt(store, EXACT)
    attached = GatedAttachment.from_states(
        Way(store, EXACT).context(0).adapted.model,
        [store.load(f"way.{task}@1") for task in ("one", "two", "three")],
    )
    attached.remove()
    for step, labels in enumerate(("ab", "cd")):
        data = training(labels)
        rows = way.context(0).features.embedded(data.inputs, data.digest)
        with torch.no_grad():
            weights = attached.weigh(rows)
        assert weights[:, step + 1 :].abs().max() <= 2e-6
        assert weights[:, step].mean() > 0.1


def test_a_key_without_room_is_refused(store: AdapterStore) -> None:
    small = replace(EXACT, init=WithGate(GateOptions(hidden=8)))
    way = learnt(store, small, tasks=1)
    with pytest.raises(UnsupportedError, match=r"has no room at \"the gate's key\": 8 of the 8 directions"):
        way.learn(1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"projection": ProjectGate()}, "projecting a gate's updates"),
        ({"consolidate": ProtectGate()}, "protecting what a gate reads"),
    ],
)
def test_parts_of_gates_say_that_there_is_none(store: AdapterStore, change: Any, what: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{what} works on gates, an adapter of method 'lora'"):
        Way(store, replace(find_recipe("isolated"), **change)).learn(0)
