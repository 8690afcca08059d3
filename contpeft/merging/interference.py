"""How much the updates of several adapters get in each other's way, and what a merge does to each.

Everything is read off small matrices between canonical forms; no ``d_out x d_in`` matrix is made. These
numbers describe, they do not predict: orthogonal updates can still hurt each other (Stoica et al., 2025),
so an evaluation has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from contpeft.errors import SpecError
from contpeft.merging.budget import rank_for_energy
from contpeft.merging.measures import ENERGY, Triples, input_residual, inside_both_of, overlap_of, share
from contpeft.merging.update import Update, truncated

__all__ = [
    "Interference",
    "InterferenceReport",
    "interference",
]

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Interference:
    """How ``k`` adapters meet, in one module or over all of them, in the order they were given.

    Matrices are ``k x k``, each row about the adapter of that place. Over several modules the numbers are
    those of the block-diagonal update that all modules make up, so that each module has the weight of its
    energy; an overlap is the mean with weights ``||D_i|| ||D_j||``. An adapter of zero updates has zeros.

    Attributes:
        modules: number of modules.
        norms: Frobenius norms.
        norm_share: each norm over the sum of them: whether one dominates.
        cosines: 1 the same direction, -1 opposed.
        output_overlap: see :func:`overlap`; 0 without a module in common.
        input_overlap: the same of the inputs.
        inside_output: the share of the row's energy in the outputs of the column's range.
        inside_input: the same of the inputs.
        inside_both: the same of both sides at once.
        sti: see :func:`singular_task_interference`, summed over modules.
        sti_share: ``sti`` over the sum of all singular values, which does not grow with the updates.
        residual: what the merge loses of each adapter on that adapter's own inputs, a proxy for
            forgetting: the root of its term in the objective of Cheng et al. (2025), over the same for a
            merge of nothing. So it is 0 if the merge acts as the adapter does, and 1 if it could as well
            have left it out, whatever the adapter's scale and rank; above 1 it does worse. In one module
            that is ``||(M - D_i) V_i S_i||_F / ||D_i V_i S_i||_F``. None without a merge, and for an
            adapter of zero updates.
    """

    modules: int
    norms: tuple[float, ...]
    norm_share: tuple[float, ...]
    cosines: Matrix
    output_overlap: Matrix
    input_overlap: Matrix
    inside_output: Matrix
    inside_input: Matrix
    inside_both: Matrix
    sti: float
    sti_share: float
    residual: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers as JSON."""
        return asdict(self)


class InterferenceReport:
    """Gathers the interference of adapters, one module at a time, each forgotten once it is added.

    Example::

        report = InterferenceReport()
        for module in modules:
            report.add(module, updates_of(module), merged_of(module))
        report.result().cosines

    Attributes:
        modules: the interference in each module added, by its name.
    """

    def __init__(self) -> None:
        """Begins with nothing."""
        self.modules: dict[str, Interference] = {}
        self._total: _Sums | None = None

    def add(self, module: str, updates: Sequence[Update | None], merged: Update | None = None) -> None:
        """Adds the updates of one module.

        Args:
            module: its name.
            updates: that of each adapter; None where an adapter has none. All None adds nothing.
            merged: the proposed merge; None if none is proposed, and then the module does not count for
                the residuals. A merge that has nothing here is an update of rank 0.

        Raises:
            SpecError: if shapes differ, the module was added before, or adapters are more or fewer.
        """
        there = [update for update in updates if update is not None]
        if not there:
            return
        self._check(module, updates, [*there, *([] if merged is None else [merged])])
        sums = _sums([_nothing(there[0]) if each is None else each for each in updates], merged)
        self.modules[module] = sums.result()
        self._total = sums if self._total is None else self._total + sums

    def result(self) -> Interference:
        """Returns the interference over all modules added.

        Raises:
            SpecError: if none was added.
        """
        if self._total is None:
            raise SpecError("no module has an update; there is no interference to report")
        return self._total.result()

    def _check(self, module: str, updates: Sequence[Update | None], there: Sequence[Update]) -> None:
        shapes = sorted({update.shape for update in there})
        if len(shapes) > 1:
            raise SpecError(
                f"updates of {module!r} have shapes {', '.join(map(str, shapes))}; give those of one weight"
            )
        if module in self.modules:
            raise SpecError(f"module {module!r} is added twice; add all its updates at once")
        if self._total is not None and len(self._total.gram) != len(updates):
            raise SpecError(
                f"module {module!r} has {len(updates)} adapters, the ones before {len(self._total.gram)}; "
                "give None for an adapter that has nothing there"
            )


