"""Init: attention over all adapters learnt so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from contpeft.adapters.fusion import FUSION, FusionOptions
from contpeft.spec import Parent
from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["FuseAll"]


@dataclass(frozen=True)
class FuseAll:
    """A fusion over every adapter so far, which stay as they are; from the second on.

    Attributes:
        one: there is one fusion, which goes on where the last stood, under one name; else each task has its
            own. Its matrices are of one size for any number of adapters.
        options: what the fusion layers are made of.
    """

    about: ClassVar[About] = About(
        paper="Pfeiffer et al. 2021, arXiv 2005.00247, section 3.2", growth="3 d^2 a fusion"
    )

    one: bool = False
    options: FusionOptions = field(default_factory=FusionOptions)

    def trains(self, step: int) -> bool:
        """A single adapter is not fused."""
        return step > 0

    def name(self, context: Context) -> str:
        """Returns ``line.fusion``, or ``line.task-fusion`` where each task has its own."""
        own = "fusion" if self.one else f"{context.task.name}-fusion"
        return f"{context.line}.{own}" if context.line else own

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the fusion; its parents are what it is over, and the fusion it goes on from."""
        members = [context.load(v.ref) for v in context.adapters if v.kind != FUSION]
        attachment = context.adapted.attach_fusion(members, self.options)
        frozen = tuple(Parent(version.ref, "frozen") for version, _ in members)
        last = next((v for v in reversed(context.adapters) if v.kind == FUSION), None)
        if last is None or not self.one:
            return frozen
        attachment.load(context.load(last.ref)[1].adapter_tensors())
        return (*frozen, Parent(last.ref, "continued"))
