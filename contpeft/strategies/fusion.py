"""Init: attention over stored adapters that are named one by one, the second stage of AdapterFusion."""

from __future__ import annotations

from dataclasses import dataclass, field

from contpeft.adapters.fusion import FusionOptions
from contpeft.spec import Parent
from contpeft.strategies.context import Context

__all__ = ["FuseOver"]


@dataclass(frozen=True)
class FuseOver:
    """A fusion over stored LoRA adapters, which stay as they are (Pfeiffer et al., 2021, section 3.2).

    Attributes:
        refs: the versions.
        options: what the fusion layers are made of.
    """

    refs: tuple[str, ...]
    options: FusionOptions = field(default_factory=FusionOptions)

    def trains(self, step: int) -> bool:
        """There is a fusion to train."""
        return True

    def name(self, context: Context) -> str:
        """Returns ``line.task-fusion``, or ``task-fusion`` outside a sequence."""
        own = f"{context.task.name}-fusion"
        return f"{context.line}.{own}" if context.line else own

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the fusion; its parents are what it is over."""
        members = [context.load(ref) for ref in self.refs]
        context.adapted.attach_fusion(members, self.options)
        return tuple(Parent(version.ref, "frozen") for version, _ in members)
