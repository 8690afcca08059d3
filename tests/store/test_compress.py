"""Versions on a shared basis: exact where they have all in common, as far off as is told elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from store_shared import HEAD, SHAPES, apart, config, related
from store_workers import BASE, make_state

from contpeft.errors import NotFoundError, UnsupportedError, UsageError
from contpeft.spec import AdapterState, BaseModel
from contpeft.store import AdapterStore

COUNT = 12
REFS = [f"task-{place}@1" for place in range(COUNT)]


def fill(store: AdapterStore, states: list[AdapterState]) -> list[AdapterState]:
    for place, state in enumerate(states):
        store.register(f"task-{place}", state, base=BASE, task=f"t{place}", data=f"d{place}")
    return states


def numbers(state: AdapterState) -> int:
    return sum(tensor.nbytes for tensor in state.adapter_tensors().values())


def test_what_all_have_in_common_loses_nothing_and_takes_less(store: AdapterStore) -> None:
    states = fill(store, related(COUNT))
    done = store.compression.compress(REFS, 0.9)
    assert done.refs == tuple(f"task-{place}@2" for place in range(COUNT))
    found = done.compression
    assert found.modules == dict.fromkeys(sorted(SHAPES), (8, 8))
    assert (found.lost, found.before) == ((), sum(map(numbers, states)))
    assert found.after < 0.52 * found.before
    for before, ref, each in zip(states, done.refs, found.versions, strict=True):
        after = store.load(ref)
        assert apart(before, after) < 1e-6
        assert each.error < 1e-6
        assert (each.rank, after.kind, after.config["r"]) == (4 * len(SHAPES), "lora", 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("budget", [0.25, 0.4, 0.7])
def test_the_error_told_is_that_of_what_is_loaded_within_the_budget(
    store: AdapterStore, dtype: torch.dtype, budget: float
) -> None:
    states = fill(store, related(COUNT, noise=0.2, dtype=dtype))
    done = store.compression.compress(REFS, budget)
    assert done.compression.after <= done.compression.budget == int(budget * done.compression.before)
    basis = store.load(done.basis)
    assert done.compression.basis == sum(tensor.nbytes for tensor in basis.tensors.values())
    for before, ref, each in zip(states, done.refs, done.compression.versions, strict=True):
        after = store.load(ref)
        assert {tensor.dtype for tensor in after.adapter_tensors().values()} == {dtype}
        assert after.tensors.keys() == before.tensors.keys()
        for name, tensor in before.tensors.items():
            assert sum(after.tensors[name].shape) >= sum(tensor.shape) - (1 if budget < 0.3 else 0)
        assert each.error == pytest.approx(apart(before, after), rel=1e-6)
        assert 0 < each.error < 1
        assert each.before == numbers(before)


def test_more_bytes_lose_less(store: AdapterStore) -> None:
    fill(store, related(COUNT, noise=0.3))
    errors = [
        np.mean([each.error for each in store.compression.plan(REFS, budget).compression.versions])
        for budget in (0.2, 0.4, 0.6, 0.8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]


def test_a_budget_may_be_in_bytes_and_a_plan_stores_nothing(store: AdapterStore) -> None:
    fill(store, related(COUNT))
    before = store.versions()
    found = store.compression.plan(REFS, 9000).compression
    assert found.budget == 9000
    assert found.after <= 9000
    assert store.versions() == before
    told = json.loads(json.dumps(found.to_json()))
    assert (told["before"], told["after"]) == (found.before, found.after)
    assert told["versions"][0]["ref"] == "task-0@1"


def test_a_plan_knows_what_will_be_loaded(store: AdapterStore) -> None:
    fill(store, related(3, noise=0.2))
    planned = store.compression.plan(REFS[:3], 0.6)
    stored = store.compression.store(planned)
    for state, ref in zip(planned.states(), stored.refs, strict=True):
        loaded = store.load(ref)
        assert (state.kind, state.config, state.head) == (loaded.kind, loaded.config, loaded.head)
        assert state.tensors.keys() == loaded.tensors.keys()
        assert all(torch.equal(state.tensors[name], loaded.tensors[name]) for name in state.tensors)


def test_a_loud_version_counts_as_much_as_a_quiet_one(store: AdapterStore) -> None:
    states = related(COUNT, noise=0.2)
    loud = {k: t * (30 if "lora_B" in k else 1) for k, t in states[0].tensors.items()}
    fill(store, [AdapterState("lora", config(), loud, HEAD), *states[1:]])
    plain = AdapterStore(store.path / "plain")
    fill(plain, states)
    errors = [
        [v.error for v in each.compression.plan(REFS, 0.3).compression.versions] for each in (store, plain)
    ]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-4)
    plain.close()


def test_what_it_is_stays_with_it(store: AdapterStore) -> None:
    states = fill(store, related(3))
    done = store.compression.compress(REFS[:3], 10**6, basis="common")
    basis, version = store.show(done.basis), store.show(done.refs[1])
    assert (basis.ref, basis.kind, basis.parents) == ("common@1", "basis", ())
    assert basis.config == {"modules": {module: [8, 8] for module in sorted(SHAPES)}}
    assert (version.name, version.task, version.data, version.base) == ("task-1", "t1", "d1", BASE)
    assert [(parent.ref, parent.role) for parent in version.parents] == [("common@1", "frozen")]
    assert version.recipe is not None
    assert version.recipe["of"] == store.show("task-1@1").fingerprint
    assert version.parameters == (8 * 4 + 4 * 8) * len(SHAPES)
    loaded = store.load(version.ref)
    assert loaded.head == HEAD
    assert torch.equal(loaded.tensors["head.weight"], states[1].tensors["head.weight"])
    assert loaded.tensors.keys() == states[1].tensors.keys()


def test_doing_it_again_finds_what_is_there(store: AdapterStore) -> None:
    fill(store, related(COUNT, noise=0.1))
    once = store.compression.compress(REFS, 0.5)
    count = len(store.versions())
    assert store.compression.compress(REFS, 0.5) == once
    assert len(store.versions()) == count


def test_compressed_versions_can_be_compressed(store: AdapterStore) -> None:
    states = fill(store, related(COUNT, noise=0.1))
    once = store.compression.compress(REFS, 0.8)
    twice = store.compression.compress(once.refs, 0.4)
    assert twice.basis == "shared-basis@2"
    for before, ref, each in zip(states, twice.refs, twice.compression.versions, strict=True):
        assert apart(store.load(once.refs[0]), store.load(ref)) > 0
        assert each.error - 0.2 < apart(before, store.load(ref)) < 1


def test_modules_may_be_missing_and_ranks_and_scalings_differ(store: AdapterStore) -> None:
    states = related(6, noise=0.05)
    partial = {name: tensor for name, tensor in states[0].tensors.items() if "layer.1" not in name}
    states[0] = AdapterState("lora", config(), partial, HEAD)
    scaling = config(lora_alpha=2, use_rslora=True)
    states[1] = AdapterState("lora", scaling, states[1].tensors, HEAD)
    pattern = config(alpha_pattern={"layer.0.value": 40})
    states[2] = AdapterState("lora", pattern, states[2].tensors, HEAD)
    expected = [states[0], AdapterState("lora", config(lora_alpha=4), states[1].tensors, HEAD), *states[2:]]
    fill(store, states)
    done = store.compression.compress(REFS[:6], 0.7)
    for before, ref, each in zip(expected, done.refs, done.compression.versions, strict=True):
        assert each.error == pytest.approx(apart(before, store.load(ref)), rel=1e-5)
    assert not any("layer.1" in name for name in store.load(done.refs[0]).tensors)


def test_convolutions_and_embeddings_keep_their_shapes(store: AdapterStore) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "conv.lora_A.weight": (2, 3, 5, 5),
        "conv.lora_B.weight": (40, 2, 1, 1),
        "words.lora_embedding_A": (2, 90),
        "words.lora_embedding_B": (16, 2),
    }
    states = [
        AdapterState(
            "lora",
            {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["conv", "words"]},
            {f"base_model.model.{n}": torch.randn(s, generator=generator) for n, s in shapes.items()},
        )
        for _ in range(3)
    ]
    fill(store, states)
    done = store.compression.compress(REFS[:3], 100_000)
    for before, ref in zip(states, done.refs, strict=True):
        after = store.load(ref).tensors
        for left, right in (
            ("conv.lora_B.weight", "conv.lora_A.weight"),
            ("words.lora_embedding_B", "words.lora_embedding_A"),
        ):
            names = [f"base_model.model.{each}" for each in (left, right)]
            assert [after[name].shape for name in names] == [before.tensors[name].shape for name in names]
            products = [t[names[0]].flatten(1) @ t[names[1]].flatten(1) for t in (before.tensors, after)]
            np.testing.assert_allclose(products[0], products[1], atol=1e-4)


def test_a_module_without_room_is_told(store: AdapterStore) -> None:
    states = related(COUNT)
    quiet = [
        AdapterState(
            "lora", config(), {k: t * (1e-4 if "value" in k else 1) for k, t in s.tensors.items()}, HEAD
        )
        for s in states
    ]
    fill(store, quiet)
    found = store.compression.plan(REFS, 0.15).compression
    assert found.lost == ("layer.0.value",)
    assert sorted(found.modules) == ["layer.0.query", "layer.1.query"]


def test_what_cannot_be_meant_is_refused(store: AdapterStore) -> None:
    fill(store, related(3, noise=0.5))
    plan, compress = store.compression.plan, store.compression.compress
    with pytest.raises(UsageError, match="only versions that differ can share a basis; name two or more"):
        plan(["task-0", "task-0@1"], 0.5)
    with pytest.raises(NotFoundError, match="no adapter 'tusk-0'"):
        plan(["tusk-0", "task-1"], 0.5)
    for share in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(UsageError, match="is no share; give more than 0 and less than 1, or bytes"):
            plan(REFS[:3], share)
    with pytest.raises(UsageError, match="a budget of 0 bytes holds nothing"):
        plan(REFS[:3], 0)
    with pytest.raises(UsageError, match="nothing would be left of task-0@1; give a larger budget"):
        plan(REFS[:3], 50)
    with pytest.raises(
        UsageError, match=r"task-\d@1 would lose \d\d\.\d% of its norm, more than 5\.0%; give a larger"
    ):
        compress(REFS[:3], 0.4, max_error=0.05)
    with pytest.raises(
        UsageError, match="'task-2' is an adapter of kind 'lora'; name another one by --basis"
    ):
        compress(REFS[:3], 0.4, basis="task-2")
    store.register("far", related(1)[0], base=BaseModel("other", "07he5", 1))
    with pytest.raises(UsageError, match="cannot share one: task-0@1 on tiny-bert, far@1 on other"):
        plan(["task-0", "far"], 0.5)
    store.register("dora", AdapterState("lora", config(use_dora=True), related(1)[0].tensors), base=BASE)
    with pytest.raises(UnsupportedError, match=r"dora@1: an adapter with use_dora=True rescales the base's"):
        plan(["task-0", "dora"], 0.5)
    assert len(store.versions()) == 5
    assert make_state(0).kind == "lora"
