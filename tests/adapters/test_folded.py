"""Sums folded into weights: the base comes back bit for bit, and a step costs the same for any number."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from adapters_tiny import CLASSES, IDS, LABELS, Module, gpt2, logits, look, same, trained, values, version
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from contpeft.adapters import AdaptedModel
from contpeft.spec import AdapterSpec, AdapterState, Base, Drop, Part, Single, Stack, Sum, Version

Stored = dict[str, tuple[Version, AdapterState]]
PATH = "encoder.layer.0.attention.self.query"
LINEAR = AdapterSpec("lora", r=2, targets=["query", "value"])


def stored(count: int, spec: AdapterSpec = LINEAR, make: Callable[[], nn.Module] = Module) -> Stored:
    """Returns adapters with factors drawn at random, as a store would give them."""
    module = make()
    adapted = AdaptedModel.of(module)
    adapted.attach(spec)
    state = adapted.state(CLASSES)
    kept: Stored = {}
    for place in range(count):
        draw = torch.Generator().manual_seed(place)
        tensors = {
            name: 0.1 * torch.randn(tensor.shape, generator=draw) if "lora" in name else tensor
            for name, tensor in state.tensors.items()
        }
        own = AdapterState(state.kind, state.config, tensors, state.head)
        kept[f"a{place}@1"] = version(own, adapted.base, f"a{place}@1"), own
    return kept


def total(kept: Stored, *weights: float) -> Sum:
    told = weights or (1.0,) * len(kept)
    return Sum(tuple(zip(kept, told, strict=True)), next(iter(kept)))


@pytest.fixture(scope="module")
def kept() -> Stored:
    return stored(3)


def delta(kept: Stored, path: str, *weights: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Returns the weighted sum of updates, from nothing but the stored tensors, in float64."""
    found = 0.0
    for (_, state), weight in zip(kept.values(), weights, strict=True):
        a, b = (state.tensors[f"base_model.model.{path}.lora_{f}.weight"].double().numpy() for f in "AB")
        found = found + weight * state.config["lora_alpha"] / state.config["r"] * (b @ a)
    return np.asarray(found)


