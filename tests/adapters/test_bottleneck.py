"""Bottleneck adapters compute what the papers write, in every family, and start as nothing."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from adapters_oracle import ACTIVATIONS, FAMILIES, adapter, find, normalised, watch
from adapters_tiny import IDS, bert, gpt2, logits, look, same, t5, values
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel, T5Config, T5Model

from contpeft.adapters import AdaptedModel, Attachment
from contpeft.adapters.methods import make_config
from contpeft.adapters.tuners import REGISTERED
from contpeft.adapters.tuners.configs import (
    CompacterConfig,
    HoulsbyConfig,
    ParallelConfig,
    PfeifferConfig,
)
from contpeft.adapters.tuners.phm import phm_weight
from contpeft.adapters.tuners.sites import FAMILIES as SERVED
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec

pytestmark = pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old")
SMALL = {"reduction_factor": 4}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_bottleneck = pytest.mark.parametrize("method", ["houlsby", "pfeiffer", "parallel", "compacter"])


def small(method: str, **options: Any) -> AdapterSpec:
    return AdapterSpec(method, **SMALL, **({"phm_dim": 2} if method == "compacter" else {}), **options)


def at_random(model: nn.Module, spec: Any) -> Attachment:
    """Returns an adapter whose every weight matters."""
    torch.manual_seed(1)
    attachment = Attachment(model, make_config(spec, model))
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.normal_(std=0.4)
    return attachment


def check(family: str, spec: AdapterSpec) -> None:
    """Compares every layer of an adapted model with the papers' formulas, in float64."""
    here = FAMILIES[family]
    model = here.make().double().eval()
    attachment = at_random(model, spec)
    tensors, config = attachment.tensors(), attachment.config
    method, keep = spec.method, float(spec.options.get("residual", True))
    placed = (name.partition(".bottleneck_")[0] for name in tensors if ".bottleneck_" in name)
    sites = [site for site in dict.fromkeys(placed) if site != "base_model"]
    for place, (layer, seen) in enumerate(zip(find(model, here.layers), watch(model, here), strict=True)):
        norms = [find(layer, path) for path in here.norms] if here.norms else [None, None]
        own = [adapter(config, tensors, site) for site in sites if f"{here.layers}.{place}." in site]
        f, x = seen.f_attention, seen.x_attention
        if len(own) == 2:
            f = keep * f + own[0](f)
        np.testing.assert_allclose(seen.x, normalised(norms[0], f + x), rtol=0, atol=1e-9)
        u, f, x = own[-1], seen.f, seen.x
        y = {
            "houlsby": lambda u=u, f=f: keep * f + u(f),
            "compacter": lambda u=u, f=f: keep * f + u(f),
            "pfeiffer": lambda u=u, f=f, x=x, norm=norms[1]: f + u(normalised(norm, f + x)),
            "parallel": lambda u=u, f=f, x=x: f + u(x),
        }[method]()
        np.testing.assert_allclose(seen.out, normalised(norms[1], y + x), rtol=0, atol=1e-9)


@each_family
@each_bottleneck
def test_each_layer_computes_the_formula(family: str, method: str) -> None:
    check(family, small(method))


def test_every_family_that_is_served_is_checked_here() -> None:
    assert set(FAMILIES) == set(SERVED)