def interference(
    updates_by_module: Mapping[str, Sequence[Update | None]], merged: Mapping[str, Update] | None = None
) -> Interference:
    """Returns how adapters meet over all their modules.

    Args:
        updates_by_module: the update of each adapter in every module, None where it has none.
        merged: the proposed merge, which changes nothing in a module that is not in it; None if there is
            no proposal.

    Raises:
        SpecError: as :meth:`InterferenceReport.add` does, and if no module has an update.
    """
    report = InterferenceReport()
    for module, updates in updates_by_module.items():
        there = next((update for update in updates if update is not None), None)
        proposed = merged.get(module) if merged is not None else None
        if merged is not None and proposed is None and there is not None:
            proposed = _nothing(there)
        report.add(module, updates, proposed)
    return report.result()


@dataclass(frozen=True)
class _Sums:
    """What adds up over modules; :meth:`result` divides. ``(k, k)`` and ``(k,)`` tensors, and scalars."""

    modules: int
    gram: Tensor
    overlap_weight: Tensor
    output_overlap: Tensor
    input_overlap: Tensor
    inside_output: Tensor
    inside_input: Tensor
    inside_both: Tensor
    sti: Tensor
    nuclear: Tensor
    lost: Tensor
    left_out: Tensor

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def result(self) -> Interference:
        energy = self.gram.diagonal()
        norms = energy.sqrt()
        residual = share(self.lost, self.left_out).sqrt().tolist()
        counted = (self.left_out > 0).tolist()
        return Interference(
            modules=self.modules,
            norms=tuple(norms.tolist()),
            norm_share=tuple(share(norms, norms.sum()).tolist()),
            cosines=_rows(share(self.gram, torch.outer(norms, norms)).clamp(-1, 1)),
            output_overlap=_rows(share(self.output_overlap, self.overlap_weight)),
            input_overlap=_rows(share(self.input_overlap, self.overlap_weight)),
            inside_output=_rows(share(self.inside_output, energy.unsqueeze(1))),
            inside_input=_rows(share(self.inside_input, energy.unsqueeze(1))),
            inside_both=_rows(share(self.inside_both, energy.unsqueeze(1))),
            sti=float(self.sti),
            sti_share=float(share(self.sti, self.nuclear)),
            residual=tuple(
                value if is_there else None for value, is_there in zip(residual, counted, strict=True)
            ),
        )


def _sums(updates: Sequence[Update], merged: Update | None) -> _Sums:
    triples = Triples.of(updates)
    ranks = [rank_for_energy(each.s, ENERGY) for each in updates]

    def pairs(measure: Callable[[Tensor, Tensor, int, int], Tensor]) -> Tensor:
        """Returns a measure of every pair, from the inner products of their triples."""
        rows = [
            [measure(triples.left[a, b], triples.right[a, b], i, j) for j, b in enumerate(triples.spans)]
            for i, a in enumerate(triples.spans)
        ]
        return torch.stack([torch.stack(row) for row in rows])

    s = [each.s for each in updates]
    products = pairs(lambda left, right, i, j: s[i] @ (left * right) @ s[j])
    weight = torch.outer(*[products.diagonal().sqrt()] * 2)
    return _Sums(
        modules=1,
        gram=products,
        overlap_weight=weight,
        output_overlap=weight * pairs(lambda left, _, i, j: overlap_of(left, ranks[i], ranks[j])),
        input_overlap=weight * pairs(lambda _, right, i, j: overlap_of(right, ranks[i], ranks[j])),
        inside_output=pairs(lambda left, _, i, j: (left.T * s[i]).square().sum()),
        inside_input=pairs(lambda _, right, i, j: (right.T * s[i]).square().sum()),
        inside_both=pairs(lambda left, right, i, j: inside_both_of(left, right, s[i])),
        sti=triples.interference(),
        nuclear=triples.s.sum(),
        lost=_objective(updates, merged),
        left_out=_objective(updates, None if merged is None else _nothing(updates[0])),
    )


def _objective(updates: Sequence[Update], merged: Update | None) -> Tensor:
    """Returns each update's term in the objective of Cheng et al. (2025), ``(k,)``; 0 without a merge."""
    if merged is None:
        return torch.zeros(len(updates), dtype=updates[0].s.dtype)
    terms = [share(input_residual(one, merged).square(), one.s.square().sum()) for one in updates]
    return torch.stack(terms)


def _nothing(like: Update) -> Update:
    """Returns the zero update of the same weight."""
    return truncated(like, 0)[0]


def _rows(matrix: Tensor) -> Matrix:
    return tuple(map(tuple, matrix.tolist()))
