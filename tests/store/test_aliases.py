"""Aliases: where each spelling leads, who was champion when, and what can be taken back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.errors import NotFoundError, SpecError
from contpeft.spec import Parent
from contpeft.store import AdapterStore, AliasChange


@pytest.fixture
def lines(store: AdapterStore) -> AdapterStore:
    """billing@1 to billing@3 and mail@1."""
    for seed in (1, 2, 3):
        store.register("billing", make_state(seed), base=BASE)
    store.register("mail", make_state(4), base=BASE)
    return store


def moves(changes: list[AliasChange]) -> list[tuple[str, int | None, int | None, bool]]:
    return [(change.alias, change.before, change.after, change.undo) for change in changes]


def test_an_alias_is_a_reference_everywhere(lines: AdapterStore) -> None:
    change = lines.aliases.set("billing@2", "champion")
    assert change is not None
    assert (change.name, change.alias, change.before, change.after) == ("billing", "champion", None, 2)
    assert lines.resolve("billing@champion") == "billing@2"
    assert lines.show("billing@champion").ref == "billing@2"
    assert lines.load("billing@champion").tensors.keys() == make_state().tensors.keys()
    assert [v.ref for v in lines.versions(before="billing@champion")] == ["billing@1"]
    child = lines.register("child", make_state(9), base=BASE, parents=[Parent("billing@champion")])
    assert child.parents == (Parent("billing@2"),)
    assert lines.children("billing@champion") == ["child@1"]
    assert lines.aliases.set("billing@champion", "stable") is not None
    assert lines.resolve("billing@stable") == "billing@2"
    assert lines.resolve("billing") == "billing@3"


def test_aliases_belong_to_one_adapter(lines: AdapterStore) -> None:
    lines.aliases.set("billing@1", "champion")
    lines.aliases.set("mail", "champion")
    assert (lines.resolve("billing@champion"), lines.resolve("mail@champion")) == ("billing@1", "mail@1")
    assert lines.aliases.of() == {"billing@1": ("champion",), "mail@1": ("champion",)}


def test_aliases_of_versions(lines: AdapterStore) -> None:
    for alias in ("b", "a"):
        lines.aliases.set("billing@1", alias)
    lines.aliases.set("billing@2", "c")
    assert lines.aliases.of() == {"billing@1": ("a", "b"), "billing@2": ("c",)}
    assert lines.aliases.of("billing@2", "billing@3") == {"billing@2": ("c",)}


def test_who_was_champion_when(lines: AdapterStore) -> None:
    lines.aliases.set("billing@1", "champion")
    lines.aliases.set("billing@1", "other")
    lines.aliases.set("billing@2", "champion")
    lines.aliases.remove("billing", "champion")
    log = lines.aliases.log("billing", "champion")
    assert moves(log) == [
        ("champion", 2, None, False),
        ("champion", 1, 2, False),
        ("champion", None, 1, False),
    ]
    assert [change.at for change in log] == sorted((change.at for change in log), reverse=True)
    assert moves(lines.aliases.log("billing"))[2] == ("other", None, 1, False)
    assert lines.aliases.log("mail") == []
    told = [(event.action, event.detail) for event in lines.events("billing@champion")]
    assert told == [
        ("alias.set", {"before": None, "after": 1}),
        ("alias.set", {"before": 1, "after": 2}),
        ("alias.removed", {"before": 2, "after": None}),
    ]


def test_setting_it_where_it_is_changes_nothing(lines: AdapterStore) -> None:
    lines.aliases.set("billing@1", "champion")
    assert lines.aliases.set("billing@1", "champion") is None
    assert len(lines.aliases.log("billing", "champion")) == 1
    assert len(lines.events("billing@champion")) == 1


def test_undo_goes_back_move_by_move(lines: AdapterStore) -> None:
    aliases = lines.aliases
    for n in (1, 2, 3):
        aliases.set(f"billing@{n}", "champion")
    assert (aliases.undo("billing", "champion").after, lines.resolve("billing@champion")) == (2, "billing@2")
    aliases.set("billing@3", "champion")
    aliases.remove("billing", "champion")
    assert [aliases.undo("billing", "champion").after for _ in range(4)] == [3, 2, 1, None]
    with pytest.raises(NotFoundError, match=r"alias 'billing@champion' in .* has no move to take back"):
        aliases.undo("billing", "champion")
    assert [change.undo for change in aliases.log("billing")] == [True] * 4 + [False] * 2 + [True] + [
        False
    ] * 3
    assert audit(lines.path) == []


@settings(max_examples=25)
@given(st.lists(st.one_of(st.integers(1, 3), st.just("remove"), st.just("undo")), max_size=12))
def test_undo_is_a_stack(tmp_path_factory: pytest.TempPathFactory, moves: list[Any]) -> None:
    store = AdapterStore(tmp_path_factory.mktemp("store"))
    for seed in (1, 2, 3):
        store.register("line", make_state(seed), base=BASE)
    past: list[int | None] = [None]
    for move in moves:
        if move == "undo" and len(past) > 1:
            past.pop()
            store.aliases.undo("line", "x")
        elif move == "remove" and past[-1] is not None:
            past.append(None)
            store.aliases.remove("line", "x")
        elif isinstance(move, int) and past[-1] != move:
            past.append(move)
            store.aliases.set(f"line@{move}", "x")
        assert store.aliases.of() == ({} if past[-1] is None else {f"line@{past[-1]}": ("x",)})
    store.close()


@pytest.mark.parametrize(
    "alias", ["1", "042", "latest", "Latest", "", "a b", "-x", ".x", "x" * 129, "é", "a@b"]
)
def test_what_cannot_be_an_alias(lines: AdapterStore, alias: str) -> None:
    with pytest.raises(SpecError):
        lines.aliases.set("billing", alias)
    assert lines.aliases.of() == {}


def test_two_spellings_are_one_alias(lines: AdapterStore) -> None:
    lines.aliases.set("billing@1", "champion")
    with pytest.raises(SpecError, match="alias 'Champion' differs from 'champion' only in case"):
        lines.aliases.set("billing@2", "Champion")
    with pytest.raises(NotFoundError, match=r"no version 'billing@Champion' in .*: no such alias; did you"):
        lines.resolve("billing@Champion")


def test_not_found(lines: AdapterStore) -> None:
    lines.aliases.set("billing@1", "champion")
    asked = {
        "no adapter 'billng' in .*; did you mean 'billing'": [
            lambda: lines.aliases.set("billng", "x"),
            lambda: lines.aliases.remove("billng", "x"),
            lambda: lines.aliases.undo("billng", "x"),
            lambda: lines.aliases.log("billng"),
        ],
        "adapter 'billing' in .* has no alias 'champ'; did you mean 'champion'": [
            lambda: lines.aliases.remove("billing", "champ"),
            lambda: lines.aliases.log("billing", "champ"),
        ],
        "no version 'billing@9' in .*; there are: 1 to 3": [lambda: lines.aliases.set("billing@9", "x")],
    }
    for message, calls in asked.items():
        for call in calls:
            with pytest.raises(NotFoundError, match=message):
                call()
