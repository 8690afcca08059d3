"""Merged adapters in PEFT itself: equal logits, and its own merges as a yardstick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters_tiny import IDS, bert, gpt2, logits
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from contpeft.adapters import AdaptedModel
from contpeft.merging import Fusion, Merged, Rank, Source, fuse, make_rule
from contpeft.spec import AdapterState
from contpeft.spec.lora import ROOT
from contpeft.store import AdapterStore, Request

TARGETS = {bert: ["query", "value"], gpt2: ["c_attn", "c_fc"]}
DENSE_HALF = {"density": 0.5, "space": "delta"}
BY_NUMBER = {"majority_sign_method": "frequency"}
KINDS: dict[str, tuple[dict[str, Any], ...]] = {
    "mixed ranks": ({"r": 4, "lora_alpha": 8}, {"r": 2, "lora_alpha": 3}, {"r": 6}),
    "rank-stabilised": (
        {"r": 4, "use_rslora": True},
        {"r": 8, "use_rslora": True, "lora_alpha": 3},
        {"r": 4},
    ),
    "patterns": (
        {"r": 4, "rank_pattern": {"query|c_fc": 7}, "alpha_pattern": {"value|c_attn": 5}},
        {"r": 3, "lora_alpha": 1},
        {"r": 2, "layers_to_transform": [1]},
    ),
}


def trained(make: Any, seed: int, **options: Any) -> tuple[AdaptedModel, AdapterState]:
    """Attaches an adapter with random factors; returns the model with it active, and its state."""
    adapted = AdaptedModel.of(make())
    parameters = adapted.attach(LoraConfig(**{"target_modules": TARGETS[make], **options})).parameters()
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return adapted, adapted.state()


def merged_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns what PEFT adds to each weight of a model with one adapter."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and module.active_adapters:
            found[name.removeprefix(ROOT)] = module.get_delta_weight(module.active_adapters[0]).detach()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", TARGETS)
def test_a_merged_adapter_loads_in_peft_as_the_sum_of_what_peft_adds(
    make: Any, kind: str, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "store")
    weights, total = (1.0, -0.5, 2.0), dict[str, torch.Tensor]()
    for seed, options in enumerate(KINDS[kind]):
        adapted, state = trained(make, seed, **options)
        store.register(f"a{seed}", state, base=adapted.base)
        for name, delta in merged_weights(adapted.module).items():
            total[name] = total.get(name, 0) + weights[seed] * delta
    store.fusion.fuse(Request(["a0", "a1", "a2"], weights=weights), "sum")
    store.exchange.export_folder("sum", tmp_path / "out")
    loaded = PeftModel.from_pretrained(make(), tmp_path / "out").eval()
    for name, delta in merged_weights(loaded).items():
        torch.testing.assert_close(delta, total[name], rtol=1e-4, atol=1e-4)
    expected = make()
    with torch.no_grad():
        for name, delta in total.items():
            expected.get_submodule(name).weight += delta
    ids = IDS[:, :5]
    effect = (logits(expected, ids) - logits(make(), ids)).abs().max()
    assert effect > 5e-3
    assert (logits(loaded, ids) - logits(expected, ids)).abs().max() < 1e-3 * effect
    ours = AdaptedModel.of(make())
    ours.attach_state(store.load("sum"))
    torch.testing.assert_close(logits(ours.module, ids), logits(loaded, ids))
    store.close()


def ours(
    states: list[AdapterState], rule: str, weights: list[float], rank: str = "full", **parameters: Any
) -> Merged:
    pairs = zip(states, weights, strict=True)
    sources = [
        Source(f"a{i}", f"{i}", "lora", state.config, state.adapter_tensors(), weight)
        for i, (state, weight) in enumerate(pairs)
    ]
    return fuse(sources, Fusion(make_rule(rule, parameters), Rank.parse(rank)))


def theirs(
    states: list[AdapterState], kind: str, weights: list[float], **options: Any
) -> dict[str, np.ndarray]:
    """Returns what PEFT's own merge adds to each weight."""
    names = [f"a{i}" for i in range(len(states))]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS[bert])
    model = get_peft_model(bert(), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    for name, state in zip(names, states, strict=True):
        renamed = {
            key.replace(".weight", f".{name}.weight"): value for key, value in state.adapter_tensors().items()
        }
        assert not model.load_state_dict(renamed, strict=False).unexpected_keys
    model.base_model.add_weighted_adapter(names, weights, "merged", combination_type=kind, **options)
    model.set_adapter("merged")
    return {name: delta.numpy() for name, delta in merged_weights(model).items()}


@pytest.mark.parametrize(
    ("rule", "kind", "parameters", "options"),
    [
        ("sum", "svd", {}, {"svd_rank": 9}),
        ("sum", "cat", {}, {}),
        ("peft-linear", "linear", {}, {}),
        ("peft-ties", "ties", {"density": 0.5}, {"density": 0.5}),
        ("peft-ties", "ties", {"density": 0.5, "vote": "frequency"}, {"density": 0.5, **BY_NUMBER}),
        ("ties", "ties_svd", DENSE_HALF, {"density": 0.5, "svd_rank": 16}),
        ("prune", "magnitude_prune_svd", DENSE_HALF, {"density": 0.5, "svd_rank": 16}),
    ],
)  # fmt: skip
def test_where_peft_has_the_rule_the_results_agree(
    rule: str, kind: str, parameters: dict[str, Any], options: dict[str, Any]
) -> None:
    states = [trained(bert, seed, r=3, lora_alpha=6)[1] for seed in range(3)]
    # Equal weights where PEFT elects signs before it weighs.
    weights = [1.0, 1.0, 1.0] if "ties" in rule else [0.7, 0.3, 1.5]
    expected = theirs(states, kind, weights, **options)
    merged = ours(states, rule, weights, rank="16", **parameters)
    for name, delta in expected.items():
        b, a = (merged.tensors[f"{ROOT}{name}.lora_{factor}.weight"].double() for factor in "BA")
        scale = np.abs(delta).max()
        np.testing.assert_allclose((b @ a).numpy() / scale, delta / scale, atol=2e-4)


def test_peft_linear_is_far_from_the_sum_and_says_so() -> None:
    states = [trained(bert, seed, r=3)[1] for seed in range(2)]
    exact, rough = (ours(states, rule, [0.7, 0.3]) for rule in ("sum", "peft-linear"))
    name = f"{ROOT}bert.encoder.layer.0.attention.self.query"
    deltas = [m.tensors[f"{name}.lora_B.weight"] @ m.tensors[f"{name}.lora_A.weight"] for m in (exact, rough)]
    assert (deltas[1] - deltas[0]).norm() > 0.5 * deltas[0].norm()
