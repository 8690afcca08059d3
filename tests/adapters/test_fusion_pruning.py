"""Fusions of which each site keeps some members: which these are, and what is computed then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters_tiny import CLASSES, Module, gpt2, logits, look
from fusion_oracle import Array, fused_by_hand
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from contpeft.adapters import AdaptedModel
from contpeft.adapters.fusion import (
    FusionAttachment,
    FusionOptions,
    Member,
    members_of,
    most_attended,
    pruned,
)
from contpeft.adapters.fusion.linear import FusedLinear
from contpeft.errors import UsageError
from contpeft.spec import AdapterSpec, AdapterState, Single
from contpeft.spec.lora import ROOT, lora_scaling
from contpeft.store import AdapterStore

QUERY, OUTPUT = "encoder.layer.0.attention.self.query", "encoder.layer.1.output.dense"
LORA = {
    "mail": AdapterSpec("lora", r=4, targets=["query", "value"]),
    "chat": AdapterSpec("lora", r=2, targets=["query", "value", "output.dense"]),
    "calls": AdapterSpec("lora", r=3, targets=["query", "value"]),
}


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


def whole(store: AdapterStore, make: Any, specs: dict[str, AdapterSpec], **told: Any) -> AdapterState:
    """Registers random adapters and a random fusion over them; returns the fusion."""
    torch.manual_seed(0)
    for name, spec in specs.items():
        adapted = AdaptedModel.of(make())
        for parameter in adapted.attach(spec).parameters():
            nn.init.normal_(parameter, std=0.3)
        store.register(name, adapted.state(CLASSES), base=adapted.base)
    adapted = AdaptedModel.of(make())
    for parameter in adapted.attach_fusion(members(store, *specs), FusionOptions(**told)).parameters():
        nn.init.normal_(parameter, std=0.3)
    state = adapted.state(CLASSES)
    store.register("all", state, base=adapted.base)
    return state


def members(store: AdapterStore, *names: str) -> list[Member]:
    return [(store.show(name), store.load(name)) for name in names]


def sites(state: AdapterState) -> list[str]:
    names = [name.removeprefix(ROOT) for name in state.adapter_tensors()]
    return list(dict.fromkeys(name.partition(".fusion.")[0] for name in names))


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_the_most_attended_are_kept_the_first_of_equals(means: list[list[float]], keep: int) -> None:
    kept = most_attended({str(place): row for place, row in enumerate(means)}, keep)
    for place, row in enumerate(means):
        own = kept[str(place)]
        assert len(own) == keep
        assert list(own) == sorted(own)
        expected = np.argsort(-np.array(row), kind="stable")[:keep]
        assert set(own) == set(expected.tolist())


def test_what_was_pruned_is_pruned_further_among_what_it_kept() -> None:
    means = {"a": (0.0, 0.2, 0.8), "b": (0.5, 0.5, 0.0)}
    assert most_attended(means, 1, {"a": (1, 2), "b": (0, 1)}) == {"a": (2,), "b": (0,)}
    with pytest.raises(UsageError, match="keeping 2 of 2 members prunes nothing"):
        most_attended(means, 2, {"a": (1, 2), "b": (0, 1)})
    with pytest.raises(UsageError, match="keeping 3 of 3 members prunes nothing"):
        most_attended(means, 3)
    with pytest.raises(UsageError, match="a site must keep 1 member at least, not 0"):
        most_attended(means, 0)


def test_members_that_no_site_keeps_are_no_longer_needed(store: AdapterStore) -> None:
    state = whole(store, Module, LORA)
    kept = {path: (0, 2) if "query" in path else (2,) for path in sites(state)}
    small = pruned(state, kept)
    assert members_of(small) == ["mail@1", "calls@1"]
    assert small.config["kept"] == {path: [0, 1] if "query" in path else [1] for path in kept}
    assert small.config["options"] == state.config["options"]
    assert small.tensors is state.tensors
    store.register("small", small, base=store.show("all").base)
    asked: list[str] = []

    def load(ref: str) -> Member:
        asked.append(ref)
        return store.show(ref), store.load(ref)

    adapted = AdaptedModel.of(Module())
    before = look(adapted.module)
    with adapted.applied(Single("small@1"), load):
        assert isinstance(adapted.attachment, FusionAttachment)
        assert adapted.attachment.config_json() == small.config
        weights = {path: layer.a.shape[:2] for path, layer in fused(adapted).items()}
    assert set(asked) == {"small@1", "mail@1", "calls@1"}
    assert look(adapted.module) == before
    assert weights[QUERY] == (2, 4)  # filled up to the rank of what is there, 4 and 3
    assert weights[OUTPUT] == (1, 0)  # calls does not change this layer


def fused(adapted: AdaptedModel) -> dict[str, FusedLinear]:
    return {path: each for path, each in adapted.model.named_modules() if isinstance(each, FusedLinear)}


def said_by(state: AdapterState, path: str, x: Tensor) -> Array:
    """Returns what an adapter adds to a layer, nothing where it does not change it."""
    if f"{ROOT}{path}.lora_A.weight" not in state.tensors:
        return np.zeros((*x.shape[:-1], 16))
    a, b = (np.asarray(state.tensors[f"{ROOT}{path}.lora_{each}.weight"], dtype=np.float64) for each in "AB")
    return np.asarray(x, dtype=np.float64) @ (lora_scaling(state.config, path) * b @ a).T


@pytest.mark.parametrize("residual_before", [False, True])
def test_a_pruned_site_mixes_what_it_keeps(store: AdapterStore, residual_before: bool) -> None:
    state = whole(store, Module, LORA, residual_before=residual_before)
    kept = {path: (0, 2) if path == QUERY else (0, 1) for path in sites(state)}
    store.register("small", pruned(state, kept), base=store.show("all").base)
    adapted, x = AdaptedModel.of(Module()), torch.randn(2, 5, 32)
    held = {name: np.asarray(each) for name, each in state.tensors.items()}

    def load(ref: str) -> Member:
        return store.show(ref), store.load(ref)

    with adapted.applied(Single("small@1"), load), torch.no_grad():
        for path in (QUERY, OUTPUT):
            layer = adapted.model.get_submodule(path)
            assert isinstance(layer, FusedLinear)
            own = x[..., : layer.base_layer.in_features]  # type: ignore[arg-type,misc]
            answered, said = np.asarray(layer(own)), np.asarray(layer.base_layer(own), dtype=np.float64)
            added = [said_by(store.load(list(LORA)[place]), path, own) for place in kept[path]]
            inside = {
                name.partition(f"{path}.fusion.")[2]: each for name, each in held.items() if path in name
            }
            options = FusionOptions(residual_before=residual_before)
            expected = fused_by_hand(inside, options, said, np.stack(added, 2), said)
            np.testing.assert_allclose(answered, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["pfeiffer", "houlsby", "parallel"])
@pytest.mark.parametrize("make", [Module, gpt2])
def test_sites_that_keep_one_member_each_are_those_members_layers(
    store: AdapterStore, make: Any, method: str
) -> None:
    specs = {f"a{place}": AdapterSpec(method, reduction_factor=4) for place in range(3)}
    state = whole(store, make, specs, value=False)
    kept = {path: (2 if place % 2 else 1,) for place, path in enumerate(sites(state))}
    store.register("small", pruned(state, kept), base=store.show("all").base)
    one, *others = (store.load(name) for name in specs)
    tensors = {
        name: others[kept[name.removeprefix(ROOT).partition(".bottleneck_")[0]][0] - 1].tensors[name]
        for name in one.adapter_tensors()
    }
    store.register("mixed", replace(one, tensors=tensors, head=None), base=store.show("all").base)
    module = make()
    adapted = AdaptedModel.of(module)

    def load(ref: str) -> Member:
        return store.show(ref), store.load(ref)

    with adapted.applied(Single("small@1", "a0@1") if adapted.head else Single("small@1"), load):
        found = logits(module)
    with adapted.applied(Single("mixed@1", "a0@1") if adapted.head else Single("mixed@1"), load):
        torch.testing.assert_close(found, logits(module), rtol=1e-5, atol=1e-5)
