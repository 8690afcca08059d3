"""Anchors: what is remembered of what matters (EWC, MAS, SI), and the penalty that holds it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies_tiny import Classifier, Way, learnt, same
from tiny_factors import delta, double, live, names, row_by_row, shake, stored
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters import Factors
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec
from contpeft.store import AdapterStore
from contpeft.strategies import (
    Anchored,
    AnchoredUpdate,
    Context,
    Fisher,
    OutputSensitivity,
    PathIntegral,
    SumPath,
    find_recipe,
)
from contpeft.strategies.consolidate.fisher import log_likelihood
from contpeft.strategies.sensitivity import RowGradients

RECIPES = {"ewc": "fisher", "ewc-dw": "fisher", "si": "path", "mas": "sensitivity"}


def trained(store: AdapterStore, step: int = 0) -> Context:
    """Returns the context of a task just learnt, its adapter somewhere with gradients in all factors."""
    way = learnt(store, find_recipe("sequential-local"), tasks=step)
    context = way.started(step)
    shake(context)
    return context


def own_log_likelihood(scores: Tensor, label: int, own: slice) -> Tensor:
    return F.log_softmax(scores[own], dim=0)[label - own.start]


# --- what is remembered ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1])
def test_fisher_is_the_mean_square_of_every_rows_own_gradient(store: AdapterStore, step: int) -> None:
    """Row by row through autograd, in float64; at the second task over its own two classes of four."""
    context = trained(store, step)
    own = slice(2 * step, 2 * step + 2)
    rows = row_by_row(context, lambda scores, label: own_log_likelihood(scores, label, own))
    (memory,) = Fisher().end(context, None)
    found = store.load(memory.ref).tensors
    assert found.keys() == set(names(context).values())
    for name, kept in names(context).items():
        expected = np.mean([row[name] ** 2 for row in rows], axis=0)
        np.testing.assert_allclose(double(found[kept]), expected, rtol=1e-3, atol=1e-3 * expected.max())
        # The squared gradient of the mean, which batches give, is far less.
        assert (np.mean([row[name] for row in rows], axis=0) ** 2).sum() < 0.7 * expected.sum()


def test_fisher_of_the_update_is_that_of_the_whole_matrix(store: AdapterStore) -> None:
    """The oracle trains the base's own matrix, of which ``s B A`` is a part."""
    context = trained(store)
    module: Any = context.adapted.module
    paths = list(context.factors("a test"))
    weights = {path: context.adapted.model.get_submodule(path).get_base_layer().weight for path in paths}
    data, total = context.training_data("a test"), {path: 0.0 for path in paths}
    for weight in weights.values():
        weight.requires_grad_(True)
    for row, label in zip(data.inputs, data.labels, strict=True):
        scores = module(module.collate([row]))[0]
        value = own_log_likelihood(scores, "ab".index(label), slice(0, 2))
        for path, gradient in zip(paths, torch.autograd.grad(value, list(weights.values())), strict=True):
            total[path] = total[path] + double(gradient) ** 2 / len(data.labels)
    (memory,) = Fisher(of="update").end(context, None)
    found = store.load(memory.ref).tensors
    for path in paths:
        np.testing.assert_allclose(double(found[path]), total[path], rtol=1e-3, atol=1e-4 * total[path].max())


def test_sensitivity_is_the_mean_size_of_every_rows_own_gradient(store: AdapterStore) -> None:
    context = trained(store, 1)
    rows = row_by_row(context, lambda scores, label: (scores[2:] ** 2).sum())
    (memory,) = OutputSensitivity().end(context, None)
    found = store.load(memory.ref).tensors
    for name, kept in names(context).items():
        expected = np.mean([abs(row[name]) for row in rows], axis=0)
        np.testing.assert_allclose(double(found[kept]), expected, rtol=1e-3, atol=1e-4 * expected.max())


