"""Consolidate: rows of the task are kept for later tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from contpeft.spec import Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context, TrainingData
from contpeft.strategies.replay import (
    Bounds,
    Buffer,
    Row,
    from_bytes,
    herding_order,
    keep_balanced,
    keep_first,
    random_ranks,
    to_bytes,
    with_states,
)

__all__ = ["FillBuffer"]

_ASKS = "a replay buffer"


@dataclass(frozen=True)
class FillBuffer:
    """Rows of the task go into a buffer of bounded size, a stored version that later tasks read.

    The buffer is filled once a task is learnt, so that the rows of the task at hand are not replayed beside
    themselves, as they are where the buffer is filled batch by batch.

    Attributes:
        policy: ``"reservoir"`` keeps rows uniformly at random; ``"class-balanced"`` as many of each class, at
            random; ``"herding"`` as many of each class, those whose mean feature is nearest to the class's
            (Rebuffi et al. 2017, section 3.3, features of the model as just trained).
        size: of the buffer's tensors, in bytes; 0 for no buffer.
        rows: how many rows at most; None for as many as fit.
        scores: whether the scores of the model as just trained are kept with each row.
        latent: whether the hidden states below the adapter are kept in the place of the raw input.
    """

    about: ClassVar[About] = About(
        paper="Vitter 1985; Rebuffi et al. 2017, arXiv 1611.07725, algorithms 4 and 5",
        growth="nothing: the buffer has a bound",
        needs=frozenset({"examples", "features", "old data"}),
    )

    policy: Literal["reservoir", "class-balanced", "herding"] = "reservoir"
    size: int = 2**26
    rows: int | None = 200
    scores: bool = False
    latent: bool = False

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the buffer with rows of the task in it; nothing if it is to hold none.

        Raises:
            UnsupportedError: if a raw input has no form to be kept in, or no hidden states.
            SpecError: if a row is larger than the whole buffer.
        """
        if self.size == 0 or self.rows == 0:
            return ()
        data = context.training_data(_ASKS)
        old = Buffer.of(context.recall("buffer"))
        kept = self._keep(Buffer((*old.rows, *self._offered(context, data)), old.below))
        rows = _with_scores(context, kept.rows) if self.scores else kept.rows
        rows = with_states(context, rows) if self.latent else rows
        # What was added is part of the size: less may fit now.
        buffer = self._keep(Buffer(rows, kept.below))
        return (context.remember("buffer", buffer.tensors(), buffer.facts() | {"policy": self.policy}),)

    def _keep(self, buffer: Buffer) -> Buffer:
        keep = keep_first if self.policy == "reservoir" else keep_balanced
        return keep(buffer, Bounds(self.size, self.rows))

    def _offered(self, context: Context, data: TrainingData) -> list[Row]:
        ranks = (
            _herded(context, data)
            if self.policy == "herding"
            else random_ranks(len(data.labels), context.seed)
        )
        offered = zip(data.inputs, data.labels, ranks, strict=True)
        return [Row(to_bytes(value), label, rank) for value, label, rank in offered]


def _herded(context: Context, data: TrainingData) -> list[float]:
    features = context.features.current(data.inputs, data.digest)
    ranks = [0.0] * len(data.labels)
    for label in dict.fromkeys(data.labels):
        rows = data.rows(label)
        for rank, chosen in enumerate(herding_order(features[rows])):
            ranks[rows[chosen]] = float(rank)
    return ranks


def _with_scores(context: Context, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Returns rows with the scores of the model as it stands, those that have some as they are."""
    fresh = [index for index, row in enumerate(rows) if "scores" not in row.more]
    if not fresh:
        return tuple(rows)
    scores = context.features.scores([from_bytes(rows[index].content) for index in fresh])
    scored = dict(zip(fresh, scores, strict=True))
    return tuple(
        replace(row, more={**row.more, "scores": scored[index]}) if index in scored else row
        for index, row in enumerate(rows)
    )
