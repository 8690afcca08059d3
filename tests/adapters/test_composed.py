"""Compositions of stored versions in a model: what they compute, and that nothing is left of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from adapters_methods import PROMPTS, each_method, quiet, spec
from adapters_oracle import FAMILIES, Array, adapter, find, normalised, watch
from adapters_tiny import CLASSES, IDS, Module, bert, logits, look, same, trained, values, version
from torch import Tensor, nn

from contpeft.adapters import AdaptedModel
from contpeft.adapters.composable import LOWEST, composes
from contpeft.adapters.methods import config_from_json
from contpeft.errors import IntegrityError, SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, AdapterState, Drop, Fuse, Part, Single, Stack, Sum, Version, average

A_SECOND = {"m@1": "has a prompt in it already"}
GATED = "a union with gates cannot stand over other adapters"
# What cannot stand over LoRA (a), or over one of its own method (m).
REFUSED_OVER = {
    "mam": A_SECOND,
    **dict.fromkeys(PROMPTS, A_SECOND),
    "unipelt": {"a@1": GATED, "m@1": GATED},
}

Stored = dict[str, tuple[Version, AdapterState]]


def shaken(adapted: AdaptedModel, seed: int) -> AdapterState:
    """Returns the attached adapter with random weights everywhere, as if it had learnt a lot."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.attachment.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return adapted.state(CLASSES if isinstance(adapted.module, Module) else ())


def learnt(make: Any = Module, **told: AdapterSpec) -> Stored:
    kept: Stored = {}
    for seed, (name, each) in enumerate(told.items()):
        adapted = AdaptedModel.of(make())
        torch.manual_seed(seed)
        adapted.attach(each)
        state = shaken(adapted, seed)
        kept[f"{name}@1"] = version(state, adapted.base, f"{name}@1"), state
    return kept


def small(method: str, reduction_factor: int = 4) -> AdapterSpec:
    return AdapterSpec(method, reduction_factor=reduction_factor)


def last_adapter(state: AdapterState, layer: str) -> Callable[[Array], Array]:
    """Returns the adapter of a layer's FFN, in numpy."""
    tensors = state.adapter_tensors()
    sites = dict.fromkeys(name.partition(".bottleneck_")[0] for name in tensors if layer in name)
    return adapter(config_from_json(state.config), tensors, list(sites)[-1])


def answered(module: nn.Module, part: Part, kept: Stored, ids: Tensor = IDS) -> Tensor:
    """Returns what a composition answers; the module must be as it was afterwards."""
    before, held, plain = look(module), values(module), logits(module, ids)
    adapted = AdaptedModel.of(module)
    with adapted.applied(part, kept.__getitem__):
        told = logits(module, ids)
    assert look(module) == before
    assert same(values(module), held)
    assert torch.equal(logits(module, ids), plain)
    return told


def test_a_stack_of_lora_is_their_sum() -> None:
    kept = learnt(a=AdapterSpec("lora", r=4), b=AdapterSpec("lora", r=2, targets=["query", "dense"]))
    stack = answered(Module(), Stack((Single("a@1"), Single("b@1"))), kept)
    total = answered(Module(), Sum((("a@1", 1.0), ("b@1", 1.0)), "b@1"), kept)
    torch.testing.assert_close(stack, total, rtol=1e-5, atol=1e-6)
    both = answered(Module(), Stack((Sum((("a@1", 1.0),)), Sum((("b@1", 1.0),))), "b@1"), kept)
    torch.testing.assert_close(stack, both, rtol=1e-5, atol=1e-6)


def test_an_average_is_a_sum_of_equal_shares() -> None:
    assert average("a@1", "b@1", head="b@1") == Sum((("a@1", 0.5), ("b@1", 0.5)), "b@1")
    for method in ("lora", "pfeiffer", "houlsby", "parallel"):
        kept = learnt(a=AdapterSpec(method))
        one = answered(Module(), Single("a@1"), kept)
        # Four equal ones have themselves as average; a mean of weighted ones would be a quarter of it.
        torch.testing.assert_close(answered(Module(), average(*["a@1"] * 4), kept), one, rtol=1e-4, atol=1e-5)


