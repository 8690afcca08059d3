"""Entrywise rules against their definitions, and the coordinates they run in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_oracle import Dense
from merging_sources import MODULES, SHAPE, dense_merged, dense_update, merge, name, several, source
from torch import Tensor

from contpeft.errors import SpecError
from contpeft.merging import Fusion, Site, fuse, make_rule
from contpeft.merging.rules.base import Entrywise
from contpeft.merging.rules.entries import largest, ranks

MODULE = MODULES[1]


def site(rows: list[list[float]], weights: tuple[float, ...] | None = None) -> tuple[Tensor, Site]:
    """Returns entries ``(k, 1, n)`` and a site they could be of."""
    stack = torch.tensor(rows, dtype=torch.float64)[:, None, :]
    k = len(rows)
    told = weights or (1.0,) * k
    names = tuple(f"{place:064d}" for place in range(k))
    return stack, Site("m", (), told, names, tuple(range(k)), sum(told), k)


def entries(rule: str, rows: list[list[float]], **parameters: object) -> list[float]:
    made = make_rule(rule, parameters)
    assert isinstance(made, Entrywise)
    stack, where = site(rows)
    return [float(value) for value in made.entries(stack, where)[0]]


def test_of_equal_magnitudes_the_first_is_the_larger() -> None:
    assert ranks(torch.tensor([1.0, -2.0, 2.0, 0.5])).tolist() == [1, 3, 2, 0]
    assert largest(torch.tensor([[[1.0, -1.0, 1.0, 1.0]]]), 0.5).tolist() == [[[True, True, False, False]]]


def test_ties_trims_elects_and_averages_what_agrees() -> None:
    rows = [[4.0, -3.0, 0.1, 2.0], [2.0, 5.0, -0.2, 0.3], [-1.0, 4.0, 3.0, 0.2]]
    # kept, half of each: [4, -3, ., .], [2, 5, ., .], [., 4, 3, .]
    assert entries("ties", rows, density=0.5) == [3.0, 4.5, 3.0, 0.0]
    assert entries("ties", rows, density=0.5, divide="none") == [6.0, 9.0, 3.0, 0.0]


def test_ties_elects_plus_where_signs_balance() -> None:
    assert entries("ties", [[1.0, -2.0], [-1.0, 2.0]], density=1.0) == [1.0, 2.0]


def test_ties_divides_by_weights_on_request() -> None:
    made = make_rule("ties", {"density": 1.0, "divide": "weights"})
    assert isinstance(made, Entrywise)
    stack, where = site([[2.0, 4.0], [3.0, -1.0]], weights=(2.0, 1.0))
    assert made.entries(stack, where)[0].tolist() == pytest.approx([5.0 / 3.0, 2.0])


def test_global_ties_trims_over_the_whole_adapter() -> None:
    # One module is ten times the other: at a third of all entries none of the small one survives.
    loud, quiet = MODULES[0], MODULES[1]
    given = [source(seed, 3, modules=(loud, quiet)) for seed in range(2)]
    for each in given:
        tensors = dict(each.tensors)
        tensors[name(loud, "B")] = tensors[name(loud, "B")] * 1e4
        object.__setattr__(each, "tensors", tensors)
    globally, locally = (merge("ties", *given, density=0.2, trim=trim) for trim in ("global", "module"))
    assert np.linalg.norm(dense_merged(globally, quiet)) == 0
    assert np.linalg.norm(dense_merged(locally, quiet)) > 1
    assert [module.rank for module in globally.modules if module.module == quiet] == [0]


def test_global_trimming_on_the_weight_itself_is_refused() -> None:
    with pytest.raises(SpecError, match="in space 'core' or 'knots' alone"):
        merge("ties", *several("ties"), trim="global", space="delta", rank="11")


def test_breadcrumbs_drops_both_tails_and_nothing_else() -> None:
    row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert entries("breadcrumbs", [row], density=0.6, outliers=0.2) == [0, 0, 3, 4, 5, 6, 7, 8, 0, 0]


def test_breadcrumbs_with_no_outlier_to_drop_keeps_the_rest() -> None:
    # int(0.01 * 10) is 0, and a slice that ends at -0 is empty.
    row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    assert entries("breadcrumbs", [row], density=0.9, outliers=0.01) == [0, *row[1:]]


def test_prune_adds_the_largest() -> None:
    assert entries("prune", [[1.0, 2.0, -3.0, 4.0], [5.0, -6.0, 7.0, 8.0]], density=0.5) == [0, 0, 4, 12]


def test_magmax_takes_the_largest_magnitude_with_its_sign() -> None:
    assert entries("magmax", [[1.0, -5.0, 2.0], [-3.0, 4.0, -2.0]]) == [-3.0, -5.0, 2.0]


@pytest.mark.parametrize("rule", ["dare", "della"])
def test_over_seeds_the_mean_of_a_random_drop_is_the_plain_sum(rule: str) -> None:
    # della's election is left out by one adapter whose entries cannot disagree.
    given = several("dare") if rule == "dare" else [source(0)]
    seeds = 400
    mean = sum(dense_merged(merge(rule, *given, seed=seed), MODULE) for seed in range(seeds)) / seeds
    total = sum(each.weight * dense_update(each, MODULE) for each in given)
    one = dense_merged(merge(rule, *given, seed=0), MODULE)
    # The error of a mean of n draws is a root of n smaller than that of one.
    assert np.linalg.norm(mean - total) < 2.5 / np.sqrt(seeds) * np.linalg.norm(one - total)
    assert np.linalg.norm(one - total) > 0.3 * np.linalg.norm(total)


def test_dare_keeps_the_share_it_says_and_rescales_by_it() -> None:
    stack, where = site([[1.0] * 20_000])
    made = make_rule("dare", {"density": 0.3})
    assert isinstance(made, Entrywise)
    kept = made.entries(stack, where)
    assert set(kept.unique().tolist()) == {0.0, 1 / 0.3}
    assert float((kept > 0).double().mean()) == pytest.approx(0.3, abs=0.02)


def test_a_mask_is_that_of_its_adapter_whatever_else_is_merged() -> None:
    alone = merge("dare", source(0), seed=5, space="delta", rank="11")
    pair = merge("dare", source(0), source(1), seed=5, space="delta", rank="11")
    other = merge("dare", source(1), seed=5, space="delta", rank="11")
    total = dense_merged(alone, MODULE) + dense_merged(other, MODULE)
    np.testing.assert_allclose(dense_merged(pair, MODULE), total, atol=1e-9)


def test_della_keeps_large_entries_more_often_and_divides_by_their_own_chance() -> None:
    stack, where = site([[1.0, 2.0]] * 1)
    made = make_rule("della", {"density": 0.5, "spread": 0.25})
    assert isinstance(made, Entrywise)
    seen = []
    for seed in range(2000):
        object.__setattr__(where, "seed", seed)
        seen.append(made.entries(stack, where)[0].tolist())
    drawn = np.asarray(seen)
    assert set(np.unique(drawn)) == {0.0, 1 / 0.25, 2 / 0.75}
    np.testing.assert_allclose((drawn > 0).mean(0), [0.25, 0.75], atol=0.05)


def test_dare_ties_without_trim_elects_on_what_is_left() -> None:
    rows = [[4.0, -3.0], [2.0, 5.0]]
    assert entries("dare-ties", rows, density=1.0) == entries("ties", rows, density=1.0)
    assert entries("dare-ties", rows, density=1.0, trim=0.5) == entries("ties", rows, density=0.5)


def dense_ties(matrices: list[Dense], density: float) -> Dense:
    """Returns TIES with a trim per matrix, for entries that are all different."""
    trimmed = []
    for matrix in matrices:
        kept = np.sort(np.abs(matrix).ravel())[-int(density * matrix.size)]
        trimmed.append(np.where(np.abs(matrix) >= kept, matrix, 0))
    sign = np.where(sum(trimmed) >= 0, 1, -1)  # type: ignore[arg-type, operator]
    agreeing = [np.where(matrix * sign > 0, matrix, 0) for matrix in trimmed]
    count = sum((matrix != 0).astype(int) for matrix in agreeing)
    return np.asarray(sum(agreeing) / np.maximum(count, 1))


def test_ties_on_the_weight_itself_is_ties_of_dense_matrices() -> None:
    given = several("ties")
    expected = dense_ties([each.weight * dense_update(each, MODULE) for each in given], 0.3)
    result = merge("ties", *given, density=0.3, space="delta", rank=str(min(SHAPE)))
    np.testing.assert_allclose(dense_merged(result, MODULE), expected, atol=1e-9)


def test_what_storing_a_dense_result_loses_is_reported() -> None:
    result = merge("ties", *several("ties"), density=0.3, space="delta", rank="same")
    assert 0.01 < result.lost < 0.9


def test_a_dense_result_is_not_cut_down_unasked() -> None:
    fusion = Fusion(make_rule("ties", {"space": "delta"}))
    with pytest.raises(SpecError, match="gives matrices of full rank; say what to keep"):
        fuse(several("ties"), fusion)


def test_knots_is_ties_on_rows_in_the_output_basis_of_all_updates_side_by_side() -> None:
    given = several("ties")
    matrices = [each.weight * dense_update(each, MODULE) for each in given]
    u, s, vh = np.linalg.svd(np.concatenate(matrices, axis=1), full_matrices=False)
    kept = s > 1e-9 * s[0]
    rows = np.split(s[kept, None] * vh[kept], 3, axis=1)
    expected = u[:, kept] @ dense_ties(list(rows), 0.3)
    result = merge("knots", *given, density=0.3, trim="module")
    np.testing.assert_allclose(dense_merged(result, MODULE), expected, atol=1e-9)


def test_a_plain_sum_in_any_space_is_the_sum() -> None:
    # With everything kept, nothing is left but the coordinates, and those lose nothing.
    given = several("dare")
    total = sum(each.weight * dense_update(each, MODULE) for each in given)
    for space in ("core", "knots", "delta"):
        result = merge("prune", *given, density=1.0, space=space, rank=str(min(SHAPE)))
        np.testing.assert_allclose(dense_merged(result, MODULE), total, atol=1e-9)


def test_two_adapters_have_masks_of_their_own() -> None:
    both = np.asarray(entries("dare", [[1.0] * 400, [1.0] * 400], density=0.5))
    # One mask for both would leave nothing but 0 and 4.
    assert set(both) == {0.0, 2.0, 4.0}
