"""InfLoRA and KeepLoRA: updates that cannot touch what earlier tasks read."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, Way, learnt, same, training
from tiny_subspaces import OPTIMIZERS, begun, ended, factors_of, fit, moments_of, short_sentences
from torch.nn import functional as F

from contpeft.adapters import stored_factors
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Base, Parent, Sum
from contpeft.store import AdapterStore
from contpeft.strategies import ProtectInputs, ResidualGradient, find_recipe
from contpeft.strategies.subspaces import Protected, Subspace

ALL_LINEAR = AdapterSpec("lora", r=2, targets=["query", "key", "value", "dense"])
MEMORY = "way.protected-inputs"
DESIGNED = ["inflora", "keeplora"]


def all_of_it(name: str, **options: object) -> object:
    """Returns a recipe that protects all the energy, all linear layers adapted."""
    return replace(find_recipe(name), consolidate=ProtectInputs(share=1.0, **options))


@pytest.mark.parametrize("name", DESIGNED)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_old_logits_stay_whatever_is_trained(store: AdapterStore, name: str, optimizer: str) -> None:
    """Layer by layer: what the first task reads passes every later update by."""
    way, data = Way(store, all_of_it(name), spec=ALL_LINEAR), short_sentences("ab")
    first = begun(way, 0, data)
    fit(way, first, OPTIMIZERS[optimizer])
    with first.adapted.applied(Base()):
        bare = first.features.current(data.inputs)
    ended(way, first)
    inputs = first.adapted.module.collate(data.inputs)
    with torch.no_grad():
        features, logits = first.adapted.module.encode(inputs), first.adapted.module.eval()(inputs)
    assert (features - bare).norm() > 0.01 * bare.norm()  # the first task did learn
    other = training("cd")
    second = begun(way, 1, other)
    fresh = second.features.current(other.inputs)
    fit(way, second, OPTIMIZERS[optimizer])
    with torch.no_grad():
        torch.testing.assert_close(second.adapted.module.encode(inputs), features, rtol=0, atol=1e-4)
        after = second.adapted.module.eval()(inputs)[:, : logits.shape[1]]
        torch.testing.assert_close(after, logits, rtol=0, atol=1e-4)
    trained = second.features.current(other.inputs)
    assert (trained - fresh).norm() > 0.01 * fresh.norm()  # and so did the second


@pytest.mark.parametrize("name", DESIGNED)
def test_designed_rows_avoid_what_is_protected_and_stay(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name), tasks=1, spec=ALL_LINEAR)
    context = begun(way, 1)
    protected = Protected.recalled(context)
    at_first = {module: factors.down.detach().clone() for module, factors in factors_of(context).items()}
    for module, down in at_first.items():
        basis = protected.of(module).basis().float()
        assert basis.shape[1] > 0
        assert (down @ basis).abs().max() < 1e-5
        torch.testing.assert_close(down @ down.T, torch.eye(2) / 3, rtol=0, atol=1e-5)
    fit(way, context, OPTIMIZERS["adamw"])
    for module, factors in factors_of(context).items():
        assert not factors.down.requires_grad
        assert factors.down.grad is None
        assert torch.equal(factors.down, at_first[module])
        inside = protected.of(module).like(factors.down).onto(torch.randn(20, factors.down.shape[1]))
        assert factors.up.abs().max() > 0.01
        assert F.linear(inside, factors.delta()).abs().max() < 1e-5 * inside.norm(dim=1).max()


def test_the_first_subspace_is_the_main_one_of_the_task(store: AdapterStore) -> None:
    """The oracle: numpy's singular vectors of the moment of what the bare base reads."""
    context = begun(Way(store, find_recipe("inflora")), 0)
    moments = moments_of(context, context.data)
    for module, factors in factors_of(context).items():
        u = np.linalg.svd(moments[module].numpy())[0][:, :2]
        down = factors.down.detach().double().numpy()
        np.testing.assert_allclose(3 * down.T @ down, u @ u.T, rtol=0, atol=1e-5)


def test_what_old_data_gives_a_new_update_is_bounded_by_what_is_not_protected(store: AdapterStore) -> None:
    """``E|A x|^2 <= tr((I - M M^T) S) / 3`` on the data of the task before, both sides computed."""
    way = learnt(store, find_recipe("inflora"), tasks=1)
    context = begun(way, 1)
    protected, old = Protected.recalled(context), moments_of(context, training("ab"))
    for module, factors in factors_of(context).items():
        down, s = factors.down.detach().double(), old[module]
        bound = float(protected.of(module).off(s).trace()) / 3
        assert 0 < float((down @ s @ down.T).trace()) <= bound < 0.1 * float(s.trace())


