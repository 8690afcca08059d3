"""Consolidate: what a task's layers read is protected from later tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.subspaces import Energy, Protected, grown, read_moments

__all__ = ["ProtectInputs"]

_PART = "protecting what a task reads"


@dataclass(frozen=True)
class ProtectInputs:
    """The main directions of what each layer reads on the task are protected from later ones (DualGPM).

    Liang and Li 2024, "InfLoRA", arXiv 2404.00228, section 3.3 and appendix A.3; Saha et al. 2021, "Gradient
    Projection Memory", arXiv 2103.09762. One pass over the task's data after training, with the trained
    adapter in the model. A stream has no known length here, so the share is the same at every task unless
    ``tasks`` says over how many it rises; the paper's rises from 0.95 or 0.98 to 1, and the squared energy
    makes 0.95 few directions in models with a few large dimensions.

    Attributes:
        share: of the energy that is kept; what it rises from where ``tasks`` says so.
        last: the share that is reached after ``tasks`` tasks.
        tasks: over how many the share rises from ``share`` to ``last``; 0 for a share that stays.
        energy: ``"cov2"`` sums up squared eigenvalues of the second moment, ``"cov"`` the eigenvalues.
        cap: the most directions of a layer that are protected; None for all of them.
    """

    about: ClassVar[About] = About(
        paper="Liang and Li 2024, arXiv 2404.00228, appendix A.3",
        growth="at most d_in / 2 directions of d_in numbers, for all tasks together",
        needs=frozenset({"examples", "features", "lora"}),
    )

    share: float = 0.99
    last: float = 1.0
    tasks: int = 0
    energy: Energy = "cov2"
    cap: int | None = None

    def check(self, context: Context) -> None:
        """Checks that there are rows, and the adapter has factors.

        Raises:
            UnsupportedError: if not.
        """
        context.factors(_PART)
        context.training_data(_PART)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the protected subspaces and how many directions they have."""
        moments = read_moments(context, _PART)
        before = Protected.recalled(context) or Protected.none_yet(moments)
        share = self.share_at(context.step)
        spaces = {
            name: grown(before.of(name), moment.cpu(), share, self.energy, self.cap)
            for name, moment in moments.moments.items()
        }
        told = {"share": share, "energy": self.energy, "cap": self.cap}
        return (Protected(spaces, moments.readers).remember(context, told),)

    def share_at(self, step: int) -> float:
        """Returns the share of the energy that is kept once task number ``step``, from 0, is learnt.

        ``share + (last - share) * (step + 1) / tasks``, as InfLoRA has it, and ``last`` beyond.
        """
        if not self.tasks:
            return self.share
        return self.share + (self.last - self.share) * min((step + 1) / self.tasks, 1.0)