@pytest.mark.parametrize(("method", "count"), [("houlsby", 8), ("pfeiffer", 4), ("parallel", 4)])
def test_a_decoder_has_places_too_and_none_across(method: str, count: int) -> None:
    torch.manual_seed(0)
    sizes = dict(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    model = T5Model(T5Config(vocab_size=48, **sizes)).eval()
    with torch.no_grad():
        start = model(IDS, decoder_input_ids=IDS).last_hidden_state
        attachment = Attachment(model, make_config(small(method), model))
        assert torch.equal(model(IDS, decoder_input_ids=IDS).last_hidden_state, start)
    sites = {name.partition(".bottleneck_")[0] for name in attachment.tensors()}
    assert len(sites) == count
    assert not any("decoder" in site and ".layer.1." in site for site in sites)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation(activation: str) -> None:
    check("bert", small("pfeiffer", activation=activation))


@each_bottleneck
@pytest.mark.parametrize("scaling", [0.5, "learned"])
def test_scaling(method: str, scaling: float | str) -> None:
    check("gpt2", small(method, scaling=scaling))


@each_family
@pytest.mark.parametrize("options", [{"after_attention": False}, {"residual": False}])
def test_houlsby_without_the_attention_or_the_residual(family: str, options: dict[str, bool]) -> None:
    check(family, small("houlsby", **options))
    check(family, small("compacter", **options))


@each_family
@each_bottleneck
def test_a_fresh_adapter_changes_no_bit_and_leaves_no_trace(family: str, method: str) -> None:
    model = FAMILIES[family].make().eval()
    before, looks = values(model), look(model)
    start = [seen.out for seen in watch(model.double(), FAMILIES[family])]
    model.float()
    attachment = Attachment(model, make_config(small(method), model))
    now = [seen.out for seen in watch(model.double(), FAMILIES[family])]
    assert all(np.array_equal(one, other) for one, other in zip(start, now, strict=True))
    model.float()
    attachment.remove()
    assert same(values(model), before)
    assert look(model) == looks


def test_weights_start_as_asked() -> None:
    lora = Attachment(bert(), make_config(AdapterSpec("pfeiffer"), bert())).tensors()
    site = "base_model.model.bert.encoder.layer.1.output.LayerNorm"
    shapes = {name.removeprefix(f"{site}."): tuple(t.shape) for name, t in lora.items() if site in name}
    assert shapes == {
        "bottleneck_down.weight": (1, 16),
        "bottleneck_down.bias": (1,),
        "bottleneck_up.weight": (16, 1),
        "bottleneck_up.bias": (16,),
    }
    assert not lora[f"{site}.bottleneck_up.weight"].any()
    assert lora[f"{site}.bottleneck_down.weight"].abs().max() <= 1 / 4  # Kaiming, 16 inputs
    model = BertModel(BertConfig(vocab_size=8, hidden_size=256, num_attention_heads=2, intermediate_size=8))
    normal = Attachment(model, make_config(AdapterSpec("pfeiffer", init_weights="bert", **SMALL), model))
    weights = [t for name, t in normal.tensors().items() if name.endswith("weight")]
    assert all(abs(t.std() - 0.02) < 0.001 for t in weights)
    assert not any(t.any() for name, t in normal.tensors().items() if name.endswith("bias"))


def test_a_learned_scaling_starts_at_1_and_is_trained() -> None:
    model = bert()
    attachment = Attachment(model, make_config(small("houlsby", scaling="learned"), model))
    scalings = {n: p for n, p in attachment.named_parameters().items() if n.endswith("bottleneck_scaling")}
    assert [p.tolist() for p in scalings.values()] == [[1.0]] * 4
    for name, parameter in attachment.named_parameters().items():
        if name not in scalings:
            nn.init.normal_(parameter, std=0.4)
    model(IDS).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad != 0 for p in scalings.values())


def test_dropout_acts_in_training_alone() -> None:
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    attachment = at_random(model, small("pfeiffer", dropout=0.5))
    assert torch.equal(logits(model), logits(model))
    attachment.train()
    assert not torch.equal(logits(model), logits(model))


def test_compacter_has_one_rule_for_all_layers() -> None:
    model = bert()
    attachment = at_random(model, small("compacter"))
    tensors = attachment.tensors()
    assert tensors["base_model.bottleneck_rule"].shape == (2, 2, 2)
    assert sum("rule" in name for name in tensors) == 1
    # Per site: bias and factors of 16 -> 4 and 4 -> 16, each a sum of 2 products of rank 1.
    per_site = (4 + 2 * (8 + 2)) + (16 + 2 * (2 + 8))
    assert sum(p.numel() for p in attachment.parameters()) == 2**3 + 4 * per_site


def test_a_phm_weight_is_a_sum_of_kronecker_products() -> None:
    torch.manual_seed(0)
    rule, left, right = torch.randn(3, 3, 3), torch.randn(3, 4, 2), torch.randn(3, 2, 5)
    expected = sum(torch.kron(rule[i], left[i] @ right[i]) for i in range(3))
    torch.testing.assert_close(phm_weight(rule, left, right), expected)


@each_bottleneck
def test_peft_alone_saves_and_loads_it(method: str, tmp_path: Any) -> None:
    kinds = {
        "houlsby": HoulsbyConfig(**SMALL),
        "pfeiffer": PfeifferConfig(**SMALL),
        "parallel": ParallelConfig(**SMALL),
        "compacter": CompacterConfig(phm_dim=2, **SMALL),
    }
    model = get_peft_model(gpt2(), kinds[method])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bottleneck_" in name:
                parameter.normal_(std=0.4)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    ids = IDS[:, :5]
    for light in (False, True):
        again = PeftModel.from_pretrained(gpt2(), tmp_path, low_cpu_mem_usage=light).eval()
        assert torch.equal(logits(again, ids), logits(model.eval(), ids))
    with again.disable_adapter():
        assert torch.equal(logits(again, ids), logits(gpt2(), ids))
    assert torch.equal(logits(again.unload(), ids), logits(gpt2(), ids))


