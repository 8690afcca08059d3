"""Compositions as JSON: what is stored already reads and digests as it did."""

from __future__ import annotations

import json

import pytest

from contpeft.errors import SpecError
from contpeft.spec import Base, Composition, Route, Single, Sum, composition_from_json

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
    ],
)
def test_json_is_as_it_was_and_comes_back(composition: Composition, text: str) -> None:
    assert json.dumps(composition.to_json()) == text
    assert composition_from_json(json.loads(text)) == composition


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


def test_a_route_may_choose_sums() -> None:
    route = Route("lda@2", (Single("mail@3"), Sum((("a@1", 1.0),))))
    assert composition_from_json(route.to_json()) == route
    with pytest.raises(SpecError, match="base cannot be a choice of a route"):
        composition_from_json({"type": "route", "router": "lda@2", "choices": [{"type": "base"}]})
