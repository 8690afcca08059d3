"""Whose head answers a task: a version's own, or for a merged one the head of a parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from contpeft.errors import SpecError, UsageError, suggest
from contpeft.spec import Single, Task, Version

__all__ = ["check_heads", "heads_of", "with_head"]

Show = Callable[[str], Version]
"""Maps a reference to a version's catalogue entry."""


def with_head(version: Version, task: Task, show: Show, chosen: Mapping[str, str]) -> Single:
    """Returns what answers a task: a version with its own head, or with that of another one.

    Its own head answers if it knows every class of the task. Else the one that was chosen for the task
    does. Else, for a merged version without a head, the head of the parent that knows them all, or of that
    one's parents where it was merged too; of several the one learned on a task of this name.

    Args:
        version: what is asked.
        task: the task.
        show: gives the entries of parents.
        chosen: task name to the reference of a head.

    Raises:
        SpecError: if no head answers or several could, naming them and the option that decides.
    """
    if _knows(version, task):
        return Single(version.ref)
    if task.name in chosen:
        lender = show(chosen[task.name])
        if not _knows(lender, task):
            raise SpecError(f"{_lacking(lender, task)}; give --head {task.name}=REF another REF")
        return Single(version.ref, lender.ref)
    if version.head is not None:
        raise SpecError(f"{_lacking(version, task)}; give --head {task.name}=REF")
    return Single(version.ref, _lender(version, task, show).ref)


def check_heads(chosen: Mapping[str, str], tasks: Sequence[str]) -> None:
    """Checks that heads were chosen for tasks that exist.

    Raises:
        UsageError: if not.
    """
    for name in chosen:
        if name not in tasks:
            raise UsageError(f"--head names the task {name!r}, which is not evaluated{suggest(name, tasks)}")


def _lender(version: Version, task: Task, show: Show) -> Version:
    heads = list({each.ref: each for each in heads_of(version, show)}.values())
    able = [each for each in heads if _knows(each, task)]
    named = [each for each in able if each.task == task.name]
    found = named if len(able) > 1 and named else able
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(each.ref for each in found)
        raise SpecError(
            f"{_called(version)} has no head, and for task {task.name!r} several could answer: {several}; "
            f"decide with --head {task.name}=REF"
        )
    there = ", ".join(each.ref for each in heads) or "none"
    raise SpecError(
        f"{_called(version)} has no head, and none of its parents' knows every class of task {task.name!r} "
        f"(heads: {there}); give --head {task.name}=REF"
    )


def heads_of(version: Version, show: Show) -> list[Version]:
    """Returns the nearest versions with a head, up the lineage."""
    if version.head is not None:
        return [version]
    return [each for parent in version.parents for each in heads_of(show(parent.ref), show)]


def _called(version: Version) -> str:
    return version.ref if version.n else "the merged adapter"  # which is not stored yet


def _knows(version: Version, task: Task) -> bool:
    return version.head is not None and set(task.classes) <= set(version.head.classes)


def _lacking(version: Version, task: Task) -> str:
    if version.head is None:
        return f"{version.ref} has no head to answer task {task.name!r} with"
    if not version.head.classes:
        return f"the head of {version.ref} does not know the labels of its outputs"
    missing = next(label for label in task.classes if label not in version.head.classes)
    return f"the head of {version.ref} does not know the class {missing!r} of task {task.name!r}"
