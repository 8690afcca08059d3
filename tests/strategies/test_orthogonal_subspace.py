"""OSF: whole weights trained outside singular directions, and no task lost between two."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from strategies_tiny import Classifier, Way, learnt, training
from tiny_subspaces import OPTIMIZERS, begun, ended, fit
from torch import Tensor

from contpeft.adapters import SingularDirections, singular_directions
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Parent
from contpeft.store import AdapterStore
from contpeft.strategies import Context, OrthogonalSubspace, find_recipe

ALL_LINEAR = AdapterSpec("lora", r=2, targets=["query", "key", "value", "dense"])


def directions(context: Context) -> list[SingularDirections]:
    return singular_directions(context.adapted.attachment, "this test")


def along(each: SingularDirections, count: int = 0) -> float:
    """Returns the largest cosine between what is trained and what stays."""
    parts = ((each.left.detach(), each.main_left), (each.right.detach().T, each.main_right))
    worst = 0.0
    for factor, main in parts:
        stays = torch.cat([main, factor[:, :count]], dim=1)
        trained = factor[:, count:]
        worst = max(worst, float(((stays.T @ trained) / trained.norm(dim=0)).abs().max()))
    return worst


def products(context: Context) -> list[Tensor]:
    """Returns what the trained parts of all layers add up to, ``(d_out, d_in)`` each."""
    return [((each.left * each.sizes) @ each.right).detach().double() for each in directions(context)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_trained_stays_orthogonal_to_what_is_kept(store: AdapterStore, optimizer: str) -> None:
    way = Way(store, find_recipe("osf"), spec=ALL_LINEAR)
    for step in range(3):
        context = begun(way, step)
        # One of 16 directions for every task learnt: 5 % of 16, rounded up.
        first = [(d.left.detach().clone(), d.right.detach().clone()) for d in directions(context)]
        moved = products(context)
        for _ in range(3):
            fit(way, context, OPTIMIZERS[optimizer], steps=1)
            assert max(along(each, count=step) for each in directions(context)) < 1e-4
        for each, (left, right), before, after in zip(
            directions(context), first, moved, products(context), strict=True
        ):
            assert torch.equal(each.left[:, :step], left[:, :step])
            assert torch.equal(each.right[:step], right[:step])
            assert each.left.shape[1] == 8
            assert (after - before).norm() > 1e-4
            # The kept directions say what they said, of the base as of earlier tasks.
            for stays in (each.main_left.double(), left[:, :step].double()):
                torch.testing.assert_close(stays.T @ after, stays.T @ before, rtol=0, atol=1e-5)
            for stays in (each.main_right.double(), right[:step].double().T):
                torch.testing.assert_close(after @ stays, before @ stays, rtol=0, atol=1e-5)
        ended(way, context)


def test_projected_gradients_alone_do_not_stay_orthogonal(store: AdapterStore) -> None:
    """What the method does without the correction of the applied update."""
    way = Way(store, replace(find_recipe("osf"), projection=None))
    context = begun(way, 0)
    assert max(map(along, directions(context))) < 1e-5
    fit(way, context, OPTIMIZERS["adamw"])
    assert max(map(along, directions(context))) > 0.05


def test_no_task_is_lost_between_two(store: AdapterStore) -> None:
    """A second adapter of the method alone starts from the bare base again."""
    way = learnt(store, find_recipe("osf"), tasks=1)
    inputs, context = training("ab").inputs, way.context(0)
    learned = context.features.current(inputs)
    context.adapted.detach()
    bare = context.features.current(inputs)
    second = begun(way, 1)
    assert second.parents == (Parent("way@1", "continued"),)
    torch.testing.assert_close(second.features.current(inputs), learned, rtol=0, atol=1e-4)
    assert (learned - bare).norm() > 0.01 * bare.norm()
    for each in directions(second):  # its own singular value decomposition, the largest first
        sizes = each.sizes.detach()
        assert torch.equal(sizes, sizes.sort(descending=True).values)
        torch.testing.assert_close(each.left.T @ each.left, torch.eye(8), rtol=0, atol=1e-5)
        torch.testing.assert_close(each.right @ each.right.T, torch.eye(8), rtol=0, atol=1e-5)


def test_the_base_keeps_every_bit(store: AdapterStore) -> None:
    module = Classifier()
    before = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    way = learnt(store, find_recipe("osf"), module=module)
    way.context(2).adapted.detach()
    after = module.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [v.ref for v in way.history] == ["way@1", "way@2", "way@3"]
    assert {v.kind for v in way.history} == {"osf"}
    assert [a["main"].ref for a in way.answers] == ["way@1", "way@2", "way@3"]


def test_what_is_stored_answers_as_what_was_trained(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("osf"))
    context, inputs = way.context(2), training("abcdef").inputs
    trained = context.features.scores(inputs)
    with context.adapted.applied(way.answers[2]["main"], context.load):
        torch.testing.assert_close(context.features.scores(inputs), trained, rtol=0, atol=1e-4)


def test_the_same_way_gives_the_same_bits(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("osf"), tasks=2)
    again = Way(store, way.recipe, history=way.history[:1])
    again.learn(1)
    assert again.history[1].fingerprint == way.history[1].fingerprint


def test_no_direction_left_is_said_by_name(store: AdapterStore) -> None:
    part = OrthogonalSubspace(growth=0.3)
    way = learnt(store, replace(find_recipe("osf"), init=part, projection=part), tasks=2)
    with pytest.raises(
        UnsupportedError,
        match=r"^training outside singular directions has none left at 'query': 10 of 8 would stay; give a",
    ):
        way.learn(2)


def test_a_spec_of_the_method_is_taken_as_it_is(store: AdapterStore) -> None:
    way = learnt(
        store, find_recipe("osf"), tasks=1, spec=AdapterSpec("osf", effective_rank=4, targets=["key"])
    )
    config = store.load("way@1").config
    assert (config["effective_rank"], config["target_modules"]) == (4, ["key"])
    assert all(d.main_left.shape == (16, 4) for d in directions(way.context(0)))


def test_what_it_cannot_do_is_refused_by_name(store: AdapterStore) -> None:
    way = Way(store, find_recipe("osf"), spec=LoraConfig(r=2))
    with pytest.raises(
        UnsupportedError, match=r"makes its own adapter; give an AdapterSpec with the targets$"
    ):
        way.learn(0)
    way = learnt(store, find_recipe("sequential-local"), tasks=1, line="lora")
    way.recipe = find_recipe("osf")
    with pytest.raises(
        UnsupportedError, match=r"works on an adapter of method 'osf' .*, not on one of kind 'lora'$"
    ):
        way.learn(1)
    with pytest.raises(UnsupportedError, match=r"not on none$"):
        singular_directions(None, "this test")
