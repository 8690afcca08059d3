"""Scores of rows left out of statistics that hold them, against statistics without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from statistics_rows import rows
from torch import Tensor

from contpeft.adapters import ClassStatistics, LeftOut, RidgeStatistics, StatisticsHead
from contpeft.adapters.statistics.left_out import lda_left_out, ridge_left_out
from contpeft.adapters.statistics.lifting import lift, random_map
from contpeft.errors import SpecError
from contpeft.metrics.calibration import best_temperature

SHRINKAGE = 0.3


def without(features: Tensor, labels: list[str], row: int) -> tuple[Tensor, list[str]]:
    left = [n for n in range(len(labels)) if n != row]
    return features[left], [labels[n] for n in left]


def gathered(features: Tensor, labels: list[str]) -> ClassStatistics:
    statistics = ClassStatistics()
    for label in sorted(set(labels)):  # entries in the order of labels, whatever row is left out
        own = [n for n, each in enumerate(labels) if each == label]
        statistics.update(features[own], [label] * len(own), group=0)
    return statistics


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4), width=st.integers(2, 12))
def test_of_lda_it_is_what_the_others_say(seed: int, classes: int, width: int) -> None:
    features, labels = rows(seed, 5 * classes, classes, width)
    whole = gathered(features, labels)
    entries = [whole.labels.index(each) for each in labels]
    told = lda_left_out(features, entries, whole.means, whole.counts, whole.scatter, SHRINKAGE)
    variance = torch.trace(whole.scatter) / len(labels) / width
    target = SHRINKAGE * variance * torch.eye(width, dtype=torch.float64)
    for row in (0, len(labels) - 1):
        others = gathered(*without(features, labels, row))
        covariance = (1 - SHRINKAGE) * others.scatter / (len(labels) - 1) + target
        weights = np.linalg.solve(covariance.numpy(), others.means.T.numpy()).T
        expected = weights @ features[row].numpy() - 0.5 * (weights * others.means.numpy()).sum(1)
        np.testing.assert_allclose(told[row].numpy(), expected, rtol=1e-8, atol=1e-8)


@given(seed=st.integers(0, 10_000), penalty=st.sampled_from([0.01, 1.0, 100.0]))
def test_of_ridge_regression_it_is_what_the_others_say(seed: int, penalty: float) -> None:
    features, labels = rows(seed, 12, 3, 4)
    sums = RidgeStatistics(width=16)
    sums.update(features, labels, group=0)
    lifted, entries = lift(features, random_map(4, 16, 0)), [sums.labels.index(each) for each in labels]
    factor = torch.linalg.cholesky(sums.gram + penalty * torch.eye(16, dtype=torch.float64))
    told = ridge_left_out(lifted, entries, factor, sums.targets)
    for row in (0, 11):
        others = RidgeStatistics(width=16)
        others.update(*without(features, labels, row), group=0)
        order = [others.labels.index(each) for each in sums.labels]
        expected = lifted[row] @ others.tensors(penalty)["weight"].T[:, order]
        torch.testing.assert_close(told[row], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["lda", "ridge"])
def test_the_temperature_is_right_for_rows_that_were_never_seen(kind: str) -> None:
    """More directions than rows: asked for rows that it holds, a head is surer than it may be."""
    features, labels = rows(1, 1200, 4, 150, noise=5.0)
    seen, unseen = slice(0, 200), slice(200, None)
    sums = ClassStatistics() if kind == "lda" else RidgeStatistics(width=300)
    sums.update(features[seen], labels[seen], group=0)
    how = SHRINKAGE if kind == "lda" else 1.0
    told = best_for(sums.left_out(features[seen], labels[seen], 0, how))
    if isinstance(sums, ClassStatistics):
        head = StatisticsHead(sums.spec("lda", how), sums.tensors())
    else:
        head = StatisticsHead(sums.spec(how), sums.tensors(how))

    def best(part: slice) -> float:
        return best_temperature(head(features[part]).numpy(), [head.classes.index(x) for x in labels[part]])

    assert best(unseen) < told < 2 * best(unseen)
    assert best(seen) < 0.1 * told


def best_for(told: LeftOut) -> float:
    return best_temperature(told.scores.numpy(), told.entries, told.labels)


def test_a_temperature_divides_scores_and_changes_no_answer() -> None:
    features, labels = rows(2, 20, 3, 6)
    statistics = gathered(features, labels)
    plain = StatisticsHead(statistics.spec("lda"), statistics.tensors())
    warm = StatisticsHead(statistics.spec("lda", temperature=2.0), statistics.tensors())
    assert torch.equal(warm(features), plain(features) / 2)
    assert "temperature" not in plain.spec().options
    assert warm.spec().options["temperature"] == 2.0


def temperature(
    sums: ClassStatistics | RidgeStatistics, features: Tensor, labels: list[str], group: int = 0
) -> float:
    return best_for(sums.left_out(features, labels, group, SHRINKAGE))


@pytest.mark.parametrize("kind", [ClassStatistics, RidgeStatistics])
def test_a_row_that_is_alone_is_passed_over(kind: type[ClassStatistics] | type[RidgeStatistics]) -> None:
    features, labels = rows(3, 9, 3, 4, noise=3.0)
    alone = [*labels[:-1], "f"]
    sums, each = kind(), kind()
    sums.update(features, alone, group=0)
    told = sums.left_out(features, alone, 0, SHRINKAGE)
    assert torch.equal(told.scores, sums.left_out(features[:-1], alone[:-1], 0, SHRINKAGE).scores)
    assert [told.labels[entry] for entry in told.entries] == alone[:-1]
    each.update(features[:2], ["a", "b"], group=0)
    assert each.left_out(features[:2], ["a", "b"], 0, SHRINKAGE).scores.shape == (0, 2)


@pytest.mark.parametrize("kind", [ClassStatistics, RidgeStatistics])
def test_a_label_met_in_several_tasks_is_right_whichever_of_them_answers(
    kind: type[ClassStatistics] | type[RidgeStatistics],
) -> None:
    features, labels = rows(4, 400, 4, 8, noise=2.0)
    several, apart = kind(), kind()
    for group in range(4):
        part = slice(100 * group, 100 * (group + 1))
        several.update(features[part], labels[part], group)
        apart.update(features[part], [f"{label}{group}" for label in labels[part]], group)
    whole = kind()
    whole.update(features, labels, 0)
    told = temperature(several, features[300:], labels[300:], 3)
    assert told == pytest.approx(temperature(whole, features, labels), rel=0.6)
    assert told < 0.9 * temperature(apart, features[300:], [f"{x}3" for x in labels[300:]], 3)


def test_rows_that_were_not_added_are_refused() -> None:
    features, labels = rows(5, 6, 2, 4)
    statistics = gathered(features, labels)
    with pytest.raises(SpecError, match=r"^no rows of 'a' were added as task 1; update with them first"):
        statistics.left_out(features, labels, 1, SHRINKAGE)
    assert statistics.groups == [0, 0]


def test_a_penalty_without_a_solution_is_refused() -> None:
    features, labels = rows(6, 6, 2, 4)
    sums = RidgeStatistics(width=20)
    sums.update(features, labels, group=0)
    with pytest.raises(SpecError, match=r"^ridge regression has no solution at a penalty of -1"):
        sums.left_out(features, labels, 0, -1.0)


def test_a_covariance_without_an_inverse_is_refused() -> None:
    features, labels = rows(4, 2, 2, 12)[0][[0, 1, 0, 1]], ["a", "b", "a", "b"]
    with pytest.raises(SpecError, match=r"^LDA cannot be calibrated: the covariance is singular; shrink"):
        gathered(features, labels).left_out(features, labels, 0, 0.0)