@quiet
@each_method
@pytest.mark.usefixtures("no_compiler")
def test_an_adapter_that_does_nothing_changes_no_stack(method: str) -> None:
    kept = learnt(bert, a=AdapterSpec("lora", r=2, targets=["query", "value", "dense"]), m=spec(method))
    fresh = AdaptedModel.of(bert())
    torch.manual_seed(1)
    fresh.attach(spec(method))
    nothing = fresh.state()
    kept["n@1"] = version(nothing, fresh.base, "n@1"), nothing
    model = bert()
    alone = {ref: answered(model, Single(ref), kept) for ref in ("a@1", "m@1", "n@1")}
    start = float((alone["n@1"] - logits(model)).abs().max())
    slack = 1e-6 + 2 * start if start < 1e-5 else float("inf")  # some start at random
    over = answered(model, Stack((Single("n@1"), Single("a@1"))), kept)
    torch.testing.assert_close(over, alone["a@1"], rtol=1e-4, atol=slack)
    if method in LOWEST:
        with pytest.raises(UnsupportedError, match=f"of method '{method}' computes with the base's own"):
            answered(model, Stack((Single("m@1"), Single("n@1"))), kept)
        assert torch.equal(logits(model), logits(bert()))
        return
    refused = REFUSED_OVER.get(method, {})
    for below in ("a@1", "m@1"):
        if below in refused:
            with pytest.raises(UnsupportedError, match=refused[below]):
                answered(model, Stack((Single(below), Single("n@1"))), kept)
            assert torch.equal(logits(model), logits(bert()))
            continue
        under = answered(model, Stack((Single(below), Single("n@1"))), kept)
        torch.testing.assert_close(under, alone[below], rtol=1e-4, atol=slack)
        assert (under - alone["n@1"]).abs().max() > 1e-6


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize(
    "methods",
    [("houlsby", "houlsby"), ("pfeiffer", "pfeiffer"), ("parallel", "parallel"), ("houlsby", "pfeiffer")],
)
def test_bottlenecks_read_what_those_below_make_of_the_output(family: str, methods: tuple[str, str]) -> None:
    here = FAMILIES[family]
    kept = learnt(lambda: here.make().double(), **dict(zip("ab", map(small, methods), strict=True)))
    model = here.make().double()
    with AdaptedModel.of(model).applied(Stack((Single("a@1"), Single("b@1"))), kept.__getitem__):
        layers = list(zip(find(model, here.layers), watch(model, here), strict=True))
    for place, (layer, seen) in enumerate(layers):
        norm = find(layer, here.norms[1]) if here.norms else None
        y, x = seen.f, seen.x
        for ref, method in zip(("a@1", "b@1"), methods, strict=True):
            u = last_adapter(kept[ref][1], f"{here.layers}.{place}.")
            y = y + u({"houlsby": y, "pfeiffer": normalised(norm, y + x), "parallel": x}[method])
        np.testing.assert_allclose(seen.out, normalised(norm, y + x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("method", ["houlsby", "pfeiffer", "parallel"])
def test_a_sum_of_bottlenecks_adds_what_each_makes_of_the_same(family: str, method: str) -> None:
    here = FAMILIES[family]
    kept = learnt(lambda: here.make().double(), a=small(method), b=small(method, reduction_factor=8))
    model = here.make().double()
    with AdaptedModel.of(model).applied(Sum((("a@1", 0.75), ("b@1", -2.0))), kept.__getitem__):
        layers = list(zip(find(model, here.layers), watch(model, here), strict=True))
    for place, (layer, seen) in enumerate(layers):
        norm = find(layer, here.norms[1]) if here.norms else None
        z = {"houlsby": seen.f, "pfeiffer": normalised(norm, seen.f + seen.x), "parallel": seen.x}[method]
        a, b = (last_adapter(kept[ref][1], f"{here.layers}.{place}.") for ref in ("a@1", "b@1"))
        y = seen.f + 0.75 * a(z) - 2 * b(z)
        np.testing.assert_allclose(seen.out, normalised(norm, y + seen.x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["lora", "pfeiffer", "ia3"])
def test_dropped_layers_are_the_bases_own(method: str) -> None:
    kept = learnt(bert, a=AdapterSpec(method))
    model = bert()
    whole, plain = answered(model, Single("a@1"), kept), logits(model)
    assert torch.equal(answered(model, Drop(Single("a@1"), ()), kept), whole)
    assert torch.equal(answered(model, Drop(Single("a@1"), (0, 1)), kept), plain)
    inner, outer = (
        answered(model, Drop(Single("a@1"), (0,)), kept),
        answered(model, Drop(Single("a@1"), (1,)), kept),
    )
    assert len({tuple(each.flatten().tolist()) for each in (whole, plain, inner, outer)}) == 4
    # By hand: the adapter with the tensors of that layer taken from one that does nothing.
    version_, state = kept["a@1"]
    fresh = AdaptedModel.of(bert())
    fresh.attach(AdapterSpec(method))
    nothing = fresh.state().tensors
    mixed = {n: nothing[n] if ".layer.0." in n else t for n, t in state.tensors.items()}
    by_hand = {"h@1": (version_, replace(state, tensors=mixed))}
    torch.testing.assert_close(inner, answered(model, Single("h@1"), by_hand), rtol=1e-5, atol=1e-6)


def test_dropping_reaches_into_what_is_inside() -> None:
    kept = learnt(a=AdapterSpec("lora", r=4), b=AdapterSpec("houlsby"))
    stack = Stack((Sum((("a@1", 2.0),)), Single("b@1")))
    assert torch.equal(
        answered(Module(), Drop(Drop(stack, (0,)), (1,)), kept), answered(Module(), Drop(stack, (0, 1)), kept)
    )
    bare = answered(Module(), Drop(stack, (0, 1)), kept)
    own_head = Module()
    own_head.head.load_state_dict(kept["b@1"][1].head_tensors())
    assert torch.equal(bare, logits(own_head))


def test_a_fusion_says_over_what_it_is() -> None:
    kept = learnt(a=AdapterSpec("lora", r=4), b=AdapterSpec("lora", r=2))
    adapted = AdaptedModel.of(Module())
    adapted.attach_fusion([kept["a@1"], kept["b@1"]])
    state = shaken(adapted, 5)
    kept["f@1"] = version(state, adapted.base, "f@1"), state
    told = answered(Module(), Fuse(("a@1", "b@1"), "f@1"), kept)
    assert torch.equal(told, answered(Module(), Single("f@1"), kept))
    lent = answered(Module(), Fuse(("a@1", "b@1"), "f@1", head="a@1"), kept)
    assert torch.equal(lent, answered(Module(), Single("f@1", "a@1"), kept))
    with pytest.raises(IntegrityError, match="f@1 is no fusion over b@1, a@1, it is over a@1, b@1"):
        answered(Module(), Fuse(("b@1", "a@1"), "f@1"), kept)
    with pytest.raises(IntegrityError, match="a@1 is no fusion over b@1; it is of kind 'lora'"):
        answered(Module(), Fuse(("b@1",), "a@1"), kept)


def test_an_adapter_in_training_is_put_back_after_a_stack_that_fails() -> None:
    kept = learnt(a=AdapterSpec("lora", r=4), b=AdapterSpec("shira", r=2))
    module = Module()
    adapted = AdaptedModel.of(module)
    trained(adapted, AdapterSpec("houlsby"))
    before, told = look(module), logits(module)
    wrong, right = (Stack((Single(low), Single(top))) for low, top in (("a@1", "b@1"), ("b@1", "a@1")))
    with (
        pytest.raises(UnsupportedError, match="put it lowest"),
        adapted.applied(wrong, kept.__getitem__),
    ):
        pass
    with pytest.raises(KeyboardInterrupt), adapted.applied(right, kept.__getitem__):
        raise KeyboardInterrupt
    assert look(module) == before
    assert torch.equal(logits(module), told)


def test_one_version_may_stand_twice_in_a_composition() -> None:
    kept = learnt(a=AdapterSpec("lora", r=4))
    twice = answered(Module(), Stack((Single("a@1"), Single("a@1"))), kept)
    torch.testing.assert_close(twice, answered(Module(), Sum((("a@1", 2.0),)), kept), rtol=1e-5, atol=1e-6)
    module = Module()
    adapted = AdaptedModel.of(module)
    one = answered(module, Single("a@1"), kept)
    with adapted.applied(Single("a@1"), kept.__getitem__):
        assert torch.equal(answered(module, Stack((Single("a@1"), Single("a@1"))), kept), twice)
        assert torch.equal(logits(module), one)


@quiet
@each_method
@pytest.mark.usefixtures("no_compiler")
def test_what_a_method_composes_to_is_what_works(method: str) -> None:
    kept = learnt(bert, a=spec(method), b=spec(method), n=AdapterSpec("houlsby"))
    model, tried = bert(), {}
    for name, part in {
        "stack": Stack((Single("n@1"), Single("a@1"))),
        "sum": Sum((("a@1", 1.0), ("b@1", 0.5))),
        "drop": Drop(Single("a@1"), (0,)),
    }.items():
        try:
            answered(model, part, kept)
            tried[name] = True
        except UnsupportedError:
            tried[name] = False
    try:
        AdaptedModel.of(model).mixed([Single("a@1"), Single("b@1")], kept.__getitem__)
        tried["rows"] = True
    except UnsupportedError:
        tried["rows"] = False
    except SpecError as error:  # the adapters go together; the head sits inside this model
        tried["rows"] = "head" in str(error)
    try:
        AdaptedModel.of(model).attach_fusion([kept["a@1"], kept["b@1"]])
        tried["fuse"] = True
    except UnsupportedError:
        tried["fuse"] = False
    said = dict.fromkeys(tried, False) | dict.fromkeys(composes(method), True)
    if method in LOWEST or method == "unipelt":
        said["stack"] = tried["stack"]  # refused only where both change one place
    assert tried == said
