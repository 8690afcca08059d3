"""Consolidate: the moving average of the adapter becomes a version of its own."""

from __future__ import annotations

from dataclasses import dataclass

from contpeft.errors import UnsupportedError
from contpeft.spec import Parent, Version
from contpeft.strategies.averages import AVERAGE, Space, averages, check_averaged, with_averages
from contpeft.strategies.context import Context

__all__ = ["KeepAverage"]


@dataclass(frozen=True)
class KeepAverage:
    """The average that :class:`~contpeft.strategies.projection.Follow` made is registered, head and all.

    Attributes:
        space: what was averaged, as there.
        rank: largest rank of an averaged update in the space ``"delta"``, where a cut's loss is told in the
            version's ``recipe``; None for the exact average.
    """

    space: Space = "factors"
    rank: int | None = None

    def check(self, context: Context) -> None:
        """Checks that the adapter has what is averaged.

        Raises:
            UnsupportedError: if not.
        """
        check_averaged(context, self.space)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the average; at the first task that is the adapter as trained.

        Raises:
            UnsupportedError: if nothing was trained.
            SpecError: if the average was made in another space.
        """
        if trained is None:
            raise UnsupportedError("a moving average follows an adapter, and this recipe trains none")
        state, exact = context.store.load(trained.ref), {"lost": 0.0}
        if found := averages(context):
            state, exact = with_averages(state, found, self.space, self.rank)
        last = context.last(AVERAGE)
        made_from = [trained.ref] if last is None else [trained.ref, last.ref]
        version = context.store.register(
            context.name_of(AVERAGE),
            state,
            base=context.adapted.base,
            parents=tuple(Parent(ref, "continued") for ref in made_from),
            recipe={"average": self.space, **exact},
            run=context.run,
            task=context.task.name,
            data=trained.data,
        )
        return (version,)
