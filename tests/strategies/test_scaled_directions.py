"""SD-LoRA: earlier updates as unit directions whose magnitudes are trained, stored as plain LoRA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from strategies_tiny import Classifier, Way, learnt, same, training
from tiny_factors import delta, double, stored
from torch import Tensor

from contpeft.adapters import Directions, Factors, directions_of
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, Parent, Single
from contpeft.store import AdapterStore
from contpeft.strategies import Context, ScaledDirections, find_recipe

SD = find_recipe("sd-lora")
GO_ON = replace(SD, init=ScaledDirections(magnitude=None))


def magnitudes(context: Context) -> dict[str, Tensor]:
    own = context.own_parameters.items()
    return {name: parameter for name, parameter in own if name.endswith("magnitudes")}


def blocks(way: Way, ref: str, rank: int = 2) -> dict[str, list[tuple[np.ndarray, np.ndarray, float]]]:
    """Returns each direction's factors and the scale, by module."""
    return {
        module: [(a[i : i + rank], b[:, i : i + rank], s) for i in range(0, len(a), rank)]
        for module, (a, b, s) in stored(way, ref).items()
    }


@settings(max_examples=40, deadline=None)
@given(ranks=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_directions_are_unit_and_make_up_the_update(ranks: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(sum(ranks), 7, generator=generator)
    up = torch.randn(5, sum(ranks), generator=generator)
    found = directions_of(Factors(down, up, 2.0), ranks)
    total = np.zeros((5, 7))
    for a, b, m in zip(found.down.split(ranks), found.up.split(ranks, 1), found.magnitudes, strict=True):
        assert float(a.norm()) == pytest.approx(1.0, rel=1e-6)
        assert float(b.norm()) == pytest.approx(1.0, rel=1e-6)
        total += float(m) * double(b) @ double(a)
    np.testing.assert_allclose(total, delta((double(down), double(up), 2.0)), atol=1e-4)
    again = directions_of(Factors(found.down, found.up, 1.0), ranks)
    assert torch.equal(again.down, found.down)


def test_a_direction_of_no_magnitude_stays_nothing() -> None:
    found = directions_of(Factors(torch.randn(2, 3), torch.zeros(4, 2), 2.0), [2])
    assert (found.magnitudes.tolist(), found.up.any().item()) == ([0.0], False)


def test_factors_of_another_rank_are_no_directions() -> None:
    with pytest.raises(
        SpecError, match=r"^the last adapter has rank 2, its directions would have 3; go on wi"
    ):
        directions_of(Factors(torch.randn(2, 3), torch.zeros(4, 2), 2.0), [2, 1])


def test_one_adapter_grows_by_a_direction_a_task(store: AdapterStore) -> None:
    way = learnt(store, SD)
    assert [v.ref for v in way.history] == ["way@1", "way@2", "way@3"]
    assert [v.parents for v in way.history[1:]] == [(Parent(f"way@{n}", "continued"),) for n in (1, 2)]
    assert [v.config["r"] for v in way.history] == [2, 4, 6]
    assert [answers["main"] for answers in way.answers] == [Single(f"way@{n}") for n in (1, 2, 3)]
    assert {s for v in way.history for *_, s in stored(way, v.ref).values()} == {2.0}


def test_earlier_directions_stay_and_their_magnitudes_learn(store: AdapterStore) -> None:
    way = learnt(store, SD)
    two, three = blocks(way, "way@2"), blocks(way, "way@3")
    moved = []
    for module, earlier in two.items():
        for (a, b, _), (now_a, now_b, scale) in zip(earlier, three[module], strict=False):
            np.testing.assert_allclose(now_a, a / np.linalg.norm(a), atol=1e-6)
            unit = now_b / np.linalg.norm(now_b)
            np.testing.assert_allclose(unit, b / np.linalg.norm(b), atol=1e-6)
            moved.append(scale * np.linalg.norm(now_b) - 0.8)
        np.testing.assert_array_equal(
            earlier[0][0], three[module][0][0]
        )  # unit since the second task: to the bit
    assert all(abs(each) > 1e-4 for each in moved)


def test_within_a_task_directions_keep_every_bit(store: AdapterStore) -> None:
    way = learnt(store, SD, tasks=1)
    context = way.started(1)
    named = dict(context.adapted.module.named_buffers())
    frozen = {name: b.clone() for name, b in named.items() if name.endswith((".unit", ".frozen"))}
    assert len(frozen) == 8
    before = {name: p.detach().clone() for name, p in magnitudes(context).items()}
    way.train(context)
    named = dict(context.adapted.module.named_buffers())
    assert same({name: named[name] for name in frozen}, frozen)
    for name, parameter in magnitudes(context).items():
        assert before[name].tolist() == pytest.approx([0.8])
        assert not torch.equal(parameter, before[name])


def test_what_learns_is_the_new_factors_and_the_magnitudes(store: AdapterStore) -> None:
    context = learnt(store, SD, tasks=2).started(2)
    shapes = sorted({tuple(p.shape) for p in context.own_parameters.values()})
    assert shapes == [(2,), (2, 16), (16, 2)]
    assert len(context.own_parameters) == 12
    trainable = {id(p) for p in context.adapted.train_only()}
    assert {id(p) for p in context.own_parameters.values()} < trainable


def test_a_magnitude_of_zero_takes_its_direction_out(store: AdapterStore) -> None:
    """Against the adapter with that block cut out, applied from the store."""
    way = learnt(store, GO_ON, tasks=2)
    context = way.started(2)
    batch = context.adapted.module.collate(training("ab").inputs)
    with torch.no_grad():
        for parameter in magnitudes(context).values():
            parameter[0] = 0.0
        found = context.adapted.module.encode(batch)
    state = store.load("way@2")
    cut = {name: t[2:] if "lora_A" in name else t[:, 2:] for name, t in state.adapter_tensors().items()}
    config = {**state.config, "r": 2, "lora_alpha": 4}
    version = store.register(
        "cut", replace(state, tensors=cut, config=config, head=None), base=context.adapted.base
    )
    with context.adapted.applied(Single(version.ref), context.load), torch.no_grad():
        torch.testing.assert_close(context.adapted.module.encode(batch), found, atol=1e-5, rtol=1e-5)


def test_going_on_with_what_was_learnt_attaching_changes_nothing(store: AdapterStore) -> None:
    way = learnt(store, GO_ON, tasks=1)
    context = way.context(1)
    batch = context.adapted.module.collate(training("ab").inputs)
    with torch.no_grad():
        before = context.adapted.module.encode(batch)
        for recipe, equal in ((GO_ON, True), (SD, False)):
            way.recipe = recipe
            started = way.started(1)
            assert torch.allclose(started.adapted.module.encode(batch), before, atol=1e-5) is equal


def test_the_first_task_is_that_of_plain_lora(store: AdapterStore) -> None:
    learnt(store, SD, tasks=1, line="sd")
    learnt(store, find_recipe("sequential-local"), tasks=1, line="plain")
    assert same(store.load("sd@1").tensors, store.load("plain@1").tensors)
    assert dict(store.show("sd@1").config) == dict(store.show("plain@1").config)


def test_later_directions_may_be_smaller(store: AdapterStore) -> None:
    recipe = replace(SD, init=ScaledDirections(ranks=((1, 0.5), (2, 0.25))))
    way = learnt(store, recipe, spec=AdapterSpec("lora", r=4, alpha=6))
    assert [v.config["r"] for v in way.history] == [4, 6, 7]
    assert {s for v in way.history for *_, s in stored(way, v.ref).values()} == {1.5}
    assert find_recipe("sd-lora-rr").init.ranks == ((4, 0.8), (8, 0.6))


def test_a_stored_version_answers_as_the_trained_model_did(store: AdapterStore) -> None:
    way = learnt(store, SD, tasks=2)
    context = way.context(1)
    batch = context.adapted.module.collate(training("cd").inputs)
    context.adapted.head.eval()
    with torch.no_grad():
        trained = context.adapted.module(batch)
        with context.adapted.applied(Single("way@2"), context.load):
            assert torch.equal(context.adapted.module(batch), trained)


def test_peft_reads_what_is_stored(store: AdapterStore, tmp_path: Path) -> None:
    way = learnt(store, SD, tasks=2)
    context = way.context(1)
    batch = context.adapted.module.collate(training("cd").inputs)
    with torch.no_grad():
        expected = context.adapted.module.encode(batch)
    store.exchange.export_folder("way@2", tmp_path / "peft")
    fresh = Classifier()
    fresh.model = PeftModel.from_pretrained(fresh.model, str(tmp_path / "peft")).eval()
    with torch.no_grad():
        torch.testing.assert_close(fresh.encode(batch), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (AdapterSpec("lora", r=2, use_rslora=True), "use_rslora"),
        (AdapterSpec("lora", r=2, rank_pattern={"query": 4}), "rank_pattern"),
        (AdapterSpec("dora", r=2), "method"),
    ],
)
def test_other_adapters_are_refused_by_name(store: AdapterStore, spec: AdapterSpec, what: str) -> None:
    with pytest.raises(
        UnsupportedError,
        match=rf"^scaling directions works on plain LoRA adapters of one rank.*leave out {what}$",
    ):
        learnt(store, SD, tasks=2, spec=spec)


def test_loading_takes_a_whole_adapter_apart_again(store: AdapterStore) -> None:
    context = learnt(store, SD, tasks=1).started(1)
    attachment = context.adapted.attachment
    with torch.no_grad():
        for parameter in context.own_parameters.values():
            parameter.add_(0.1)
    there = attachment.tensors()
    with torch.no_grad():
        for parameter in context.own_parameters.values():
            parameter.zero_()
    attachment.load(there)
    for name, tensor in attachment.tensors().items():
        torch.testing.assert_close(tensor, there[name], atol=1e-6, rtol=1e-5)


def test_directions_are_values() -> None:
    one = Directions(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1), (1,))
    assert one.ranks == (1,)
