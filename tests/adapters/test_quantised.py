"""Adapters on 4-bit weights: trained, stored and read back there, the base left as it is (QLoRA)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from adapters_methods import quiet, spec
from adapters_tiny import bert_config, logits, same, trained, values, version
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import BertForSequenceClassification, BitsAndBytesConfig

from contpeft.adapters import AdaptedModel, method_names
from contpeft.adapters.quantised import _METHODS
from contpeft.adapters.variants import base_method
from contpeft.errors import BaseMismatchError, SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, Single

bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs the extra `quantized` (bitsandbytes)")
pytestmark = pytest.mark.usefixtures("no_compiler")
Load = Callable[..., Any]
HEAD = {"classifier.weight", "classifier.bias"}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads a classifier with a base of 4-bit weights, or dense ones, the same at every call."""
    folder = tmp_path_factory.mktemp("base")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = dict(hidden_size=64, intermediate_size=128, initializer_range=0.1)
        config = bert_config()
        config.update(sizes)
        BertForSequenceClassification(config).save_pretrained(folder)

    def loaded(bits: int = 4, left_out: tuple[str, ...] = ("classifier",)) -> Any:
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True,
            llm_int8_skip_modules=list(left_out),
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        given = {"quantization_config": nf4} if bits == 4 else {}
        return BertForSequenceClassification.from_pretrained(folder, **given).eval()

    return loaded


def dense(model: Any) -> Any:
    """Returns the model with the numbers that its 4-bit weights stand for."""
    other = copy.deepcopy(model)
    for parent in list(other.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, bitsandbytes.nn.Linear4bit):
                linear = nn.Linear(child.in_features, child.out_features)
                linear.weight.data = dequantize_module_weight(child).detach().float()
                linear.bias.data = child.bias.detach().clone()
                setattr(parent, name, linear)
    return other.eval()


@quiet
@pytest.mark.parametrize("method", [name for name in method_names() if base_method(name) in _METHODS])
def test_a_method_trains_on_4_bit_weights_and_comes_back_bit_for_bit(method: str, load: Load) -> None:
    model = load()
    before, start = values(model), logits(model)
    adapted = AdaptedModel.of(model)
    fingerprint = adapted.base.fingerprint
    fresh_tensors = adapted.attach(spec(method)).tensors()
    state = trained(adapted, steps=3)
    assert not same(state.adapter_tensors(), fresh_tensors)
    answered = logits(model)
    assert (answered - start).abs().max() > 1e-3
    adapted.detach()
    assert adapted.verify_base().fingerprint == fingerprint
    after = values(model)
    assert {n for n in before if not torch.equal(before[n], after[n])} <= HEAD
    fresh = AdaptedModel.of(load())
    fresh.attach_state(state)
    fresh.load_head(state)
    assert torch.equal(logits(fresh.module), answered)
    # The same adapter says the same on the numbers that the weights stand for.
    plain = AdaptedModel.of(dense(load()))
    plain.attach_state(state)
    plain.load_head(state)
    torch.testing.assert_close(logits(plain.module), answered, rtol=0, atol=1e-4)


def test_nothing_is_made_dense(load: Load) -> None:
    model = load()
    adapted = AdaptedModel.of(model)
    trained(adapted, AdapterSpec("lora", r=4, targets="all-linear"))
    layers = [module for module in model.modules() if hasattr(module, "base_layer")]
    assert len(layers) == 13  # six in each block, and the pooler
    assert {type(layer.base_layer) for layer in layers} == {bitsandbytes.nn.Linear4bit}
    assert {layer.base_layer.weight.dtype for layer in layers} == {torch.uint8}


def test_the_base_is_named_by_its_quantised_weights(load: Load) -> None:
    base, again, whole = (AdaptedModel.of(load(bits)).base for bits in (4, 4, 32))
    assert base == again
    assert base.fingerprint != whole.fingerprint
    assert base.parameters == whole.parameters
    adapted = AdaptedModel.of(load())
    with pytest.MonkeyPatch.context() as patch:
        first = adapted.base
        patch.setattr("contpeft.adapters.seal.base_model", lambda *_: pytest.fail("computed again"))
        logits(adapted.module)
        assert adapted.base == first


def test_a_version_of_the_dense_base_does_not_answer(load: Load) -> None:
    whole = AdaptedModel.of(load(32))
    state = trained(whole)
    entry = version(state, whole.base)
    whole.detach()
    adapted = AdaptedModel.of(load())
    with (
        pytest.raises(BaseMismatchError, match="colours@1 was trained on"),
        adapted.applied(Single("colours@1"), lambda ref: (entry, state)),
    ):
        pass


@pytest.mark.parametrize("method", ["loha", "hra", "unilora"])
def test_a_method_that_reads_weights_as_numbers_is_refused_by_name(method: str, load: Load) -> None:
    adapted = AdaptedModel.of(load())
    with pytest.raises(
        UnsupportedError,
        match=rf"method '{method}' does not train on quantised weights \(Linear4bit at bert.encoder",
    ):
        adapted.attach(spec(method))
    assert not adapted.active


def test_a_quantised_head_is_refused(load: Load) -> None:
    adapted = AdaptedModel.of(load(left_out=("nothing",)))
    adapted.attach(AdapterSpec("lora"))
    with pytest.raises(SpecError, match=r"the head is quantised \(Linear4bit\) and cannot be trained"):
        adapted.train_only()
