"""Consolidate: class prototypes in the subspaces of all adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.adapters import SubspacePrototypes
from contpeft.spec import Single, Version, View
from contpeft.strategies.about import About
from contpeft.strategies.consolidate.gathering import Gathering
from contpeft.strategies.context import Context

__all__ = ["GatherSubspaces"]

_RULE = "subspaces"


@dataclass(frozen=True)
class GatherSubspaces(Gathering):
    """Prototypes of every class in the subspace of every adapter, those of old classes synthesised (EASE).

    Attributes:
        share: what the cosine in a subspace that is not a class's own counts; ``alpha`` in the paper.
    """

    about: ClassVar[About] = About(
        paper="Zhou et al. 2024, arXiv 2403.12030, sections 4.2 and 4.3",
        growth="d a class and task; one more forward pass a task",
        needs=frozenset({"examples", "features"}),
    )

    share: float = 0.1

    def parts(self, context: Context) -> tuple[View, ...]:
        """Returns every adapter so far."""
        return tuple(Single(version.ref) for version in context.adapters_with(context.registered))

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task's classes and its subspace, and registers the prototypes."""
        last = self.last(context, _RULE)
        known = SubspacePrototypes() if last is None else SubspacePrototypes.from_stored(*last)
        known.update(self.features(context), self.data(context).labels, group=context.step)
        spec = known.spec(self.share, self.told(context))
        return (self.register(context, _RULE, known.tensors(), spec),)
