"""Fusion over bottleneck adapters in a model: its maths at every site, and its way through a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters_tiny import CLASSES, IDS, Module, gpt2, logits, look, same, trained, values
from numpy.typing import NDArray
from torch import nn

from contpeft.adapters import AdaptedModel
from contpeft.adapters.attachment import Attachment
from contpeft.adapters.fusion import FusionAttachment, FusionOptions, Member
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, AdapterState, Single
from contpeft.spec.lora import ROOT
from contpeft.store import AdapterStore

METHODS = ("houlsby", "parallel", "pfeiffer")
WIDTHS = (2, 4, 8)
Array = NDArray[np.float64]


def learnt(store: AdapterStore, make: Any, method: str, **told: Any) -> list[Member]:
    """Registers an adapter of each bottleneck, random all over, and returns them."""
    found = []
    for seed, factor in enumerate(WIDTHS):
        adapted = AdaptedModel.of(make())
        parameters = adapted.attach(AdapterSpec(method, reduction_factor=factor, **told)).parameters()
        generator = torch.Generator().manual_seed(seed)
        for parameter in parameters:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        version = store.register(f"{method}-{factor}", adapted.state(CLASSES), base=adapted.base)
        found.append((version, store.load(version.ref)))
    return found


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store")


def fused(make: Any, members: list[Member], **told: Any) -> tuple[AdaptedModel, FusionAttachment]:
    adapted = AdaptedModel.of(make())
    torch.manual_seed(0)
    attachment = adapted.attach_fusion(members, FusionOptions(**told))
    for parameter in attachment.parameters():
        nn.init.normal_(parameter, std=0.3)
    return adapted, attachment


def alone(make: Any, state: AdapterState) -> dict[str, Any]:
    """Returns the layers of one adapter by the path of their site."""
    model = AdaptedModel.of(make()).model
    paths = {id(module): path for path, module in model.named_modules()}
    return {
        paths[id(base.module)]: layer.module for base, layer in Attachment.from_state(model, state).places()
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [Module, gpt2])
def test_every_site_adds_the_mixture_of_what_the_adapters_add(
    store: AdapterStore, make: Any, method: str
) -> None:
    members = learnt(store, make, method)
    adapted, attachment = fused(make, members)
    tensors = {name: np.asarray(value, dtype=np.float64) for name, value in attachment.tensors().items()}
    single = [alone(make, state) for _, state in members]
    sites = {name.removeprefix(ROOT).partition(".fusion.")[0] for name in tensors}
    assert len(sites) == (4 if method == "houlsby" else 2)
    for path in sites:
        z = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
        held = {
            name.partition(f"{path}.fusion.")[2]: value for name, value in tensors.items() if path in name
        }
        with torch.no_grad():
            said = [np.asarray(each[path]._added(z, ["current"]), dtype=np.float64) for each in single]
            found = np.asarray(adapted.model.get_submodule(path)._added(z))
        outputs, query = (
            np.stack(said, 2),
            np.asarray(z, dtype=np.float64) @ held["query.weight"].T + held["query.bias"],
        )
        scores = np.einsum("bth,btnh->btn", query, outputs @ held["key.weight"].T + held["key.bias"])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        expected = np.einsum("btn,btnh->bth", weights, outputs + outputs @ held["value.offset"].T)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_equal_adapters_fused_answer_as_one(store: AdapterStore, method: str) -> None:
    (version, state), *_ = learnt(store, Module, method)
    module = Module()
    adapted = AdaptedModel.of(module)
    attachment = adapted.attach_fusion([(version, state), (version, state)])
    for name, parameter in attachment.named_parameters().items():
        if name.endswith("value.offset"):
            nn.init.zeros_(parameter)
    fused_answer = logits(module)
    adapted.detach()
    adapted.attach_state(state)
    torch.testing.assert_close(fused_answer, logits(module), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_stored_fusion_answers_as_when_it_was_trained(store: AdapterStore, method: str) -> None:
    members = learnt(store, Module, method)
    adapted, attachment = fused(Module, members)
    optimizer = torch.optim.SGD(adapted.train_only(), lr=0.01)
    (adapted.module(IDS).square().mean() + attachment.penalty()).backward()
    optimizer.step()
    expected = logits(adapted.module.eval())
    store.register("all", adapted.state(CLASSES), base=adapted.base)
    module = Module()
    fresh = AdaptedModel.of(module)
    before, held = look(module), values(module)

    def load(ref: str) -> Member:
        return store.show(ref), store.load(ref)

    with fresh.applied(Single("all@1"), load):
        assert torch.equal(logits(module), expected)
    assert look(module) == before
    assert same(values(module), held)


def test_what_cannot_be_fused_is_refused_by_name_and_nothing_is_left(store: AdapterStore) -> None:
    members = learnt(store, Module, "pfeiffer")
    other = learnt(store, Module, "houlsby", non_linearity="tanh")
    module = Module()
    adapted = AdaptedModel.of(module)
    before = look(module)
    with pytest.raises(UnsupportedError, match="method 'houlsby', 'pfeiffer' are not fused"):
        adapted.attach_fusion([members[0], other[0]])
    with pytest.raises(UnsupportedError, match="residual_before is for fusions over LoRA"):
        adapted.attach_fusion(members, FusionOptions(residual_before=True))
    spec = AdapterSpec("houlsby", non_linearity="relu")
    relu = AdaptedModel.of(Module())
    store.register("relu", trained(relu, spec, classes=CLASSES), base=relu.base)
    with pytest.raises(UnsupportedError, match="activations relu, tanh; only equal ones"):
        adapted.attach_fusion([other[0], (store.show("relu"), store.load("relu"))])
    bare = AdaptedModel.of(Module())
    alone_ = trained(bare, AdapterSpec("houlsby", non_linearity="tanh", residual=False), classes=CLASSES)
    store.register("bare", alone_, base=bare.base)
    with pytest.raises(UnsupportedError, match="residual=False stands for what it reads"):
        adapted.attach_fusion([other[0], (store.show("bare"), store.load("bare"))])
    with pytest.raises(SpecError, match="needs two adapters at least"):
        adapted.attach_fusion(members[:1])
    assert look(module) == before