def test_two_adapters_of_peft_are_told_apart() -> None:
    model = get_peft_model(gpt2(), PfeifferConfig(init_weights="bert", **SMALL), adapter_name="one").eval()
    ids = IDS[:, :5]
    alone = logits(model, ids)
    model.add_adapter("other", PfeifferConfig(init_weights="bert", non_linearity="tanh", **SMALL))
    assert torch.equal(logits(model, ids), alone)
    model.set_adapter("other")
    assert not torch.equal(logits(model, ids), alone)
    model.set_adapter("one")
    model.delete_adapter("other")
    assert torch.equal(logits(model, ids), alone)


def test_hidden_states_of_a_pre_norm_model_hold_what_adapters_added() -> None:
    model = gpt2().transformer
    at_random(model, small("pfeiffer"))
    layer = model.h[0]
    outputs: list[torch.Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        told = model(IDS[:, :5], output_hidden_states=True).hidden_states
    assert torch.equal(told[1], outputs[0])


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("method", ["pfeiffer", "parallel"])
def test_gradients_are_those_without_checkpointing(method: str) -> None:
    grads = []
    for checkpointing in (False, True):
        model = gpt2().train()
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        attachment = at_random(model, small(method))
        model(IDS[:, :5], use_cache=False).logits.square().mean().backward()
        grads.append({name: p.grad for name, p in attachment.named_parameters().items()})
    assert same(*grads)


def test_a_half_precision_base_gets_an_adapter_in_float32() -> None:
    model = bert().to(torch.bfloat16)
    attachment = at_random(model, small("pfeiffer"))
    assert {p.dtype for p in attachment.parameters()} == {torch.float32}
    assert logits(model).dtype == torch.bfloat16


def test_targets_choose_among_the_places() -> None:
    model = bert()
    attachment = Attachment(
        model, make_config(small("pfeiffer", targets=["layer.1.output.LayerNorm"]), model)
    )
    assert all(".layer.1.output.LayerNorm." in name for name in attachment.tensors())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (
            small("pfeiffer", targets=["query"]),
            r"'bert.*query' is no place for .* 'pfeiffer'.*output.*LayerNorm",
        ),
        (small("houlsby", activation="gleu"), "no non_linearity 'gleu'; did you mean 'gelu'"),
        (small("houlsby", init_weights="zero"), "no init_weights 'zero'; there are: bert, lora"),
        (small("houlsby", scaling="much"), "scaling='much' is no number"),
        (small("houlsby", dropout=1.5), "dropout=1.5 is no number from 0 to below 1"),
        (AdapterSpec("pfeiffer", reduction_factor=0), "reduction_factor=0 is no number > 0"),
        (AdapterSpec("compacter", reduction_factor=3), "phm_dim=4 must divide .* not divide 5"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec: AdapterSpec, reason: str) -> None:
    model = bert()
    looks = look(model)
    with pytest.raises((SpecError, UnsupportedError), match=reason):
        AdaptedModel.of(model).attach(spec)
    assert look(model) == looks


def test_a_family_without_known_places_is_refused_by_name() -> None:
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = MPNetModel(MPNetConfig(vocab_size=48, **sizes))
    with pytest.raises(
        UnsupportedError, match=r"'parallel' has no known place .* mpnet model; it has in: bert"
    ):
        AdaptedModel.of(model).attach(AdapterSpec("parallel"))


def test_biases_of_a_model_without_any_are_refused() -> None:
    with pytest.raises(SpecError, match="'bitfit' trains biases, and T5EncoderModel has none"):
        AdaptedModel.of(t5()).attach(AdapterSpec("bitfit"))


def test_bitfit_computes_what_changed_biases_do() -> None:
    model = bert().double()
    attachment = at_random(model, make_config(AdapterSpec("bitfit"), model, model.classifier))
    answered = logits(model)
    tensors = attachment.tensors()
    attachment.remove()
    other = copy.deepcopy(model)
    for name, delta in tensors.items():
        path = name.removeprefix("base_model.model.").removesuffix(".bitfit_bias")
        with torch.no_grad():
            other.get_submodule(path).bias += delta
    changed = {name for name, p in other.named_parameters() if not torch.equal(p, model.get_parameter(name))}
    assert changed == {name for name, _ in model.named_parameters() if name.endswith("bias")} - {
        "classifier.bias"
    }
    torch.testing.assert_close(answered, logits(other), rtol=0, atol=1e-9)
