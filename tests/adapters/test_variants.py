"""Variants of LoRA: presets, starts at the base's own directions, factors that stay or learn faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from adapters_tiny import IDS, LABELS, bert, gpt2, logits, same, step, trained, values
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel, check_spec, serving_state
from contpeft.adapters.methods import make_config
from contpeft.adapters.principal import olora_factors, pissa_factors
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec

EXACT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
QUIET = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")


def attached(model: Any, method: str, **options: Any) -> AdaptedModel:
    adapted = AdaptedModel.of(model)
    torch.manual_seed(0)
    adapted.attach(AdapterSpec(method, **options))
    return adapted


def test_presets_are_lora_with_an_option() -> None:
    for method, option in (("rslora", "use_rslora"), ("dora", "use_dora")):
        preset = make_config(AdapterSpec(method, r=4), bert())
        assert preset == make_config(AdapterSpec("lora", r=4, **{option: True}), bert())
        assert getattr(preset, option)


@pytest.mark.parametrize("method", ["rslora", "pissa", "olora", "lora-fa", "lora+"])
def test_what_is_stored_is_a_plain_lora_that_is_served(method: str) -> None:
    model = bert()
    adapted = attached(model, method, r=4)
    state = trained(adapted)
    assert (state.kind, state.config["init_lora_weights"]) == ("lora", True)
    served = serving_state(state, bert())
    fresh = AdaptedModel.of(bert())
    fresh.attach_state(served)
    fresh.load_head(state)
    torch.testing.assert_close(logits(fresh.module), logits(model), rtol=0, atol=1e-5)


# --- starts at the base's own directions -----------------------------------------------------------


def test_principal_factors_are_those_of_the_weight() -> None:
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vh = np.linalg.svd(weight.numpy(), full_matrices=False)
    b, a = pissa_factors(weight, 3)
    np.testing.assert_allclose((b @ a).numpy(), u[:, :3] * s[:3] @ vh[:3], atol=1e-12)
    np.testing.assert_allclose((b.T @ b).numpy(), np.diag(s[:3]), atol=1e-12)
    np.testing.assert_allclose((a @ a.T).numpy(), np.diag(s[:3]), atol=1e-12)
    q, r = np.linalg.qr(weight.numpy())
    b, a = olora_factors(weight, 2)
    np.testing.assert_allclose((b @ a).numpy(), q[:, :2] @ r[:2], atol=1e-12)


def test_the_fast_start_is_the_same_every_time_and_close() -> None:
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = pissa_factors(weight, 4, niter=16)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(*pair) for pair in zip(first, pissa_factors(weight, 4, niter=16), strict=True))
    b, a = pissa_factors(weight, 4)
    torch.testing.assert_close(first[0] @ first[1], b @ a, rtol=0, atol=0.05 * float((b @ a).norm()))


def strong(model: Any) -> Any:
    """Returns the model with weights large enough for adapters of their size to matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return model


def losses(model: Any, parameters: list[nn.Parameter], ids: torch.Tensor, steps: int = 6) -> list[float]:
    """Returns the losses of a few steps of SGD."""
    optimizer, found = torch.optim.SGD(parameters, lr=1.0), []
    for _ in range(steps):
        scores = model(ids).logits
        loss = F.cross_entropy(scores.flatten(0, -2), (ids if scores.ndim == 3 else LABELS).flatten())
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


