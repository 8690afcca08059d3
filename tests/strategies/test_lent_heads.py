"""An adapter that answers with the head of another version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from strategies_tiny import Classifier, Way, examples, learnt, same

from contpeft.adapters import AdaptedModel, build_head
from contpeft.errors import BaseMismatchError, SpecError
from contpeft.spec import AdapterState, Parallel, Part, Route, Score, Single
from contpeft.spec.identity import calibration_key
from contpeft.store import AdapterStore
from contpeft.strategies import Answerer, composition_key, find_recipe, task_choice
from contpeft.strategies.calibrated import TEMPERATURE, temperature_of, temperatures

ONE, TWO = "way.one@1", "way.two@1"


@pytest.fixture
def way(store: AdapterStore) -> Way:
    return learnt(store, find_recipe("isolated"), tasks=2)


def predict(way: Way, single: Any, inputs: list[Any]) -> list[str]:
    return way.answerer().predict(single, inputs, str(inputs))


def headless(state: AdapterState) -> AdapterState:
    return replace(state, tensors=state.adapter_tensors(), head=None)


def test_the_features_of_one_are_scored_by_the_head_of_the_other(way: Way) -> None:
    inputs, _ = examples("cd", 6, seed=3)
    module = Classifier()
    AdaptedModel.of(module).attach_state(way.store.load(ONE))
    lent = way.store.load(TWO)
    assert lent.head is not None
    with torch.no_grad():
        scores = build_head(lent.head, lent.head_tensors())(module.encode(module.collate(inputs)))
    assert predict(way, Single(ONE, TWO), inputs) == [lent.head.classes[i] for i in scores.argmax(1).tolist()]


def test_a_version_with_its_own_head_lent_answers_as_ever(way: Way) -> None:
    inputs, _ = examples("ab", 6, seed=3)
    way.store.register("bare", headless(way.store.load(ONE)), base=way.store.show(ONE).base)
    assert predict(way, Single("bare@1", ONE), inputs) == predict(way, Single(ONE), inputs)
    assert predict(way, Single(ONE, ONE), inputs) == predict(way, Single(ONE), inputs)


def test_a_route_sends_rows_to_lent_heads(way: Way) -> None:
    inputs, _ = examples("abcd", 4, seed=3)
    way.store.register("bare", headless(way.store.load(ONE)), base=way.store.show(ONE).base)
    own = Route("way.lda@2", (Single(ONE), Single(TWO)))
    lent = Route("way.lda@2", (Single("bare@1", ONE), Single(TWO)))
    assert predict(way, lent, inputs) == predict(way, own, inputs)


def test_in_parallel_every_label_gets_the_mean_of_its_probabilities(way: Way) -> None:
    inputs, _ = examples("abcd", 4, seed=3)
    parallel = Parallel((Single(ONE), Single(TWO), Single(ONE)))
    one, two = (way.answerer().scores(Single(ref), inputs, "x")[0].double().softmax(1) for ref in (ONE, TWO))
    expected = ["abcd"[best] for best in torch.cat([one, two], 1).argmax(1).tolist()]
    assert predict(way, parallel, inputs) == expected
    shared = Parallel((Single(ONE), Single(TWO, ONE)))  # two adapters, one head: an ensemble
    lent = way.answerer().scores(Single(TWO, ONE), inputs, "x")[0].double().softmax(1)
    assert predict(way, shared, inputs) == ["ab"[best] for best in (one + lent).argmax(1).tolist()]
    assert task_choice(parallel, 1) == Single(TWO)


def calibrated(way: Way, part: Part, temperature: float) -> None:
    """Writes down that a temperature was measured for ``part``."""
    key = calibration_key(part, way.store.show(ONE).base, way.store.show)
    run = f"run-{len(way.store.runs())}"
    way.store.start_run(run, config={}, seed=0, tasks=[], scenario="class-incremental")
    score = Score(
        run=run,
        way="calibration",
        answer="it",
        step=0,
        task="one",
        protocol="all_classes",
        metric=TEMPERATURE,
        value=temperature,
        n=8,
        composition=key,
        data="data",
    )
    way.store.add_scores([score])


def test_probabilities_are_put_together_at_the_temperature_of_each_part(way: Way) -> None:
    base, inputs = way.store.show(ONE).base, examples("abcd", 4, seed=3)[0]
    parallel, lent = Parallel((Single(ONE), Single(TWO))), Single(TWO, ONE)
    assert temperatures(parallel, base, way.store) == ""
    calibrated(way, Single(ONE), 0.3)
    calibrated(way, Single(ONE), 40.0)  # the newest counts
    calibrated(way, lent, 0.5)
    told = [temperature_of(part, base, way.store) for part in (Single(ONE), Single(TWO), lent)]
    assert told == [40.0, None, 0.5]
    assert temperatures(parallel, base, way.store) == " at temperatures [40.0, None]"
    assert temperatures(Single(ONE), base, way.store) == ""
    context = way.context(0)
    answerer = Answerer(
        context.adapted, context.load, context.features, lambda part: temperature_of(part, base, way.store)
    )
    one, two = (answerer.scores(Single(ref), inputs, "x")[0].double() for ref in (ONE, TWO))
    mean = torch.cat([(one / 40).softmax(1), two.softmax(1)], 1)
    expected = ["abcd"[best] for best in mean.argmax(1).tolist()]
    assert answerer.predict(parallel, inputs, "x") == expected
    assert expected != predict(way, parallel, inputs)
    assert answerer.predict(Single(ONE), inputs, "x") == predict(way, Single(ONE), inputs)


def test_answering_with_a_lent_head_leaves_the_model_as_it_was(way: Way) -> None:
    before = {name: value.clone() for name, value in way.module.state_dict().items()}
    head = AdaptedModel.of(way.module).head
    predict(way, Single(ONE, TWO), examples("cd", 1, seed=3)[0])
    assert same(before, way.module.state_dict())
    assert AdaptedModel.of(way.module).head is head


def test_what_cannot_be_lent_is_refused_by_name(way: Way) -> None:
    inputs, _ = examples("ab", 1, seed=3)
    way.store.register("bare", headless(way.store.load(ONE)), base=way.store.show(ONE).base)
    for single, said in {
        Single("bare@1"): "the head of bare@1 does not know the labels of its outputs",
        Single(ONE, "bare@1"): "the head of bare@1 does not know the labels of its outputs",
        Single(ONE, "way.lda@2"): "way.lda@2 holds class statistics of the features of base, not of",
        Single("way.lda@2", ONE): "way.lda@2 holds class statistics; it answers with no other head",
    }.items():
        with pytest.raises(SpecError, match=f"^{said}"):
            predict(way, single, inputs)
    with (
        pytest.raises(SpecError, match=r"^bare@1 has no head that way\.one@1 could answer with$"),
        AdaptedModel.of(way.module).applied(Single(ONE, "bare@1"), way.context(0).load),
    ):
        pass


def test_a_head_of_another_base_is_refused(way: Way) -> None:
    other = Way(way.store, way.recipe, line="other", module=Classifier(seed=1))
    other.learn(0)
    with pytest.raises(BaseMismatchError, match=r"other\.one@1 was trained on"):
        predict(way, Single(ONE, "other.one@1"), examples("ab", 1, seed=3)[0])


def test_the_key_is_of_both_contents(way: Way) -> None:
    base, show = way.store.show(ONE).base, way.store.show
    way.store.register("copy", way.store.load(TWO), base=base)
    keys = [
        composition_key(each, base, show)
        for each in (Single(ONE, TWO), Single(ONE, "copy@1"), Single(ONE), Single(TWO), Single(TWO, ONE))
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