def test_a_layer_has_one_weight_the_base_and_all_updates(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    layer = module.model.get_submodule(PATH)
    own = layer.weight.detach().double().numpy().copy()
    with adapted.applied(total(kept, 1.0, -0.5, 2.0), kept.__getitem__):
        assert module.model.get_submodule(PATH) is layer  # no hook, no layer around it
        assert not layer._forward_hooks
        folded = layer.weight.detach().double().numpy()
        assert not layer.weight.requires_grad
    np.testing.assert_allclose(folded, own + delta(kept, PATH, 1.0, -0.5, 2.0), rtol=1e-5, atol=1e-6)


def test_unfolding_puts_the_very_tensors_back(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    before, held = look(module.model), values(module)
    plain, base = logits(module), adapted.base
    adapted.attach_over(total(kept), kept.__getitem__, LINEAR)
    trained(adapted)
    assert adapted.base == base  # asked for while something is folded, too
    with adapted.applied(Base()):
        adapted.reset_head()
        assert torch.equal(logits(module), plain)
    assert adapted.verify_base() == base
    adapted.detach()
    adapted.reset_head()
    assert look(module.model) == before
    assert same(values(module), held)


def test_what_trains_over_a_fold_answers_the_same_afterwards(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    adapted.attach_over(total(kept), kept.__getitem__, LINEAR)
    state = trained(adapted, steps=3, classes=CLASSES)
    told = logits(module)
    adapted.detach()
    everything = {**kept, "t@1": (version(state, adapted.base, "t@1"), state)}
    whole = Sum(tuple((ref, 1.0) for ref in everything), "t@1")
    with adapted.applied(whole, everything.__getitem__):
        torch.testing.assert_close(logits(module), told, rtol=1e-5, atol=1e-5)


def test_one_composition_always_gives_the_same_bits(kept: Stored) -> None:
    answers = []
    for threads in (1, 2):
        module = Module()
        torch.set_num_threads(threads)
        with AdaptedModel.of(module).applied(total(kept), kept.__getitem__):
            torch.set_num_threads(1)
            answers += [module.model.get_submodule(PATH).weight.clone(), logits(module)]
    assert torch.equal(answers[0], answers[2])
    assert torch.equal(answers[1], answers[3])


def test_no_more_than_one_adapter_is_held_at_a_time(kept: Stored) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def load(ref: str) -> tuple[Version, AdapterState]:
        there = sum(each() is not None for each in alive)
        assert there <= 1, f"{there} adapters are held when {ref} is loaded"
        entry, state = kept[ref]
        own = {name: tensor.clone() for name, tensor in state.tensors.items()}
        alive.append(weakref.ref(own[f"base_model.model.{PATH}.lora_A.weight"]))
        return entry, AdapterState(state.kind, state.config, own, state.head)

    adapted = AdaptedModel.of(Module())
    adapted.attach_over(total(kept), load, LINEAR)
    assert len(alive) > len(kept)
    with adapted.applied(total(kept), load):
        assert sum(each() is not None for each in alive) <= 1


def test_a_model_that_is_moved_while_something_is_folded_takes_its_weights_along(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    own = module.model.get_submodule(PATH).weight
    adapted.attach_over(total(kept), kept.__getitem__, LINEAR)
    module.double()
    module(IDS)
    adapted.detach()
    assert module.model.get_submodule(PATH).weight is own
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    module(IDS)


def test_a_layer_that_is_dropped_keeps_its_own_weight(kept: Stored) -> None:
    module = Module()
    own = [module.model.encoder.layer[n].attention.self.query.weight for n in (0, 1)]
    with AdaptedModel.of(module).applied(Drop(total(kept), (1,)), kept.__getitem__):
        now = [module.model.encoder.layer[n].attention.self.query.weight for n in (0, 1)]
    assert now[1] is own[1]
    assert now[0] is not own[0]


def test_a_sum_over_another_adapter_reads_what_that_makes_of_the_layer(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    state = trained(AdaptedModel.of(Module()), AdapterSpec("ia3"), steps=3, classes=CLASSES)
    everything = {**kept, "s@1": (version(state, adapted.base, "s@1"), state)}
    path, seen = "encoder.layer.0.attention.self.value", []
    over: Part = Stack((Single("s@1"), total(kept)))
    with adapted.applied(Single("s@1"), everything.__getitem__):
        _watch(module, path, seen)
    with adapted.applied(over, everything.__getitem__):
        _watch(module, path, seen)
    (x, below), (_, both) = seen
    added = F.linear(x, torch.tensor(delta(kept, path, 1.0, 1.0, 1.0), dtype=torch.float32))
    torch.testing.assert_close(both, below + added, rtol=1e-4, atol=1e-5)


def _watch(module: nn.Module, path: str, seen: list[tuple[Tensor, Tensor]]) -> None:
    layer = module.model.get_submodule(path)  # type: ignore[union-attr, operator]
    with torch.no_grad():
        module(IDS)
        handle = layer.register_forward_hook(lambda _m, read, said: seen.append((read[0], said)))
        module(IDS)
        handle.remove()


def beside(make: Callable[[], nn.Module], spec: AdapterSpec) -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns a module that answered with a sum, and its weights meanwhile."""
    kept = stored(2, spec, make)
    module = make()
    adapted = AdaptedModel.of(module)
    with adapted.applied(Sum(total(kept).parts), kept.__getitem__):
        return module, dict(module.named_parameters())


def half() -> nn.Module:
    module = Module()
    module.model.to(torch.bfloat16)
    return module


def tied() -> nn.Module:
    module = Module()
    layers = module.model.encoder.layer
    layers[1].attention.self.query.weight = layers[0].attention.self.query.weight
    return module


@pytest.mark.parametrize(
    ("make", "spec", "stays"),
    [
        (half, LINEAR, "model." + PATH),
        (tied, LINEAR, "model." + PATH),
        (gpt2, AdapterSpec("lora", r=2, targets=["c_attn"]), "transformer.h.0.attn.c_attn"),
        (Module, AdapterSpec("lora", r=2, targets=["word_embeddings"]), "model.embeddings.word_embeddings"),
    ],
    ids=["half precision", "shared weights", "other layers", "embeddings"],
)
def test_what_cannot_take_an_update_up_keeps_its_weight(
    make: Callable[[], nn.Module], spec: AdapterSpec, stays: str
) -> None:
    module, meanwhile = beside(make, spec)
    assert meanwhile[f"{stays}.weight"] is module.get_parameter(f"{stays}.weight")


def cost(kept: Stored) -> tuple[int, int, int, int]:
    """Returns what a training step over a sum takes: flops, tensors saved and their bytes, operations."""
    module = Module()
    adapted = AdaptedModel.of(module)
    adapted.attach_over(total(kept), kept.__getitem__, LINEAR)
    adapted.train_only()
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel() * tensor.itemsize)
        return tensor

    with FlopCounterMode(display=False) as flops, torch.profiler.profile() as profile:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = F.cross_entropy(module(IDS), LABELS)
        loss.backward()
    operations = sum(each.count for each in profile.key_averages() if each.key.startswith("aten::"))
    return flops.get_total_flops(), len(saved), sum(saved), operations


def test_a_step_at_task_20_costs_what_it_costs_at_task_2() -> None:
    assert cost(stored(1)) == cost(stored(19))
