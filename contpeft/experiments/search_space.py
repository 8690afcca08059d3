"""Which merges a search tries, and what it found out about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final, Literal

from contpeft.errors import UsageError
from contpeft.merging import Heads
from contpeft.store import Request

__all__ = [
    "LORAHUB_ROWS",
    "RANKS",
    "RULES_TRIED",
    "ParentScores",
    "SearchResult",
    "Space",
    "Trial",
    "lorahub",
]

RULES_TRIED: Final = ("sum", "ties", "dare-ties", "knots", "tsv", "iso-c")
"""What ``auto`` stands for: rules of different kinds that need nothing but the adapters."""
RANKS: Final = ("full", "same", "energy:0.95")
"""What ``auto`` stands for: everything, what an input has, nearly everything."""
LORAHUB_ROWS: Final = 5
"""Examples of a task that LoraHub learns from."""

Goal = Literal["score", "loss"]


@dataclass(frozen=True)
class Space:
    """Which merges are tried, and what for.

    Attributes:
        refs: the versions to merge.
        rules: the rules to choose from.
        parameters: of the rule, where there is only one.
        weights: one a version, or None to search them.
        bounds: between which weights are searched.
        start: the weight of every version in the first trial, where weights are searched; None for a
            share each in a sum, and 1 in other rules.
        ranks: the ranks to choose from.
        goal: ``"score"`` looks for high scores: the mean over tasks, and that of the worst task;
            ``"loss"`` for a low mean cross-entropy.
        penalty: with ``"loss"``, what the mean magnitude of the weights is multiplied by and added.
        seed: of the search and of rules that draw.
        heads: what becomes of the heads.
        precision: what is computed in.
    """

    refs: tuple[str, ...]
    rules: tuple[str, ...] = RULES_TRIED
    parameters: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    bounds: tuple[float, float] = (0.0, 1.5)
    start: float | None = None
    ranks: tuple[str, ...] = RANKS
    goal: Goal = "score"
    penalty: float = 0.0
    seed: int = 0
    heads: Heads = "keep"
    precision: Literal["float64", "float32"] = "float64"

    def __post_init__(self) -> None:
        """Raises :class:`UsageError` for parameters of no one rule, or weights of other versions."""
        if self.parameters and len(self.rules) > 1:
            raise UsageError("parameters are of one rule; name it in place of 'auto'")
        if self.weights is not None and len(self.weights) != len(self.refs):
            raise UsageError(
                f"there are {len(self.weights)} weights for {len(self.refs)} versions; give one for each"
            )

    def request(self, rule: str, weights: Sequence[float], rank: str) -> Request:
        """Returns one merge of this space."""
        return Request(
            self.refs, tuple(weights), rule, self.parameters, rank, self.seed, self.heads, self.precision
        )


def lorahub(refs: tuple[str, ...], **options: Any) -> Space:
    """Returns the search of LoraHub: weights of a sum from 0, for a low loss on few examples.

    Huang et al. (2023), LoraHub: Efficient cross-task generalization via dynamic LoRA composition, section
    3: weights in [-1.5, 1.5], the loss plus 0.05 times the mean magnitude of the weights, no gradients.

    Args:
        refs: the versions.
        options: others of :class:`Space`.
    """
    fixed: dict[str, Any] = {"rules": ("sum",), "ranks": ("full",), "goal": "loss", "penalty": 0.05}
    return Space(refs, bounds=(-1.5, 1.5), start=0.0, **fixed, **options)


@dataclass(frozen=True)
class Trial:
    """One merge that was tried.

    Attributes:
        number: from 0.
        rule: its rule.
        weights: one a version.
        rank: how large it may get.
        scores: accuracy on each task, 0 to 1; empty where the merge was refused.
        loss: with the goal ``"loss"``, mean cross-entropy plus penalty.
        refused: why it could not be merged, or None.
    """

    number: int
    rule: str
    weights: tuple[float, ...]
    rank: str
    scores: tuple[float, ...] = ()
    loss: float | None = None
    refused: str | None = None

    @property
    def mean(self) -> float:
        """Mean score over tasks."""
        return fmean(self.scores)

    @property
    def worst(self) -> float:
        """Score on the worst task."""
        return min(self.scores)

    def values(self) -> tuple[float, ...]:
        """Returns what is searched for, more is better."""
        return (self.mean, self.worst) if self.loss is None else (-self.loss,)


@dataclass(frozen=True)
class ParentScores:
    """A version by itself.

    Attributes:
        ref: the version.
        scores: accuracy on each task, 0 to 1; None where neither its head knows the classes nor, for a
            merged version, that of a parent.
    """

    ref: str
    scores: tuple[float | None, ...]

    def forgotten(self, trial: Trial) -> float | None:
        """Returns what a merge loses of it: mean loss of accuracy on its own tasks; None without one."""
        pairs = zip(self.scores, trial.scores, strict=True)
        losses = [own - merged for own, merged in pairs if own is not None]
        return fmean(losses) if losses else None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        tasks: names of the tasks.
        parents: the versions by themselves.
        bare: scores of no adapter at all with the versions' heads, what a merge must outdo to be worth
            anything; None for methods that have no such adapter.
        trials: every merge that was tried, in order.
    """

    tasks: tuple[str, ...]
    parents: tuple[ParentScores, ...]
    bare: tuple[float, ...] | None
    trials: tuple[Trial, ...]

    @property
    def measured(self) -> tuple[Trial, ...]:
        """The trials that could be merged, each merge once."""
        merges = {(t.rule, t.weights, t.rank): t for t in reversed(self.trials) if t.refused is None}
        return tuple(sorted(merges.values(), key=lambda trial: trial.number))

    @property
    def front(self) -> tuple[Trial, ...]:
        """The Pareto set: trials that no other one beats in one value without losing in another."""
        return tuple(each for each in self.measured if not any(_beats(t, each) for t in self.measured))

    @property
    def best(self) -> Trial:
        """The trial with the best first value: the mean score, or the loss; of equals the earliest."""
        return max(self.measured, key=lambda trial: (*trial.values(), -trial.number))


def _beats(one: Trial, other: Trial) -> bool:
    mine, theirs = one.values(), other.values()
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))