@QUIET
@pytest.mark.parametrize(
    ("make", "method", "options"),
    [
        (bert, "pissa", {}),
        (bert, "pissa", {"niter": 4}),
        (bert, "pissa", {"use_rslora": True}),
        (bert, "pissa", {"use_dora": True}),
        (bert, "olora", {}),
        (bert, "olora", {"alpha": 4}),
        (gpt2, "pissa", {}),
    ],
)
def test_training_takes_the_path_of_pefts_rewritten_base(
    make: Callable[[], Any], method: str, options: dict[str, Any]
) -> None:
    ids = IDS[:, :6]
    model = strong(make())
    before = values(model)
    adapted = attached(model, method, r=4, **options)
    ours = losses(model, adapted.attachment.trainable(), ids)
    adapted.detach()
    assert same(values(model), before)
    other = strong(make())
    niter = options.pop("niter", None)
    start = method if niter is None else f"pissa_niter_{niter}"
    config = make_config(AdapterSpec("lora", r=4, **options), other)
    config.init_lora_weights = start
    torch.manual_seed(0)  # as the fast start does, once for each weight
    peft = get_peft_model(other, config)
    theirs = losses(other, [p for p in peft.parameters() if p.requires_grad], ids)
    tolerance = 1e-4 if niter is None else 2e-2  # another draw for each weight there
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)
    assert max(ours) - min(ours) > 1e-2


def test_transposed_weights_start_olora_right() -> None:
    model = gpt2()
    start = logits(model, IDS[:, :6])
    tensors = attached(model, "olora", r=4).attachment.tensors()
    torch.testing.assert_close(logits(model, IDS[:, :6]), start, rtol=0, atol=1e-6)
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_{}.weight"
    q, r = np.linalg.qr(gpt2().transformer.h[0].attn.c_attn.weight.detach().double().numpy().T)
    np.testing.assert_allclose(tensors[name.format("B")][:, :4], q[:, :4], atol=1e-5)
    np.testing.assert_allclose(tensors[name.format("A")][:4], r[:4], atol=1e-5)


@pytest.mark.parametrize("method", ["pissa", "olora"])
@pytest.mark.parametrize("stable", [False, True])
def test_a_doubled_adapter_keeps_its_scaling_and_comes_back_bit_for_bit(method: str, stable: bool) -> None:
    model = bert()
    options = {"r": 4, "alpha": 6, "rank_pattern": {"value": 2}, "alpha_pattern": {"value": 5}}
    state = trained(attached(model, method, use_rslora=stable, **options))
    root = np.sqrt if stable else np.asarray
    layer = model.bert.encoder.layer[1].attention.self
    assert layer.query.scaling["current"] == pytest.approx(6 / root(4))
    assert layer.value.scaling["current"] == pytest.approx(5 / root(2))
    assert (state.config["r"], state.config["rank_pattern"]) == (8, {"value": 4})
    fresh = AdaptedModel.of(bert())
    fresh.attach_state(state)
    fresh.load_head(state)
    assert torch.equal(logits(fresh.module), logits(model))


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_the_frozen_half_is_no_parameter_and_does_not_move(method: str) -> None:
    adapted = attached(bert(), method, r=4)
    before = adapted.attachment.tensors()
    parameters = adapted.attachment.trainable()
    assert {tuple(p.shape) for p in parameters} == {(4, 16), (16, 4)}
    assert {id(p) for p in adapted.attachment.parameters()} == {id(p) for p in parameters}
    optimizer = torch.optim.AdamW(adapted.train_only(), lr=0.05, weight_decay=0.5)
    for _ in range(3):
        step(adapted.module, optimizer)
    for name, after in adapted.attachment.tensors().items():
        dim = 0 if "lora_A" in name else 1
        was, now = before[name].chunk(2, dim), after.chunk(2, dim)
        assert torch.equal(was[1], now[1]), name
        assert not torch.equal(was[0], now[0]), name


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_both_halves_are_loaded(method: str) -> None:
    model = bert()
    state = trained(attached(model, method, r=4))
    other = attached(bert(seed=1), method, r=4)
    other.attachment.load(state.adapter_tensors())
    assert same(other.attachment.tensors(), state.adapter_tensors())
    broken = dict(state.adapter_tensors())
    name = next(iter(broken))
    broken[name] = broken[name][:3]
    with pytest.raises(SpecError, match=f"stored tensor {name} has shape"):
        other.attachment.load(broken)
    assert same(other.attachment.tensors(), state.adapter_tensors())


