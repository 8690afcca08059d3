"""What compositions answer, and the names under which answers are cached."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_tiny import LENGTH, TASKS, Classifier, Way, examples, learnt

from contpeft.adapters import AdaptedModel, StatisticsHead
from contpeft.errors import BaseMismatchError, SpecError
from contpeft.spec import AdapterSpec, AdapterState, Base, BaseModel, HeadSpec, Route, Single, Version
from contpeft.store import AdapterStore
from contpeft.strategies import (
    Answerer,
    Features,
    Recipe,
    best_labels,
    composition_key,
    find_recipe,
    state_key,
    task_choice,
)

SENTENCES = st.lists(st.tuples(*[st.integers(0, 63)] * LENGTH), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Way]:
    """Three tasks learnt in every way, in one store."""
    store = AdapterStore(tmp_path_factory.mktemp("ways") / "store")
    return {
        name: learnt(store, find_recipe(name), line=name) for name in ("isolated", "sequential", "frozen")
    }


def predict(way: Way, composition: Any, inputs: list[Any], among: Any = None) -> list[str]:
    return way.answerer().predict(composition, inputs, str(inputs), among)


class TestAnswers:
    def test_a_routed_row_is_answered_by_its_own_choice(self, ways: dict[str, Way]) -> None:
        way = ways["isolated"]
        route = way.answers[2]["main"]
        inputs, _ = examples("abcdef", 6, seed=5)
        state = way.store.load(route.router)
        head = StatisticsHead(state.head, state.head_tensors())
        with torch.no_grad():
            choices = head.route(Classifier().encode(Classifier().collate(inputs))).tolist()
        assert set(choices) == {0, 1, 2}
        own = [predict(way, choice, inputs) for choice in route.choices]
        assert predict(way, route, inputs) == [own[choice][row] for row, choice in enumerate(choices)]

    def test_routing_finds_the_task(self, ways: dict[str, Way]) -> None:
        inputs, labels = examples("abcdef", 6, seed=5)
        answered = predict(ways["isolated"], ways["isolated"].answers[2]["main"], inputs)
        assert sum(a == b for a, b in zip(answered, labels, strict=True)) / len(labels) > 0.7

    @settings(max_examples=12)
    @given(SENTENCES, st.randoms())
    def test_a_row_is_answered_alike_in_any_company(
        self, ways: dict[str, Way], inputs: list[Any], random: Any
    ) -> None:
        way = ways["isolated"]
        route = way.answers[2]["main"]
        together = predict(way, route, inputs)
        order = list(range(len(inputs)))
        random.shuffle(order)
        assert predict(way, route, [inputs[i] for i in order]) == [together[i] for i in order]
        assert [predict(way, route, [each])[0] for each in inputs] == together

    @settings(max_examples=12)
    @given(SENTENCES, st.sampled_from(["isolated", "sequential", "frozen"]), st.data())
    def test_knowing_the_task_never_hurts(
        self, ways: dict[str, Way], inputs: list[Any], name: str, data: st.DataObject
    ) -> None:
        """With disjoint labels, whoever is right among all classes is right among the task's own."""
        way = ways[name]
        for composition in way.answers[2].values():
            for group, task in enumerate(TASKS):
                labels = data.draw(
                    st.lists(st.sampled_from(task.classes), min_size=len(inputs), max_size=len(inputs))
                )
                unaware = predict(way, composition, inputs)
                aware = predict(way, task_choice(composition, group), inputs, task.classes)
                for label, one, other in zip(labels, unaware, aware, strict=True):
                    assert other == label or one != label
                assert set(aware) <= set(task.classes)

    def test_with_one_task_the_route_is_its_adapter(self, ways: dict[str, Way]) -> None:
        way = ways["isolated"]
        inputs, _ = examples("abcdef", 3, seed=6)
        assert predict(way, way.answers[0]["main"], inputs) == predict(way, Single("isolated.one@1"), inputs)

    def test_answering_leaves_the_model_as_it_was(self, ways: dict[str, Way]) -> None:
        way = ways["isolated"]
        adapted = AdaptedModel.of(way.module)
        attachment, head = adapted.attachment, adapted.head
        modes = [each.training for each in way.module.modules()]
        predict(way, way.answers[2]["main"], examples("abcdef", 2, seed=7)[0])
        assert adapted.attachment is attachment
        assert attachment.installed
        assert adapted.head is head
        assert [each.training for each in way.module.modules()] == modes


