"""Ridge statistics: in any order and cut they are ridge regression on all the data at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from contpeft.adapters import RidgeStatistics, StatisticsHead
from contpeft.adapters.statistics.lifting import random_map
from contpeft.adapters.statistics.ridge import PENALTIES
from contpeft.errors import SpecError
from contpeft.spec import HeadSpec

WIDTH, LIFTED = 5, 24
Rows = tuple[Tensor, list[str]]


def sample(seed: int, n: int, labels: str) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    drawn = [labels[i % len(labels)] for i in range(n)]
    centres = torch.randn(26, WIDTH, generator=torch.Generator().manual_seed(7))
    at = centres[[ord(each) - ord("a") for each in drawn]]
    return at + 0.5 * torch.randn(n, WIDTH, generator=generator), drawn


def gathered(*tasks: Rows, width: int = LIFTED, seed: int = 0) -> RidgeStatistics:
    statistics = RidgeStatistics(width, seed)
    for group, (features, labels) in enumerate(tasks):
        statistics.update(features, labels, group)
    return statistics


def lifted(features: Tensor, width: int = LIFTED, seed: int = 0) -> np.ndarray:
    """The oracle's features: unit length, random map, rectified; in numpy."""
    unit = features.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return np.maximum(unit @ random_map(WIDTH, width, seed).numpy(), 0) if width else unit


def one_hot(labels: list[str], known: list[str]) -> np.ndarray:
    return np.array([[float(label == each) for each in known] for label in labels])


def head(statistics: RidgeStatistics, penalty: float) -> StatisticsHead:
    spec = HeadSpec.from_json(statistics.spec(penalty).to_json())
    return StatisticsHead(spec, statistics.tensors(penalty))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(-3, 3), st.randoms())
def test_it_is_batch_ridge_however_the_data_is_cut_and_ordered(
    seed: int, size: int, power: float, random: Any
) -> None:
    penalty = 10.0**power
    tasks = [sample(seed, 20, "ab"), sample(seed + 1, 15, "cd"), sample(seed + 2, 9, "e")]
    order = [0, 1, 2]
    random.shuffle(order)
    statistics = RidgeStatistics(LIFTED)
    for group in order:
        features, labels = tasks[group]
        for start in range(0, len(labels), size):
            statistics.update(features[start : start + size], labels[start : start + size], group)
    everything = np.concatenate([lifted(features) for features, _ in tasks])
    targets = one_hot([each for _, labels in tasks for each in labels], statistics.labels)
    weight = np.linalg.solve(everything.T @ everything + penalty * np.eye(LIFTED), everything.T @ targets)
    asked, _ = sample(seed + 3, 12, "abcde")
    np.testing.assert_allclose(
        head(statistics, penalty)(asked).numpy(), lifted(asked) @ weight, rtol=1e-5, atol=1e-8
    )


def test_without_random_features_it_is_plain_ridge() -> None:
    features, labels = sample(0, 30, "abc")
    statistics = gathered((features, labels), width=0)
    oracle = Ridge(alpha=0.3, fit_intercept=False).fit(lifted(features, 0), one_hot(labels, list("abc")))
    asked, _ = sample(1, 10, "abc")
    np.testing.assert_allclose(
        head(statistics, 0.3)(asked).numpy(), oracle.predict(lifted(asked, 0)), rtol=1e-8, atol=1e-10
    )
    assert statistics.tensors(0.3)["gram"].shape == (WIDTH * (WIDTH + 1) // 2,)


def test_the_gram_matrix_is_symmetric_and_has_no_negative_direction() -> None:
    gram = gathered(sample(0, 30, "abc")).gram
    assert torch.equal(gram, gram.T)
    assert float(torch.linalg.eigvalsh(gram).min()) > -1e-9
    assert gram.dtype == torch.float64


def test_a_large_penalty_leaves_class_sums() -> None:
    """So ranks favour the larger class: that is the trap of unequal counts."""
    features, labels = sample(0, 30, "abc")
    statistics = gathered((features, labels))
    weight = 1e11 * statistics.tensors(1e11)["weight"].T
    torch.testing.assert_close(weight, statistics.targets, rtol=1e-5, atol=1e-6)
    sums = np.stack([lifted(features)[np.array(labels) == each].sum(0) for each in "abc"], 1)
    np.testing.assert_allclose(statistics.targets.numpy(), sums, rtol=1e-10)


def test_class_sums_favour_the_larger_class() -> None:
    features = torch.tensor([[1.0, 0.2], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]).double()
    statistics = gathered((features, ["a", "b", "b", "b"]), width=0)
    weight = 1e11 * statistics.tensors(1e11)["weight"]
    assert float(weight[1] @ features[0]) > 2 * float(weight[0] @ features[0])  # "a" itself goes to "b"


def test_new_classes_leave_old_targets_alone_but_not_the_classifier() -> None:
    first, second = sample(0, 20, "ab"), sample(1, 20, "cd")
    alone, both = gathered(first), gathered(first, second)
    assert torch.equal(both.targets[:, :2], alone.targets)
    assert not torch.equal(both.tensors(1.0)["weight"][:2], alone.tensors(1.0)["weight"])


def test_going_on_from_a_stored_version_is_never_having_stopped() -> None:
    tasks = [sample(seed, 20, labels) for seed, labels in enumerate(("ab", "cd", "ae"))]
    resumed = RidgeStatistics(LIFTED, seed=3)
    for group, (features, labels) in enumerate(tasks):
        resumed.update(features, labels, group)
        spec = HeadSpec.from_json(resumed.spec(1.0).to_json())
        resumed = RidgeStatistics.from_stored(spec, resumed.tensors(1.0), WIDTH)
    straight = gathered(*tasks, seed=3)
    assert (straight.labels, straight.groups) == (resumed.labels, resumed.groups)
    assert torch.equal(straight.gram, resumed.gram)
    assert straight.groups == [0, 0, 1, 1, 2, 2]  # "a" met again has an entry of its own
    for name, tensor in straight.tensors(1.0).items():
        assert torch.equal(tensor, resumed.tensors(1.0)[name]), name


def test_another_seed_draws_another_map() -> None:
    task = sample(0, 20, "ab")
    assert torch.equal(gathered(task, seed=1).gram, gathered(task, seed=1).gram)
    assert not torch.equal(gathered(task, seed=1).gram, gathered(task, seed=2).gram)


@pytest.mark.parametrize(("n", "width"), [(12, LIFTED), (60, LIFTED), (60, 0)])
def test_the_penalty_is_the_one_that_predicts_held_out_rows_best(n: int, width: int) -> None:
    features, labels = sample(2, n, "abc")
    found = RidgeStatistics(width, seed=5).held_out_penalty(features, labels)
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(5)).numpy()
    h, y = lifted(features, width, 5), one_hot(labels, list("abc"))
    cut = int(0.8 * n)
    train, held = rows[:cut], rows[cut:]
    errors = {}
    for penalty in PENALTIES:
        system = h[train].T @ h[train] + penalty * np.eye(h.shape[1])
        errors[penalty] = np.mean((h[held] @ np.linalg.solve(system, h[train].T @ y[train]) - y[held]) ** 2)
    best = min(errors.values())
    assert errors[found] == pytest.approx(best, rel=1e-6)
    assert 1e-8 < found < 1e8  # an inner one of the grid, so that the errors differ


