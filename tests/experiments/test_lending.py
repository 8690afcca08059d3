"""Whose head answers a task: a version's own, a chosen one, or one up the lineage."""

from __future__ import annotations

from typing import Any

import pytest

from contpeft.errors import SpecError, UsageError
from contpeft.experiments.lending import check_heads, with_head
from contpeft.spec import BaseModel, HeadSpec, Parent, Single, Task, Version

MAIL = Task("mail", ("ham", "spam"))


def version(ref: str, *classes: str, parents: tuple[str, ...] = (), task: str | None = None) -> Version:
    head = HeadSpec("cosine", classes) if classes else None
    told: dict[str, Any] = dict.fromkeys(("sha256", "created_at", "fingerprint"), "")
    return Version(
        ref=ref, name=ref.partition("@")[0], n=1, kind="lora", bytes=0, parameters=0, config={}, head=head,
        base=BaseModel("tiny", "ba5e", 1), origin="fused", parents=tuple(Parent(p, "fused") for p in parents),
        recipe=None, run=None, task=task, data=None, environment={}, seconds=None, **told,
    )  # fmt: skip


def asked(top: Version, *others: Version, task: Task = MAIL, **chosen: str) -> Single:
    return with_head(top, task, {each.ref: each for each in (top, *others)}.__getitem__, chosen)


def test_its_own_head_if_that_knows_every_class() -> None:
    top = version("a@1", "ham", "spam", "other")
    assert asked(top) == Single("a@1")
    assert asked(top, version("b@1", "ham", "spam"), mail="b@1") == Single("a@1")


def test_the_chosen_one_else() -> None:
    top, other = version("a@1", "cat", "dog"), version("b@1", "spam", "ham")
    assert asked(top, other, mail="b@1") == Single("a@1", "b@1")
    assert asked(version("f@1", parents=("a@1",)), top, other, mail="b@1") == Single("f@1", "b@1")


def test_the_parent_that_knows_the_classes_answers_for_a_merged_version() -> None:
    parents = version("a@1", "cat", "dog"), version("b@1", "spam", "ham")
    assert asked(version("f@1", parents=("a@1", "b@1")), *parents) == Single("f@1", "b@1")


def test_merged_versions_are_followed_up_and_others_are_not() -> None:
    old = version("a@1", "ham", "spam")
    inner = version("g@1", parents=("a@1", "b@1"))
    top = version("f@1", parents=("g@1", "a@1"))
    assert asked(top, inner, old, version("b@1", "cat", "dog")) == Single("f@1", "a@1")
    continued = version("a@2", "cat", "dog", parents=("a@1",))
    with pytest.raises(SpecError, match=r"heads: a@2\); give --head mail=REF"):
        asked(version("f@1", parents=("a@2",)), continued, old)


def test_of_several_the_one_learned_on_the_task_answers() -> None:
    parents = [version(f"{name}@1", "ham", "spam", task=name) for name in ("chat", "mail")]
    assert asked(version("f@1", parents=("chat@1", "mail@1")), *parents) == Single("f@1", "mail@1")


@pytest.mark.parametrize(
    ("top", "others", "chosen", "said"),
    [
        (version("a@1", "cat", "ham"), (), {}, "the head of a@1 does not know the class 'spam' of task"),
        (version("f@1"), (), {}, r"f@1 has no head, and none .* \(heads: none\); give --head mail=REF"),
        (
            version("f@1", parents=("a@1", "b@1")),
            (version("a@1", "ham", "spam"), version("b@1", "spam", "ham")),
            {},
            "f@1 has no head, and for task 'mail' several could answer: a@1, b@1; decide with --head",
        ),
        (
            version("f@1"),
            (version("a@1", "ham"),),
            {"mail": "a@1"},
            "the head of a@1 does not know the class 'spam' of task 'mail'; give --head mail=REF another REF",
        ),
        (version("f@1"), (version("a@1"),), {"mail": "a@1"}, "a@1 has no head to answer task 'mail' with"),
    ],
)  # fmt: skip
def test_none_or_several_is_one_line_that_says_what_decides(
    top: Version, others: tuple[Version, ...], chosen: dict[str, str], said: str
) -> None:
    with pytest.raises(SpecError, match=f"^{said}"):
        asked(top, *others, **chosen)


def test_a_head_of_unknown_labels_says_so() -> None:
    top = version("a@1", "x")
    mute = Version(**{**vars(top), "head": HeadSpec("own")})
    with pytest.raises(SpecError, match="the head of a@1 does not know the labels of its outputs; give"):
        asked(mute)


def test_heads_are_chosen_for_tasks_that_are_there() -> None:
    check_heads({"mail": "a@1"}, ["mail", "chat"])
    with pytest.raises(
        UsageError, match="--head names the task 'mial', which is not evaluated; did you mean"
    ):
        check_heads({"mial": "a@1"}, ["mail", "chat"])
