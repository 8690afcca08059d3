"""Letting a sum of stored versions answer: exactly their sum, and nothing left afterwards."""

from __future__ import annotations

import pytest
import torch
from adapters_tiny import CLASSES, Module, logits, look, same, trained, values, version

from contpeft.adapters import AdaptedModel
from contpeft.errors import BaseMismatchError, SpecError, UnsupportedError
from contpeft.merging import Fusion, Source, fuse, make_rule
from contpeft.spec import AdapterSpec, AdapterState, BaseModel, Single, Sum, Version

Stored = dict[str, tuple[Version, AdapterState]]


def learnt(**told: AdapterSpec) -> Stored:
    kept: Stored = {}
    for name, spec in told.items():
        adapted = AdaptedModel.of(Module())
        state = trained(adapted, spec, classes=CLASSES)
        kept[f"{name}@1"] = version(state, adapted.base, f"{name}@1"), state
    return kept


@pytest.fixture
def kept() -> Stored:
    return learnt(a=AdapterSpec("lora", r=4), b=AdapterSpec("lora", r=2, targets=["query"], use_rslora=True))


def test_a_sum_answers_as_the_exact_merge_with_the_head_it_names(kept: Stored) -> None:
    weights = {"a@1": 1.0, "b@1": -0.5}
    module = Module()
    adapted = AdaptedModel.of(module)
    before, held, plain = look(module), values(module), logits(module)
    with adapted.applied(Sum(tuple(weights.items()), head="b@1"), kept.__getitem__):
        answered = logits(module)
    assert look(module) == before
    assert same(values(module), held)
    assert torch.equal(logits(module), plain)
    sources = [
        Source(ref, ref, "lora", state.config, state.adapter_tensors(), weights[ref])
        for ref, (_, state) in kept.items()
    ]
    merged = fuse(sources, Fusion(make_rule("sum")))
    own = AdapterState("lora", merged.config, merged.tensors)
    both = {**kept, "ab@1": (version(own, adapted.base, "ab@1"), own)}
    with adapted.applied(Single("ab@1", "b@1"), both.__getitem__):
        torch.testing.assert_close(answered, logits(module), rtol=1e-5, atol=1e-6)


def test_a_sum_of_one_is_that_one(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    with adapted.applied(Single("a@1"), kept.__getitem__):
        expected = logits(module)
    with adapted.applied(Sum((("a@1", 1.0),)), kept.__getitem__):
        torch.testing.assert_close(logits(module), expected, rtol=1e-5, atol=1e-6)


def test_an_adapter_in_training_is_put_back_after_a_sum(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    trained(adapted, AdapterSpec("lora", r=3))
    answered, before = logits(module), look(module)
    with pytest.raises(KeyboardInterrupt), adapted.applied(Sum((("a@1", 1.0),)), kept.__getitem__):
        raise KeyboardInterrupt
    assert look(module) == before
    assert torch.equal(logits(module), answered)


def test_what_cannot_be_summed_is_refused_and_nothing_is_left(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    before, plain = look(module), logits(module)
    other = learnt(c=AdapterSpec("ia3"))
    far = {"d@1": (version(kept["a@1"][1], BaseModel("far", "f" * 64, 1), "d@1"), kept["a@1"][1])}
    everything = {**kept, **other, **far}
    with (
        pytest.raises(UnsupportedError, match="method 'ia3' is no sum"),
        adapted.applied(Sum((("a@1", 1.0), ("c@1", 1.0))), everything.__getitem__),
    ):
        pass
    with (
        pytest.raises(BaseMismatchError, match="d@1 was trained on 'far'"),
        adapted.applied(Sum((("d@1", 1.0),)), everything.__getitem__),
    ):
        pass
    with (
        pytest.raises(SpecError, match="needs a store to load it from"),
        adapted.applied(Sum((("a@1", 1.0),))),
    ):
        pass
    assert look(module) == before
    assert torch.equal(logits(module), plain)
