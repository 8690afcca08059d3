"""C-LoRA: one pair of factors for all tasks and a matrix between them, stored as plain LoRA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from strategies_tiny import Classifier, Way, learnt, same, training
from tiny_factors import delta, double, stored

from contpeft.adapters import Factors, RoutingMatrix, routing_matrices, shared_bases
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Parent, Single
from contpeft.store import AdapterStore, Request
from contpeft.strategies import Context, FromLast, OrthogonalRouting, SharedFactors, find_recipe

C = find_recipe("c-lora")
FREE = replace(C, penalty=None)


def matrices(context: Context) -> list[RoutingMatrix]:
    return routing_matrices(context.adapted.attachment)


def overlap(context: Context) -> float:
    """Returns how much of the new matrices reads along the old ones: their products' norms over theirs."""
    found = [(double(old), double(new)) for old, new in matrices(context)]
    norm = np.linalg.norm
    return float(np.mean([norm(new @ old.T) / (norm(new) * norm(old)) for old, new in found]))


@given(
    shape=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    ranks=st.integers(1, 3).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r))),
    seed=st.integers(0, 2**16),
)
def test_bases_are_orthonormal_and_make_up_the_update(
    shape: tuple[int, int], ranks: tuple[int, int], seed: int
) -> None:
    """Whatever its rank: the factors' second number of directions is what their product has at most."""
    generator, (rank, full) = torch.Generator().manual_seed(seed), ranks
    down, up = (torch.randn(n, rank, generator=generator) for n in shape)
    up[:, full:] = 0.0
    made = shared_bases(Factors(down.T, up, 3.0))
    a, b, r = (double(each) for each in made)
    np.testing.assert_allclose(a @ a.T, np.eye(rank), atol=1e-6)
    np.testing.assert_allclose(b.T @ b, np.eye(rank), atol=1e-6)
    np.testing.assert_allclose(b @ np.diag(r) @ a, double(up) @ double(down).T, atol=1e-5)
    expected = np.linalg.svd(double(up) @ double(down).T)[1][:rank]
    np.testing.assert_allclose(r, expected, atol=1e-5)
    # Of the factors' own spaces even where the product has fewer directions.
    np.testing.assert_allclose(a @ np.linalg.pinv(double(down).T) @ double(down).T, a, atol=1e-4)


def test_one_adapter_of_one_rank_for_all_tasks(store: AdapterStore) -> None:
    way = learnt(store, C)
    assert [v.ref for v in way.history] == ["way@1", "way@2", "way@3"]
    assert [v.parents for v in way.history[1:]] == [(Parent(f"way@{n}", "continued"),) for n in (1, 2)]
    sizes = {sum(t.nbytes for t in store.load(v.ref).adapter_tensors().values()) for v in way.history}
    assert len(sizes) == 1
    assert dict(way.history[0].config) == dict(way.history[2].config)
    assert [answers["main"] for answers in way.answers] == [Single(f"way@{n}") for n in (1, 2, 3)]


def test_a_later_task_trains_a_square_matrix_of_each_layer(store: AdapterStore) -> None:
    context = learnt(store, C, tasks=1).started(1)
    assert [tuple(p.shape) for p in context.own_parameters.values()] == [(2, 2)] * 4
    assert {id(each.new) for each in matrices(context)} == {id(p) for p in context.own_parameters.values()}
    assert not any(each.new.any() for each in matrices(context))
    trainable = {id(p) for p in context.adapted.train_only()}
    assert {id(p) for p in context.own_parameters.values()} < trainable