@pytest.mark.parametrize("name", DESIGNED)
def test_attaching_changes_no_answer(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name), tasks=1)
    inputs = training("ab").inputs
    before = way.context(0).features.current(inputs)
    torch.testing.assert_close(begun(way, 1).features.current(inputs), before, rtol=0, atol=1e-6)
    bare = begun(Way(store, find_recipe(name), line="other"), 0)
    with bare.adapted.applied(Base()):
        expected = bare.features.current(inputs)
    assert torch.equal(bare.features.current(inputs), expected)


@pytest.mark.parametrize("name", DESIGNED)
def test_the_memory_tells_its_ranks_and_does_not_grow_without_end(store: AdapterStore, name: str) -> None:
    way = learnt(store, find_recipe(name))
    assert [v.ref for v in way.history if v.kind == "memory"] == [f"{MEMORY}@{n}" for n in (1, 2, 3)]
    assert store.show(f"{MEMORY}@2").parents == (Parent(f"{MEMORY}@1", "continued"),)
    ranks: dict[str, list[int]] = {}
    for number in (1, 2, 3):
        state = store.load(f"{MEMORY}@{number}")
        assert (state.config["share"], state.config["energy"], state.config["cap"]) == (0.99, "cov2", None)
        # Query and value read the same: one subspace for both.
        assert set(state.config["shared"].values()) == {
            f"encoder.layer.{n}.attention.self.query" for n in (0, 1)
        }
        assert len(state.tensors) == 2
        for key, kept in state.tensors.items():
            module = key.rpartition(".")[0]
            rank, width = map(int, state.config[f"protected.{module}"].split(" of "))
            assert kept.shape == (width, min(rank, width - rank))
            assert kept.numel() <= width * width / 2
            ranks.setdefault(module, []).append(rank)
    assert all(each[0] > 0 and each == sorted(each) and each[-1] <= 16 for each in ranks.values())
    assert any(key.endswith(".free") for key in store.load(f"{MEMORY}@3").tensors)


def test_what_is_recalled_is_what_was_remembered(store: AdapterStore) -> None:
    """A subspace beyond half of the space comes back from its complement."""
    basis = torch.linalg.qr(torch.randn(6, 5, dtype=torch.float64)).Q
    spaces = {"low": Subspace.spanned(basis[:, :2]), "high": Subspace.spanned(basis)}
    context = Way(store, find_recipe("inflora")).context(0)
    protected = Protected(spaces, {"low": "low", "high": "high", "other": "high"})
    context.registered = (protected.remember(context, {}),)
    recalled = Protected.recalled(context)
    assert set(context.recall("protected-inputs").tensors) == {"low.protected", "high.free"}
    rows = torch.randn(4, 6, dtype=torch.float64)
    for name, rank in {"low": 2, "high": 5, "other": 5}.items():
        assert recalled.of(name).rank == rank
        torch.testing.assert_close(
            recalled.of(name).onto(rows), protected.of(name).onto(rows), rtol=0, atol=1e-6
        )