@settings(max_examples=25, deadline=None)
@given(
    weight=st.floats(-3, 3), rows=st.lists(st.tuples(st.floats(-2, 2), st.booleans()), min_size=1, max_size=9)
)
def test_fisher_of_a_logistic_regression_in_one_parameter(
    weight: float, rows: list[tuple[float, bool]]
) -> None:
    """``(y - p)^2 x^2`` of each row, ``p = sigma(w x)``: the layer's output is the second class's score."""
    x = torch.tensor([each for each, _ in rows], dtype=torch.float64)
    y = torch.tensor([label for _, label in rows], dtype=torch.long)
    said = (weight * x).requires_grad_(True)
    scores = torch.stack([torch.zeros_like(said), said], 1)
    log_likelihood("data", 0)(scores, y).sum().backward()
    gradients = RowGradients(x.reshape(-1, 1, 1), said.grad.reshape(-1, 1, 1))
    p = 1 / (1 + np.exp(-weight * x.numpy()))
    expected = (y.numpy() - p) ** 2 * x.numpy() ** 2
    found = [each.item() ** 2 for each in gradients.of_update()]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    # With A = 1, B = w and scale 1 the gradient of B is that of the product, and that of A is w times it.
    factors = Factors(torch.ones(1, 1).double(), torch.full((1, 1), weight, dtype=torch.float64), 1.0)
    down, up = gradients.of_factors(factors)
    np.testing.assert_allclose(up.flatten().numpy() ** 2, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(down.flatten().numpy() ** 2, weight**2 * expected, rtol=1e-9, atol=1e-12)


def test_drawn_labels_are_those_of_the_model_and_of_the_seed() -> None:
    scores = torch.log(torch.tensor([[0.2, 0.8, 0.0]])).repeat(4000, 1)
    given_labels = torch.zeros(4000, dtype=torch.long)
    said = log_likelihood("model", 3)(scores, given_labels)
    assert (said == said.max()).double().mean().item() == pytest.approx(0.8, abs=0.03)  # never the third
    assert torch.equal(said, log_likelihood("model", 3)(scores, given_labels))
    assert not torch.equal(said, log_likelihood("model", 4)(scores, given_labels))
    assert torch.equal(log_likelihood("data", 3)(scores, given_labels), scores[:, 0])


def test_the_true_information_is_another_one_and_repeats(store: AdapterStore) -> None:
    context = trained(store)
    empirical, true, again = (
        store.load(Fisher(name, labels=labels).end(context, None)[0].ref).tensors
        for name, labels in (("a", "data"), ("b", "model"), ("c", "model"))
    )
    assert same(dict(true), dict(again))
    assert not same(dict(true), dict(empirical))


def test_importances_add_up_with_decay(store: AdapterStore) -> None:
    def after(decay: float) -> list[dict[str, Tensor]]:
        recipe = replace(
            find_recipe("sequential-local"), consolidate=Fisher(decay=decay), penalty=Anchored(weight=0.0)
        )
        learnt(store, recipe, tasks=2, line=f"line{decay}".replace(".", "-"))
        return [dict(store.load(f"line{decay}.fisher@{n}".replace(".", "-", 1)).tensors) for n in (1, 2)]

    (first, forgotten), (_, half), (_, kept) = after(0.0), after(0.5), after(1.0)
    for name, one in first.items():
        torch.testing.assert_close(half[name] - forgotten[name], 0.5 * one, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(kept[name] - forgotten[name], one, atol=1e-6, rtol=1e-4)


def test_normalised_information_has_mean_one(store: AdapterStore) -> None:
    context = trained(store)
    plain = dict(store.load(Fisher("plain").end(context, None)[0].ref).tensors)
    scaled = dict(store.load(Fisher("scaled", normalise=True).end(context, None)[0].ref).tensors)
    whole = torch.cat([each.flatten() for each in scaled.values()])
    assert whole.mean().item() == pytest.approx(1.0, rel=1e-5)
    mean = torch.cat([each.flatten() for each in plain.values()]).mean()
    for name, each in plain.items():
        torch.testing.assert_close(scaled[name], each / mean)


# --- the path of SI ----------------------------------------------------------------------------------


def test_a_path_is_the_sum_of_gradient_times_step(store: AdapterStore) -> None:
    """On the first task without a penalty in the way, and on the second with its pull taken off."""
    recipe = find_recipe("si")
    recipe = replace(recipe, penalty=replace(recipe.penalty, weight=3.0))
    recipe = replace(recipe, projection=replace(recipe.projection, penalty=recipe.penalty))
    way, sums, starts = Way(store, recipe), {}, {}

    class Watching:
        """Sums in numpy what the projection is told, the penalty's gradient taken off by autograd."""

        def project(self, context: Context, before: dict[str, Tensor]) -> None:
            recipe.projection.project(context, before)
            now = {name: p.detach().clone() for name, p in context.own_parameters.items()}
            with torch.no_grad():
                for name, parameter in context.own_parameters.items():
                    parameter.copy_(before[name])
            term = recipe.penalty.loss(context, None, None)
            own = list(context.own_parameters.values())
            pulls = [torch.zeros_like(p) for p in own] if term is None else torch.autograd.grad(term, own)
            for (name, parameter), pull in zip(context.own_parameters.items(), pulls, strict=True):
                parameter.data.copy_(now[name])
                step = double(now[name]) - double(before[name])
                sums[name] = sums.get(name, 0.0) - (double(parameter.grad) - double(pull)) * step
                starts.setdefault(name, double(before[name]))

    way.recipe = replace(recipe, projection=Watching())
    importances: dict[str, np.ndarray] = {}
    for step in (0, 1):
        sums.clear()
        starts.clear()
        way.learn(step)
        context = way.context(step)
        found = store.load(f"way.path@{step + 1}").tensors
        for name, kept in names(context).items():
            moved = double(context.own_parameters[name]) - starts[name]
            new = np.maximum(sums[name], 0) / (moved**2 + 1e-3)
            importances[kept] = importances.get(kept, 0.0) + new
            bound = 1e-3 * importances[kept].max()
            np.testing.assert_allclose(double(found[kept]), importances[kept], rtol=1e-3, atol=bound)


def test_a_path_resumes_from_what_a_checkpoint_keeps(store: AdapterStore) -> None:
    way = Way(store, find_recipe("si"))
    context = way.started(0)
    way.train(context, passes=1)
    half = {name: tensor.clone() for name, tensor in context.working.items()}
    assert len(half) == 2 * len(context.own_parameters)
    resumed = way.context(0)
    resumed.working.update(half)
    assert same(
        dict(store.load(PathIntegral("a").end(context, None)[0].ref).tensors),
        dict(store.load(PathIntegral("b").end(resumed, None)[0].ref).tensors),
    )


# --- the penalty -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_at_the_anchor_it_costs_nothing_and_pulls_nowhere(store: AdapterStore, name: str) -> None:
    recipe = find_recipe(name)
    context = learnt(store, recipe, tasks=1).started(1)
    loss = recipe.penalty.loss(context, None, None)
    loss.backward()
    assert loss.item() == 0.0
    assert all(not p.grad.any() for p in context.own_parameters.values())


@pytest.mark.parametrize("name", ["ewc", "si", "mas"])
def test_an_anchor_is_half_the_weighted_square_of_the_way_from_it(store: AdapterStore, name: str) -> None:
    recipe = find_recipe(name)
    context = learnt(store, recipe, tasks=1).started(1)
    shake(context)
    matters, last = store.load(f"way.{RECIPES[name]}@1").tensors, store.load("way@1").tensors
    kept = names(context)
    expected = sum(
        (double(matters[kept[n]]) * (double(p) - double(last[kept[n]])) ** 2).sum()
        for n, p in context.own_parameters.items()
    )
    penalty = replace(recipe.penalty, weight=6.0)
    loss = penalty.loss(context, None, None)
    assert loss.item() == pytest.approx(3 * expected, rel=1e-4)
    loss.backward()
    pulls = penalty.pulls(context, {n: p.detach() for n, p in context.own_parameters.items()})
    for n, p in context.own_parameters.items():
        torch.testing.assert_close(pulls[n], p.grad)


def test_an_anchored_update_is_that_of_the_product(store: AdapterStore) -> None:
    context = learnt(store, find_recipe("ewc-dw"), tasks=1).started(1)
    way = Way(store, find_recipe("ewc-dw"))
    shake(context)
    matters = store.load("way.fisher@1").tensors
    now, last = live(context), stored(way, "way@1")
    expected = sum((double(matters[m]) * (delta(now[m]) - delta(last[m])) ** 2).sum() for m in now)
    assert AnchoredUpdate(weight=6.0).loss(context, None, None).item() == pytest.approx(
        3 * expected, rel=1e-4
    )


def test_only_the_anchored_update_is_blind_to_how_factors_share_it(store: AdapterStore) -> None:
    """``A -> c A, B -> B / c`` is the same model."""
    for name, blind in (("ewc-dw", True), ("ewc", False)):
        recipe = find_recipe(name)
        context = learnt(store, recipe, tasks=1, line=name).started(1)
        shake(context)
        before = recipe.penalty.loss(context, None, None).item()
        with torch.no_grad():
            for factors in context.factors("a test").values():
                factors.down.mul_(3.0)
                factors.up.div_(3.0)
        after = recipe.penalty.loss(context, None, None).item()
        assert (after == pytest.approx(before, rel=1e-4)) is blind


def test_the_heavier_the_anchor_the_less_is_moved(store: AdapterStore) -> None:
    """By gradient descent on one batch; the way from the anchor is measured as the anchor does."""
    moved = []
    way = learnt(store, find_recipe("ewc"), tasks=1)
    for weight in (0.0, 0.3, 3.0, 30.0):
        context = way.started(1)
        data, module = context.training_data("a test"), context.adapted.module
        labels = torch.tensor(["abcd".index(each) for each in data.labels])
        most = max(each.max() for each in context.recall("fisher").tensors.values()).item()
        penalty = Anchored("fisher", weight / most)
        optimizer = torch.optim.SGD(list(context.own_parameters.values()), lr=0.05)
        context.adapted.train_only()
        for _ in range(25):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(module.collate(data.inputs)), labels)
            (loss + penalty.loss(context, None, None)).backward()
            optimizer.step()
        moved.append(Anchored("fisher", 1.0).loss(context, None, None).item())
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.1 * moved[0]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_at_weight_zero_one_adapter_is_trained_on_bit_for_bit(store: AdapterStore, name: str) -> None:
    recipe = find_recipe(name)
    free = replace(recipe, penalty=replace(recipe.penalty, weight=0.0))
    learnt(store, free, tasks=2, line="free")
    learnt(store, find_recipe("sequential-local"), tasks=2, line="plain")
    for n in (1, 2):
        assert same(store.load(f"free@{n}").tensors, store.load(f"plain@{n}").tensors)
    learnt(store, recipe, tasks=2, line="held")
    assert same(store.load("held@1").tensors, store.load("plain@1").tensors)

    def moved(line: str) -> float:
        one, two = store.load(f"{line}@1").adapter_tensors(), store.load(f"{line}@2").adapter_tensors()
        return sum(float((two[name] - one[name]).square().sum()) for name in one)

    assert moved("held") < 0.95 * moved("plain")


# --- what is refused ---------------------------------------------------------------------------------


def test_layers_that_fold_rows_together_are_refused(store: AdapterStore) -> None:
    class Folded(Classifier):
        def encode(self, batch: dict[str, Tensor]) -> Tensor:
            words = batch["input_ids"]
            return self.model(input_ids=words.reshape(-1, 3)).last_hidden_state.mean(1)[::2]

    way = Way(store, find_recipe("ewc"), module=Folded())
    with pytest.raises(
        UnsupportedError,
        match=r"^the Fisher information needs layers whose first dimension is the batch; "
        r"'encoder\.layer\.0\.attention\.self\.query' reads 32 rows of a batch of 16, leave it out",
    ):
        way.learn(0)


def test_layers_that_are_called_twice_count_once_a_row(store: AdapterStore) -> None:
    class Twice(Classifier):
        def encode(self, batch: dict[str, Tensor]) -> Tensor:
            return super().encode(batch) + super().encode({"input_ids": batch["input_ids"].flip(1)})

    way = Way(store, find_recipe("ewc"), module=Twice())
    context = way.started(0)
    shake(context)
    rows = row_by_row(context, lambda scores, label: own_log_likelihood(scores, label, slice(0, 2)))
    (memory,) = Fisher().end(context, None)
    found = store.load(memory.ref).tensors
    for name, kept in names(context).items():
        expected = np.mean([row[name] ** 2 for row in rows], axis=0)
        np.testing.assert_allclose(double(found[kept]), expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_what_has_no_factors_is_anchored_by_its_path_but_not_by_its_fisher(store: AdapterStore) -> None:
    spec = AdapterSpec("houlsby", reduction_factor=4)
    learnt(store, find_recipe("si"), tasks=2, spec=spec, line="path")
    assert store.show("path.path@2").parameters == store.show("path@2").parameters
    with pytest.raises(UnsupportedError, match=r"^the Fisher information works on the factors of LoRA"):
        learnt(store, find_recipe("ewc"), tasks=1, spec=spec)


def test_the_model_is_left_as_it_was(store: AdapterStore) -> None:
    context = trained(store)
    module = context.adapted.module
    modes = [child.training for child in module.modules()]
    Fisher().end(context, None)
    assert [child.training for child in module.modules()] == modes
    assert all(p.grad is None for p in module.parameters())
    assert not any(child._forward_hooks for child in context.adapted.model.modules())


@pytest.mark.parametrize(("of", "penalty"), [("update", Anchored()), ("factors", AnchoredUpdate())])
def test_importances_of_something_else_are_refused(store: AdapterStore, of: Any, penalty: Any) -> None:
    parent = find_recipe("sequential-local")
    context = learnt(store, replace(parent, consolidate=Fisher(of=of)), tasks=1).started(1)
    with pytest.raises(SpecError, match=r"^'fisher' remembers no importances of .*; give Fisher\(of="):
        penalty.loss(context, None, None)


@pytest.mark.parametrize("penalty", [Anchored("path", 50.0), None])
def test_what_the_path_is_freed_of_is_the_pull_that_was_in_the_loss(
    store: AdapterStore, penalty: Any
) -> None:
    """A recipe whose penalty alone was changed sums up as one that was told so in both places."""
    changed = replace(find_recipe("si"), penalty=penalty)
    learnt(store, changed, tasks=2, line="changed")
    learnt(store, replace(changed, projection=SumPath(penalty)), tasks=2, line="told")
    assert same(store.load("changed.path@2").tensors, store.load("told.path@2").tensors)
