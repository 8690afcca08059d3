"""Fusions of fewer members, and what that costs in accuracy, measured before anything is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from contpeft.adapters.fusion import Kept, members_of, most_attended, pruned
from contpeft.experiments.attention import Attention, mean_attention
from contpeft.experiments.compression import Measured, answered
from contpeft.experiments.evaluation import Evaluation
from contpeft.spec import AdapterState, Parent, Version
from contpeft.store import AdapterStore

__all__ = ["PrunedFusion", "prune_fusion", "store_pruned"]


@dataclass(frozen=True)
class PrunedFusion:
    """A fusion whose sites mix fewer members, not stored.

    Attributes:
        version: the fusion it was made of.
        state: what it is.
        keep: how many members a site keeps.
        attention: what the whole fusion attends to.
        measured: accuracy before and after.
    """

    version: Version
    state: AdapterState
    keep: int
    attention: Attention
    measured: Measured

    @property
    def kept(self) -> Mapping[str, tuple[str, ...]]:
        """References of the members that each site mixes, by its path."""
        members, kept = members_of(self.state), self.state.config["kept"]
        return {path: tuple(members[place] for place in places) for path, places in kept.items()}

    @property
    def members(self) -> tuple[str, ...]:
        """References of the members that some site keeps."""
        return tuple(members_of(self.state))

    @property
    def dropped(self) -> tuple[str, ...]:
        """References of the members that no site keeps, which need not be loaded any more."""
        return tuple(ref for ref in self.attention.members if ref not in self.members)

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return {
            "ref": self.version.ref,
            "keep": self.keep,
            "members": self.members,
            "dropped": self.dropped,
            "kept": self.kept,
            "attention": self.attention.by_site(),
            "measured": asdict(self.measured),
        }


def prune_fusion(evaluation: Evaluation, store: AdapterStore, ref: str, keep: int) -> PrunedFusion:
    """Returns a fusion of which each site keeps the members it attends to most (Rücklé et al., 2021).

    Attention is that of the training rows of the tasks it answers, each task counted alike; accuracy is that
    of their test rows.

    Args:
        evaluation: tasks and model.
        store: where the fusion is.
        ref: the fusion.
        keep: how many members a site keeps.

    Raises:
        UsageError: if the version is no fusion, answers none of the tasks, or there is nothing to drop.
        BaseMismatchError: if it was trained on another base model.
    """
    version = evaluation.show(evaluation.resolve(ref))
    tasks = answered(evaluation, version.ref)
    attention = mean_attention(
        evaluation, version.ref, {each.name: evaluation.lessons[each.name] for each in tasks}
    )
    earlier: Kept | None = version.config.get("kept")
    state = pruned(store.load(version.ref), most_attended(attention.by_site(), keep, earlier))
    before = fmean(evaluation.score(version.ref, task) for task in tasks)
    with evaluation.guest(state, (version.ref,)) as guest:
        after = fmean(evaluation.score(guest, task) for task in tasks)
    return PrunedFusion(version, state, keep, attention, Measured(version.ref, len(tasks), before, after))


def store_pruned(store: AdapterStore, found: PrunedFusion, name: str | None = None) -> Version:
    """Stores a pruned fusion, and returns its entry.

    Its parents are the fusion it was made of, and the members it still needs.

    Args:
        store: where.
        found: what :func:`prune_fusion` returned.
        name: of which adapter it becomes a version; the fusion's own for None.
    """
    version = found.version
    told = {
        "operation": "prune-fusion",
        "keep": found.keep,
        "of": version.fingerprint,
        "read": {task.task: task.digest for task in found.attention.tasks},
        "attention": {path: list(means) for path, means in found.attention.by_site().items()},
    }
    members = [Parent(ref, "frozen") for ref in found.members]
    return store.register(
        name or version.name,
        found.state,
        base=version.base,
        origin="fused",
        parents=[Parent(version.ref, "fused"), *members],
        recipe=told,
        task=version.task,
        data=version.data,
    )
