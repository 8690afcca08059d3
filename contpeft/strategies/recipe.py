"""A strategy is a recipe of six parts; five hooks carry them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from torch import Tensor

from contpeft.errors import UnsupportedError
from contpeft.spec import SCENARIOS, Composition, Scenario, Version
from contpeft.strategies.about import Need, parts_in, told
from contpeft.strategies.answers import Latest
from contpeft.strategies.consolidate import Freeze
from contpeft.strategies.context import Context
from contpeft.strategies.head import Own
from contpeft.strategies.init import Fresh
from contpeft.strategies.parts import Answers, Checked, Consolidate, Head, Init, Penalty, Projection

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What is done before, during and after each task so that earlier ones survive.

    The default learns a fresh adapter per task with the module's own head.

    Attributes:
        init: how the task's adapter starts.
        head: how its head starts.
        penalty: a term added to the loss, or None.
        projection: a correction of each applied update, or None.
        consolidate: what happens once the task is learnt.
        answers: which compositions answer afterwards.
        joint: all tasks are learnt at once, in one step (the usual upper bound).
        what: the idea in one line.
        paper: where it was published; empty for what has no one source.
        serves: the scenarios it can serve.
        after: a second stage, trained on the same rows once what this one registers is there; None for none.
    """

    init: Init = field(default_factory=Fresh)
    head: Head = field(default_factory=Own)
    penalty: Penalty | None = None
    projection: Projection | None = None
    consolidate: Consolidate = field(default_factory=Freeze)
    answers: Answers = field(default_factory=Latest)
    joint: bool = False
    what: str = field(default="", compare=False)
    paper: str = field(default="", compare=False)
    serves: frozenset[Scenario] = frozenset(SCENARIOS)
    after: Recipe | None = None

    def start(self, context: Context) -> None:
        """Attaches the adapter and puts the head in place, where there is something to train.

        Raises:
            UnsupportedError: if a part cannot work with them, be it before, during or after training.
        """
        context.parents = self.init.start(context)
        if not self.init.trains(context.step):
            return
        self.head.start(context)
        for part in chain.from_iterable(self.parts().values()):
            if isinstance(part, Checked):
                part.check(context)

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor | None:
        """Returns what is added to the loss of ``batch``, or None."""
        return None if self.penalty is None else self.penalty.loss(context, batch, outputs)

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        """Corrects the update just applied to the trainable parameters."""
        if self.projection is not None:
            self.projection.project(context, before)

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Consolidates; returns every version registered for this task, the adapter first."""
        context.registered = () if trained is None else (trained,)
        return (*context.registered, *self.consolidate.end(context, trained))

    def route(self, context: Context, registered: tuple[Version, ...]) -> dict[str, Composition]:
        """Returns the compositions that answer after this task, the main one first."""
        return self.answers.route(context, registered)

    def stages(self, step: int) -> tuple[Recipe, ...]:
        """Returns what is learnt for the stream's task number ``step``, one after the other.

        A later stage that has nothing to train then is left out; the last one answers.
        """
        later = () if self.after is None else self.after.stages(step)
        return (replace(self, after=None), *(stage for stage in later if stage.init.trains(step)))

    def parts(self) -> dict[str, tuple[Any, ...]]:
        """Returns the parts of each kind, those of a combination one by one, of all stages."""
        later = {} if self.after is None else self.after.parts()
        return {kind: (*parts_in(getattr(self, kind)), *later.get(kind, ())) for kind in _KINDS}

    def needs(self) -> frozenset[Need]:
        """Returns what its parts cannot do without."""
        return frozenset(
            need for parts in self.parts().values() for part in parts for need in told(type(part)).needs
        )

    def check_serves(self, scenario: Scenario, name: str) -> None:
        """Checks that it can serve a scenario.

        Args:
            scenario: of the stream.
            name: what the recipe is called in the error.

        Raises:
            UnsupportedError: if not.
        """
        if scenario not in self.serves:
            raise UnsupportedError(
                f"strategy {name!r} cannot serve a {scenario} stream; "
                f"it serves {', '.join(sorted(self.serves))}"
            )


_KINDS = ("init", "head", "penalty", "projection", "consolidate", "answers")
