"""Statistics that are weighed against each other, and those of tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, Classifier, Way, learnt, training
from torch import Tensor, nn

from contpeft.adapters import (
    NO_TOKEN,
    AdaptedModel,
    ClassStatistics,
    FrozenPrefix,
    LeftOut,
    PrefixCache,
    TokenStatistics,
)
from contpeft.adapters.statistics import StatisticsHead
from contpeft.errors import SpecError, UnsupportedError
from contpeft.metrics.pooling import Weights, pool_weights
from contpeft.spec import (
    Base,
    Concat,
    HeadSpec,
    Layers,
    Parallel,
    Single,
    Task,
    Tokens,
    composition_from_json,
)
from contpeft.store import AdapterStore
from contpeft.strategies import (
    FollowStatistics,
    GatherStatistics,
    GatherTokens,
    TrainingData,
    WeighTogether,
    find_recipe,
)
from contpeft.strategies.features import Features
from contpeft.strategies.sureness import joined_probabilities

POOLED = ("frozen-pool", "frozen-tokens", "drift-pool", "drift-tokens")


def head(spec: HeadSpec | None) -> HeadSpec:
    assert spec is not None
    return spec


def last(way: Way) -> dict[str, HeadSpec]:
    """Returns the newest statistics of a way, by what they are called."""
    return {v.name.split(".", 1)[1]: head(v.head) for v in way.history if v.kind == "statistics"}


class TestTokens:
    def test_they_are_what_the_model_is_given(self) -> None:
        data, model = training(("a", "b")), Classifier()
        features = Features(AdaptedModel.of(model), batch_size=5)
        found = features.through((Tokens(),), lambda _: (None, None), data.inputs, data.digest)
        assert [sorted(set(row) - {NO_TOKEN}) for row in found.tolist()] == [
            sorted(set(row)) for row in data.inputs
        ]

    def test_padding_is_none_and_batches_may_differ_in_length(self) -> None:
        class Padded(Classifier):
            def collate(self, inputs: list[tuple[int, ...]]) -> dict[str, Tensor]:
                width = max(map(len, inputs))
                ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in inputs])
                mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in inputs])
                return {"input_ids": ids, "attention_mask": mask}

            def encode(self, batch: dict[str, Tensor]) -> Tensor:
                return self.model(**batch).last_hidden_state.mean(1)

        inputs = [(5,), (3, 7), (9, 1, 4), (2, 0)]
        features = Features(AdaptedModel.of(Padded()), batch_size=2)
        found = features.tokens(inputs, "data")
        assert found.shape == (4, 3)
        assert [sorted(set(row) - {NO_TOKEN}) for row in found.tolist()] == [[5], [3, 7], [1, 4, 9], [0, 2]]

    def test_nothing_is_computed_even_where_a_prefix_is_skipped(self) -> None:
        data, model = training(("a", "b")), Classifier()
        adapted, asked = AdaptedModel.of(model), []
        model.model.encoder.register_forward_hook(lambda *_: asked.append(1))
        features = Features(adapted)
        with FrozenPrefix(adapted, PrefixCache(1 << 20)):
            features.tokens(data.inputs, data.digest)
        assert asked == []
        assert not model.model._forward_pre_hooks

    def test_of_images_there_are_none(self, store: AdapterStore) -> None:
        class Images(Classifier):
            def encode(self, batch: dict[str, Tensor]) -> Tensor:
                embedded = self.model.embeddings.word_embeddings(batch["input_ids"])
                return self.model(inputs_embeds=embedded).last_hidden_state.mean(1)

        way = Way(store, find_recipe("drift-tokens"), module=Images())
        with pytest.raises(UnsupportedError, match=r"^tokens are counted in texts, and BertModel was called"):
            way.started(0)
        assert way.history == ()

    def test_they_stand_alone(self) -> None:
        with pytest.raises(SpecError, match=r"^tokens are no features to be put beside others"):
            Concat((Base(), Tokens()), "s@1")
        told = Concat((Tokens(),), "s@1")
        assert composition_from_json(told.to_json()) == told
        assert told.refs() == ("s@1",)

    def test_counts_of_earlier_tasks_stay(self, store: AdapterStore) -> None:
        way = learnt(store, replace(find_recipe("frozen-pool"), consolidate=GatherTokens()))
        kept = [store.load(v.ref) for v in way.history]
        first, final = (
            TokenStatistics.from_stored(head(v.head), each.head_tensors())
            for v, each in zip((way.history[0], way.history[-1]), (kept[0], kept[-1]), strict=True)
        )
        met = torch.isin(final.tokens, first.tokens)
        assert torch.equal(final.counts[:2][:, met], first.counts)
        assert not final.counts[:2][:, ~met].any()
        assert final.groups == [0, 0, 1, 1, 2, 2]


class TestWeighTogether:
    @pytest.mark.parametrize("name", POOLED)
    def test_the_product_of_all_answers(self, store: AdapterStore, name: str) -> None:
        way = learnt(store, find_recipe(name))
        main, *alone = way.answers[-1].values()
        assert isinstance(main, Parallel)
        assert list(main.choices) == alone
        assert len(alone) == 2 + name.endswith("tokens") + name.startswith("drift")
        data = training(("a", "c", "f"), seed=9)
        scores = [way.answerer().scores(each, data.inputs, data.digest) for each in main.choices]
        product, labels = joined_probabilities(scores, [1.0] * len(scores), by="product")
        expected = [labels[index] for index in product.argmax(1).tolist()]
        assert way.answerer().predict(main, data.inputs, data.digest) == expected

    def test_weights_are_those_of_the_rows_left_out_task_after_task(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("frozen-tokens"))
        weights = None
        for step, task in enumerate(TASKS):
            *statistics, memory = way.history[4 * step : 4 * step + 4]
            told = [self.left_out(store, v.ref, training(task.classes), step) for v in statistics]
            assert len({(each.labels, each.entries) for each in told}) == 1
            scores = [each.scores.numpy() for each in told]
            weights = pool_weights(scores, told[0].entries, told[0].labels, weights)
            found = [1 / head(v.head).options["temperature"] for v in statistics]
            assert found == pytest.approx(weights.values, rel=1e-6)
            kept = store.load(memory.ref).tensors
            np.testing.assert_allclose(kept["precision"].numpy(), weights.precision, rtol=1e-6)

    def left_out(self, store: AdapterStore, ref: str, data: TrainingData, step: int) -> LeftOut:
        """Returns what stored statistics of the bare base tell of rows they hold."""
        spec, tensors = head(store.show(ref).head), store.load(ref).head_tensors()
        features = Features(AdaptedModel.of(Classifier()))
        if spec.options["rule"] == "tokens":
            counts = TokenStatistics.from_stored(spec, tensors)
            return counts.left_out(features.tokens(data.inputs, data.digest), data.labels, step)
        view = (Layers(Base(), 4),)
        rows = features.through(view, lambda _: (None, None), data.inputs, data.digest)
        return ClassStatistics.from_stored(spec, tensors).left_out(rows, data.labels, step, 0.2)

    def test_an_adapter_is_judged_as_it_was_before_the_rows(self, store: AdapterStore) -> None:
        """Asked for rows it was trained on it would count for more than for any others."""
        way = learnt(
            store, replace(find_recipe("drift-lda"), consolidate=WeighTogether((FollowStatistics(),)))
        )
        data = training(TASKS[2].classes)
        followed = [v for v in way.history if v.kind == "statistics"]
        adapter = [v for v in way.history if v.kind == "lora"][-2]
        earlier_weights = [v for v in way.history if v.kind == "memory"][-2]
        features = Features(AdaptedModel.of(Classifier()))
        load = lambda ref: (store.show(ref), store.load(ref))  # noqa: E731
        rows = features.through((Single(adapter.ref),), load, data.inputs, data.digest)
        earlier = followed[-2]
        moments = ClassStatistics.from_stored(head(earlier.head), store.load(earlier.ref).head_tensors())
        moments.update(rows, data.labels, group=2)
        known = store.load(earlier_weights.ref).tensors
        before = Weights(known["values"].numpy(), known["precision"].numpy())
        told = moments.left_out(rows, data.labels, 2, 0.2)
        expected = pool_weights([told.scores.numpy()], told.entries, told.labels, before)
        assert [1 / head(followed[-1].head).options["temperature"]] == pytest.approx(expected.values)

    def test_at_the_first_task_it_is_judged_without(self, store: AdapterStore) -> None:
        part = WeighTogether((FollowStatistics(over="last+base"),))
        way = learnt(store, replace(find_recipe("drift-lda"), consolidate=part), tasks=1)
        data = training(TASKS[0].classes)
        base = Features(AdaptedModel.of(Classifier())).base(data.inputs, data.digest)
        moments = ClassStatistics()
        moments.update(torch.cat([base, base], 1), data.labels, group=0)
        told = moments.left_out(torch.cat([base, base], 1), data.labels, 0, 0.2)
        expected = pool_weights([told.scores.numpy()], told.entries, told.labels)
        (statistics,) = [v for v in way.history if v.kind == "statistics"]
        assert [1 / head(statistics.head).options["temperature"]] == pytest.approx(expected.values)

    def test_rules_that_leave_no_row_out_are_refused(self, store: AdapterStore) -> None:
        part = WeighTogether((GatherStatistics(rules=("oas",)),))
        with pytest.raises(SpecError, match=r"^rules oas cannot leave rows out; weigh statistics of 'lda'"):
            learnt(store, replace(find_recipe("ncm"), consolidate=part), tasks=1)

    def test_one_class_alone_says_nothing_of_weights(self, store: AdapterStore) -> None:
        tasks = (Task("one", ("a",)), *TASKS[1:])
        way = Way(store, find_recipe("frozen-pool"))
        way.learn(0, tasks)
        assert [v.kind for v in way.history] == ["statistics"] * 2
        assert all("temperature" not in head(v.head).options for v in way.history)
        way.learn(1, tasks)
        assert [v.kind for v in way.history[2:]] == ["statistics", "statistics", "memory"]

    def test_they_are_told_apart_by_name(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("drift-tokens"), tasks=1)
        assert set(last(way)) == {"lda-last-2-layers", "lda-4-layers", "lda-4-layers-lifted", "tokens"}


def test_heads_are_made_once_for_many_questions(store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    way = learnt(store, find_recipe("frozen-pool"), tasks=2)
    made: list[nn.Module] = []
    begin = StatisticsHead.__init__

    def counted(self: StatisticsHead, spec: HeadSpec, tensors: dict[str, Tensor]) -> None:
        made.append(self)
        begin(self, spec, tensors)

    monkeypatch.setattr(StatisticsHead, "__init__", counted)
    answerer = way.answerer()
    for seed in range(3):
        data = training(("a", "d"), seed=seed)
        answerer.predict(way.answers[-1]["main"], data.inputs, data.digest)
    assert len(made) == 2
