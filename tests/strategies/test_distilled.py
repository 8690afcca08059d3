"""Learning without forgetting: what the version before said of old classes is held on to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from strategies_tiny import Classifier, Way, learnt, same
from tiny_factors import double, shake
from torch import Tensor, nn

from contpeft.adapters import competing
from contpeft.errors import UnsupportedError
from contpeft.spec import Single
from contpeft.store import AdapterStore
from contpeft.strategies import (
    Context,
    Distilled,
    FillBuffer,
    FromLast,
    Linear,
    Own,
    Plus,
    Recipe,
    Replay,
    find_recipe,
)

LWF = find_recipe("lwf")


def batch_of(context: Context) -> Any:
    return context.adapted.module.collate(context.training_data("a test").inputs)


def term(context: Context, penalty: Distilled) -> Tensor | None:
    batch = batch_of(context)
    with context.listening():
        outputs = context.adapted.module(batch)
    return penalty.loss(context, batch, outputs)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.mark.parametrize("recipe", [LWF, replace(LWF, head=Linear(grow=True, local=True))])
def test_a_student_that_is_its_teacher_loses_nothing(store: AdapterStore, recipe: Recipe) -> None:
    context = learnt(store, recipe, tasks=1).started(1)
    context.adapted.head.train()  # old classes are out of the loss, not out of the distillation
    loss = term(context, Distilled())
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad.abs().max() < 1e-7 for p in context.own_parameters.values())


def test_there_is_no_teacher_at_the_first_task(store: AdapterStore) -> None:
    assert term(Way(store, LWF).started(0), Distilled()) is None


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_it_is_the_divergence_over_each_earlier_tasks_classes(
    store: AdapterStore, temperature: float
) -> None:
    way = learnt(store, LWF, tasks=2)
    context = way.started(2)
    context.adapted.head.train()
    shake(context, scale=0.5)
    loss = term(context, Distilled(0.7, temperature))
    with torch.no_grad(), competing(context.adapted.head):
        said = double(context.adapted.module(batch_of(context)))
    with context.adapted.applied(Single("way@2"), context.load), torch.no_grad():
        context.adapted.head.eval()
        taught = double(context.adapted.module(batch_of(context)))
    expected = 0.0
    for own in (slice(0, 2), slice(2, 4)):  # the tasks before; not the two classes of this one
        q, p = log_softmax(said[:, own] / temperature), log_softmax(taught[:, own] / temperature)
        expected += (np.exp(p) * (p - q)).sum(1).mean()
    assert expected > 1e-4
    assert loss.item() == pytest.approx(0.7 * temperature**2 * expected, rel=1e-4)


def test_its_gradient_pulls_back_to_the_teacher(store: AdapterStore) -> None:
    context = learnt(store, LWF, tasks=1).started(1)
    shake(context, scale=0.3)
    context.adapted.train_only()
    optimizer = torch.optim.SGD(list(context.own_parameters.values()), lr=0.1)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = term(context, Distilled())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not context.adapted.head.weight.grad.any()  # new rows; old ones are no parameters


def test_the_teacher_is_not_changed_and_leaves_no_trace(store: AdapterStore) -> None:
    way = learnt(store, LWF, tasks=1)
    before = {name: tensor.clone() for name, tensor in store.load("way@1").tensors.items()}
    context = way.started(1)
    context.adapted.head.train()
    attachment, head = context.adapted.attachment, context.adapted.head
    trainable = {name for name, p in context.adapted.module.named_parameters() if p.requires_grad}
    context.adapted.module.train()  # dropout on: the teacher is in eval mode all the same, and draws nothing
    modes = [child.training for child in context.adapted.module.modules()]
    batch = batch_of(context)
    with context.listening():
        outputs = context.adapted.module(batch)
    random = torch.get_rng_state()
    Distilled().loss(context, batch, outputs)
    assert (context.adapted.attachment, context.adapted.head) == (attachment, head)
    assert {n for n, p in context.adapted.module.named_parameters() if p.requires_grad} == trainable
    assert [child.training for child in context.adapted.module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    way.learn(1)
    assert same(dict(store.load("way@1").tensors), before)


def test_at_weight_zero_one_adapter_is_trained_on_bit_for_bit(store: AdapterStore) -> None:
    learnt(store, replace(LWF, penalty=Distilled(0.0)), tasks=2, line="free")
    learnt(store, find_recipe("sequential-local"), tasks=2, line="plain")
    learnt(store, LWF, tasks=2, line="held")
    for n in (1, 2):
        assert same(store.load(f"free@{n}").tensors, store.load(f"plain@{n}").tensors)
    assert same(store.load("held@1").tensors, store.load("plain@1").tensors)
    assert not same(store.load("held@2").tensors, store.load("plain@2").tensors)


def test_old_scores_move_less_with_it(store: AdapterStore) -> None:
    def moved(recipe: Recipe, line: str) -> float:
        way = learnt(store, recipe, tasks=2, line=line)
        context = way.context(1)
        batch = batch_of(way.context(0))
        found = []
        for n in (1, 2):
            with context.adapted.applied(Single(f"{line}@{n}"), context.load), torch.no_grad():
                found.append(context.adapted.module(batch)[:, :2].softmax(1))
        return float((found[0] - found[1]).abs().mean())

    weight = Distilled(10.0)
    assert moved(replace(LWF, penalty=weight), "held") < 0.8 * moved(find_recipe("sequential-local"), "plain")


@pytest.mark.parametrize("head", [Own(), Linear()])
def test_heads_that_do_not_grow_are_refused(store: AdapterStore, head: Any) -> None:
    class Owner(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.head: nn.Module = nn.Linear(16, 2)

    way = Way(store, Recipe(init=FromLast(), head=head, penalty=Distilled()), module=Owner())
    way.learn(0)
    with pytest.raises(
        UnsupportedError,
        match=r"^distilling needs one growing head, and that of way@1 does not go on in this one; use a rec",
    ):
        way.learn(1)


def test_rows_that_are_replayed_do_not_take_the_batchs_place(store: AdapterStore) -> None:
    """Both parts ask the model; what is distilled is the batch, whichever part comes first."""
    way = learnt(store, replace(LWF, consolidate=FillBuffer()), tasks=1)
    context = way.started(1)
    context.adapted.head.train()
    shake(context, scale=0.3)
    found = []
    for parts in ((Distilled(), Replay()), (Replay(), Distilled())):
        context.working.clear()  # the same rows are drawn again
        batch = batch_of(context) | {"labels": torch.zeros(4, dtype=torch.long)}
        with context.listening():
            found.append(Plus(parts).loss(context, batch, context.adapted.module(batch)).item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)