def test_folding_the_updates_gives_the_same_answers(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("inflora"))
    own = [f"way.{task.name}@1" for task in TASKS]
    assert way.answers[2] == {"main": Sum(tuple((ref, 1.0) for ref in own), own[2])}
    inputs, context = training("abcdef").inputs, way.context(2)
    with context.adapted.applied(way.answers[2]["main"], context.load):
        summed = context.features.scores(inputs)
    context.adapted.detach()
    with torch.no_grad():
        for ref in own:
            for module, factors in stored_factors(store.load(ref), "this test").items():
                context.adapted.model.get_submodule(module).weight += factors.delta()
    torch.testing.assert_close(context.features.current(inputs).shape, (48, 16))
    context.adapted.load_head(store.load(own[2]))
    torch.testing.assert_close(context.features.scores(inputs), summed, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", DESIGNED)
def test_the_same_way_gives_the_same_bits(store: AdapterStore, name: str) -> None:
    """A task learnt again from what is stored, as after a kill, ends in the same digests."""
    way = learnt(store, find_recipe(name), tasks=2)
    again = Way(store, way.recipe, history=way.history[:2])
    again.learn(1)
    assert [v.fingerprint for v in again.history] == [v.fingerprint for v in way.history]
    assert [v.sha256 for v in again.history] == [v.sha256 for v in way.history]


@pytest.mark.parametrize("name", ["inflora", "keeplora", "gpm"])
def test_no_room_is_said_by_name(store: AdapterStore, name: str) -> None:
    way = Way(store, replace(find_recipe(name), consolidate=ProtectInputs(share=1.0, energy="cov")))
    way.learn(0)
    with pytest.raises(
        UnsupportedError,
        match=r"^an update of rank 2 has no room at 'encoder\.layer\.0\..*query': 1[56] of the 16 directions "
        r".* [01] are free; protect a smaller share, cap it, or give a lower r$",
    ):
        way.learn(1)
    way.recipe = replace(way.recipe, consolidate=ProtectInputs(share=1.0, energy="cov", cap=8))
    roomy = learnt(store, way.recipe, tasks=2, line="roomy")
    assert (
        roomy.store.load("roomy.protected-inputs@2").config["protected.encoder.layer.0.attention.self.query"]
        == "8 of 16"
    )


@pytest.mark.parametrize("name", ["inflora", "keeplora", "gpm", "null-space", "gpm-gradient"])
def test_what_a_recipe_needs_is_said_by_name(store: AdapterStore, name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"needs the task's training examples"):
        Way(store, find_recipe(name), data=False).learn(0)
    with pytest.raises(UnsupportedError, match=r"works on the factors of LoRA adapters, not on one of kind"):
        Way(store, find_recipe(name), spec=AdapterSpec("houlsby", reduction_factor=4)).learn(0)
    assert find_recipe(name).needs() >= {"examples", "features", "lora"}


def test_layers_that_earlier_tasks_left_alone_are_refused(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("inflora"), tasks=1)
    way.spec = ALL_LINEAR
    with pytest.raises(
        UnsupportedError, match=r"output\.dense' is not known, .* keep one spec for all tasks"
    ):
        way.learn(1)


# --- the first gradient ---------------------------------------------------------------------------


def test_keeplora_takes_the_main_directions_of_the_first_gradient(store: AdapterStore) -> None:
    """The oracle: autograd on the base's own weights, the task's cosine head at its start."""
    way = Way(store, replace(find_recipe("keeplora"), init=ResidualGradient(principal=0.0)))
    context = begun(way, 0)
    module, data = context.adapted.module, context.data
    model = context.adapted.model
    found = {name: factors.down.detach().double() for name, factors in factors_of(context).items()}
    with context.adapted.applied(Base()):
        weights = {name: model.get_submodule(name).weight.requires_grad_() for name in found}
        labels = torch.tensor(["ab".index(label) for label in data.labels])
        F.cross_entropy(module.eval()(module.collate(data.inputs)), labels).backward()
    for name, down in found.items():
        v = np.linalg.svd(weights[name].grad.double().numpy())[2][:2]
        np.testing.assert_allclose(3 * down.numpy().T @ down.numpy(), v.T @ v, rtol=0, atol=1e-4)
        assert math.isclose(float(down.norm() ** 2), 2 / 3, rel_tol=1e-5)


def test_keeplora_leaves_the_main_directions_of_the_base_alone(store: AdapterStore) -> None:
    way = learnt(store, find_recipe("keeplora"), tasks=1)
    context = begun(way, 1)
    names = list(factors_of(context))
    with context.adapted.applied(Base()):
        weights = {name: context.adapted.model.get_submodule(name).weight for name in names}
    for name, factors in factors_of(context).items():
        _, sizes, vh = np.linalg.svd(weights[name].detach().double().numpy())
        count = int((np.cumsum(sizes**2) < 0.5 * (sizes**2).sum()).sum()) + 1
        assert 1 <= count < 8
        assert np.abs(factors.down.detach().numpy() @ vh[:count].T).max() < 1e-5
    assert all(parameter.grad is None for parameter in context.adapted.module.parameters())


def test_the_designs_differ(store: AdapterStore) -> None:
    first = [learnt(store, find_recipe(n), tasks=1, line=n).history[0].ref for n in DESIGNED]
    assert not same(*(store.load(ref).adapter_tensors() for ref in first))
