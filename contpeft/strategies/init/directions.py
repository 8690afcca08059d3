"""Init: a new adapter beside the directions of all earlier ones, whose magnitudes go on learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from contpeft.adapters import Directions, directions_of, learn_magnitudes, stored_factors
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Parent
from contpeft.strategies.about import AN_ADAPTER, About
from contpeft.strategies.context import Context
from contpeft.strategies.init.from_last import FromLast

__all__ = ["ScaledDirections"]

_PART = "scaling directions"
_FREE = ("bias", "dropout", "lora_dropout", "target_modules", "targets")
"""Options of LoRA that say nothing of ranks and scales."""


@dataclass(frozen=True)
class ScaledDirections(FromLast):
    """Earlier updates stay as unit directions with trained magnitudes; a new one learns beside (SD-LoRA).

    ``W + sum_{i<t} m_i B_i A_i + s B_t A_t``, ``|B_i|_F = |A_i|_F = 1`` and frozen. Wu et al. 2025, "SD-LoRA:
    Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning", section 4. What is stored after
    every task is the plain LoRA of rank ``r_1 + ... + r_t`` that it all makes up: it answers alone, and PEFT
    reads it.

    Deviations: each adapted matrix has magnitudes of its own; the newest direction has none beside its
    factors, so that the first task is plain LoRA's; magnitudes learn under the user's optimizer and rate,
    with the factors (the paper: SGD at 0.01). Directions are kept to the bit within a task, from task to task
    but for the rounding of ``B``. A direction whose magnitude ends at exactly 0 is gone.

    Attributes:
        magnitude: what earlier magnitudes start a task at, as in the paper; None to go on with what was
            learnt, so that attaching changes no answer but for rounding.
        ranks: from which task on (from 0) new directions have which share of the adapter's rank, in order;
            empty for all of it (the paper's "RR" shrinks it).
    """

    about: ClassVar[About] = About(
        paper="Wu et al. 2025, arXiv 2501.13198, section 4",
        growth=AN_ADAPTER,
        needs=frozenset({"lora"}),
    )

    magnitude: float | None = 0.8
    ranks: tuple[tuple[int, float], ...] = ()

    def check(self, context: Context) -> None:
        """Checks that the adapter is a plain LoRA of one rank.

        Raises:
            UnsupportedError: if not.
        """
        _rank(context)

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches a fresh adapter with the directions of the last version, if there is one.

        Raises:
            UnsupportedError: if the adapter is no plain LoRA of one rank.
        """
        if context.previous is None:
            return super().start(context)
        version, state = context.previous
        context.adapted.check_base(version)
        rank = _rank(context)
        ranks = [self._rank(rank, step) for step in range(len(context.adapters) + 1)]
        factors = stored_factors(state, _PART)
        found = {module: self._restarted(directions_of(each, ranks[:-1])) for module, each in factors.items()}
        scale = next(iter(factors.values())).scale
        attached = context.adapted.attach(_of_rank(context, sum(ranks), scale))
        learn_magnitudes(context.adapted.model, attached, found)
        return (Parent(version.ref, "continued"),)

    def _rank(self, rank: int, step: int) -> int:
        share = next((share for start, share in reversed(self.ranks) if step >= start), 1.0)
        return max(1, round(share * rank))

    def _restarted(self, directions: Directions) -> Directions:
        if self.magnitude is None:
            return directions
        magnitudes = torch.full_like(directions.magnitudes, self.magnitude)
        return Directions(directions.down, directions.up, magnitudes, directions.ranks)


def _rank(context: Context) -> int:
    """Returns the rank of the adapter that is asked for."""
    spec = context.spec
    own: dict[str, Any] = {"method": None}
    if isinstance(spec, AdapterSpec) and spec.method == "lora":
        own = {**spec.options}
    bound = sorted({*own} - {*_FREE, "r", "alpha", "lora_alpha"})
    if bound:
        raise UnsupportedError(
            f"{_PART} works on plain LoRA adapters of one rank, not on {spec}; leave out {', '.join(bound)}"
        )
    return int(own.get("r", 8))


def _of_rank(context: Context, rank: int, scale: float) -> AdapterSpec:
    """Returns the spec with another rank and the same scale."""
    assert isinstance(context.spec, AdapterSpec)  # checked before
    free = {name: value for name, value in context.spec.options.items() if name in _FREE}
    return AdapterSpec("lora", **free, r=rank, alpha=scale * rank)
