"""What every recipe keeps to, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache

import pytest
import torch
from strategies_tiny import Way, examples, learnt

from contpeft.adapters import AdaptedModel
from contpeft.errors import UnsupportedError
from contpeft.spec import SCENARIOS, AdapterSpec
from contpeft.store import AdapterStore
from contpeft.strategies import RECIPES, Cosine, GatherRidge, Linear, Own, Recipe, find_recipe
from contpeft.strategies.recipes import GATING, PROMPTS

# Whose adapter does not start at nothing, or whose head is fitted after training: told in their docstrings.
STARTS_ELSEWHERE: frozenset[str] = frozenset({*PROMPTS, "osf"})
# Whose first adapter is not the plain one: none, another start or rate, frozen factors, prompts, gates.
OTHER_FIRST: frozenset[str] = frozenset(
    {"frozen-heads", "frozen-heads-linear", "slca", *PROMPTS, *GATING, "inflora", "keeplora", "osf"}
)
# Which needs layers below the adapter.
UPPER = frozenset({"latent-replay"})
TRAINED = [name for name, recipe in RECIPES.items() if recipe.init.trains(0)]


def small(name: str) -> Recipe:
    """Returns the recipe; ridge regression has fewer random features, which take most of its time."""
    recipe = find_recipe(name)
    if isinstance(recipe.consolidate, GatherRidge):
        return replace(recipe, consolidate=replace(recipe.consolidate, width=64))
    return recipe


def spec_for(name: str) -> AdapterSpec:
    layers = {"layers_to_transform": [1]} if name in UPPER else {}
    return AdapterSpec("lora", r=2, **layers)


@pytest.mark.parametrize("name", RECIPES)
def test_it_learns_answers_goes_on_from_the_store_and_leaves_the_base(store: AdapterStore, name: str) -> None:
    """A new process has nothing but the store: a fresh module, and what the steps before registered."""
    recipe = small(name)
    way, last = Way(store, recipe, line="straight", spec=spec_for(name)), 0 if recipe.joint else 2
    adapted = AdaptedModel.of(way.module)
    before, tensors = adapted.base, {n: p.detach().clone() for n, p in adapted.model.named_parameters()}
    for step in range(last):
        way.learn(step)
    known = tuple(store.show(version.ref) for version in way.history)
    resumed = Way(store, recipe, line="straight", spec=spec_for(name), history=known)
    made = way.learn(last)
    _check_answers(way, set("ab" if recipe.joint else "abcdef"))
    adapted.detach()
    assert adapted.verify_base() == before
    assert {version.base.fingerprint for version in way.history} == {before.fingerprint}
    assert all(torch.equal(p, tensors[n]) for n, p in adapted.model.named_parameters())
    assert [v.fingerprint for v in resumed.learn(last)] == [v.fingerprint for v in made]


def _check_answers(way: Way, known: set[str]) -> None:
    inputs = examples(sorted(known), 2, seed=5)[0]
    for label, composition in way.answers[-1].items():
        answered = way.answerer().predict(composition, inputs, label)
        assert len(answered) == len(inputs)
        assert set(answered) <= known


@pytest.mark.parametrize("name", sorted(set(TRAINED) - STARTS_ELSEWHERE))
def test_attaching_changes_no_feature(store: AdapterStore, name: str) -> None:
    way = Way(store, find_recipe(name), spec=spec_for(name))
    inputs = examples("ab", 6, seed=9)[0]
    bare = Way(store, Recipe()).context(0).features.current(inputs)
    assert torch.equal(way.started(0).features.current(inputs), bare)


@pytest.fixture(scope="module")
def plain_fingerprint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Returns, by head and spec, the fingerprint of a task learnt by plain LoRA."""
    with closing(AdapterStore(tmp_path_factory.mktemp("plain"))) as store:
        yield cache(
            lambda head, spec: learnt(store, Recipe(head=head), tasks=1, spec=spec).history[0].fingerprint
        )


@pytest.mark.parametrize("name", sorted(set(TRAINED) - OTHER_FIRST))
def test_with_one_task_every_recipe_is_plain_lora(
    store: AdapterStore, plain_fingerprint: Callable[..., str], name: str
) -> None:
    recipe = find_recipe(name)
    alone = (
        replace(recipe.head, grow=False, local=False) if isinstance(recipe.head, Cosine | Linear) else Own()
    )
    made = learnt(store, recipe, tasks=1, spec=spec_for(name)).history[0]
    assert made.fingerprint == plain_fingerprint(alone, spec_for(name))


@pytest.mark.parametrize("name", RECIPES)
def test_what_it_cannot_serve_is_refused_by_name(name: str) -> None:
    recipe = find_recipe(name)
    for scenario in SCENARIOS:
        if scenario in recipe.serves:
            recipe.check_serves(scenario, name)
        else:
            with pytest.raises(
                UnsupportedError, match=rf"^strategy '{name}' cannot serve a {scenario} stream; it serves"
            ):
                recipe.check_serves(scenario, name)


def test_a_recipe_that_serves_not_everything_says_so() -> None:
    recipe = replace(Recipe(head=Cosine()), serves=frozenset({"task-incremental"}))
    with pytest.raises(
        UnsupportedError,
        match=r"^strategy 'mine' cannot serve a class-incremental stream; it serves task-incremental$",
    ):
        recipe.check_serves("class-incremental", "mine")
