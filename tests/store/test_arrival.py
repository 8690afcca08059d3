"""The union of two stores: nothing that is here changes, nothing that comes is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_audit import audit
from store_exchange import content, fill, learn, score
from store_workers import BASE, make_state

from contpeft.spec import Parent
from contpeft.store import AdapterStore, Arrived, Conflict

Send = Callable[[AdapterStore, AdapterStore], Arrived]


@pytest.fixture
def send(tmp_path: Path) -> Send:
    """Sends all of one store to another one."""
    count = iter(range(100))

    def act(source: AdapterStore, target: AdapterStore) -> Arrived:
        return target.transfer.unbundle(source.transfer.bundle(tmp_path / f"{next(count)}.tar").path)

    return act


@pytest.fixture
def a(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "a")


@pytest.fixture
def b(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "b")


def test_numbers_taken_by_another_version(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    a.register("line", make_state(1), base=BASE)
    first, second = b.register("line", make_state(2), base=BASE), b.register("line", make_state(3), base=BASE)
    recipe = {"rule": "average", "of": ["line@1", "line@2"], "note": "line@1 twice"}
    parents = [Parent("line@1", "fused", 0.5), Parent("line@2", "fused", 0.5)]
    b.register("line", make_state(4), base=BASE, origin="fused", recipe=recipe, parents=parents)
    before = a.show("line@1")
    arrived = send(b, a)
    (moved,) = arrived.renamed
    assert moved.startswith("line.")
    assert moved.endswith("@1")
    assert arrived.renamed == {moved: "line@1"}
    assert set(arrived.versions) == {moved, "line@2", "line@3"}
    assert a.show("line@1") == before
    assert (a.show(moved).sha256, a.show("line@2").sha256) == (first.sha256, second.sha256)
    fused = a.show("line@3")
    assert fused.parents == (Parent(moved, "fused", 0.5), Parent("line@2", "fused", 0.5))
    assert fused.recipe == {"rule": "average", "of": [moved, "line@2"], "note": "line@1 twice"}
    assert a.register("line", make_state(5), base=BASE).ref == "line@4"
    # The same again, and back to where it came from: nothing is there twice.
    assert send(b, a).versions == ()
    assert send(a, b).versions != ()
    assert send(a, b).versions == ()
    assert len(b.versions()) == len(a.versions()) == 5
    assert (audit(a.path), audit(b.path)) == ([], [])


def test_equal_registrations_are_one_version(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    a.register("line", make_state(1), base=BASE)
    b.register("line", make_state(0), base=BASE)
    b.register("line", make_state(1), base=BASE)
    child = b.register("child", make_state(2), base=BASE, parents=[Parent("line@2")])
    arrived = send(b, a)
    assert list(arrived.renamed.values()) == ["line@1"]
    assert a.show("child@1").parents == (Parent("line@1"),)
    assert a.show("child@1").sha256 == child.sha256
    assert len(a.versions()) == 3


def test_a_number_that_was_given_once_is_not_given_again(
    a: AdapterStore, b: AdapterStore, send: Send
) -> None:
    for store, state in ((a, 1), (b, 2)):
        store.register("line", make_state(state), base=BASE)
        store.register("line", make_state(9), base=BASE)
    a.upkeep.remove(["line@1"])
    arrived = send(b, a)
    assert [ref.partition(".")[0] for ref in arrived.versions] == ["line"]
    (moved,) = arrived.renamed
    assert arrived.renamed == {moved: "line@1"}
    # But the very version that was removed may come back.
    b.upkeep.remove(["line@1"])
    assert send(a, b).versions == (moved,)
    c = AdapterStore(a.path.parent / "c")
    c.register("line", make_state(1), base=BASE)
    assert send(c, a).versions == ("line@1",)
    assert (audit(a.path), audit(b.path)) == ([], [])


def test_names_that_differ_in_case_alone(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    a.register("line", make_state(1), base=BASE)
    b.register("Line", make_state(2), base=BASE)
    (here,) = send(b, a).versions
    assert here.startswith("Line.")
    assert a.names() == sorted(["line", here.partition("@")[0]], key=str.lower)


def test_a_renamed_adapter_is_the_same_versions(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    a.register("line", make_state(1), base=BASE)
    send(a, b)
    a.upkeep.rename("line", "other")
    assert send(a, b).versions == ()
    assert b.names() == ["line"]


def test_two_runs_of_one_name(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    learn(a)
    learn(b, shift=1)
    kept = content(a)
    arrived = send(b, a)
    (run,) = arrived.runs
    assert run.startswith("demo.")
    assert arrived.scores == 4
    assert {there: here[-2:] for here, there in arrived.renamed.items()} == {
        "demo.ewc@1": "@1",
        "demo.ewc@2": "@2",
    }
    assert a.run(run).config == {"seed": 1}
    renamed = {there: here for here, there in arrived.renamed.items()}
    assert [step.versions for step in a.steps(run)] == [(renamed["demo.ewc@1"],), (renamed["demo.ewc@2"],)]
    assert [answer.refs() for s in a.steps(run) for answer in s.answers.values()] == [
        (renamed["demo.ewc@1"],),
        (renamed["demo.ewc@2"],),
    ]
    assert a.show(renamed["demo.ewc@2"]).run == run
    assert [s.value for s in a.scores(run=run)] == [s.value for s in b.scores()]
    assert a.scores(run="demo") == kept["scores"]
    assert a.steps("demo") == kept["steps"]
    assert send(b, a).runs == ()
    assert send(a, b).runs != ()
    assert (audit(a.path), audit(b.path)) == ([], [])


def test_a_run_that_went_on_in_two_places(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    learn(a, steps=1)
    send(a, b)
    for store, shift in ((a, 0), (b, 5)):
        version = store.register("demo.ewc", make_state(shift + 70), base=BASE, run="demo", task="mail")
        value = [score(1, "tickets", 0.1 * shift)]
        told = {"task": "mail", "answers": {}, "versions": [version.ref], "scores": value, "seconds": 1.0}
        store.finish_step("demo", "ewc", 1, **told)
    kept = content(a)
    arrived = send(b, a)
    assert arrived.conflicts == (Conflict("demo/ewc/1", "another step", "one step"),)
    assert (a.steps("demo"), a.scores()) == (kept["steps"], kept["scores"])
    assert list(arrived.renamed.values()) == ["demo.ewc@2"]


def test_a_run_grows_and_ends(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    learn(a, steps=1)
    send(a, b)
    assert b.run("demo").status == "interrupted"
    learn(a, steps=2)
    a.finish_run("demo", "finished")
    arrived = send(a, b)
    assert (arrived.versions, arrived.runs, arrived.scores) == (("demo.ewc@2",), ("demo",), 2)
    assert content(b) == content(a)


def test_a_score_that_differs_is_told(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    learn(a, steps=0)
    send(a, b)
    a.add_scores([score(0, "tickets", 0.5), score(0, "mail", 0.5)])
    b.add_scores([score(0, "tickets", 0.25)])
    arrived = send(a, b)
    assert arrived.scores == 1
    assert arrived.conflicts == (Conflict("demo/ewc/0/main/tickets", "another score", "0.5"),)
    assert [s.value for s in b.scores()] == [0.25, 0.5]


def test_aliases_move_on_and_never_apart(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    for seed in range(3):
        a.register("line", make_state(seed), base=BASE)
    a.aliases.set("line@1", "champion")
    assert send(a, b).aliases == ("line@champion",)
    a.aliases.set("line@2", "champion")
    a.aliases.remove("line", "champion")
    a.aliases.set("line@3", "champion")
    assert send(b, a).aliases == ()
    assert a.resolve("line@champion") == "line@3"
    assert send(a, b).aliases == ("line@champion",)
    assert b.resolve("line@champion") == "line@3"
    assert [(c.before, c.after) for c in b.aliases.log("line")] == [(None, 3), (2, None), (1, 2), (None, 1)]
    # Both move it: each keeps its own and hears of the other's.
    a.aliases.set("line@1", "champion")
    b.aliases.set("line@2", "champion")
    assert send(a, b).conflicts == (Conflict("line@champion", "line@2", "line@1"),)
    assert send(b, a).conflicts == (Conflict("line@champion", "line@1", "line@2"),)
    assert (a.resolve("line@champion"), b.resolve("line@champion")) == ("line@1", "line@2")
    # Settled in one place by saying so, there is nothing more to tell.
    b.aliases.set("line@1", "champion")
    assert send(a, b).conflicts == ()
    assert (audit(a.path), audit(b.path)) == ([], [])


def test_an_alias_of_a_version_that_has_another_name_here(
    a: AdapterStore, b: AdapterStore, send: Send
) -> None:
    a.register("line", make_state(1), base=BASE)
    b.register("line", make_state(2), base=BASE)
    b.aliases.set("line@1", "champion")
    arrived = send(b, a)
    (moved,) = arrived.renamed
    assert arrived.conflicts == (Conflict("line@champion", moved, "line@1"),)
    assert a.aliases.of() == {}


def test_tags_are_added_and_never_replaced(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    a.register("line", make_state(1), base=BASE)
    send(a, b)
    a.tags.set("line", {"owner": "ada", "keep": ""})
    b.tags.set("line", {"owner": "bob", "site": "b"})
    assert send(a, b).conflicts == (Conflict("line@1 tag owner", "bob", "ada"),)
    assert b.tags.of() == {"line@1": {"keep": "", "owner": "bob", "site": "b"}}


def test_what_a_version_was_stays_as_it_was(a: AdapterStore, b: AdapterStore, send: Send) -> None:
    source = fill(a.path.parent / "full")
    send(source, b)
    for version in source.versions():
        assert b.show(version.ref) == version
        assert b.register(
            version.name,
            b.load(version.ref),
            base=version.base,
            origin=version.origin,
            parents=version.parents,
            recipe=version.recipe,
            run=version.run,
            task=version.task,
        ) == b.show(version.ref)


LINES = ("x", "y")
ACTS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(("new", "alias", "tag", "send")), st.integers(0, 3)),
    max_size=14,
)


@settings(max_examples=15)
@given(acts=ACTS)
def test_stores_that_exchange_come_to_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    stores = {name: AdapterStore(folder / name) for name in "ab"}
    count = iter(range(100))

    def send(source: str) -> None:
        target = stores["b" if source == "a" else "a"]
        before = {v.ref: v for v in target.versions()}, target.aliases.of()
        bundle = stores[source].transfer.bundle(folder / f"{next(count)}.tar")
        arrived = target.transfer.unbundle(bundle.path)
        assert {ref: target.show(ref) for ref in before[0]} == before[0]
        assert {v.ref for v in target.versions()} == before[0].keys() | set(arrived.versions)

    for name, act, number in acts:
        store = stores[name]
        if act == "new":
            parents = [Parent(version.ref) for version in store.versions(limit=1)]
            store.register(LINES[number % 2], make_state(number), base=BASE, parents=parents)
        elif act == "send":
            send(name)
        elif store.versions():
            version = store.versions()[number % len(store.versions())]
            if act == "alias":
                store.aliases.set(version.ref, "champion")
            else:
                store.tags.set(version.ref, {"owner": str(number)})
    send("a")
    send("b")
    held = []
    for store in stores.values():
        assert audit(store.path) == []
        held.append(sorted((v.name.partition(".")[0], v.sha256, len(v.parents)) for v in store.versions()))
        store.close()
    assert held[0] == held[1]
