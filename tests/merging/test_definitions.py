"""Each rule against its definition, written out on dense float64 matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_oracle import Dense
from merging_sources import MODULES, dense_merged, dense_update, merge, several, source

from contpeft.errors import SpecError

MODULE = MODULES[1]  # of which all adapters have an update


def weighted(rule: str) -> list[Dense]:
    return [each.weight * dense_update(each, MODULE) for each in several(rule)]


def merged(rule: str, **parameters: object) -> Dense:
    return dense_merged(merge(rule, *several(rule), **parameters), MODULE)


def triples(matrix: Dense) -> tuple[Dense, Dense, Dense]:
    """Returns the singular triples that are more than rounding."""
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    kept = s > 1e-9 * s[0]
    return u[:, kept], s[kept], vh[kept].T


def polar(matrix: Dense) -> Dense:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    kept = s > 1e-9 * s[0]
    return np.asarray(u[:, kept] @ vh[kept])


def unit(matrix: Dense) -> Dense:
    return np.asarray(matrix / np.linalg.norm(matrix))


def test_sum_average_and_task_arithmetic_are_weighted_sums() -> None:
    total = sum(weighted("sum"))
    np.testing.assert_allclose(merged("sum"), total, atol=1e-12)
    np.testing.assert_allclose(merged("average"), total / 3.0, atol=1e-12)
    np.testing.assert_allclose(merged("task-arithmetic", scale=0.3), 0.3 * total, atol=1e-12)


def test_a_mean_counts_adapters_without_the_module_as_zero() -> None:
    lacking = MODULES[2]  # of which the third adapter has none
    given = several("average")
    expected = sum(each.weight * dense_update(each, lacking) for each in given) / 3.0
    np.testing.assert_allclose(dense_merged(merge("average", *given), lacking), expected, atol=1e-12)


def test_weights_that_add_up_to_zero_have_no_mean() -> None:
    with pytest.raises(SpecError, match="weights of a mean add up to 0"):
        merge("average", source(0, weight=1.0), source(1, weight=-1.0))


def test_slerp_is_the_point_on_the_arc_with_the_norm_between() -> None:
    one, other = (dense_update(each, MODULE) for each in several("slerp"))
    angle = np.arccos(np.sum(unit(one) * unit(other)))
    share = 0.5 / 1.5
    arc = np.sin((1 - share) * angle) * unit(one) + np.sin(share * angle) * unit(other)
    norm = (1 - share) * np.linalg.norm(one) + share * np.linalg.norm(other)
    np.testing.assert_allclose(merged("slerp"), norm * arc / np.sin(angle), atol=1e-10)


def test_karcher_is_where_the_weighted_arcs_cancel() -> None:
    given = several("karcher")
    mean = unit(merged("karcher"))
    pull = np.zeros_like(mean)
    for each in given:
        direction = unit(dense_update(each, MODULE))
        angle = np.arccos(np.sum(direction * mean))
        pull += each.weight * angle / np.sin(angle) * (direction - np.cos(angle) * mean)
    assert np.linalg.norm(pull) < 1e-10
    norms = [each.weight * np.linalg.norm(dense_update(each, MODULE)) for each in given]
    assert np.linalg.norm(merged("karcher")) == pytest.approx(sum(norms) / 3.0)


def test_karcher_of_two_is_slerp() -> None:
    two = several("slerp")
    np.testing.assert_allclose(
        dense_merged(merge("karcher", *two), MODULE), dense_merged(merge("slerp", *two), MODULE), atol=1e-9
    )


def test_slerp_of_three_is_refused() -> None:
    with pytest.raises(SpecError, match="between two adapters, there are 3; use 'karcher'"):
        merge("slerp", *several("sum"))


def test_opposite_adapters_have_no_mean_on_the_sphere() -> None:
    one = source(0)
    tensors = {key: -value if ".lora_B" in key else value for key, value in one.tensors.items()}
    opposite = source(0)
    object.__setattr__(opposite, "tensors", tensors)
    with pytest.raises(SpecError, match="opposite directions"):
        merge("slerp", one, opposite)


def test_tsv_whitens_the_true_singular_vectors() -> None:
    parts = [triples(each) for each in weighted("tsv")]
    u, v = (polar(np.concatenate([part[side] for part in parts], axis=1)) for side in (0, 2))
    expected = (u * np.concatenate([part[1] for part in parts])) @ v.T
    np.testing.assert_allclose(merged("tsv"), expected, atol=1e-9)


def test_tsv_of_noise_free_copies_does_not_depend_on_null_directions() -> None:
    # In full space this moves by most of its norm (docs/merging.md); here two equal adapters are one of them.
    one = source(0)
    twin = source(0)
    object.__setattr__(twin, "digest", "f" * 64)
    result = dense_merged(merge("tsv", one, twin), MODULE)
    np.testing.assert_allclose(result, dense_update(one, MODULE), atol=1e-9)


def test_iso_c_is_the_sum_with_equal_singular_values() -> None:
    u, s, v = triples(sum(weighted("iso-c")))  # type: ignore[arg-type]
    np.testing.assert_allclose(merged("iso-c", scale=1.5), 1.5 * s.mean() * (u @ v.T), atol=1e-9)


def test_iso_cts_has_common_and_own_directions_of_one_size() -> None:
    parts = weighted("iso-cts")
    u, s, v = triples(sum(parts))  # type: ignore[arg-type]
    size = len(s)
    own = round((size - int(0.5 * size)) / 3)
    shared = size - 3 * own
    us, ss, vs = [u[:, :shared]], [s[:shared]], [v[:, :shared]]
    for part in parts:
        rest = triples(part - us[0] @ us[0].T @ part)
        us, ss, vs = [*us, rest[0][:, :own]], [*ss, rest[1][:own]], [*vs, rest[2][:, :own]]
    expected = (
        np.concatenate(ss).mean() * polar(np.concatenate(us, axis=1)) @ polar(np.concatenate(vs, axis=1)).T
    )
    assert own > 0
    np.testing.assert_allclose(merged("iso-cts", common=0.5), expected, atol=1e-9)


def test_wudi_is_the_minimum_of_its_objective() -> None:
    parts = weighted("wudi")
    grams = [part.T @ part / np.sum(part**2) for part in parts]
    total = sum(grams)
    expected = sum(part @ gram for part, gram in zip(parts, grams, strict=True)) @ np.linalg.pinv(
        total, rcond=1e-9
    )
    result = merged("wudi")
    np.testing.assert_allclose(result, expected, atol=1e-7)
    gradient = sum((result - part) @ gram for part, gram in zip(parts, grams, strict=True))
    assert np.abs(gradient).max() < 1e-9


def test_null_space_leaves_what_earlier_adapters_read_as_it_was() -> None:
    given = several("null-space")
    first, second, third = weighted("null-space")
    _, _, v = triples(first)
    running = first + second @ (np.eye(len(v)) - v @ v.T)
    _, _, v = triples(running)
    expected = running + third @ (np.eye(len(v)) - v @ v.T)
    result = dense_merged(merge("null-space", *given), MODULE)
    np.testing.assert_allclose(result, expected, atol=1e-9)
    read = triples(first)[2]
    np.testing.assert_allclose(result @ read, first @ read, atol=1e-9)


@pytest.mark.parametrize("block", [0.5, 0.9])  # the second holds more than a diagonal entry
def test_opcm_is_the_published_step_with_the_norm_restored_after_each(block: float) -> None:
    given = several("opcm")
    norms = [
        np.sqrt(sum(np.sum((each.weight * dense_update(each, m)) ** 2) for m in MODULES)) for each in given
    ]
    running = {module: given[0].weight * dense_update(given[0], module) for module in MODULES}
    undo = 1.0
    for step, new in enumerate(given[1:], start=2):
        for module, before in running.items():
            update = new.weight * dense_update(new, module)
            u, s, v = triples(before)
            n = int((s.cumsum() / s.sum() <= block).sum())
            inside = u.T @ update @ v
            lost = np.diag(np.diag(inside))
            lost[:n, :n] = inside[:n, :n]
            running[module] = undo * before + update - u @ lost @ v.T
        total = np.sqrt(sum(np.sum(matrix**2) for matrix in running.values()))
        factor = np.mean(norms[:step]) / total
        running = {module: factor * matrix for module, matrix in running.items()}
        undo = 1 / factor
    result = merge("opcm", *given, block=block)
    for module, matrix in running.items():
        np.testing.assert_allclose(dense_merged(result, module), matrix, atol=1e-9)
    assert result.norm == pytest.approx(float(np.mean(norms)))


def test_regmean_is_least_squares_on_the_inputs() -> None:
    given = several("regmean")
    above, below = np.zeros((14, 11)), np.zeros((11, 11))
    for each in given:
        gram = np.asarray(each.moments[f"{MODULE}.gram"])
        shrunk = 0.8 * gram + 0.2 * np.diag(np.diag(gram))
        shrunk = each.weight * shrunk / np.trace(shrunk)
        above, below = above + dense_update(each, MODULE) @ shrunk, below + shrunk
    np.testing.assert_allclose(merged("regmean", shrink=0.8), above @ np.linalg.inv(below), atol=1e-9)


def test_fisher_is_the_mean_by_importance() -> None:
    given = several("fisher")
    above, below = np.zeros((14, 11)), np.zeros((14, 11))
    for each in given:
        outs, ins = (np.asarray(each.moments[f"{MODULE}.fisher_{side}"]) for side in ("out", "in"))
        importance = np.outer(outs, ins)
        importance = each.weight * (importance / importance.mean() + 1e-6)
        above, below = above + importance * dense_update(each, MODULE), below + importance
    np.testing.assert_allclose(merged("fisher"), above / below, atol=1e-9)


def test_lego_with_a_group_for_each_unit_is_the_sum() -> None:
    np.testing.assert_allclose(merged("lego", units=20), sum(weighted("lego")), atol=1e-9)


def test_lego_of_copies_finds_the_units_again() -> None:
    copies = [source(0, 3) for _ in range(3)]
    for place, copy in enumerate(copies):
        object.__setattr__(copy, "digest", f"{place:064d}")
    result = merge("lego", *copies)
    np.testing.assert_allclose(dense_merged(result, MODULE), dense_update(copies[0], MODULE), atol=1e-9)


def test_lego_has_as_many_ranks_as_groups() -> None:
    result = merge("lego", *several("lego"), units=2)
    assert [module.full for module in result.modules] == [2, 2, 2]
    assert torch.isfinite(next(iter(result.tensors.values()))).all()
