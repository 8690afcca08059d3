"""Projected updates: exact for what the optimizer applies, not for what projected gradients become."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from strategies_tiny import Way, learnt, same, training
from tiny_subspaces import OPTIMIZERS, begun, ended, factors_of, fit, short_sentences
from torch import Tensor

from contpeft.store import AdapterStore
from contpeft.strategies import Context, OffProtected, ProjectUpdate, ProtectInputs, Recipe, find_recipe
from contpeft.strategies.subspaces import Protected


def moved(way: Way, optimizer: str) -> tuple[Context, dict[str, tuple[Tensor, Tensor]]]:
    """Trains a second task; returns, by layer, what is protected and how far its ``A`` was moved."""
    context = begun(way, 1)
    before = {name: factors.down.detach().clone() for name, factors in factors_of(context).items()}
    fit(way, context, OPTIMIZERS[optimizer], steps=12)
    protected = Protected.recalled(context)
    return context, {
        name: (protected.of(name).basis().float(), (factors.down - before[name]).detach())
        for name, factors in factors_of(context).items()
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_applied_update_is_off_what_is_protected(store: AdapterStore, optimizer: str) -> None:
    way = learnt(store, find_recipe("gpm"), tasks=1)
    context, updates = moved(way, optimizer)
    protected = Protected.recalled(context)
    for name, (basis, update) in updates.items():
        assert update.norm() > 0.01
        assert (update @ basis).norm() < 1e-5 * update.norm()
        # Its start was off it, too, so that nothing protected passes the new adapter.
        down = factors_of(context)[name].down.detach()
        assert protected.of(name).like(down).onto(down).norm() < 1e-5 * down.norm()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_projected_gradient_is_no_projected_update(store: AdapterStore, optimizer: str) -> None:
    """The trap: an optimizer divides element by element, so that the property above does not hold."""
    way = learnt(store, find_recipe("gpm-gradient"), tasks=1)
    _, updates = moved(way, optimizer)
    shares = [float((update @ basis).norm() / update.norm()) for basis, update in updates.values()]
    if optimizer == "momentum":  # a linear one that started off it stays off it
        assert max(shares) < 1e-5
    else:
        assert min(shares) > 0.1


def test_gradients_are_projected_where_that_is_asked_for(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("gpm-gradient"), tasks=1)
    context = begun(way, 1)
    fit(way, context, steps=1)
    protected = Protected.recalled(context)
    second = begun(way, 1)
    data = second.training_data("this test")
    second.adapted.module(second.adapted.module.collate(data.inputs))[:, 2].sum().backward()
    for factors in factors_of(second).values():
        with torch.no_grad():
            factors.up.fill_(1.0)
        factors.down.grad = None
    second.adapted.module(second.adapted.module.collate(data.inputs))[:, 2].sum().backward()
    for name, factors in factors_of(second).items():
        gradient = factors.down.grad
        assert gradient.norm() > 0
        assert protected.of(name).like(gradient).onto(gradient).norm() < 1e-5 * gradient.norm()


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.95])
def test_a_relaxed_projection_leaves_its_share(store: AdapterStore, strength: float) -> None:
    """One step of plain gradient descent, against the formula."""
    way = learnt(store, find_recipe("gpm"), tasks=1)
    updates = {}
    for each in (0.0, strength):
        way.recipe = replace(find_recipe("gpm"), init=OffProtected(each), projection=ProjectUpdate(each))
        context = begun(way, 1)
        protected = Protected.recalled(context)
        with torch.no_grad():
            before = {n: p.detach().clone() for n, p in context.adapted.module.named_parameters()}
            for factors in factors_of(context).values():
                factors.down.add_(torch.arange(32.0).view(2, 16) / 32)
        way.recipe.project(context, before)
        names = {id(p): n for n, p in context.adapted.module.named_parameters()}
        updates[each] = {
            m: (f.down - before[names[id(f.down)]]).detach() for m, f in factors_of(context).items()
        }
    for name, update in updates[strength].items():
        basis, whole = protected.of(name).basis().float(), torch.arange(32.0).view(2, 16) / 32
        expected = whole - strength * whole @ basis @ basis.T
        torch.testing.assert_close(update, expected, rtol=0, atol=1e-5)


def plain() -> Recipe:
    """Returns the parent: an adapter per task over all earlier ones, the same head."""
    return replace(find_recipe("incremental-sum"), head=find_recipe("gpm").head)


def adapters(store: AdapterStore, recipe: Recipe, line: str, tasks: int) -> list[dict[str, Tensor]]:
    way = learnt(store, recipe, tasks=tasks, line=line)
    return [dict(store.load(v.ref).tensors) for v in way.history if v.adapts]


@pytest.mark.parametrize("name", ["gpm", "gpm-gradient", "null-space"])
def test_with_one_task_it_is_plain_lora(store: AdapterStore, name: str) -> None:
    sequential = replace(find_recipe("sequential"), head=find_recipe(name).head)
    expected = adapters(store, sequential, "sequential", tasks=1)
    assert all(map(same, adapters(store, find_recipe(name), name, tasks=1), expected))


def test_without_strength_it_is_its_parent_bit_for_bit(store: AdapterStore) -> None:
    without = replace(find_recipe("gpm"), init=OffProtected(0.0), projection=ProjectUpdate(0.0))
    found, expected = adapters(store, without, "without", 3), adapters(store, plain(), "plain", 3)
    assert len(found) == 3
    assert all(map(same, found, expected))
    projected = adapters(store, find_recipe("gpm"), "gpm", 3)
    assert same(projected[0], expected[0])
    assert not same(projected[1], expected[1])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_old_features_stay_while_the_new_task_is_learnt(store: AdapterStore, optimizer: str) -> None:
    """The same data and training without the projection moves them."""
    drift = {}
    for line, strength in (("kept", 1.0), ("loose", 0.0)):
        parts = {"init": OffProtected(strength), "projection": ProjectUpdate(strength)}
        recipe = replace(find_recipe("gpm"), consolidate=ProtectInputs(share=1.0), **parts)
        way, data = Way(store, recipe, line=line), short_sentences("ab")
        first = begun(way, 0, data)
        fit(way, first, OPTIMIZERS[optimizer])
        ended(way, first)
        before = first.features.current(data.inputs)
        second = begun(way, 1, training("cd"))
        fit(way, second, OPTIMIZERS[optimizer])
        drift[line] = float((second.features.current(data.inputs) - before).abs().max())
    assert drift["kept"] < 1e-4
    assert drift["loose"] > 20 * max(drift["kept"], 1e-4)
