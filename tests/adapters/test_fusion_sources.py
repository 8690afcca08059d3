"""What scores at a fused site of pfeiffer adapters: the normalised sum, or the FFN's own output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters_tiny import CLASSES, IDS, Module, distilbert, gpt2, logits, look
from fusion_oracle import Array, fused_by_hand
from torch import nn
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel
from contpeft.adapters.fusion import FusionOptions, Member
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Single
from contpeft.spec.lora import ROOT
from contpeft.store import AdapterStore

BEFORE = FusionOptions(query_before_ln=True)
SITES = {
    Module: ("encoder.layer.1.output.LayerNorm", "encoder.layer.1.output.dropout"),
    distilbert: ("distilbert.transformer.layer.1.output_layer_norm", "distilbert.transformer.layer.1.ffn"),
}


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


def learnt(store: AdapterStore, make: Any, method: str = "pfeiffer") -> list[Member]:
    """Registers three adapters of other widths, random all over, and returns them."""
    found = []
    for seed, factor in enumerate((2, 4, 8)):
        adapted = AdaptedModel.of(make())
        spec = (
            AdapterSpec(method)
            if method == "lora"
            else AdapterSpec(method, reduction_factor=factor, scaling=2.0)
        )
        generator = torch.Generator().manual_seed(seed)
        for parameter in adapted.attach(spec).parameters():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        version = store.register(f"a{seed}", adapted.state(CLASSES), base=adapted.base)
        found.append((version, store.load(version.ref)))
    return found


def said(members: list[Member], path: str, z: Array) -> Array:
    """Returns what each adapter says of what it reads, ``(B, T, N, H)``."""
    found = []
    for _, state in members:
        held = {name: np.asarray(value, dtype=np.float64) for name, value in state.tensors.items()}
        parts = {
            name.partition(f"{path}.bottleneck_")[2]: value for name, value in held.items() if path in name
        }
        inner = z @ parts["down.weight"].T + parts["down.bias"]
        active = np.asarray(F.relu(torch.from_numpy(inner)))
        found.append(2.0 * (active @ parts["up.weight"].T + parts["up.bias"]))
    return np.stack(found, 2)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("make", [Module, distilbert])
def test_a_site_is_the_maths_with_either_query(store: AdapterStore, make: Any, before: bool) -> None:
    members = learnt(store, make)
    adapted = AdaptedModel.of(make())
    torch.manual_seed(0)
    attachment = adapted.attach_fusion(members, FusionOptions(query_before_ln=before))
    for parameter in attachment.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = adapted.model.double()
    path, source = SITES[make]
    seen: dict[str, Array] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seen[name], seen[f"into {name}"] = (np.asarray(each.detach()) for each in (output, inputs[0]))

        return hook

    for name in (path, source):
        model.get_submodule(name).register_forward_hook(keep(name))
    logits(adapted.module.double())
    norm = model.get_submodule(path).base_layer
    total, f = seen[f"into {path}"], seen[source]

    def normalised(values: Array) -> Array:
        with torch.no_grad():
            return np.asarray(norm(torch.from_numpy(values)))

    z = normalised(total)
    held = {
        name.partition(".fusion.")[2]: np.asarray(value)
        for name, value in attachment.tensors().items()
        if name.startswith(f"{ROOT}{path}.fusion.")
    }
    x = total - f
    y = fused_by_hand(held, BEFORE, f if before else z, said(members, path, z), f)
    np.testing.assert_allclose(seen[path], normalised(y + x), rtol=0, atol=1e-9)


def test_a_stored_fusion_scores_with_what_it_was_trained_with(store: AdapterStore) -> None:
    members = learnt(store, Module)
    adapted = AdaptedModel.of(Module())
    before = look(adapted.module)
    torch.manual_seed(0)
    for parameter in adapted.attach_fusion(members, BEFORE).parameters():
        nn.init.normal_(parameter, std=0.3)
    expected = logits(adapted.module)
    store.register("all", adapted.state(CLASSES), base=adapted.base)
    adapted.detach()
    assert look(adapted.module) == before

    def load(ref: str) -> Member:
        return store.show(ref), store.load(ref)

    fresh = AdaptedModel.of(Module())
    with fresh.applied(Single("all@1"), load):
        assert torch.equal(logits(fresh.module, IDS), expected)
    assert look(fresh.module) != before  # another module
    adapted.attach_fusion(members)
    for parameter in adapted.attachment.parameters():  # type: ignore[union-attr]
        nn.init.normal_(parameter, std=0.3)
    assert not torch.allclose(logits(adapted.module), expected)


@pytest.mark.parametrize(
    ("make", "method", "reason"),
    [
        (Module, "lora", "over LoRA what the layer says scores: leave it out"),
        (Module, "houlsby", "houlsby adapters do not: leave it out"),
        (Module, "parallel", "parallel adapters do not: leave it out"),
        (gpt2, "pfeiffer", "in gpt2 nothing is normalised after the FFN: leave it out"),
    ],
)
def test_a_query_before_a_norm_that_is_not_there_is_refused(
    store: AdapterStore, make: Any, method: str, reason: str
) -> None:
    members = learnt(store, make, method)
    adapted = AdaptedModel.of(make())
    before = look(adapted.module)
    with pytest.raises(UnsupportedError, match=f"query_before_ln is for .*{reason}"):
        adapted.attach_fusion(members, BEFORE)
    assert look(adapted.module) == before
