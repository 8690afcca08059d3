"""Moving averages of an adapter: LAE's ensemble, and the average alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from strategies_tiny import Way, learnt, same, training
from torch import Tensor

from contpeft.adapters import stored_factors
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import Parallel, Single, composition_from_json
from contpeft.store import AdapterStore
from contpeft.strategies import (
    Calibrate,
    Each,
    Follow,
    KeepAverage,
    Recipe,
    TrainingData,
    find_recipe,
    task_choice,
)
from contpeft.strategies.averages import averages, live_values, stored_values, with_averages

LAE, EMA = find_recipe("lae"), find_recipe("ema")


def lae(follow: Follow, share: float = 0.0, keep: KeepAverage | None = None) -> Recipe:
    parts = Each((Calibrate(share), follow))
    return replace(LAE, projection=parts, consolidate=keep or KeepAverage(follow.space))


def own(store: AdapterStore, ref: str) -> dict[str, Tensor]:
    return store.load(ref).adapter_tensors()


def deltas(store: AdapterStore, ref: str) -> dict[str, np.ndarray[Any, Any]]:
    return {m: f.delta().double().numpy() for m, f in stored_factors(store.load(ref), "a test").items()}


def followed(store: AdapterStore, follow: Follow) -> tuple[Way, list[dict[str, Tensor]]]:
    """Returns a way whose second task was trained, and what was averaged after each of its steps."""
    visited: list[dict[str, Tensor]] = []

    class Watched(Follow):
        def project(self, context: Any, before: Any) -> None:
            super().project(context, before)
            visited.append({name: each.clone() for name, each in live_values(context, self.space).items()})

    way = learnt(store, lae(follow), tasks=1)
    way.recipe = lae(Watched(follow.decay, follow.half_life, follow.space))
    way.learn(1)
    return way, visited


# --- the average ----------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["factors", "delta"])
def test_the_average_is_the_weighted_sum_of_all_steps(store: AdapterStore, space: Any) -> None:
    _, visited = followed(store, Follow(0.8, space=space))
    start = stored_values(store.load("way.average@1"), space)
    n = len(visited)
    found = stored_values(store.load("way.average@2"), space)
    for name, first in start.items():
        expected = 0.8**n * first.double().numpy()
        for step, each in enumerate(visited):
            expected = expected + 0.2 * 0.8 ** (n - 1 - step) * each[name].double().numpy()
        np.testing.assert_allclose(found[name].double().numpy(), expected, atol=2e-6)


def test_the_average_stays_within_what_was_visited(store: AdapterStore) -> None:
    _, visited = followed(store, Follow(0.7))
    start, found = own(store, "way.average@1"), own(store, "way.average@2")
    for name, first in start.items():
        path = torch.stack([first, *(each[name] for each in visited)])
        assert (found[name] >= path.amin(0) - 1e-7).all()
        assert (found[name] <= path.amax(0) + 1e-7).all()


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 1.0])
def test_the_average_of_what_stands_still_is_that_to_the_last_bit(store: AdapterStore, decay: float) -> None:
    way = learnt(store, LAE, tasks=1)
    context = way.started(1)
    for _ in range(5):
        Follow(decay).project(context, {})
    assert same(averages(context), own(store, "way@1"))


def test_what_drifts_evenly_is_followed_in_closed_form(store: AdapterStore) -> None:
    way = learnt(store, LAE, tasks=1)
    context = way.started(1)
    start = {name: each.clone() for name, each in live_values(context, "factors").items()}
    n, d, drift = 12, 0.75, 0.01
    for _ in range(n):
        with torch.no_grad():
            for parameter in context.own_parameters.values():
                parameter.add_(drift)
        Follow(d).project(context, {})
    behind = drift * (n - d * (1 - d**n) / (1 - d))
    for name, average in averages(context).items():
        torch.testing.assert_close(average, start[name] + behind, atol=1e-6, rtol=0)


def test_decay_one_keeps_the_first_tasks_adapter(store: AdapterStore) -> None:
    learnt(store, lae(Follow(1.0)), tasks=3)
    assert same(own(store, "way.average@3"), own(store, "way@1"))
    assert not same(own(store, "way@3"), own(store, "way@1"))


def test_after_a_half_life_half_is_left(store: AdapterStore) -> None:
    way = learnt(store, LAE, tasks=1)
    context = way.started(1)
    context.steps.planned = 7
    with torch.no_grad():
        for parameter in context.own_parameters.values():
            parameter.zero_()
    for _ in range(14):
        Follow(half_life=2.0).project(context, {})
    start = own(store, "way@1")
    for name, average in averages(context).items():
        torch.testing.assert_close(average, start[name] / 2)


def test_the_average_never_gets_a_gradient(store: AdapterStore) -> None:
    way = learnt(store, lae(Follow(0.5)), tasks=1)
    context = way.started(1)
    way.train(context)
    assert averages(context)
    for tensor in context.working.values():
        assert not tensor.requires_grad
        assert tensor.grad is None
    assert not {id(t) for t in context.working.values()} & {
        id(p) for p in context.adapted.module.parameters()
    }


def test_a_resumed_fit_goes_on_with_the_average(store: AdapterStore) -> None:
    way = learnt(store, LAE, tasks=1)

    def moved(context: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            for parameter in context.own_parameters.values():
                parameter.add_(1.0)
        Follow(0.5).project(context, {})
        return averages(context)

    straight = way.started(1)
    moved(straight)
    kept = dict(straight.working)  # what a checkpoint holds
    before = {name: tensor.clone() for name, tensor in kept.items()}
    expected = moved(straight)
    resumed = way.started(1)
    resumed.working.update(kept)
    with torch.no_grad():
        for parameter in resumed.own_parameters.values():
            parameter.add_(1.0)
    assert same(moved(resumed), expected)
    assert same(kept, before)


# --- averages of products -------------------------------------------------------------------------


def test_the_exact_average_of_products_is_stored(store: AdapterStore) -> None:
    way, visited = followed(store, Follow(0.6, space="delta"))
    expected = deltas(store, "way.average@1")
    for each in visited:
        expected = {name: 0.6 * value + 0.4 * each[name].double().numpy() for name, value in expected.items()}
    found = deltas(store, "way.average@2")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)
    assert store.show("way.average@2").recipe == {"average": "delta", "lost": 0.0}
    way.learn(2)  # such a version is followed on, too
    context = way.context(2)
    with context.adapted.applied(Single("way.average@3"), context.load):
        assert torch.isfinite(context.features.scores(training("ab").inputs)).all()


def test_products_are_averaged_otherwise_than_factors(store: AdapterStore) -> None:
    for space in ("factors", "delta"):
        learnt(store, lae(Follow(0.6, space=space)), tasks=2, line=space)  # type: ignore[arg-type]
    left, right = deltas(store, "factors.average@2"), deltas(store, "delta.average@2")
    assert max(float(np.abs(left[name] - right[name]).max()) for name in left) > 1e-4


def test_a_cut_tells_what_it_lost(store: AdapterStore) -> None:
    way = learnt(store, lae(Follow(0.6, space="delta")), tasks=1)
    context = way.started(1)
    way.train(context)
    state, values = context.state(), averages(context)
    whole, exact = with_averages(state, values, "delta", None)
    cut, told = with_averages(state, values, "delta", 1)
    lost = total = 0.0
    for value in values.values():
        s = np.linalg.svd(value.double().numpy(), compute_uv=False)
        lost, total = lost + float((s[1:] ** 2).sum()), total + float((s**2).sum())
    assert exact == {"lost": 0.0}
    assert told["lost"] == pytest.approx(lost / total, rel=1e-6)
    assert {f.down.shape[0] for f in stored_factors(cut, "a test").values()} == {1}
    assert cut.head_tensors().keys() == whole.head_tensors().keys() == state.head_tensors().keys()


# --- the recipes ----------------------------------------------------------------------------------


def test_without_decay_and_calibration_lae_is_training_on_and_on(store: AdapterStore) -> None:
    learnt(store, lae(Follow(0.0)), line="lae")
    learnt(store, find_recipe("sequential-local"), line="plain")
    for n in (1, 2, 3):
        plain = store.load(f"plain@{n}").tensors
        assert same(store.load(f"lae@{n}").tensors, plain)
        assert same(store.load(f"lae.average@{n}").tensors, plain)


def test_without_decay_ema_is_training_on_and_on(store: AdapterStore) -> None:
    learnt(store, replace(EMA, projection=Follow(0.0)), line="ema")
    learnt(store, find_recipe("sequential"), line="plain")
    for n in (1, 2, 3):
        assert same(store.load(f"ema.average@{n}").tensors, store.load(f"plain@{n}").tensors)


@pytest.mark.parametrize(("name", "parent"), [("lae", "sequential-local"), ("ema", "sequential")])
def test_one_task_is_learnt_as_without_an_average(store: AdapterStore, name: str, parent: str) -> None:
    learnt(store, find_recipe(name), tasks=1, line="own")
    learnt(store, find_recipe(parent), tasks=1, line="plain")
    plain = store.load("plain@1").tensors
    assert same(store.load("own@1").tensors, plain)
    assert same(store.load("own.average@1").tensors, plain)


def test_calibration_holds_the_adapter_and_lets_the_head_learn(store: AdapterStore) -> None:
    way = learnt(store, lae(Follow(0.5), share=1.0), tasks=2)
    assert same(own(store, "way@2"), own(store, "way@1"))
    first, second = (store.load(f"way@{n}").head_tensors()["weight"] for n in (1, 2))
    assert torch.equal(second[:2], first)
    started = Way(store, LAE, history=way.history[:2]).started(1).adapted.head.rows("weight")
    assert not torch.equal(second[2:], started[2:])


def test_calibration_ends_after_its_share_of_the_steps(store: AdapterStore) -> None:
    way = learnt(store, LAE, tasks=1)
    context = way.started(1)
    context.steps.planned = 10
    moved = []
    for done in range(1, 11):
        context.steps.done = done
        before = {name: p.detach().clone() for name, p in context.own_parameters.items()}
        with torch.no_grad():
            for parameter in context.own_parameters.values():
                parameter.add_(1.0)
        Calibrate(0.6).project(context, before)
        moved.append(not same(before, {n: p.detach() for n, p in context.own_parameters.items()}))
    assert moved == [False] * 6 + [True] * 4


def test_an_interrupted_way_goes_on_with_the_same_bytes(store: AdapterStore) -> None:
    for recipe, line in ((LAE, "lae"), (EMA, "ema")):
        straight = learnt(store, recipe, line=line)
        again = AdapterStore(store.path)
        history = tuple(again.show(version.ref) for version in straight.history[:4])
        resumed = Way(again, recipe, line, history=history)
        assert [v.ref for v in resumed.learn(2)] == [f"{line}@3", f"{line}.average@3"]
        again.close()


# --- answers --------------------------------------------------------------------------------------


def test_both_answer_by_the_larger_probability(store: AdapterStore) -> None:
    way = learnt(store, lae(Follow(0.9)), tasks=2)
    online, average = Single("way@2"), Single("way.average@2")
    both = Parallel((online, average), by="max")
    assert way.answers[1] == {"main": both, "online": online, "average": average}
    words = np.random.default_rng(0).integers(0, 64, (200, 6)).tolist()
    data = TrainingData([tuple(each) for each in words], ["a"] * 200, "random words")
    answerer = way.answerer()
    scored = [
        answerer.scores(each, data.inputs, data.digest)[0].double().numpy() for each in (online, average)
    ]
    exps = [np.exp(each - each.max(1, keepdims=True)) for each in scored]
    each_says = [each / each.sum(1, keepdims=True) for each in exps]
    best = np.maximum(*each_says).argmax(1)
    assert (best != np.minimum(*each_says).argmax(1)).any()
    assert answerer.predict(both, data.inputs, data.digest) == ["abcd"[i] for i in best]


def test_two_of_the_same_answer_as_one(store: AdapterStore) -> None:
    way = learnt(store, LAE, tasks=1)
    data = training("ab", n=20, seed=3)
    answer = [
        way.answerer().predict(each, data.inputs, data.digest)
        for each in (way.answers[0]["main"], Single("way@1"))
    ]
    assert answer[0] == answer[1]


def test_an_ensemble_answers_where_the_task_is_known(store: AdapterStore) -> None:
    both = Parallel((Single("a@1"), Single("b@1")), by="max")
    assert task_choice(both, 7) == both
    assert task_choice(Parallel(both.choices), 1) == Single("b@1")


def test_parallel_by_the_mean_is_written_as_it_was() -> None:
    choices = (Single("a@1"), Single("b@1"))
    told = {
        "type": "parallel",
        "choices": [{"type": "single", "ref": "a@1"}, {"type": "single", "ref": "b@1"}],
    }
    assert Parallel(choices).to_json() == told
    assert Parallel(choices, by="max").to_json() == {**told, "by": "max"}
    for each in (Parallel(choices), Parallel(choices, by="max")):
        assert composition_from_json(each.to_json()) == each
    assert Parallel(choices).digest(str) != Parallel(choices, by="max").digest(str)
    assert str(Parallel(choices, by="max")) == "parallel by max(a@1, b@1)"
    with pytest.raises(SpecError, match="cannot be put together by 'maks'; there are: max, mean"):
        Parallel(choices, by="maks")  # type: ignore[arg-type]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "named"), [(Follow(), "a half-life"), (Calibrate(), "calibration")])
def test_a_fit_without_an_end_is_refused(store: AdapterStore, part: Any, named: str) -> None:
    context = learnt(store, LAE, tasks=1).started(1)
    with pytest.raises(UnsupportedError, match=f"^{named} .*no planned end; set max_epochs"):
        part.project(context, {})


def test_an_average_of_nothing_trained_is_refused(store: AdapterStore) -> None:
    with pytest.raises(UnsupportedError, match="this recipe trains none"):
        KeepAverage().end(Way(store, LAE).started(0), None)


@pytest.mark.parametrize(("made", "kept"), [("factors", "delta"), ("delta", "factors")])
def test_an_average_that_was_made_in_another_space_is_refused(
    store: AdapterStore, made: Any, kept: Any
) -> None:
    way = learnt(store, lae(Follow(0.6, space=made), keep=KeepAverage(kept)), tasks=1)
    with pytest.raises(
        SpecError, match=rf"no average in the space '{kept}'; give Follow and KeepAverage one"
    ):
        way.learn(1)