@pytest.mark.parametrize("alpha", [4, 6])
def test_what_is_stored_folds_the_matrix_into_a_factor(store: AdapterStore, alpha: int) -> None:
    """Against ``s B (R_old + R_new) A`` of the task before, put together in float64."""
    way = learnt(store, C, tasks=2, spec=AdapterSpec("lora", r=2, alpha=alpha))
    context = way.started(2)
    before = stored(way, "way@2")
    way.train(context)
    learned = dict(zip(sorted(before), matrices(context), strict=True))
    way.store.register("now", context.state(), base=context.adapted.base)
    for module, (down, up, scale) in stored(way, "now@1").items():
        u, s, vh = np.linalg.svd(before[module][1] @ before[module][0], full_matrices=False)
        r_new = double(learned[module].new)
        np.testing.assert_allclose(np.diag(double(learned[module].old)), s[:2], atol=1e-6)
        signs = np.sign(np.sum(up * u[:, :2], axis=0))  # a direction is told up to its sign
        expected = (u[:, :2] * signs) @ (np.diag(s[:2]) + r_new) @ (vh[:2] * signs[:, None])
        np.testing.assert_allclose(scale * up @ down, alpha / 2 * expected, atol=1e-6)
        assert scale == alpha / 2
        assert np.abs(r_new).max() > 1e-3


def test_no_task_leaves_the_two_spaces_of_the_first(store: AdapterStore) -> None:
    way = learnt(store, C)
    for module, (down, up, _) in stored(way, "way@1").items():
        for ref in ("way@2", "way@3"):
            update = delta(stored(way, ref)[module])
            assert not np.allclose(update, delta((down, up, 2.0)), atol=1e-3)
            rows, columns = np.linalg.pinv(down) @ down, up @ np.linalg.pinv(up)
            np.testing.assert_allclose(columns @ update @ rows, update, atol=1e-5)


def test_a_task_leaves_what_was_learnt_as_it_was(store: AdapterStore) -> None:
    context = learnt(store, C, tasks=1).started(1)
    named = dict(context.adapted.module.named_buffers())
    frozen = {name: b.clone() for name, b in named.items() if name.endswith((".old", ".basis"))}
    ups = {n: p.detach().clone() for n, p in context.adapted.module.named_parameters() if "lora_B" in n}
    assert (len(frozen), len(ups)) == (8, 4)
    Way(store, C).train(context)
    named = {
        **dict(context.adapted.module.named_buffers()),
        **dict(context.adapted.module.named_parameters()),
    }
    assert same({name: named[name] for name in frozen}, frozen)
    assert same({name: named[name].detach() for name in ups}, ups)


