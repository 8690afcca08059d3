"""Subspaces as values: projections, growth by energy, and the complement that is kept instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contpeft.strategies import ProtectInputs
from contpeft.strategies.subspaces import Energy, Subspace, grown, leading_rows

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**16)
energies = st.sampled_from(["cov", "cov2"])


def drawn(width: int, rank: int, seed: int) -> Tensor:
    """Returns orthonormal columns ``(width, rank)``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64)).Q


def moment(width: int, seed: int, rank: int | None = None) -> Tensor:
    """Returns the second moment of rows whose directions differ in size, of a given rank."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3 * width, rank or width, generator=generator, dtype=torch.float64)
    rows = rows * torch.logspace(0, -2, rank or width, dtype=torch.float64)
    rows = rows @ drawn(width, rank or width, seed + 1).T
    return rows.T @ rows / len(rows)


def projector(space: Subspace) -> Tensor:
    basis = space.basis()
    return basis @ basis.T


@quick
@given(width=st.integers(1, 12), seed=seeds, data=st.data())
def test_the_complement_projects_as_the_basis_does(width: int, seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, width))
    basis = drawn(width, rank, seed)
    rows = torch.randn(5, width, dtype=torch.float64)
    given_basis, dual = Subspace(basis), Subspace.spanned(basis)
    assert dual.complement is (2 * rank > width)
    assert dual.kept.numel() <= width * width / 2
    assert (dual.rank, dual.free, dual.width) == (rank, width - rank, width)
    close = dict(rtol=0, atol=1e-12)
    torch.testing.assert_close(projector(dual), basis @ basis.T, **close)
    torch.testing.assert_close(dual.onto(rows), rows @ basis @ basis.T, **close)
    torch.testing.assert_close(dual.off(rows), rows - given_basis.onto(rows), **close)
    torch.testing.assert_close(dual.onto(rows) + dual.off(rows), rows, **close)
    free = dual.free_basis()
    torch.testing.assert_close(free.T @ free, torch.eye(width - rank, dtype=torch.float64), **close)
    torch.testing.assert_close(free.T @ basis, torch.zeros(width - rank, rank, dtype=torch.float64), **close)


def fewest(space: Tensor, s: np.ndarray, share: float, energy: Energy) -> int:
    """The oracle: adds one direction after the other in numpy until the share is held."""
    p = np.eye(len(s)) - space @ space.T
    if energy == "cov":
        values, total = np.linalg.eigvalsh(p @ s @ p)[::-1], np.trace(s)
    else:
        values, total = np.linalg.svd(p @ s)[1] ** 2, (s**2).sum()
    held, count = total - values.sum(), 0
    while held < share * total and count < len(values):
        held, count = held + values[count], count + 1
    return count


@quick
@given(seed=seeds, rank=st.integers(0, 6), share=st.floats(0.1, 0.999), energy=energies)
def test_it_grows_by_as_few_directions_as_hold_the_share(
    seed: int, rank: int, share: float, energy: Energy
) -> None:
    s, start = moment(10, seed), Subspace(drawn(10, rank, seed + 7))
    after = grown(start, s, share, energy)
    assert after.rank - rank == fewest(start.basis().numpy(), s.numpy(), share, energy)
    left = np.eye(10) - projector(after).numpy()
    held = np.trace(left @ s.numpy()) / np.trace(s.numpy())
    if energy == "cov2":
        held = ((left @ s.numpy()) ** 2).sum() / (s.numpy() ** 2).sum()
    assert held <= 1 - share + 1e-9
    # What was protected stays so.
    torch.testing.assert_close(after.onto(start.basis().T), start.basis().T, rtol=0, atol=1e-10)


@quick
@given(seed=seeds, energy=energies, share=st.floats(0.5, 1.0), tasks=st.integers(1, 5))
def test_its_rank_never_falls_and_never_exceeds_the_space(
    seed: int, energy: Energy, share: float, tasks: int
) -> None:
    space, ranks = Subspace.nothing(8), [0]
    for task in range(tasks):
        space = grown(space, moment(8, seed + task, rank=4), share, energy)
        ranks.append(space.rank)
        assert space.kept.numel() <= 8 * 8 / 2
    assert ranks == sorted(ranks)
    assert ranks[-1] <= 8


@pytest.mark.parametrize("energy", ["cov", "cov2"])
def test_the_whole_energy_is_what_was_read_and_no_more(energy: Energy) -> None:
    s = moment(12, seed=3, rank=5)
    space = grown(Subspace.nothing(12), s, 1.0, energy)
    assert space.rank == 5
    torch.testing.assert_close(space.off(s), torch.zeros_like(s), rtol=0, atol=1e-9)
    assert grown(space, s, 1.0, energy).rank == 5  # nothing is new in it


def test_squared_energy_asks_for_fewer_directions() -> None:
    s = torch.diag(torch.tensor([10.0, 3.0, 1.0, 0.5], dtype=torch.float64))
    assert grown(Subspace.nothing(4), s, 0.9, "cov2").rank == 1  # 100 of 110.25
    assert grown(Subspace.nothing(4), s, 0.9, "cov").rank == 3  # 14 of 14.5: two hold 0.897


def test_no_more_directions_than_the_cap() -> None:
    s = moment(10, seed=1)
    assert grown(Subspace.nothing(10), s, 1.0, "cov", cap=4).rank == 4
    first = grown(Subspace.nothing(10), s, 1.0, "cov", cap=4)
    assert grown(first, moment(10, seed=2), 1.0, "cov", cap=4) is first
    assert grown(first, moment(10, seed=2), 1.0, "cov", cap=6).rank == 6


@quick
@given(seed=seeds, rank=st.integers(0, 7), r=st.integers(1, 3))
def test_leading_rows_are_the_largest_directions_beside_it(seed: int, rank: int, r: int) -> None:
    matrix = torch.randn(10, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    space = Subspace.spanned(drawn(10, rank, seed + 1))
    rows = leading_rows(space, matrix, r)
    torch.testing.assert_close(rows @ rows.T, torch.eye(r, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(space.onto(rows), torch.zeros_like(rows), rtol=0, atol=1e-10)
    p = np.eye(10) - projector(space).numpy()
    sizes = np.linalg.svd(p @ matrix.numpy())[1]
    held = np.linalg.norm(rows.numpy() @ matrix.numpy()) ** 2
    np.testing.assert_allclose(held, (sizes[:r] ** 2).sum(), rtol=1e-8, atol=1e-10)


def test_joining_adds_what_is_new() -> None:
    basis = drawn(8, 5, seed=0)
    space = Subspace(basis[:, :3]).joined(basis[:, 1:5])
    assert space.rank == 5
    torch.testing.assert_close(projector(space), basis @ basis.T, rtol=0, atol=1e-10)
    assert space.joined(basis).rank == 5


def test_it_follows_a_tensor() -> None:
    space = Subspace.spanned(drawn(4, 3, seed=0))
    like = space.like(torch.zeros(1))
    assert (like.kept.dtype, like.complement, like.rank) == (torch.float32, True, 3)


def test_a_share_rises_over_the_tasks_it_is_told() -> None:
    assert [ProtectInputs(share=0.9).share_at(step) for step in (0, 5)] == [0.9, 0.9]
    rising = ProtectInputs(share=0.95, last=1.0, tasks=5)
    assert [rising.share_at(step) for step in range(7)] == pytest.approx(
        [0.96, 0.97, 0.98, 0.99, 1.0, 1.0, 1.0]
    )
