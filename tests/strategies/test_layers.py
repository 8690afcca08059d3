"""Features of several layers, and heads over different features that answer together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, WIDTH, Classifier, Way, learnt, training
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from contpeft.adapters import AdaptedModel, FrozenPrefix, PrefixCache, layer_features
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec, Base, Concat, Layers, Parallel, Single, composition_from_json
from contpeft.store import AdapterStore
from contpeft.strategies import find_recipe
from contpeft.strategies.features import Features
from contpeft.strategies.sureness import joined_probabilities


def states(model: Classifier, inputs: list[tuple[int, ...]]) -> list[Tensor]:
    """Returns the pooled states of every layer, as transformers itself tells them."""
    with torch.no_grad():
        told = model.model(input_ids=torch.tensor(inputs), output_hidden_states=True).hidden_states
    return [F.normalize(each.mean(1).double(), dim=1) for each in told[1:]]


def nothing(ref: str) -> tuple[object, object]:
    raise AssertionError(ref)


class TestLayers:
    @pytest.mark.parametrize("cached", [False, True])
    def test_they_are_those_transformers_tells(self, cached: bool) -> None:
        model, data = Classifier(), training(("a", "b"))
        adapted = AdaptedModel.of(model)
        expected = torch.cat(states(model, list(data.inputs)), 1)
        features = Features(adapted, batch_size=5)
        view = (Layers(Base(), 2),)
        if cached:  # every layer of the bare base is skipped at the second call
            with FrozenPrefix(adapted, PrefixCache(1 << 20)):
                features.through((Base(),), nothing, data.inputs, data.digest)
                found = features.through(view, nothing, data.inputs, data.digest)
        else:
            found = features.through(view, nothing, data.inputs, data.digest)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert found.shape == (len(data.inputs), 2 * WIDTH)

    def test_a_model_with_fewer_gives_all(self) -> None:
        data = training(("a", "b"))
        features = Features(AdaptedModel.of(Classifier()))
        two, nine = (
            features.through((Layers(Base(), n),), nothing, data.inputs, data.digest) for n in (2, 9)
        )
        assert torch.equal(two, nine)

    def test_an_adapter_changes_the_layers_it_is_in(self, store: AdapterStore) -> None:
        spec = AdapterSpec(r=2, layers_to_transform=[1])
        way = learnt(store, find_recipe("sequential"), tasks=1, spec=spec)
        data, ref = training(("a", "b")), way.history[0].ref
        features = Features(AdaptedModel.of(Classifier()))

        def read(view: Layers) -> Tensor:
            load = lambda asked: (store.show(asked), store.load(asked))  # noqa: E731
            return features.through((view,), load, data.inputs, data.digest)

        plain, adapted = read(Layers(Base(), 2)), read(Layers(Single(ref), 2))
        torch.testing.assert_close(plain[:, :WIDTH], adapted[:, :WIDTH], rtol=0, atol=1e-6)
        assert (plain[:, WIDTH:] - adapted[:, WIDTH:]).abs().max() > 1e-3

    def test_above_a_skipped_prefix_they_are_the_same(self) -> None:
        model, data = Classifier(), training(("a", "b"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.model = BertModel(BertConfig(**(model.model.config.to_dict() | {"num_hidden_layers": 3})))
        adapted = AdaptedModel.of(model.eval())
        adapted.attach(AdapterSpec(r=2, layers_to_transform=[1, 2]))
        batch = model.collate(list(data.inputs))
        with torch.no_grad():
            plain = layer_features(adapted, lambda: model.encode(batch), 2)
            with FrozenPrefix(adapted, PrefixCache(1 << 20)):
                skipped = layer_features(adapted, lambda: model.encode(batch), 2)
        torch.testing.assert_close(skipped, plain, rtol=0, atol=1e-6)

    def test_the_model_is_as_it_was(self) -> None:
        model, data = Classifier(), training(("a", "b"))
        features = Features(AdaptedModel.of(model))
        before = features.base(data.inputs, "before")
        features.through((Layers(Base(), 2),), nothing, data.inputs, data.digest)
        assert torch.equal(features.base(data.inputs, "after"), before)
        assert all("forward" not in vars(module) for module in model.modules())


class TestViews:
    def test_a_composition_of_layers_is_a_value(self) -> None:
        told = Parallel(
            (Concat((Layers(Single("a@1"), 2),), "s@1"), Concat((Layers(Base(), 4),), "s@2")), by="product"
        )
        assert composition_from_json(told.to_json()) == told
        assert told.refs() == ("a@1", "s@1", "s@2")
        digests = {replace(told, by=by).digest(str) for by in ("product", "mean", "max")}
        assert len(digests) == 3

    def test_there_is_one_layer_at_least(self) -> None:
        with pytest.raises(SpecError, match="features of 0 layers"):
            Layers(Base(), 0)


class TestTogether:
    def test_probabilities_are_multiplied(self) -> None:
        rng = np.random.default_rng(0)
        one, two = rng.normal(size=(2, 7, 3))
        found, labels = joined_probabilities(
            [(torch.tensor(one), "abc"), (torch.tensor(two)[:, [2, 0, 1]], "cab")], [2.0, 0.5], by="product"
        )
        expected = np.exp(one / 2.0 + two / 0.5)
        expected /= expected.sum(1, keepdims=True)
        assert labels == ("a", "b", "c")
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)

    def test_a_label_met_in_two_tasks_has_the_sum_of_its_entries(self) -> None:
        scores = torch.tensor([[0.0, 2.0, 9.0, 0.0]])
        found, labels = joined_probabilities([(scores, "abab"), (scores, "abab")], [1.0, 1.0], by="product")
        each = np.exp(scores.double().numpy())
        expected = np.array([each[:, [0, 2]].sum(1) ** 2, each[:, [1, 3]].sum(1) ** 2]).T
        assert labels == ("a", "b")
        np.testing.assert_allclose(found.numpy(), expected / expected.sum(), rtol=1e-12)

    def test_heads_of_different_labels_are_refused(self) -> None:
        told = [(torch.zeros(1, 2), "ab"), (torch.zeros(1, 2), "bc")]
        with pytest.raises(SpecError, match="every head knows the same labels"):
            joined_probabilities(told, [1.0, 1.0], by="product")

    def test_drift_layers_answers_with_the_product_of_both(self, store: AdapterStore) -> None:
        way: Way = learnt(store, find_recipe("drift-layers"))
        main, *alone = way.answers[-1].values()
        assert isinstance(main, Parallel)
        assert list(main.choices) == alone
        data = training(("a", "c", "f"), seed=9)
        scores = [way.answerer().scores(each, data.inputs, data.digest) for each in main.choices]
        product, labels = joined_probabilities(scores, [1.0, 1.0], by="product")
        expected = [labels[index] for index in product.argmax(1).tolist()]
        assert way.answerer().predict(main, data.inputs, data.digest) == expected

    def test_its_statistics_are_of_the_layers_it_says(self, store: AdapterStore) -> None:
        way = learnt(store, find_recipe("drift-layers"))
        last = {v.name.rsplit(".", 1)[-1]: v for v in way.history if v.kind == "statistics"}
        assert set(last) == {"lda-last-2-layers", "lda-4-layers"}
        kept = {name: store.load(v.ref).head_tensors() for name, v in last.items()}
        assert all(each["means"].shape == (6, 2 * WIDTH) for each in kept.values())
        data, ref = training(TASKS[2].classes), way.history[-3].ref
        view = Layers(Single(ref), 2)
        load = lambda asked: (store.show(asked), store.load(asked))  # noqa: E731
        features = Features(AdaptedModel.of(Classifier()))
        now = F.normalize(features.through((view,), load, data.inputs, data.digest), dim=1)
        own = torch.stack([now[data.rows(label)].mean(0) for label in TASKS[2].classes])
        torch.testing.assert_close(kept["lda-last-2-layers"]["means"][4:], own, rtol=0, atol=1e-9)
