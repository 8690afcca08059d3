"""Compositions as JSON: what is stored already reads and digests as it did."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contpeft.errors import SpecError
from contpeft.spec import (
    Arrow,
    Base,
    Composition,
    Concat,
    Drop,
    Fuse,
    Gated,
    Mix,
    Parallel,
    Part,
    Route,
    Single,
    Stack,
    Sum,
    Surest,
    average,
    composition_from_json,
)

LENT = Single("both@1", "mail@3")


@pytest.mark.parametrize(
    ("composition", "text"),
    [
        (Base(), '{"type": "base"}'),
        (Single("mail@3"), '{"type": "single", "ref": "mail@3"}'),
        (LENT, '{"type": "single", "ref": "both@1", "head": "mail@3"}'),
        (
            Sum((("mail@3", 1.0), ("both@1", -0.5)), "mail@3"),
            '{"type": "sum", "parts": [{"ref": "mail@3", "weight": 1.0}, {"ref": "both@1", "weight": -0.5}], '
            '"head": "mail@3"}',
        ),
        (
            Route("lda@2", (Single("mail@3"), LENT)),
            '{"type": "route", "router": "lda@2", "choices": [{"type": "single", "ref": "mail@3"}, '
            '{"type": "single", "ref": "both@1", "head": "mail@3"}]}',
        ),
        (
            Drop(Stack((Single("a@1"), Sum((("b@1", 1.0),))), "a@1"), (2, 0)),
            '{"type": "drop", "part": {"type": "stack", "parts": [{"type": "single", "ref": "a@1"}, '
            '{"type": "sum", "parts": [{"ref": "b@1", "weight": 1.0}]}], "head": "a@1"}, "layers": [0, 2]}',
        ),
        (
            Parallel((Single("a@1"), Fuse(("a@1", "b@1"), "f@1"))),
            '{"type": "parallel", "choices": [{"type": "single", "ref": "a@1"}, {"type": "fuse", "over": '
            '[{"ref": "a@1"}, {"ref": "b@1"}], "fusion": "f@1"}]}',
        ),
        (
            Concat((Single("a@1"), Base()), "means@2"),
            '{"type": "concat", "parts": [{"type": "single", "ref": "a@1"}, {"type": "base"}], '
            '"head": "means@2"}',
        ),
        (
            Gated(("a@1", "b@1"), "c@2"),
            '{"type": "gated", "over": [{"ref": "a@1"}, {"ref": "b@1"}], "head": "c@2"}',
        ),
        (Gated(("a@1",)), '{"type": "gated", "over": [{"ref": "a@1"}]}'),
        (
            Mix("lda@2", (Single("a@1"),), 3, 0.5),
            '{"type": "mix", "router": "lda@2", "choices": [{"type": "single", "ref": "a@1"}], '
            '"top": 3, "temperature": 0.5}',
        ),
        (
            Arrow((Single("a@1"),)),
            '{"type": "arrow", "choices": [{"type": "single", "ref": "a@1"}], "top": 4, "temperature": 1.0}',
        ),
        (
            Surest((Single("a@1"),), "energy"),
            '{"type": "surest", "choices": [{"type": "single", "ref": "a@1"}], "by": "energy"}',
        ),
    ],
)
def test_json_is_as_it_was_and_comes_back(composition: Composition, text: str) -> None:
    assert json.dumps(composition.to_json()) == text
    again = composition_from_json(json.loads(text))
    assert again.to_json() == composition.to_json()
    assert again.digest(str) == composition.digest(str)


def test_a_lent_head_is_needed_too() -> None:
    assert LENT.refs() == ("both@1", "mail@3")
    assert Route("lda@2", (LENT, Single("mail@3"))).refs() == ("lda@2", "both@1", "mail@3", "mail@3")
    assert str(LENT) == "both@1 (head mail@3)"


def test_the_digest_is_of_contents_and_of_whose_head_answers() -> None:
    contents = {"both@1": "b", "copy@1": "b", "mail@3": "m", "other@1": "m"}.__getitem__
    digests = {
        each.digest(contents)
        for each in (
            LENT,
            Single("copy@1", "other@1"),
            Single("copy@1", "mail@3"),
            Single("both@1", "other@1"),
        )
    }
    assert len(digests) == 1
    others = {Single("both@1"), Single("mail@3", "both@1"), Single("mail@3")}
    assert not digests & {each.digest(contents) for each in others}


def test_another_type_is_refused() -> None:
    with pytest.raises(SpecError, match="no composition of type 'singel'; did you mean 'single'"):
        composition_from_json({"type": "singel"})


def test_a_sum_tells_what_it_needs_and_who_answers() -> None:
    total = Sum((("a@1", 1.0), ("b@2", 0.5)))
    assert (total.refs(), total.answering, str(total)) == (("a@1", "b@2"), "a@1", "sum(a@1 + 0.5 b@2)")
    lent = Sum((("a@1", 1.0),), "c@1")
    assert (lent.refs(), lent.answering, str(lent)) == (("a@1", "c@1"), "c@1", "sum(a@1; head c@1)")
    assert total.digest({"a@1": "x", "b@2": "y"}.__getitem__) == total.digest({"a@1": "x", "b@2": "y"}.get)
    assert total.digest(str) != Sum((("a@1", 1.0), ("b@2", 0.25))).digest(str)
    with pytest.raises(SpecError, match="a sum of no versions has no meaning"):
        Sum(())


def test_gated_versions_answer_with_the_head_of_the_last() -> None:
    gated = Gated(("a@1", "b@2"))
    assert (gated.refs(), gated.answering, str(gated)) == (("a@1", "b@2"), "b@2", "gated(a@1, b@2)")
    lent = Gated(("a@1",), "b@2")
    assert (lent.refs(), lent.answering, str(lent)) == (("a@1", "b@2"), "b@2", "gated(a@1; head b@2)")
    assert gated.digest(str) != Gated(("b@2", "a@1")).digest(str) != lent.digest(str)
    with pytest.raises(SpecError, match="a gated sum of no versions has no meaning"):
        Gated(())


def test_a_route_may_choose_sums() -> None:
    route = Route("lda@2", (Single("mail@3"), Sum((("a@1", 1.0),))))
    assert composition_from_json(route.to_json()) == route
    with pytest.raises(SpecError, match="base cannot be inside another composition"):
        composition_from_json({"type": "route", "router": "lda@2", "choices": [{"type": "base"}]})


REFS = st.sampled_from(["a@1", "b@2", "c@3"])
SINGLES = st.builds(Single, REFS, st.none() | REFS)
SUMS = st.builds(
    Sum, st.lists(st.tuples(REFS, st.floats(-2, 2)), min_size=1, max_size=3).map(tuple), st.none() | REFS
)
FUSED = st.builds(Fuse, st.lists(REFS, min_size=2, max_size=3).map(tuple), REFS, st.none() | REFS)
GATED = st.builds(Gated, st.lists(REFS, min_size=1, max_size=3).map(tuple), st.none() | REFS)
PARTS: st.SearchStrategy[Part] = st.recursive(
    SINGLES | SUMS | FUSED | GATED,
    lambda inner: (
        st.builds(Stack, st.lists(inner, min_size=1, max_size=3).map(tuple), st.none() | REFS)
        | st.builds(Drop, inner, st.sets(st.integers(0, 5)).map(sorted).map(tuple))
    ),
    max_leaves=5,
)
MIXED = st.lists(SINGLES, min_size=1, max_size=3).map(tuple)
SURE = ["confidence", "energy"]
ALL = (
    PARTS
    | st.builds(Route, REFS, st.lists(PARTS, max_size=3).map(tuple))
    | st.builds(Parallel, st.lists(PARTS, min_size=1, max_size=3).map(tuple))
    | st.builds(Surest, st.lists(PARTS, min_size=1, max_size=3).map(tuple), st.sampled_from(SURE))
    | st.builds(Concat, st.lists(PARTS | st.just(Base()), min_size=1, max_size=3).map(tuple), REFS)
    | st.builds(Mix, REFS, MIXED, st.integers(1, 3), st.floats(0.01, 9))
    | st.builds(Arrow, MIXED, st.integers(1, 3), st.floats(0.01, 9))
)


@given(ALL)
def test_any_nesting_comes_back_from_json_and_names_all_it_needs(composition: Composition) -> None:
    told = json.loads(json.dumps(composition.to_json()))
    assert composition_from_json(told) == composition
    named = {text for text in json.dumps(told).split('"') if "@" in text}
    assert set(composition.refs()) == named
    assert all(ref in str(composition) for ref in named)
    renamed = {"a@1": "x", "b@2": "y", "c@3": "z"}
    copy = json.loads(json.dumps(told).replace("a@1", "q@9"))
    assert composition_from_json(copy).digest({**renamed, "q@9": "x"}.__getitem__) == composition.digest(
        renamed.__getitem__
    )


def test_whose_head_answers() -> None:
    stack = Stack((Single("a@1"), Sum((("b@1", 1.0),), "c@1")))
    assert [each.answering for each in (stack, Drop(stack, (0,)), Fuse(("a@1", "b@1"), "f@1"))] == [
        *("c@1", "c@1", "f@1")
    ]
    assert Stack((Single("a@1"),), "z@1").answering == "z@1"
    assert Drop(Single("a@1", "h@1"), ()).head == "h@1"
    assert average("a@1", "b@1") == Sum((("a@1", 0.5), ("b@1", 0.5)))
    assert average("a@1", "b@1").digest(str) == Sum((("a@1", 0.5), ("b@1", 0.5))).digest(str)


def test_what_has_no_meaning_is_refused() -> None:
    for make, message in (
        (lambda: Stack(()), "a stack of nothing has no meaning"),
        (lambda: Parallel(()), "nothing in parallel has no answer"),
        (lambda: Drop(Single("a@1"), (0, -1)), "there is no layer -1"),
        (lambda: average(), "a sum of no versions has no meaning"),
        (lambda: Concat((), "h@1"), "features of nothing cannot be put side by side"),
        (lambda: Surest(()), "the surest of nothing has no answer"),
        (lambda: Surest((Single("a@1"),), "age"), "heads are sure by confidence or by energy, not by 'age'"),
        (lambda: Arrow(()), "a mixture of nothing has no answer"),
        (lambda: Mix("r@1", (Single("a@1"),), 0), "a mixture of the best 0 has no answer"),
        (lambda: Mix("r@1", (Single("a@1"),), 1, 0.0), "a temperature of 0 weighs nothing; give one above 0"),
    ):
        with pytest.raises(SpecError, match=message):
            make()
    with pytest.raises(SpecError, match=r"route\(lda@2: a@1\) cannot be inside another composition"):
        composition_from_json({"type": "stack", "parts": [Route("lda@2", (Single("a@1"),)).to_json()]})
    total = Sum((("a@1", 1.0),)).to_json()
    with pytest.raises(SpecError, match=r"sum\(a@1\) cannot be mixed with others row by row; only single"):
        composition_from_json({"type": "arrow", "choices": [total], "top": 1, "temperature": 1.0})