@pytest.mark.parametrize(("n", "width"), [(25, LIFTED), (25, 128), (25, 0)])
def test_the_gcv_penalty_is_that_of_all_rows_at_once(n: int, width: int) -> None:
    tasks = [sample(seed, n, labels) for seed, labels in enumerate(("abc", "de", "af"))]
    statistics = gathered(*tasks, width=width, seed=5)
    h = np.concatenate([lifted(features, width, 5) for features, _ in tasks])
    names = [f"{label}{group}" for group, (_, labels) in enumerate(tasks) for label in labels]
    y = one_hot(names, list(dict.fromkeys(names)))
    errors = {}
    for penalty in PENALTIES[3:]:
        fitted = h @ np.linalg.solve(h.T @ h + penalty * np.eye(h.shape[1]), h.T)
        errors[penalty] = len(h) * np.sum((y - fitted @ y) ** 2) / (len(h) - np.trace(fitted)) ** 2
    found = statistics.gcv_penalty()
    assert errors[found] == pytest.approx(min(errors.values()), rel=1e-6)
    assert 1e-5 < found < 1e8
    stored = HeadSpec.from_json(statistics.spec(1.0).to_json())
    assert RidgeStatistics.from_stored(stored, statistics.tensors(1.0), WIDTH).gcv_penalty() == found


def test_an_easy_last_task_leaves_the_others_their_penalty() -> None:
    """Held out of two classes that are far apart, rows miss no penalty; those of the other classes do."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, WIDTH, generator=generator)
    labels = [f"c{n % 6}" for n in range(60)]
    noises = torch.randn(60, WIDTH, generator=generator)
    hard = (centres[[n % 6 for n in range(60)]] + 1.5 * noises, labels)
    easy = (torch.eye(WIDTH)[[0, 1] * 10] + 0.001 * noises[:20], ["x", "y"] * 10)
    assert gathered(hard).gcv_penalty() >= 1
    assert gathered(hard, easy).held_out_penalty(*easy) <= 1e-3
    assert gathered(hard, easy).gcv_penalty() >= 1


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^there are no -1 random features; give 1 or more, or 0 for none$"):
        RidgeStatistics(-1)
    with pytest.raises(SpecError, match=r"^a penalty is chosen on held-out rows, there is 1 row; fix it"):
        RidgeStatistics().held_out_penalty(torch.ones(1, WIDTH), ["a"])
    with pytest.raises(SpecError, match=r"^a penalty is chosen from rows, and none were added$"):
        RidgeStatistics().gcv_penalty()
    few = gathered(sample(0, 3, "ab"))
    told = few.spec(1.0)
    uncounted = replace(told, options={key: told.options[key] for key in told.options if key != "rows"})
    with pytest.raises(SpecError, match=r"^these sums do not tell of how many rows they are; gather them"):
        RidgeStatistics.from_stored(uncounted, few.tensors(1.0), WIDTH)
    for penalty in (0.0, -1.0):
        with pytest.raises(
            SpecError, match=rf"^ridge regression has no solution at a penalty of {penalty:g};"
        ):
            few.tensors(penalty)
    with pytest.raises(SpecError, match=r"^class statistics are of features of width 5, got 6$"):
        few.update(torch.ones(1, 6), ["a"], 0)
