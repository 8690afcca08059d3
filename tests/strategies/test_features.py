"""Features of raw inputs: the same bits for the same data, through the base or the model as it stands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies_tiny import Classifier, Way, examples, learnt
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from contpeft.adapters import AdaptedModel
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Base, Single
from contpeft.store import AdapterStore
from contpeft.strategies import Classifier as ClassifierProtocol
from contpeft.strategies import FeatureCache, Features, as_classifier, evaluating, find_recipe

INPUTS = examples("abc", 5, seed=1)[0]


class Counting(Classifier):
    """Counts the rows it encodes."""

    rows = 0

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        self.rows += len(batch["input_ids"])
        return super().encode(batch)


def plain(module: Classifier, inputs: Any = INPUTS) -> Tensor:
    with torch.no_grad():
        return Classifier.encode(module, module.collate(inputs))


def adapted_module(module: nn.Module) -> AdaptedModel:
    """Returns a module whose adapter changes features."""
    adapted = AdaptedModel.of(module)
    with torch.random.fork_rng(devices=[]):
        attachment = adapted.attach(AdapterSpec("lora", r=2))
        with torch.no_grad():
            for parameter in attachment.parameters():
                parameter.normal_()
    return adapted


def test_base_features_are_computed_once_per_data() -> None:
    module = Counting()
    adapted = adapted_module(module)
    expected, through_adapter = plain(Classifier()), plain(module)
    cache = FeatureCache()
    features = Features(adapted, batch_size=100, cache=cache)
    assert torch.equal(features.base(INPUTS, "data"), expected)
    assert torch.equal(Features(adapted, 100, cache).base(INPUTS, "data"), expected)
    assert module.rows == len(INPUTS)
    assert (len(cache), (adapted.base.fingerprint, "data") in cache) == (1, True)
    assert torch.equal(features.current(INPUTS, "data"), through_adapter)
    assert module.rows == 2 * len(INPUTS)
    assert torch.equal(features.base(INPUTS[:2], "other"), plain(Classifier(), INPUTS[:2]))
    adapted.detach()
    assert torch.equal(features.current(INPUTS, "data"), expected)
    assert module.rows == 2 * len(INPUTS) + 2


def test_features_of_a_guest_are_not_taken_for_those_of_the_base(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("isolated"), tasks=1)
    trained = plain(way.module)
    module = Classifier()
    adapted = AdaptedModel.of(module)
    features = Features(adapted, 100)
    load = way.context(0).load
    with adapted.applied(Single("way.one@1"), load):
        assert torch.equal(features.current(INPUTS, "data"), trained)
    base = features.base(INPUTS, "data")
    assert torch.equal(base, plain(Classifier()))
    with adapted.applied(Single("way.one@1"), load):
        assert torch.equal(features.current(INPUTS, "data"), trained)
        assert torch.equal(features.base(INPUTS, "data"), base)


def test_without_a_digest_nothing_is_kept() -> None:
    module = Counting()
    cache = FeatureCache()
    features = Features(AdaptedModel.of(module), cache=cache)
    assert torch.equal(features.current(INPUTS), features.current(INPUTS))
    assert (module.rows, len(cache)) == (2 * len(INPUTS), 0)


@pytest.mark.parametrize("size", [1, 4, 15, 16])
def test_batches_are_of_the_size_asked_for_and_in_order(size: int) -> None:
    class Seeing(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []

        def collate(self, inputs: Any) -> dict[str, Tensor]:
            self.sizes.append(len(inputs))
            return super().collate(inputs)

    module = Seeing()
    found = Features(AdaptedModel.of(module), size).current(INPUTS)
    assert module.sizes == [size] * (15 // size) + ([15 % size] if 15 % size else [])
    torch.testing.assert_close(found, plain(Classifier()), rtol=0, atol=1e-6)


def test_scores_are_those_of_the_head() -> None:
    module = Classifier()
    with torch.no_grad():
        expected = module(module.collate(INPUTS))
    scores = Features(AdaptedModel.of(module), 100).scores(INPUTS)
    assert torch.equal(scores, expected)
    assert not scores.requires_grad


def test_dropout_is_off_and_modes_are_put_back() -> None:
    module = Classifier().train()
    module.model.encoder.eval()
    modes = [each.training for each in module.modules()]
    assert True in modes
    assert False in modes
    features = Features(AdaptedModel.of(module), 100)
    assert torch.equal(features.current(INPUTS), plain(Classifier()))
    assert [each.training for each in module.modules()] == modes


def test_evaluating_puts_modes_and_gradients_back_after_an_error() -> None:
    module = Classifier().train()
    module.head.eval()
    modes = [each.training for each in module.modules()]

    def fail() -> None:
        assert not any(each.training for each in module.modules())
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), evaluating(module):
        fail()
    assert [each.training for each in module.modules()] == modes
    assert torch.is_grad_enabled()


def test_a_module_that_cannot_encode_is_refused() -> None:
    class Mute(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
            self.model = BertModel(config)

        def collate(self, inputs: Any) -> Any:
            return inputs

    module = Mute()
    with pytest.raises(
        UnsupportedError,
        match=r"^encoding features needs Mute to have encode\(\); see contpeft.strategies.Class",
    ):
        Features(AdaptedModel.of(module)).current(INPUTS)
    with pytest.raises(UnsupportedError, match=r"^answering needs Linear to have collate, encode\(\)"):
        as_classifier(nn.Linear(1, 1), "answering")
    classifier = Classifier()
    assert as_classifier(classifier, "answering") is classifier
    assert isinstance(classifier, ClassifierProtocol)


def test_batches_may_be_nested_and_hold_other_things() -> None:
    class Nested(Classifier):
        def collate(self, inputs: Any) -> Any:
            return {"inner": super().collate(inputs), "texts": list(inputs)}

        def encode(self, batch: Any) -> Tensor:
            assert batch["texts"] == INPUTS
            return super().encode(batch["inner"])

    assert torch.equal(Features(AdaptedModel.of(Nested()), 100).current(INPUTS), plain(Classifier()))


def test_features_are_shared_between_the_tasks_of_a_way(store: AdapterStore) -> None:
    """A context with the cache of the one before computes nothing twice."""
    module = Counting()
    way = Way(store, find_recipe("frozen"), module=module)
    context = way.context(0)
    way.recipe.end(context, None)
    rows = module.rows
    again = way.context(0)
    again.cache = context.cache
    data = again.training_data("this test")
    with again.adapted.applied(Base()):
        again.features.current(data.inputs, data.digest)
    assert module.rows == rows == len(data.inputs)
