"""Naive Bayes over tokens, against numpy and against counts without the row that is asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from contpeft.adapters import NO_TOKEN, StatisticsHead, TokenStatistics
from contpeft.adapters.statistics.tokens import positions
from contpeft.adapters.tokens import distinct
from contpeft.errors import SpecError

VOCABULARY = 30


def texts(seed: int, n: int, length: int = 6) -> tuple[Tensor, list[str]]:
    """Returns distinct tokens of rows of three classes, each with words of its own, and their labels."""
    rng = np.random.default_rng(seed)
    labels = [int(each) for each in rng.integers(3, size=n)]
    rows = np.stack([rng.choice(VOCABULARY, length, p=_shares(label)) for label in labels])
    return distinct(torch.from_numpy(rows)), ["abc"[each] for each in labels]


def _shares(label: int) -> np.ndarray:
    share = np.ones(VOCABULARY)
    share[10 * label : 10 * label + 10] = 4
    return share / share.sum()


def scored(rows: Tensor, labels: list[str], asked: Tensor, prior: float) -> np.ndarray:
    """Returns what naive Bayes says, from presence alone, in numpy."""
    there = presence(rows)
    classes = list(dict.fromkeys(labels))
    counts = np.array([there[[each == label for each in labels]].sum(0) for label in classes])
    usual = counts.sum(0) / counts.sum()
    share = (counts + prior * usual) / (counts.sum(1, keepdims=True) + prior)
    met = usual > 0
    return presence(asked)[:, met] @ np.log(share[:, met]).T


def presence(rows: Tensor) -> np.ndarray:
    found = np.zeros((len(rows), VOCABULARY))
    for at, row in enumerate(rows.tolist()):
        found[at, [token for token in row if token != NO_TOKEN]] = 1
    return found


def gathered(rows: Tensor, labels: list[str], prior: float = 20.0) -> TokenStatistics:
    statistics = TokenStatistics(prior)
    statistics.update(rows, labels, group=0)
    return statistics


def head_of(statistics: TokenStatistics, temperature: float = 1.0) -> StatisticsHead:
    return StatisticsHead(statistics.spec(temperature=temperature), statistics.tensors())


@given(seed=st.integers(0, 10_000), prior=st.sampled_from([1.0, 20.0, 1000.0]))
def test_it_says_what_naive_bayes_says(seed: int, prior: float) -> None:
    rows, labels = texts(seed, 20)
    asked, _ = texts(seed + 1, 10)
    told = head_of(gathered(rows, labels, prior))(asked)
    np.testing.assert_allclose(told.numpy(), scored(rows, labels, asked, prior), rtol=1e-10)


@given(seed=st.integers(0, 10_000))
def test_of_a_row_left_out_it_is_what_the_other_rows_say_of_its_class(seed: int) -> None:
    rows, labels = texts(seed, 12)
    statistics, prior = gathered(rows, labels), 20.0
    told = statistics.left_out(rows, labels, 0)
    several = [row for row, label in enumerate(labels) if labels.count(label) > 1]
    assert len(told.scores) == len(told.entries) == len(several)
    there, whole = presence(rows), presence(rows).sum(0)
    usual = whole / whole.sum()
    for at, row in enumerate(several):
        others = [n for n, label in enumerate(labels) if label == labels[row] and n != row]
        counts = there[others].sum(0)
        share = (counts + prior * usual) / (counts.sum() + prior)
        expected = np.log(share[there[row] > 0]).sum()
        own = told.entries[at]
        assert told.labels[own] == labels[row]
        assert told.scores[at, own].item() == pytest.approx(expected, rel=1e-10)
        rest = [n for n in range(len(told.labels)) if n != own]
        np.testing.assert_allclose(
            told.scores[at, rest].numpy(), scored(rows, labels, rows, prior)[row, rest], rtol=1e-10
        )


@given(seed=st.integers(0, 10_000), cut=st.integers(1, 19))
def test_the_cutting_into_batches_and_a_rest_in_the_store_do_not_show(seed: int, cut: int) -> None:
    rows, labels = texts(seed, 20)
    whole = gathered(rows, labels)
    first = gathered(rows[:cut], labels[:cut])
    again = TokenStatistics.from_stored(first.spec(), first.tensors())
    again.update(rows[cut:], labels[cut:], group=0)
    assert again.labels == whole.labels
    assert all(torch.equal(again.tensors()[name], each) for name, each in whole.tensors().items())


def test_the_same_label_in_two_tasks_has_counts_of_its_own() -> None:
    statistics = gathered(torch.tensor([[1, 2]]), ["a"])
    statistics.update(torch.tensor([[2, 9, 5]]), ["a"], group=1)
    assert (statistics.labels, statistics.groups) == (["a", "a"], [0, 1])
    assert statistics.tokens.tolist() == [1, 2, 5, 9]
    assert statistics.counts.tolist() == [[1, 1, 0, 0], [0, 1, 1, 1]]


def test_tokens_never_met_and_places_without_one_say_nothing() -> None:
    rows, labels = texts(3, 20)
    head = head_of(gathered(rows, labels))
    plain = rows[:1]
    longer = torch.cat([plain, torch.tensor([[NO_TOKEN, VOCABULARY + 7]])], 1)
    assert torch.equal(head(longer), head(plain))
    assert head(torch.tensor([[NO_TOKEN, VOCABULARY]])).tolist() == [[0.0] * 3]


def test_a_token_counts_once_a_row() -> None:
    assert distinct(torch.tensor([[5, 3, 5, 5], [2, -1, 2, -1]])).sort(1).values.tolist() == [
        [-1, -1, 3, 5],
        [-1, -1, -1, 2],
    ]


def test_where_tokens_are() -> None:
    met = torch.tensor([2, 4, 9])
    assert positions(met, torch.tensor([[9, 2, 3], [NO_TOKEN, 10, 4]])).tolist() == [[2, 0, 3], [3, 3, 1]]


def test_a_temperature_divides_scores() -> None:
    rows, labels = texts(4, 20)
    statistics = gathered(rows, labels)
    assert torch.equal(head_of(statistics, 4.0)(rows), head_of(statistics)(rows) / 4)


def test_a_label_per_row_is_needed() -> None:
    with pytest.raises(SpecError, match=r"^class statistics need a label per feature, got 1 for 2"):
        gathered(torch.tensor([[1], [2]]), ["a"])


@pytest.mark.parametrize("prior", [0.0, -1.0, float("nan")])
def test_a_prior_is_positive(prior: float) -> None:
    with pytest.raises(
        SpecError, match=r"^a prior of .* tokens leaves unseen ones impossible; give more than 0"
    ):
        TokenStatistics(prior)
