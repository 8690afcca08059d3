"""Isolated adapters under every router: nothing is forgotten, and what is lost is lost by the route."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from strategies_tiny import LENGTH, TASKS, Classifier, Way, examples, learnt

from contpeft.adapters import StatisticsHead
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, Arrow, Composition, Route, Single, Sum, Surest, Version
from contpeft.store import AdapterStore
from contpeft.strategies import (
    RECIPES,
    Context,
    Cosine,
    Fresh,
    GatherRidge,
    GatherStatistics,
    KeepFeatures,
    Recipe,
    Then,
    find_recipe,
    task_choice,
)
from contpeft.strategies.recipes import ISOLATION
from contpeft.strategies.sureness import likeliest

NAMES = sorted({*ISOLATION} - {"isolated-linear"})
RULES = {
    "prototype": "class-means",
    "mahalanobis": "mahalanobis",
    "oas": "oas",
    "ridge": "ridge",
    "gate": "gate",
}
EVERY_ROUTER = Recipe(
    init=Fresh(),
    head=Cosine(),
    consolidate=Then(
        (
            GatherStatistics(rules=("class-means", "lda", "mahalanobis", "oas")),
            GatherRidge(width=32),
            KeepFeatures("gate"),
            KeepFeatures("nearest"),
        )
    ),
)


@dataclass(frozen=True)
class EveryAnswer:
    """What each recipe answers, over the same adapters."""

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        return {name: ISOLATION[name].answers.route(context, registered)["main"] for name in NAMES}


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Way:
    store = AdapterStore(tmp_path_factory.mktemp("ways") / "store")
    return learnt(store, replace(EVERY_ROUTER, answers=EveryAnswer()))


def predict(way: Way, composition: Any, inputs: list[Any], among: Any = None) -> list[str]:
    return way.answerer().predict(composition, inputs, str(inputs), among)


def accuracy(answered: list[str], labels: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(answered, labels, strict=True)]))


def test_all_recipes_are_found() -> None:
    asked = (
        "prototype",
        "ridge",
        "mahalanobis",
        "confidence",
        "energy",
        "soft",
        "arrow",
        "gate",
        "retrieval",
    )
    assert {f"isolated-{each}" for each in asked} <= set(RECIPES)


@pytest.mark.parametrize("name", NAMES)
def test_with_the_task_known_later_tasks_change_no_bit(way: Way, name: str) -> None:
    inputs = examples("ab", 5, seed=3)[0]
    answerer = way.answerer()
    early, late = (task_choice(way.answers[step][name], 0) for step in (0, 2))
    assert early == late == Single("way.one@1")
    assert torch.equal(answerer.scores(early, inputs, "x")[0], answerer.scores(late, inputs, "x")[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_answered_alike_in_any_company(way: Way, name: str) -> None:
    inputs, _ = examples("abcdef", 1, seed=4)
    answer = way.answers[2][name]
    together = predict(way, answer, inputs)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).tolist()
    assert predict(way, answer, [inputs[i] for i in order]) == [together[i] for i in order]
    assert [predict(way, answer, [each])[0] for each in inputs] == together


@pytest.mark.parametrize("name", NAMES)
def test_with_one_task_every_router_is_its_adapter(way: Way, name: str) -> None:
    inputs = examples("abcdef", 3, seed=6)[0]
    assert predict(way, way.answers[0][name], inputs) == predict(way, Single("way.one@1"), inputs)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"isolated-arrow", "isolated-retrieval", "isolated-soft"}))
def test_inferring_the_task_never_beats_knowing_it(way: Way, name: str) -> None:
    answer = way.answers[2][name]
    for group, task in enumerate(TASKS):
        inputs, labels = examples(task.classes, 15, seed=8)
        free = predict(way, answer, inputs)
        known = predict(way, task_choice(answer, group), inputs, task.classes)
        routed = [label in task.classes for label in free]
        both = [r and k == label for r, k, label in zip(routed, known, labels, strict=True)]
        # Disjoint labels: right without the task is routed right, and right with it.
        assert accuracy(free, labels) == float(np.mean(both))
        assert accuracy(free, labels) <= accuracy(known, labels)


@pytest.mark.parametrize("name", sorted(RULES))
def test_learning_a_task_leaves_what_is_stored_of_others(way: Way, name: str) -> None:
    rule = RULES[name]
    states = [way.store.load(f"way.{rule}@{n}") for n in (1, 2, 3)]
    known = [state.head_tensors() for state in states]
    rows = {"ridge": "targets", "gate": "features"}.get(rule, "means")
    for earlier, later in pairwise(known):
        if rows == "targets":
            assert torch.equal(later[rows][:, : earlier[rows].shape[1]], earlier[rows])
        else:
            assert torch.equal(later[rows][: len(earlier[rows])], earlier[rows])
    assert states[2].head.options["groups"] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_route_goes_by_its_statistics(way: Way, name: str) -> None:
    route, (inputs, labels) = way.answers[2][f"isolated-{name}"], examples("abcdef", 10, seed=5)
    assert isinstance(route, Route)
    state = way.store.load(route.router)
    features = way.context(0).features.base(inputs, str(inputs))
    choices = StatisticsHead(state.head, state.head_tensors()).route(features).tolist()
    own = [predict(way, choice, inputs) for choice in route.choices]
    assert predict(way, route, inputs) == [own[choice][row] for row, choice in enumerate(choices)]
    right = [TASKS[choice].classes for choice in choices]
    assert (
        accuracy(
            ["" if label not in task else label for label, task in zip(labels, right, strict=True)], labels
        )
        > 0.7
    )


class TestTheSurest:
    @pytest.mark.parametrize("by", ["confidence", "energy"])
    def test_it_is_the_choice_of_the_highest_sureness(self, way: Way, by: str) -> None:
        inputs, _ = examples("abcdef", 5, seed=5)
        surest = replace(way.answers[2]["isolated-energy"], by=by)
        told = [way.answerer().scores(choice, inputs, "x")[0].double().numpy() for choice in surest.choices]
        shifted = [np.exp(scores) for scores in told]
        sure = [e.max(1) / e.sum(1) if by == "confidence" else np.log(e.sum(1)) for e in shifted]
        chosen = np.stack(sure).argmax(0)
        expected = [TASKS[k].classes[told[k][row].argmax()] for row, k in enumerate(chosen)]
        assert predict(way, surest, inputs) == expected

    def test_temperatures_count(self, way: Way) -> None:
        inputs, _ = examples("abcdef", 5, seed=5)
        surest = way.answers[2]["isolated-energy"]
        answerer = way.answerer()
        answerer._temperature = lambda part: 40.0 if part == surest.choices[1] else None
        told = [answerer.scores(choice, inputs, "x")[0].double() for choice in surest.choices]
        sure = [t * (scores / t).logsumexp(1) for scores, t in zip(told, (1.0, 40.0, 1.0), strict=True)]
        chosen = torch.stack(sure).argmax(0).tolist()
        expected = [TASKS[k].classes[int(told[k][row].argmax())] for row, k in enumerate(chosen)]
        assert answerer.predict(surest, inputs, "x") == expected != predict(way, surest, inputs)


class TestMixtures:
    def test_of_one_it_is_the_route(self, way: Way) -> None:
        inputs, _ = examples("abcdef", 6, seed=5)
        mix = way.answers[2]["isolated-soft"]
        assert predict(way, replace(mix, top=1), inputs) == predict(
            way, Route(mix.router, mix.choices), inputs
        )
        cold = replace(mix, top=3, temperature=1e-6)
        assert predict(way, cold, inputs) == predict(way, Route(mix.router, mix.choices), inputs)

    def test_of_one_in_two_it_is_the_weighted_sum(self, way: Way) -> None:
        """One row alone: its mixture is a sum with its weights, which a hook-free model computes too."""
        inputs, _ = examples("c", 1, seed=5)
        mix, answerer = way.answers[2]["isolated-soft"], way.answerer()
        fits = answerer.task_scores(mix.router, inputs, "x")[0]
        best = fits.topk(2).indices.tolist()
        weights = (fits[best] / mix.temperature).softmax(0).tolist()
        expected: dict[str, float] = {}
        parts = tuple((mix.choices[k].ref, w) for k, w in zip(best, weights, strict=True))
        for k, weight in zip(best, weights, strict=True):
            total = Sum(parts, mix.choices[k].ref)
            scores, labels = answerer.scores(total, inputs, "x")
            for label, value in zip(labels, scores[0].double().softmax(0).tolist(), strict=True):
                expected[label] = weight * value
        found, labels = answerer._together(mix, inputs, "x")
        told = dict(zip(labels, found[0].tolist(), strict=True))
        assert all(told[label] == pytest.approx(value, abs=1e-5) for label, value in expected.items())
        assert sum(told.values()) == pytest.approx(1.0)

    def test_equal_adapters_mixed_by_arrow_are_that_adapter(self, way: Way) -> None:
        inputs, _ = examples("abcdef", 4, seed=5)
        one = Single("way.one@1")
        for top in (1, 2, 4):
            assert predict(way, Arrow((one, one, one), top), inputs) == predict(way, one, inputs)

    def test_arrow_weighs_by_the_cosine_of_directions(self, way: Way) -> None:
        scores = torch.tensor([[[0.2, 0.9, 0.5]]])
        weights = likeliest(scores, 2, 0.1)
        kept = np.exp(np.array([9.0, 5.0]))
        np.testing.assert_allclose(weights[0, 0].numpy(), [0, *(kept / kept.sum())], rtol=1e-5)
        assert likeliest(scores, 9, 0.1).sum() == pytest.approx(1.0)

    def test_only_lora_is_mixed(self, store: AdapterStore) -> None:
        way = learnt(
            store, find_recipe("isolated-soft"), tasks=2, spec=AdapterSpec("houlsby", reduction_factor=4)
        )
        with pytest.raises(UnsupportedError, match=r"^method 'houlsby' is no sum of low-rank updates; only"):
            predict(way, way.answers[1]["main"], [(1,) * LENGTH])


def test_statistics_tell_their_size(way: Way) -> None:
    sizes = {v.ref: v.bytes for v in way.history if not v.adapts}
    assert sizes["way.ridge@1"] < sizes["way.ridge@3"]
    assert sizes["way.gate@3"] - sizes["way.gate@2"] > 2 * 8 * 8 * 16  # eight features of 16 for two classes


def test_a_resumed_way_registers_the_same(store: AdapterStore, way: Way) -> None:
    again = Way(store, EVERY_ROUTER)
    for step in range(2):
        again.module = Classifier()  # as in a new process
        again.learn(step)
    assert [v.fingerprint for v in again.history] == [
        v.fingerprint for v in way.history[: len(again.history)]
    ]


def test_the_surest_too_may_know_none_of_the_labels(way: Way) -> None:
    answer = way.answers[2]["isolated-confidence"]
    assert isinstance(answer, Surest)
    with pytest.raises(SpecError, match=r"^way\.\w+@1 answers none of: z; it knows"):
        predict(way, answer, examples("abcdef", 2, seed=1)[0], ("z",))