def test_the_term_is_that_of_numpy_and_of_the_updates(store: AdapterStore) -> None:
    context = learnt(store, C, tasks=1).started(1)
    before = {module: delta(each) for module, each in stored(Way(store, C), "way@1").items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, new in matrices(context):
            new.copy_(torch.randn(new.shape, generator=generator))
    products = [double(new) @ double(old).T for old, new in matrices(context)]
    mean, total = OrthogonalRouting(3.0), OrthogonalRouting(3.0, "sum")
    assert mean.loss(context, None, None).item() == pytest.approx(3 * np.mean(np.square(products)), rel=1e-5)
    assert total.loss(context, None, None).item() == pytest.approx(3 * np.sum(np.square(products)), rel=1e-5)
    store.register("now", context.state(), base=context.adapted.base)
    now = {module: delta(each) for module, each in stored(Way(store, C), "now@1").items()}
    updates = [(now[module] - before[module]) @ before[module].T / 2.0**2 for module in before]
    assert np.sum(np.square(updates)) == pytest.approx(np.sum(np.square(products)), rel=1e-4)


def test_the_term_keeps_new_matrices_off_old_ones(store: AdapterStore) -> None:
    found = {}
    for name, recipe in {"free": FREE, "held": C}.items():
        way = learnt(store, recipe, tasks=1, line=name, spec=AdapterSpec("lora", r=6))
        context = way.started(1)
        way.train(context, passes=10)
        found[name] = overlap(context)
    assert found["held"] < 0.3 * found["free"]


def test_with_a_weight_of_zero_it_is_as_without_the_term(store: AdapterStore) -> None:
    weightless = learnt(store, replace(C, penalty=OrthogonalRouting(0.0)), line="weightless")
    free = learnt(store, FREE, line="free")
    weighed = learnt(store, C, line="weighed")
    assert [v.fingerprint for v in weightless.history] == [v.fingerprint for v in free.history]
    assert weighed.history[0].fingerprint == free.history[0].fingerprint
    assert weighed.history[1].fingerprint != free.history[1].fingerprint


def test_the_first_task_is_that_of_plain_lora(store: AdapterStore) -> None:
    learnt(store, C, tasks=1, line="shared")
    learnt(store, find_recipe("sequential-local"), tasks=1, line="plain")
    assert same(store.load("shared@1").tensors, store.load("plain@1").tensors)
    assert dict(store.show("shared@1").config) == dict(store.show("plain@1").config)


def test_a_stored_version_answers_as_the_trained_model_did(store: AdapterStore) -> None:
    way = learnt(store, C, tasks=2)
    context = way.context(1)
    batch = context.adapted.module.collate(training("cd").inputs)
    context.adapted.head.eval()
    with torch.no_grad():
        trained = context.adapted.module(batch)
        with context.adapted.applied(Single("way@2"), context.load):
            assert torch.equal(context.adapted.module(batch), trained)


def test_peft_reads_what_is_stored(store: AdapterStore, tmp_path: Path) -> None:
    way = learnt(store, C, tasks=2)
    context = way.context(1)
    batch = context.adapted.module.collate(training("cd").inputs)
    with torch.no_grad():
        expected = context.adapted.module.encode(batch)
    store.exchange.export_folder("way@2", tmp_path / "peft")
    fresh = Classifier()
    fresh.model = PeftModel.from_pretrained(fresh.model, str(tmp_path / "peft")).eval()
    with torch.no_grad():
        torch.testing.assert_close(fresh.encode(batch), expected, atol=1e-6, rtol=1e-5)


def test_its_versions_are_merged_as_others_are(store: AdapterStore) -> None:
    way = learnt(store, C)
    made = store.fusion.candidate(Request(["way@2", "way@3"], [0.25, 0.75]))
    version = store.register("mean", made.state, base=way.history[0].base)
    one, other = stored(way, "way@2"), stored(way, "way@3")
    for module, each in stored(way, version.ref).items():
        expected = 0.25 * delta(one[module]) + 0.75 * delta(other[module])
        np.testing.assert_allclose(delta(each), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (AdapterSpec("lora+", r=2), r"needs a plain LoRA adapter, not lora\+\(r=2\); give method 'lora'$"),
        (AdapterSpec("pissa", r=2), r"needs a plain LoRA adapter, not pissa\(r=2\); give method 'lora'$"),
        (AdapterSpec("pfeiffer"), r"needs a plain LoRA adapter, not pfeiffer\(\); give method 'lora'$"),
        (AdapterSpec("lora", r=2, use_dora=True), r"^an adapter with use_dora=True rescales"),
        (AdapterSpec("lora", r=17), r"query' has 16 directions, fewer than the rank 17 of its factors; give"),
    ],
)
def test_other_adapters_are_refused_before_the_first_task(
    store: AdapterStore, spec: AdapterSpec, said: str
) -> None:
    with pytest.raises(UnsupportedError, match=said):
        Way(store, C, spec=spec).started(0)


def test_a_term_without_its_matrices_is_refused_by_name(store: AdapterStore) -> None:
    way = learnt(store, replace(C, init=FromLast()), tasks=1)
    with pytest.raises(UnsupportedError, match=r"^keeping routing matrices orthogonal .*init=SharedFactors"):
        way.learn(1)


def test_loading_takes_a_whole_adapter_apart_again(store: AdapterStore) -> None:
    context = learnt(store, C, tasks=1).started(1)
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


def test_it_is_told_as_one_adapter_of_constant_size() -> None:
    assert SharedFactors.about.growth == OrthogonalRouting.about.growth == ""
