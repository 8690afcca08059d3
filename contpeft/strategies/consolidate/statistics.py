"""Consolidate: class statistics of the frozen base's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.adapters import ClassStatistics, Rule
from contpeft.spec import AdapterState, Parent, Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context

__all__ = ["GatherStatistics"]


@dataclass(frozen=True)
class GatherStatistics:
    """Class statistics of the frozen base's features, one pass over the task, no old data kept.

    Attributes:
        rules: the classifiers to register over the same statistics.
        shrinkage: of the covariance towards a multiple of the identity, for ``"lda"``.
    """

    about: ClassVar[About] = About(
        paper="Hayes and Kanan 2020, CVPR workshops; Zhou et al. 2023, arXiv 2303.07338",
        growth="d a class; d x d once",
        needs=frozenset({"examples", "features"}),
    )

    rules: tuple[Rule, ...] = ("lda",)
    shrinkage: float = 0.1

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Adds the task to the statistics and registers a version of them per rule."""
        data = context.training_data("gathering class statistics")
        statistics, parents = self._so_far(context)
        features = context.features.base(data.inputs, data.digest)
        statistics.update(features, data.labels, group=context.step)
        return tuple(self._register(context, statistics, rule, parents.get(rule, ())) for rule in self.rules)

    def _so_far(self, context: Context) -> tuple[ClassStatistics, dict[str, tuple[Parent, ...]]]:
        last = {v.head.options["rule"]: v for v in context.history if v.kind == "statistics" and v.head}
        if not last:
            return ClassStatistics(), {}
        version = last[self.rules[0]]
        context.adapted.check_base(version)
        assert version.head is not None  # chosen above for having one
        tensors = context.store.load(version.ref).head_tensors()
        parents = {rule: _continued(v) for rule, v in last.items()}
        return ClassStatistics.from_stored(version.head, tensors), parents

    def _register(
        self, context: Context, statistics: ClassStatistics, rule: Rule, parents: tuple[Parent, ...]
    ) -> Version:
        tensors = {AdapterState.HEAD_PREFIX + name: t for name, t in statistics.tensors().items()}
        state = AdapterState("statistics", {}, tensors, statistics.spec(rule, self.shrinkage))
        return context.store.register(
            f"{context.line}.{rule}" if context.line else rule,
            state,
            base=context.adapted.base,
            parents=parents,
            run=context.run,
            task=context.task.name,
            data=context.training_data("registering class statistics").digest,
        )


def _continued(version: Version) -> tuple[Parent, ...]:
    return (Parent(version.ref, "continued"),)
