"""Tags: put on, replaced, taken off, and told in the audit log."""

from __future__ import annotations

import pytest
from store_workers import BASE, make_state

from contpeft.errors import NotFoundError, SpecError
from contpeft.store import AdapterStore


@pytest.fixture
def line(store: AdapterStore) -> AdapterStore:
    """line@1 and line@2."""
    for seed in (1, 2):
        store.register("line", make_state(seed), base=BASE)
    return store


def test_tags_are_put_on_replaced_and_taken_off(line: AdapterStore) -> None:
    assert line.tags.set("line@1", {"owner": "ada", "keep": ""}) == {"keep": "", "owner": "ada"}
    assert line.tags.set("line@1", {"owner": "bob"}) == {"keep": "", "owner": "bob"}
    line.tags.set("line", {"owner": "eve"})
    assert line.tags.of() == {"line@1": {"keep": "", "owner": "bob"}, "line@2": {"owner": "eve"}}
    assert line.tags.of("line@2") == {"line@2": {"owner": "eve"}}
    assert line.tags.remove("line@1", ["keep"]) == {"owner": "bob"}
    assert line.tags.of("line@1") == {"line@1": {"owner": "bob"}}


def test_values_are_any_text(line: AdapterStore) -> None:
    odd = {"a": "[red]\x1b\n", "b": "'; DROP TABLE tag; --", "c": "=", "d": "é"}
    assert line.tags.set("line", odd) == odd
    assert line.tags.of("line@2") == {"line@2": odd}


def test_each_change_is_an_event(line: AdapterStore) -> None:
    line.tags.set("line@1", {"owner": "ada"})
    line.tags.set("line@1", {"owner": "ada"})
    line.tags.remove("line@1", ["owner"])
    told = [event.detail for event in line.events("line@1") if event.action == "version.tagged"]
    assert told == [
        {"before": {}, "after": {"owner": "ada"}},
        {"before": {"owner": "ada"}, "after": {}},
    ]


@pytest.mark.parametrize(
    "tags", [{"a b": "x"}, {"": "x"}, {"-a": "x"}, {"a": 3}, {"a": None}, {"good": "x", "b=c": ""}]
)
def test_what_is_no_tag(line: AdapterStore, tags: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        line.tags.set("line", tags)
    assert line.tags.of() == {}


def test_a_tag_that_is_not_there(line: AdapterStore) -> None:
    line.tags.set("line", {"owner": "ada", "x": ""})
    with pytest.raises(NotFoundError, match="version 'line@2' has no tag 'ownr'; did you mean 'owner'"):
        line.tags.remove("line", ["x", "ownr"])
    assert line.tags.of("line@2") == {"line@2": {"owner": "ada", "x": ""}}