class TestRefusals:
    def test_the_bare_base_has_no_head(self, ways: dict[str, Way]) -> None:
        with pytest.raises(
            SpecError, match=r"^the bare base has no head to answer with; compose a stored version$"
        ):
            predict(ways["isolated"], Base(), [(1,) * LENGTH])

    def test_classes_nobody_knows(self, ways: dict[str, Way]) -> None:
        message = r"^isolated.one@1 answers none of: y, z; it knows: a, b$"
        with pytest.raises(SpecError, match=message):
            predict(ways["isolated"], Single("isolated.one@1"), [(1,) * LENGTH], ("y", "z"))

    def test_a_router_must_be_class_statistics(self, ways: dict[str, Way]) -> None:
        route = Route("isolated.one@1", (Single("isolated.one@1"),))
        with pytest.raises(SpecError, match=r"^isolated.one@1 holds no class statistics; it cannot infer"):
            predict(ways["isolated"], route, [(1,) * LENGTH])

    def test_a_route_needs_a_choice_for_every_task_of_its_router(self, ways: dict[str, Way]) -> None:
        inputs, _ = examples("f", 5, seed=0)
        route = Route("isolated.lda@3", (Single("isolated.one@1"), Single("isolated.two@1")))
        with pytest.raises(
            SpecError, match=r"^isolated.lda@3 tells 3 tasks apart, the route has 2 choices; give"
        ):
            predict(ways["isolated"], route, inputs)

    def test_a_head_without_labels(self, store: AdapterStore) -> None:
        way = Way(store, Recipe())
        context = way.started(0)
        store.register("mute", context.adapted.state(), base=context.adapted.base)
        with pytest.raises(SpecError, match=r"^the head of mute@1 does not know the labels of its outputs$"):
            predict(way, Single("mute@1"), [(1,) * LENGTH])

    @pytest.mark.parametrize("name", ["isolated", "frozen"])
    def test_versions_of_another_base(self, ways: dict[str, Way], name: str) -> None:
        way = Way(ways[name].store, ways[name].recipe, module=Classifier(seed=1))
        for composition in ways[name].answers[2].values():
            with pytest.raises(BaseMismatchError, match="was trained on 'BertModel'"):
                predict(way, composition, [(1,) * LENGTH])


def test_the_best_label_of_each_row() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])
    assert best_labels(scores, ("a", "b", "c"), None, "it") == ["b", "a"]
    assert best_labels(scores, ("a", "b", "c"), ("c", "a"), "it") == ["c", "a"]
    assert best_labels(scores, ("a", "b", "c"), ("c", "unseen"), "it") == ["c", "c"]


def test_the_choice_of_a_known_task() -> None:
    route = Route("r@1", (Single("a@1"), Single("b@1")))
    assert task_choice(route, 1) == Single("b@1")
    assert task_choice(Single("a@1"), 1) == Single("a@1")
    assert task_choice(Base(), 0) == Base()


