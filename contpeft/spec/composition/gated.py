"""A composition of adapters that have gates: each row is computed by its own weighted sum of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contpeft.errors import SpecError
from contpeft.spec.composition.value import Value, head_json, head_text, lent

__all__ = ["Gated"]


@dataclass(frozen=True)
class Gated(Value):
    """What several adapters add to the base, each times the weight that the gates give it for the row.

    An adapter and its gate are one version, so that the first of them, named alone, answer with the gates of
    then: what has changed since is the drift of the gates, apart from that of the adapters.

    Attributes:
        over: versions of kind ``gated``, in the order in which they were learnt; where gates share a query,
            it is that of the last.
        head: the version whose head scores the features; None for that of the last.
    """

    over: tuple[str, ...]
    head: str | None = None

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` if there is nothing to weigh."""
        if not self.over:
            raise SpecError("a gated sum of no versions has no meaning; name one at least, or use the base")

    @property
    def answering(self) -> str:
        """The version whose head answers."""
        return self.head or self.over[-1]

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (*self.over, *lent(self.head))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        return {"type": "gated", "over": [{"ref": ref} for ref in self.over], **head_json(self.head)}

    def __str__(self) -> str:
        return f"gated({', '.join(self.over)}{head_text(self.head)})"
