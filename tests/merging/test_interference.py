"""Measures of interference against dense float64, by module and over all of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merging_oracle import Dense, dense, factors, regauged

from contpeft.errors import SpecError
from contpeft.merging import Update, canonical, combine
from contpeft.merging.interference import InterferenceReport, interference
from contpeft.merging.measures import (
    energy_inside_both,
    input_residual,
    overlap,
    singular_task_interference,
)

SEEDS = st.integers(0, 2**31)
RANKS = st.integers(1, 4)
SHAPES = {"query": (12, 9), "value": (7, 10)}


def update(seed: int, rank: int, shape: tuple[int, int] = (12, 9), scale: float = 0.5) -> Update:
    return canonical(*factors(seed, rank, shape), scale)


def leading(matrix: Dense, energy: float) -> tuple[Dense, Dense]:
    """Returns the left and right singular vectors that hold that much of a dense matrix's energy."""
    u, s, vh = np.linalg.svd(matrix)
    share = np.cumsum(s**2) / np.sum(s**2)
    rank = int(np.argmax(share > energy)) + 1
    return u[:, :rank], vh[:rank].T


def block(parts: list[Dense]) -> Dense:
    """Returns the block-diagonal matrix of what an adapter adds to its modules."""
    rows, columns = (sum(part.shape[axis] for part in parts) for axis in (0, 1))
    whole, row, column = np.zeros((rows, columns)), 0, 0
    for part in parts:
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return whole


@given(seed=SEEDS, ranks=st.tuples(RANKS, RANKS))
def test_overlap_is_that_of_the_leading_singular_vectors(seed: int, ranks: tuple[int, int]) -> None:
    one, other = update(seed, ranks[0]), update(seed + 1, ranks[1])
    (u, v), (w, x) = leading(dense(one), 0.95), leading(dense(other), 0.95)
    smaller = min(u.shape[1], w.shape[1])
    np.testing.assert_allclose(overlap(one, other, "output"), np.sum((u.T @ w) ** 2) / smaller, atol=1e-11)
    np.testing.assert_allclose(overlap(one, other, "input"), np.sum((v.T @ x) ** 2) / smaller, atol=1e-11)
    np.testing.assert_allclose(overlap(one, one, "input"), 1, atol=1e-12)


@given(seed=SEEDS, rank=RANKS)
def test_energy_inside_both_sides_is_that_of_the_projection(seed: int, rank: int) -> None:
    one, other = update(seed, rank), update(seed + 1, 3)
    left, right = (np.asarray(each) @ np.asarray(each).T for each in (other.u, other.v))
    projected = left @ dense(one) @ right
    expected = np.linalg.norm(projected) ** 2 / np.linalg.norm(dense(one)) ** 2
    np.testing.assert_allclose(energy_inside_both(one, other), expected, atol=1e-12)
    np.testing.assert_allclose(energy_inside_both(one, one), 1, atol=1e-12)


@given(seed=SEEDS, ranks=st.lists(RANKS, min_size=1, max_size=3))
def test_singular_task_interference_is_the_formula_on_dense_triples(seed: int, ranks: list[int]) -> None:
    updates = [update(seed + place, rank) for place, rank in enumerate(ranks)]
    triples = [np.linalg.svd(dense(each), full_matrices=False) for each in updates]
    u = np.concatenate([each[0][:, :rank] for each, rank in zip(triples, ranks, strict=True)], axis=1)
    s = np.concatenate([each[1][:rank] for each, rank in zip(triples, ranks, strict=True)])
    v = np.concatenate([each[2][:rank].T for each, rank in zip(triples, ranks, strict=True)], axis=1)
    eye = np.eye(len(s))
    expected = np.abs((u.T @ u - eye) @ np.diag(s) @ (v.T @ v - eye)).sum()
    found = singular_task_interference(updates)
    np.testing.assert_allclose(found, expected, atol=1e-10 * max(1.0, expected))


def test_updates_without_a_common_input_do_not_interfere() -> None:
    b = factors(1, 4)[0]
    rows = torch.eye(9, dtype=torch.float64)
    apart = [canonical(b[:, :2], rows[:2]), canonical(b[:, 2:], rows[2:4])]
    assert float(singular_task_interference(apart)) < 1e-12
    assert float(singular_task_interference([apart[0], apart[0]])) == pytest.approx(
        2 * float(apart[0].s.sum())
    )


@given(seed=SEEDS, rank=RANKS)
def test_residual_is_the_wudi_term_on_dense_matrices(seed: int, rank: int) -> None:
    one, merged = update(seed, rank), update(seed + 1, 4)
    d, m = dense(one), dense(merged)
    np.testing.assert_allclose(input_residual(one, merged), np.linalg.norm((m - d) @ d.T), rtol=1e-9)
    assert float(input_residual(one, one)) <= 1e-12 * np.linalg.norm(d @ d.T)


def adapters(seed: int, ranks: tuple[int, int, int]) -> dict[str, list[Update | None]]:
    """Returns three adapters on two modules; the last has nothing in the second."""
    return {
        module: [
            None if (place, module) == (2, "value") else update(seed + 7 * place, rank, shape, 0.5 + place)
            for place, rank in enumerate(ranks)
        ]
        for module, shape in SHAPES.items()
    }