class TestKeys:
    @pytest.fixture
    def state(self, store: AdapterStore) -> AdapterState:
        return Way(store, find_recipe("isolated")).started(0).adapted.state()

    @pytest.fixture
    def key(self, store: AdapterStore) -> Any:
        def of(ref: str, module: Any = None, reads: str = "") -> str:
            base = AdaptedModel.of(module or Classifier()).base
            return composition_key(Single(ref), base, store.show, reads)

        return of

    def register(self, store: AdapterStore, name: str, state: AdapterState) -> str:
        return store.register(name, state, base=AdaptedModel.of(Classifier()).base).ref

    def test_equal_adapters_have_an_equal_key_whatever_they_are_called(
        self, store: AdapterStore, state: AdapterState, key: Any
    ) -> None:
        refs = [self.register(store, name, state) for name in ("first", "second")]
        keys = {key(ref) for ref in refs}
        assert len(keys) == 1
        route = [
            composition_key(Route(ref, (Single(ref),)), AdaptedModel.of(Classifier()).base, store.show)
            for ref in refs
        ]
        assert len({*route, *keys}) == 2

    def test_whatever_changes_the_answer_changes_the_key(
        self, store: AdapterStore, state: AdapterState, key: Any
    ) -> None:
        moved = {name: tensor + 1 for name, tensor in state.tensors.items()}
        louder = {**state.config, "lora_alpha": 99}
        head = HeadSpec("cosine", state.head.classes, {"scale": 1.0})
        renamed = HeadSpec("cosine", ("b", "a"), state.head.options)
        others = {
            "weights": AdapterState(state.kind, state.config, moved, state.head),
            "config": AdapterState(state.kind, louder, state.tensors, state.head),
            "head": AdapterState(state.kind, state.config, state.tensors, head),
            "labels": AdapterState(state.kind, state.config, state.tensors, renamed),
        }
        keys = [key(self.register(store, "plain", state))]
        keys += [key(self.register(store, name, other)) for name, other in others.items()]
        keys += [key("plain@1", reads="16 tokens"), key("plain@1", Classifier(seed=1))]
        base = AdaptedModel.of(Classifier()).base
        keys += [composition_key(Base(), base, store.show)]
        assert len(set(keys)) == len(keys) == 8

    def test_a_state_has_the_key_it_will_have_as_a_version(
        self, store: AdapterStore, state: AdapterState, key: Any
    ) -> None:
        base = AdaptedModel.of(Classifier()).base
        expected = {reads: state_key(state, base, reads) for reads in ("", "16 tokens")}
        ref = self.register(store, "later", state)
        assert {reads: key(ref, reads=reads) for reads in expected} == expected
        assert state_key(None, base, "x") == composition_key(Base(), base, store.show, "x")

    @pytest.mark.parametrize("method", ["ia3", "loha", "vera"])
    def test_so_has_any_method(self, store: AdapterStore, method: str, key: Any) -> None:
        options = {"r": 2} if method != "ia3" else {}
        way = Way(store, Recipe(), spec=AdapterSpec(method, **options))
        state = way.started(0).adapted.state(("a", "b"))
        expected = state_key(state, AdaptedModel.of(way.module).base)
        assert key(self.register(store, method, state)) == expected


def test_keys_are_for_good() -> None:
    """Made by this code at version 0.1.0. Were they to change, all that was measured would be again."""
    base = BaseModel("tiny", "ba5e", 1)
    version = Version(
        ref="a@1", name="a", n=1, kind="lora", fingerprint="f00d", sha256="", bytes=0, parameters=0,
        config={"r": 2}, head=HeadSpec("cosine", ("x", "y"), {"scale": 20.0}), base=base, origin="trained",
        parents=(), recipe=None, run=None, task=None, data=None, environment={}, seconds=None, created_at="",
    )  # fmt: skip
    keys = [
        composition_key(composition, base, lambda _ref: version, "reads")
        for composition in (Base(), Single("a@1"), Route("a@1", (Single("a@1"),)))
    ]
    assert [key[:16] for key in keys] == ["8697d9774249e06c", "b3177346746d0eba", "6cbffe92da8c47c6"]


def test_questions_that_differ_in_their_labels_are_answered_from_the_same_scores(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = learnt(store, find_recipe("sequential"), tasks=2)
    context, inputs = way.context(1), [tuple(range(i, i + 6)) for i in range(12)]
    asked: list[int] = []
    computed = Features.scores
    monkeypatch.setattr(
        Features, "scores", lambda self, rows: asked.append(len(rows)) or computed(self, rows)
    )
    plain = Answerer(context.adapted, context.load, context.features)
    keeping = Answerer(context.adapted, context.load, context.features, kept={})
    for labels in (("a", "b"), ("c", "d"), None):
        told = [each.predict(way.answers[1]["main"], inputs, "x", labels) for each in (plain, keeping)]
        assert told[0] == told[1]
    keeping.predict(way.answers[1]["main"], inputs[:5], "other rows")
    assert asked == [12, 12, 12, 12, 5]
