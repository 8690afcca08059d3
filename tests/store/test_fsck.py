"""Checking: every kind of damage is named, nothing healthy is, and repair loses nothing."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.errors import IntegrityError, UsageError
from contpeft.store import AdapterStore


def fill(store: AdapterStore, count: int) -> list[Path]:
    """Registers ``count`` versions of ``line`` and returns their files."""
    shas = [store.register("line", make_state(seed), base=BASE).sha256 for seed in range(count)]
    return [store._blobs.path(sha) for sha in shas]


def kinds(store: AdapterStore, **options: bool) -> dict[str, str]:
    return {finding.subject: finding.kind for finding in store.upkeep.fsck(**options).findings}


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.fixture
def raw(store: AdapterStore) -> Iterator[sqlite3.Connection]:
    """A plain connection, foreign keys and all triggers off, to a store with three versions."""
    fill(store, 3)
    with closing(sqlite3.connect(store.path / "store.db", isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER version_immutable")
        yield connection


def test_a_healthy_store(store: AdapterStore) -> None:
    fill(store, 5)
    store.register("copy", make_state(0), base=BASE)
    store.register("gone", make_state(9), base=BASE)
    store.upkeep.remove(["gone"])
    checked = store.upkeep.fsck()
    assert (checked.findings, checked.versions, checked.files, checked.read, checked.orphans) == (
        (),
        6,
        5,
        5,
        1,
    )
    quick = store.upkeep.fsck(quick=True)
    assert (quick.findings, quick.files, quick.read) == ((), 5, 0)
    assert AdapterStore(store.path).upkeep.fsck().findings == ()


def test_an_empty_store_is_healthy(store: AdapterStore) -> None:
    assert store.upkeep.fsck(sample=0.5).findings == ()


def rot(files: list[Path], lots: tuple[int, int, int, int], numbers: random.Random) -> dict[str, str]:
    """Flips a bit in each of the first lot of files, cuts the second, deletes the third, swaps the last.

    Returns:
        What should be found.
    """
    flipped, cut, deleted, swapped = (files[sum(lots[:i]) : sum(lots[: i + 1])] for i in range(4))
    for path in flipped:
        data = bytearray(path.read_bytes())
        data[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)
        overwrite(path, bytes(data))
    for path in cut:
        data = bytearray(path.read_bytes())
        overwrite(path, bytes(data[: numbers.randrange(len(data))]))
    for path in deleted:
        path.unlink()
    for one, other in zip(swapped[::2], swapped[1::2], strict=True):
        first, second = one.read_bytes(), other.read_bytes()
        overwrite(one, second)
        overwrite(other, first)
    kinds = [*["corrupt"] * lots[0], *["size"] * lots[1], *["missing"] * lots[2], *["corrupt"] * lots[3]]
    return {f"line@{place + 1}": kind for place, kind in enumerate(kinds)}


@pytest.mark.parametrize(
    "lots", [(6, 6, 6, 6), pytest.param((200, 50, 50, 50), marks=pytest.mark.acceptance)], ids=sum
)
def test_bit_rot_is_named_refused_and_healed(store: AdapterStore, lots: tuple[int, int, int, int]) -> None:
    files = fill(store, sum(lots))
    store.register("healthy", make_state(10_000), base=BASE)
    expected = rot(files, lots, random.Random(lots[0]))
    assert kinds(store) == expected
    assert kinds(store, quick=True) == {
        ref: kind for ref, kind in expected.items() if kind in ("size", "missing")
    }
    for ref in expected:
        with pytest.raises(IntegrityError):
            store.load(ref)
    for seed in range(sum(lots)):
        assert store.register("line", make_state(seed), base=BASE).ref == f"line@{seed + 1}"
    assert (store.upkeep.fsck().findings, audit(store.path)) == ((), [])


def test_repair_moves_damaged_files_and_removes_no_version(store: AdapterStore) -> None:
    files = fill(store, 4)
    before = store.versions()
    overwrite(files[0], b"x" * files[0].stat().st_size)
    overwrite(files[1], b"short")
    files[2].unlink()
    found = {finding.subject: finding for finding in store.upkeep.fsck(repair=True).findings}
    assert {ref: finding.kind for ref, finding in found.items()} == {
        "line@1": "corrupt",
        "line@2": "size",
        "line@3": "missing",
    }
    assert found["line@3"].quarantine is None
    for ref, content in (("line@1", b"x" * 100), ("line@2", b"short")):
        place = store.path / "quarantine" / str(found[ref].quarantine)
        assert place.read_bytes()[:100] == content
        (event,) = store.events(store.show(ref).sha256)
        assert (event.action, event.detail) == ("blob.quarantined", {"quarantine": place.name})
    assert kinds(store) == {"line@1": "missing", "line@2": "missing", "line@3": "missing"}
    assert store.versions() == before
    for seed in range(3):
        store.register("line", make_state(seed), base=BASE)
    assert (store.upkeep.fsck().findings, audit(store.path)) == ((), [])


def test_all_versions_of_a_damaged_file_are_named(store: AdapterStore) -> None:
    (path,) = fill(store, 1)
    store.register("copy", make_state(0), base=BASE)
    overwrite(path, b"x" * path.stat().st_size)
    (finding,) = store.upkeep.fsck().findings
    assert set(finding.subject.split()) == {"line@1", "copy@1"}


@pytest.mark.parametrize(
    ("statement", "kind", "subject", "detail"),
    [
        ("UPDATE adapter SET next_n = 2", "catalogue", "line@3", "the next number would be 2"),
        ("UPDATE version SET config = '{' WHERE n = 2", "catalogue", "line@2", "is no JSON"),
        ("UPDATE version SET parameters = 7 WHERE n = 2", "config", "line@2", "not those of its tensors"),
        ("UPDATE version SET fingerprint = 'x' WHERE n = 1", "config", "line@1", "not those of its tensors"),
        ("DELETE FROM base_model", "catalogue", "version 1", "names a row of base_model that is not there"),
        ("DELETE FROM adapter", "catalogue", "version 1", "names a row of adapter that is not there"),
    ],
)
def test_a_damaged_catalogue(
    store: AdapterStore, raw: sqlite3.Connection, statement: str, kind: str, subject: str, detail: str
) -> None:
    raw.execute(statement)
    found = [finding for finding in store.upkeep.fsck().findings if finding.subject == subject]
    assert [finding.kind for finding in found] == [kind]
    assert detail in found[0].detail


def test_rows_that_break_their_table_are_found(store: AdapterStore, raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA writable_schema = ON")
    raw.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, 'data        TEXT', 'data        TEXT NOT NULL') "
        "WHERE name = 'version'"
    )
    raw.close()
    store.close()
    for quick in (False, True):
        found = store.upkeep.fsck(quick=quick).findings
        assert {(finding.kind, finding.subject, finding.detail) for finding in found} == {
            ("catalogue", "store.db", "NULL value in version.data")
        }


@pytest.mark.parametrize(("sample", "read"), [(0.05, 1), (0.3, 6), (1.0, 20)])
def test_a_sample(store: AdapterStore, sample: float, read: int) -> None:
    fill(store, 20)
    checked = store.upkeep.fsck(sample=sample)
    assert (checked.read, checked.files) == (read, 20)


def test_samples_differ_and_come_to_everything(store: AdapterStore) -> None:
    files = fill(store, 4)
    overwrite(files[0], b"x" * files[0].stat().st_size)
    counts = [len(store.upkeep.fsck(sample=0.25).findings) for _ in range(60)]
    assert set(counts) == {0, 1}


@pytest.mark.parametrize("sample", [0.0, -0.1, 1.1])
def test_no_share(store: AdapterStore, sample: float) -> None:
    with pytest.raises(UsageError, match="cannot check a share of"):
        store.upkeep.fsck(sample=sample)


def test_when_time_is_up_no_file_is_read(store: AdapterStore) -> None:
    files = fill(store, 5)
    files[0].unlink()
    checked = store.upkeep.fsck(max_seconds=0)
    assert (checked.read, [finding.kind for finding in checked.findings]) == (0, ["missing"])


def test_a_version_removed_meanwhile_is_no_finding(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    stat: Callable[[Path], object] = store._blobs.stat

    def remove_first(path: Path) -> object:
        monkeypatch.setattr(store._blobs, "stat", stat)
        sha256 = path.stem
        (ref,) = [version.ref for version in store.versions() if version.sha256 == sha256]
        store.upkeep.remove([ref])
        path.unlink()
        return stat(path)

    monkeypatch.setattr(store._blobs, "stat", remove_first)
    assert store.upkeep.fsck().findings == ()
    assert len(store.versions()) == 2


def test_a_file_healed_meanwhile_stays(store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = fill(store, 1)
    good = path.read_bytes()
    overwrite(path, b"x" * len(good))
    read = store._blobs.read

    def heal_after(sha256: str, what: str) -> bytes:
        try:
            return read(sha256, what)
        finally:
            overwrite(path, good)

    monkeypatch.setattr(store._blobs, "read", heal_after)
    (finding,) = store.upkeep.fsck(repair=True).findings
    assert (finding.kind, finding.quarantine, path.read_bytes()) == ("corrupt", None, good)