def test_a_stored_start_is_trained_on_by_its_own_half() -> None:
    spec = AdapterSpec("pissa", r=4)
    model = bert(**EXACT)
    state = trained(attached(model, "pissa", r=4))
    again, plain = AdaptedModel.of(bert(**EXACT)), AdaptedModel.of(bert(**EXACT))
    again.attach_state(state, spec)
    again.load_head(state)
    assert torch.equal(logits(again.module), logits(model))
    assert {tuple(p.shape) for p in again.attachment.trainable()} == {(4, 16), (16, 4)}
    assert same(again.state().tensors, state.tensors)
    name = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"
    assert torch.equal(trained(again, steps=1).tensors[name][4:], state.tensors[name][4:])
    plain.attach_state(state)  # no word of the method: plain LoRA of the whole rank
    assert {tuple(p.shape) for p in plain.attachment.trainable()} == {(8, 16), (16, 8)}
    with pytest.raises(SpecError, match="the stored adapter has rank 8, and a start at r=8"):
        AdaptedModel.of(bert()).attach_state(state, AdapterSpec("pissa"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (AdapterSpec("pissa", r=17), r"rank 17 is more than the weight of 'query' has, \(16, 16\)"),
        (AdapterSpec("olora", r=4, targets=["word_embeddings"]), "'word_embeddings' is a Embedding"),
        (AdapterSpec("pissa", niter=-1), "niter=-1 of 'pissa' is no number of iterations"),
        (AdapterSpec("lora+", ratio=0), r"ratio=0 of 'lora\+' is no factor"),
        (AdapterSpec("lora+", ration=2), "no option 'ration'; did you mean 'ratio'?"),
        (AdapterSpec("dora", use_dora=False), "method 'dora' is lora with use_dora=True, not False"),
        (AdapterSpec("lora-ga"), "no adapter method 'lora-ga'; did you mean 'lora-fa'?"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec: AdapterSpec, message: str) -> None:
    model = bert()
    before = values(model)
    with pytest.raises(SpecError, match=message):
        AdaptedModel.of(model).attach(spec)
    assert same(values(model), before)
    if "targets" not in spec.options and "r" not in spec.options:
        with pytest.raises(SpecError, match=message):
            check_spec(spec)


# --- factors that stay, or learn faster ------------------------------------------------------------


def test_lora_fa_keeps_a_at_its_random_start() -> None:
    adapted = attached(bert(), "lora-fa", r=4)
    before = adapted.attachment.tensors()
    trained(adapted, steps=3)
    moved = {name for name, t in adapted.attachment.tensors().items() if not torch.equal(t, before[name])}
    assert moved == {name for name in before if "lora_B" in name}
    assert {tuple(p.shape) for p in adapted.attachment.trainable()} == {(16, 4)}


def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (k + 1) / 5 if k < 5 else 1 - (k - 4) / 10)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lora_plus_is_a_higher_rate_of_b(decay: float) -> None:
    ours = attached(bert(**EXACT).double(), "lora+", r=4, ratio=8)
    dynamics = ours.attachment.dynamics
    optimizer = torch.optim.AdamW(ours.attachment.trainable(), lr=1e-2, weight_decay=decay)
    scheduler = schedule(optimizer)
    for taken in range(10):
        F.cross_entropy(ours.module(IDS).logits, LABELS).backward()
        dynamics.before_step()
        optimizer.step()
        dynamics.after_step(taken)
        optimizer.zero_grad()
        scheduler.step()
    other = bert(**EXACT).double()
    torch.manual_seed(0)
    peft = get_peft_model(other, LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]), "current")
    theirs = create_loraplus_optimizer(
        peft, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=8, weight_decay=decay, loraplus_weight_decay=decay
    )
    scheduler = schedule(theirs)
    for _ in range(10):
        F.cross_entropy(other(IDS).logits, LABELS).backward()
        theirs.step()
        theirs.zero_grad()
        scheduler.step()
    expected = {n.replace(".current", ""): p for n, p in peft.named_parameters() if p.requires_grad}
    found = ours.attachment.named_parameters()
    assert found.keys() == expected.keys()
    for name, parameter in found.items():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-12)
        assert parameter.abs().max() > 1e-2
