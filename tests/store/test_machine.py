"""A store against a dictionary: any sequence of changes leaves both with the same content."""

from __future__ import annotations

import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.errors import NotFoundError, UsageError
from contpeft.spec import Parent
from contpeft.store import AdapterStore, Policy

NAMES = st.sampled_from(["a", "b", "c"])
SEEDS = st.integers(0, 5)
ALIASES = st.sampled_from(["champion", "stable"])
STATES = {seed: make_state(seed) for seed in range(6)}


class StoreMachine(RuleBasedStateMachine):
    """Keeps beside the store what should be in it."""

    refs = Bundle("refs")

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = AdapterStore(self.folder / "store")
        self.digests: dict[str, str] = {}
        self.parents: dict[str, str | None] = {}
        self.seeds: dict[str, tuple[int, str | None]] = {}
        self.next: dict[str, int] = {}
        self.aliases: dict[tuple[str, str], list[int | None]] = {}
        self.tags: dict[str, dict[str, str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            assert audit(self.store.path) == []
            assert self.store.upkeep.fsck().findings == ()
            self.store.close()
            shutil.rmtree(self.folder)

    def alias_of(self, ref: str) -> bool:
        name, _, n = ref.rpartition("@")
        return any(key[0] == name and past and past[-1] == int(n) for key, past in self.aliases.items())

    def forget(self, ref: str) -> None:
        for kept in (self.digests, self.parents, self.seeds, self.tags):
            kept.pop(ref, None)

    @rule(target=refs, name=NAMES, seed=SEEDS, parent=st.none() | refs)
    def register(self, name: str, seed: int, parent: str | None) -> object:
        if parent is not None and parent not in self.digests:
            return multiple()
        parents = [Parent(parent)] if parent else []
        version = self.store.register(name, STATES[seed], base=BASE, parents=parents)
        same = [r for r, made in self.seeds.items() if made == (seed, parent) and r.startswith(f"{name}@")]
        if same:
            assert version.ref == same[0]
            return multiple()
        self.next[name] = self.next.get(name, 0) + 1
        assert version.ref == f"{name}@{self.next[name]}"
        self.digests[version.ref], self.parents[version.ref] = version.sha256, parent
        self.seeds[version.ref] = (seed, parent)
        return version.ref

    @rule(ref=refs, alias=ALIASES)
    def set_alias(self, ref: str, alias: str) -> None:
        name, _, n = ref.rpartition("@")
        if ref in self.digests:
            self.store.aliases.set(ref, alias)
            past = self.aliases.setdefault((name, alias), [None])
            if past[-1] != int(n):
                past.append(int(n))

    @rule(name=NAMES, alias=ALIASES)
    def undo_alias(self, name: str, alias: str) -> None:
        past = self.aliases.get((name, alias), [None])
        before = past[-2] if len(past) > 1 else None
        gone = before is not None and f"{name}@{before}" not in self.digests
        if len(past) == 1 or gone:
            with pytest.raises(NotFoundError):
                self.store.aliases.undo(name, alias)
        else:
            assert self.store.aliases.undo(name, alias).after == before
            past.pop()

    @rule(ref=refs, key=st.sampled_from(["keep", "x"]), value=st.text(max_size=3))
    def tag(self, ref: str, key: str, value: str) -> None:
        if ref in self.digests and "\x00" not in value:
            self.store.tags.set(ref, {key: value})
            self.tags.setdefault(ref, {})[key] = value

    @rule(ref=consumes(refs))
    def remove(self, ref: str) -> None:
        if ref not in self.digests:
            with pytest.raises(NotFoundError):
                self.store.upkeep.remove([ref])
        elif self.alias_of(ref) or ref in self.parents.values():
            with pytest.raises(UsageError, match="must stay"):
                self.store.upkeep.remove([ref])
        else:
            self.store.upkeep.remove([ref])
            self.forget(ref)

    @precondition(lambda self: self.digests)
    @rule(last=st.integers(0, 2))
    def prune(self, last: int) -> None:
        kept: set[str] = set()
        for name in self.next:
            line = sorted((r for r in self.digests if r.startswith(f"{name}@")), key=lambda r: int(r[2:]))
            kept.update(line[len(line) - last :])
        kept.update(ref for ref in self.digests if self.alias_of(ref) or "keep" in self.tags.get(ref, {}))
        while more := {self.parents[ref] for ref in kept} - kept - {None}:
            kept.update(ref for ref in more if ref is not None)
        pruned = self.store.upkeep.prune(Policy(last=last), everything=True)
        assert set(pruned.kept) == kept
        assert set(pruned.removed.refs) == set(self.digests) - kept
        for ref in pruned.removed.refs:
            self.forget(ref)

    @rule()
    def collect(self) -> None:
        self.store.upkeep.gc(timedelta(0))
        files = {path.stem for path in (self.store.path / "blobs").rglob("*.safetensors")}
        assert files == set(self.digests.values())

    @rule()
    def travel(self) -> None:
        """What went out comes in as it was, and changes nothing where it already is."""
        file, copy = self.folder / "all.tar", AdapterStore(self.folder / "copy")
        self.store.transfer.bundle(file)
        copy.transfer.unbundle(file)
        assert {v.ref: v for v in copy.versions()} == {v.ref: v for v in self.store.versions()}
        assert (copy.aliases.of(), copy.tags.of()) == (self.store.aliases.of(), self.store.tags.of())
        again = self.store.transfer.unbundle(file)
        assert (again.versions, again.aliases, again.conflicts) == ((), (), ())
        copy.close()
        file.unlink()
        shutil.rmtree(copy.path)

    @rule(ref=refs)
    def lose_and_recover(self, ref: str) -> None:
        if ref in self.digests:
            file = self.folder / "one.tar"
            self.store.transfer.bundle(file, [ref])
            self.store._blobs.path(self.digests[ref]).unlink()
            assert ref in self.store.transfer.unbundle(file).healed
            file.unlink()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = AdapterStore(self.store.path, create=False)

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        assert {v.ref: v.sha256 for v in self.store.versions()} == self.digests
        named = {f"{name}@{past[-1]}" for (name, _), past in self.aliases.items() if past[-1] is not None}
        assert set(self.store.aliases.of()) == named
        assert self.store.tags.of() == self.tags


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_store_is_a_dictionary() -> None:
    run(12, 25)


@pytest.mark.acceptance
def test_a_store_is_a_dictionary_for_long() -> None:
    run(500, 50)