@given(seed=SEEDS, ranks=st.tuples(RANKS, RANKS, RANKS))
def test_over_modules_it_is_that_of_the_block_diagonal_updates(
    seed: int, ranks: tuple[int, int, int]
) -> None:
    parts = adapters(seed, ranks)
    merged = {module: update(seed + 99, 3, shape) for module, shape in SHAPES.items()}
    found = interference(parts, merged)
    d = [
        block([np.zeros(SHAPES[m]) if u[i] is None else dense(u[i]) for m, u in parts.items()])
        for i in range(3)
    ]
    norms = np.array([np.linalg.norm(each) for each in d])
    products = np.array([[np.sum(one * other) for other in d] for one in d])
    np.testing.assert_allclose(found.norms, norms, rtol=1e-12)
    np.testing.assert_allclose(found.norm_share, norms / norms.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.cosines, products / np.outer(norms, norms), atol=1e-12)
    for i, one in enumerate(d):
        for j, other in enumerate(d):
            left, right = (np.linalg.pinv(each.T) @ each.T for each in (other, other.T))
            inside = [np.linalg.norm(each) ** 2 / norms[i] ** 2 for each in (left @ one, one @ right)]
            assert found.inside_output[i][j] == pytest.approx(inside[0], abs=1e-9)
            assert found.inside_input[i][j] == pytest.approx(inside[1], abs=1e-9)
            both = np.linalg.norm(left @ one @ right) ** 2 / norms[i] ** 2
            assert found.inside_both[i][j] == pytest.approx(both, abs=1e-9)


@given(seed=SEEDS)
def test_residual_over_modules_is_the_wudi_objective_over_that_of_no_merge(seed: int) -> None:
    parts = adapters(seed, (2, 3, 4))
    merged = {module: update(seed + 99, 3, shape) for module, shape in SHAPES.items()}

    def objective(place: int, merge: dict[str, Dense]) -> float:
        terms = [(dense(u[place]), merge[m]) for m, u in parts.items() if u[place] is not None]
        return float(sum(np.linalg.norm((m - d) @ d.T) ** 2 / np.linalg.norm(d) ** 2 for d, m in terms))

    proposed = {module: dense(each) for module, each in merged.items()}
    nothing = {module: np.zeros(shape) for module, shape in SHAPES.items()}
    expected = [np.sqrt(objective(i, proposed) / objective(i, nothing)) for i in range(3)]
    np.testing.assert_allclose(interference(parts, merged).residual, expected, rtol=1e-9)


def test_residual_is_zero_for_a_merge_that_acts_alike_and_one_for_none() -> None:
    parts = adapters(0, (2, 3, 4))
    first = {module: updates[0] for module, updates in parts.items() if updates[0] is not None}
    assert interference(parts, first).residual[0] == pytest.approx(0, abs=1e-12)
    assert interference(parts, {}).residual == pytest.approx((1, 1, 1))
    assert interference(parts).residual == (None, None, None)


def test_neither_scale_nor_factors_matter_to_what_has_none() -> None:
    pairs = [factors(place, 3) for place in range(2)]
    plain = interference(
        {"query": [canonical(b, a) for b, a in pairs]}, {"query": combine([(*p, 1.0) for p in pairs])}
    )
    other = [canonical(*regauged(b, a, 5), 7.0) for b, a in pairs]
    scaled = interference({"query": other}, {"query": combine([(*p, 7.0) for p in pairs])})
    for name in ("cosines", "output_overlap", "inside_both", "norm_share", "residual", "sti_share"):
        np.testing.assert_allclose(getattr(plain, name), getattr(scaled, name), atol=1e-9)
    assert scaled.sti == pytest.approx(7 * plain.sti)


def test_adapters_in_different_modules_do_not_meet() -> None:
    apart = interference({"query": [update(1, 2), None], "value": [None, update(2, 2)]})
    assert apart.modules == 2
    assert apart.cosines[0][1] == apart.output_overlap[0][1] == apart.inside_input[1][0] == 0
    assert apart.sti == pytest.approx(0, abs=1e-12)


def test_the_zero_adapter_has_zeros_and_no_residual() -> None:
    zero = canonical(torch.zeros(12, 2), torch.zeros(2, 9))
    found = interference({"query": [zero, update(1, 2)]}, {"query": update(1, 2)})
    assert (found.norms[0], found.cosines[0][1], found.inside_input[0][1]) == (0, 0, 0)
    assert found.residual[0] is None
    assert found.residual[1] == pytest.approx(0, abs=1e-12)


def test_a_report_is_gathered_module_by_module() -> None:
    parts = adapters(3, (2, 3, 4))
    report = InterferenceReport()
    for module, updates in parts.items():
        report.add(module, updates)
    report.add("nowhere", [None, None, None])
    assert report.result() == interference(parts)
    assert sorted(report.modules) == ["query", "value"]
    assert report.modules["value"] == interference({"value": parts["value"]})
    assert report.modules["value"].norms[2] == 0
    told = json.loads(json.dumps(report.result().to_json()))
    assert told["modules"] == 2
    assert told["residual"] == [None, None, None]
    assert np.shape(told["cosines"]) == (3, 3)


def test_what_does_not_fit_together_is_refused_by_name() -> None:
    report = InterferenceReport()
    with pytest.raises(SpecError, match="no module has an update"):
        report.result()
    report.add("query", [update(1, 2), None])
    with pytest.raises(SpecError, match="module 'query' is added twice"):
        report.add("query", [update(1, 2), None])
    with pytest.raises(SpecError, match="'value' has 1 adapters, the ones before 2; give None"):
        report.add("value", [update(1, 2)])
    with pytest.raises(SpecError, match=r"'value' have shapes \(7, 10\), \(12, 9\); give those of one"):
        report.add("value", [update(1, 2), update(1, 2, (7, 10))])
