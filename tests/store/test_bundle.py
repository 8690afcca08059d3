"""Bundles: whole versions in one file, and nothing but that taken out of any file."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_audit import audit
from store_exchange import content, fill
from store_faults import Faults
from store_workers import BASE, make_state

from contpeft.digest import bytes_digest
from contpeft.errors import IntegrityError, NotFoundError, StoreBusyError, UsageError
from contpeft.store import AdapterStore

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> AdapterStore:
    return fill(tmp_path_factory.mktemp("bundle") / "sent")


@pytest.fixture(scope="module")
def made(sent: AdapterStore) -> Path:
    return sent.transfer.bundle(sent.path.parent / "made.tar").path


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "all.tar"))


def test_everything_travels(sent: AdapterStore, bundle: Path, store: AdapterStore) -> None:
    arrived = store.transfer.unbundle(bundle)
    assert sorted(arrived.versions) == ["both@1", "demo.ewc@1", "demo.ewc@2", "other@1"]
    assert (arrived.runs, arrived.scores, arrived.aliases) == (("demo",), 4, ("demo.ewc@champion",))
    assert (arrived.renamed, arrived.conflicts) == ({}, ())
    assert content(store) == content(sent)
    assert audit(store.path) == []
    nothing = store.transfer.unbundle(bundle)
    assert (nothing.versions, nothing.runs, nothing.scores, nothing.aliases) == ((), (), 0, ())
    assert content(store) == content(sent)


def test_one_version_takes_along_what_it_needs(
    sent: AdapterStore, store: AdapterStore, tmp_path: Path
) -> None:
    made = sent.transfer.bundle(tmp_path / "one.tar", ["demo.ewc@champion"])
    assert made.versions == ("demo.ewc@1", "demo.ewc@2")
    assert made.bytes == made.path.stat().st_size
    arrived = store.transfer.unbundle(made.path)
    assert arrived.versions == ("demo.ewc@1", "demo.ewc@2")
    assert store.scores() == sent.scores()
    assert store.tags.of() == sent.tags.of()
    assert store.aliases.log("demo.ewc") == sent.aliases.log("demo.ewc")
    first = sent.transfer.bundle(tmp_path / "first.tar", ["demo.ewc@1"])
    assert first.versions == ("demo.ewc@1",)
    fresh = AdapterStore(tmp_path / "fresh")
    fresh.transfer.unbundle(first.path)
    assert [step.step for step in fresh.steps("demo")] == [0]
    assert {score.step for score in fresh.scores()} == {0}
    assert fresh.aliases.of() == {}
    # The rest comes later and finds its place.
    fresh.transfer.unbundle(made.path)
    assert (content(fresh), audit(fresh.path)) == (content(store), [])


def test_equal_content_gives_equal_bytes(sent: AdapterStore, bundle: Path, tmp_path: Path) -> None:
    again = sent.transfer.bundle(tmp_path / "again.tar").path
    assert again.read_bytes() == bundle.read_bytes()


def test_a_dry_run_tells_all_and_does_nothing(bundle: Path, store: AdapterStore) -> None:
    told = store.transfer.unbundle(bundle, dry_run=True)
    assert (store.versions(), store.runs(), store.events()) == ([], [], [])
    assert list((store.path / "blobs").iterdir()) == []
    assert store.transfer.unbundle(bundle) == told


def test_a_bundle_brings_back_lost_and_damaged_files(bundle: Path, store: AdapterStore) -> None:
    store.transfer.unbundle(bundle)
    lost, torn = (store._blobs.path(store.show(ref).sha256) for ref in ("both@1", "demo.ewc@1"))
    lost.unlink()
    torn.chmod(0o644)
    torn.write_bytes(b"x" * torn.stat().st_size)
    arrived = store.transfer.unbundle(bundle)
    assert (arrived.versions, set(arrived.healed)) == ((), {"both@1", "demo.ewc@1"})
    assert audit(store.path) == []
    assert store.transfer.unbundle(bundle).healed == ()


def test_what_is_asked_wrongly(sent: AdapterStore, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"all.tar exists; name a file that does not"):
        sent.transfer.bundle(bundle)
    with pytest.raises(NotFoundError, match=r"no adapter 'bth' in .*; did you mean 'both'\?"):
        sent.transfer.bundle(tmp_path / "x.tar", ["bth"])
    with pytest.raises(UsageError, match=r"x.tar is no file; name a bundle"):
        sent.transfer.unbundle(tmp_path / "x.tar")


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
def test_a_bundle_is_whole_or_not_there(
    sent: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool
) -> None:
    sent.names()
    before = sorted(tmp_path.iterdir())
    for at in (1, 2):
        with monkeypatch.context() as patch:
            Faults(patch, ("fsync", "rename"), errno.ENOSPC, at, lasting=lasting)
            with pytest.raises(StoreBusyError, match=r"cannot use .*x.tar: No space left on device; free"):
                sent.transfer.bundle(tmp_path / "x.tar")
        assert sorted(tmp_path.iterdir()) == before


def members(bundle: Path) -> Members:
    with tarfile.open(bundle) as archive:
        return [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]


def pack_changed(change: Callable[[Any], object]) -> Callable[[Members], None]:
    def act(held: Members) -> None:
        value = json.loads(held[0][1])
        change(value)
        held[0] = (held[0][0], json.dumps(value).encode())

    return act


def added(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> Callable[[Members], None]:
    def act(held: Members) -> None:
        member = tarfile.TarInfo(name)
        member.type = kind
        for field, value in fields.items():
            setattr(member, field, value)
        held.append((member, b"x" if kind == tarfile.REGTYPE else b""))

    return act


def last_is(data: bytes, *, listed: bool = False) -> Callable[[Members], None]:
    """Puts other bytes where the last file is; ``listed`` makes the pack say so too."""

    def act(held: Members) -> None:
        member, _ = held.pop()
        old = member.name.removeprefix("blobs/").removesuffix(".safetensors")
        if listed:
            new = bytes_digest(data)
            value = json.loads(held[0][1].replace(old.encode(), new.encode()))
            for version in value["versions"]:
                version["bytes"] = len(data) if version["sha256"] == new else version["bytes"]
            held[0] = (held[0][0], json.dumps(value).encode())
            member.name = f"blobs/{new}.safetensors"
        held.append((member, data))

    return act


def linked(kind: bytes) -> Callable[[Members], None]:
    def act(held: Members) -> None:
        held[-1][0].type, held[-1][0].linkname = kind, "/etc/passwd"
        held[-1] = (held[-1][0], b"")

    return act


def version(index: int = -1, **fields: Any) -> Callable[[Members], None]:
    return pack_changed(lambda value: value["versions"][index].update(fields))


PICKLE = b"\x80\x04cos\nsystem\n(S'touch canary'\ntR."
HUGE = (1 << 40).to_bytes(8, "little") + b"{}"
HOSTILE: dict[str, tuple[Callable[[Members], object], str]] = {
    "no pack": (lambda held: held.pop(0), "does not begin with pack.json"),
    "pack is no JSON": (lambda held: held.__setitem__(0, (held[0][0], b"{")), "is no pack of versions"),
    "other format": (pack_changed(lambda v: v.update(format="x")), "is no pack of versions: format"),
    "unknown key": (pack_changed(lambda v: v.update(extra=1)), "is no pack of versions: extra"),
    "outside": (added("../outside"), "holds '../outside'"),
    "absolute": (added("/tmp/outside"), "holds '/tmp/outside'"),
    "unlisted": (added(f"blobs/{'0' * 64}.safetensors"), "is not what its pack.json lists"),
    "duplicate": (lambda held: held.append(held[-1]), "is not what its pack.json lists"),
    "missing": (lambda held: held.pop(), "lacks blobs/"),
    "symbolic link": (linked(tarfile.SYMTYPE), "is not what its pack.json lists"),
    "hard link": (linked(tarfile.LNKTYPE), "is not what its pack.json lists"),
    "device": (added("blobs/sda", tarfile.BLKTYPE, devmajor=8), "holds 'blobs/sda'"),
    "folder": (added("blobs", tarfile.DIRTYPE), "holds 'blobs'"),
    "other size": (last_is(b"short"), "is not what its pack.json lists"),
    "other bytes": (last_is(bytes(272)), "has other bytes for"),
    "pickle": (last_is(PICKLE, listed=True), "it is shorter than its header says"),
    "text": (last_is(bytes(8) + b"no header", listed=True), "its JSON is malformed"),
    "long header": (last_is(HUGE, listed=True), "it is shorter than its header says"),
    "other tensors": (version(fingerprint="0" * 64), "has other tensors for"),
    "other count": (version(parameters=7), "has other tensors for"),
    "hostile name": (version(ref="../x@1"), "adapter name '../x' is not usable"),
    "no number": (version(ref="both@latest"), "does not name one version for good"),
    "huge number": (version(ref=f"both@{10**30}"), "does not name one version for good"),
    "no digest": (version(sha256="../../x"), "versions.3.sha256"),
    "infinite": (version(seconds=1e999), "versions.3.seconds"),
    "other role": (pack_changed(lambda v: v["versions"][3]["parents"][0].update(role="x")), "parents.0.role"),
    "orphan": (pack_changed(lambda v: v["versions"].pop(0)), "is not what its pack.json lists"),
    "no parent": (
        pack_changed(lambda v: v["versions"][3]["parents"][0].update(uid="gone@1 x")),
        "not what it was made from (gone@1)",
    ),
    "own parent": (
        pack_changed(lambda v: v["versions"][3]["parents"][0].update(uid=v["versions"][3]["uid"])),
        "made from itself",
    ),
    "no run": (version(1, run="gone 2026"), "but not the run that made it"),
    "alias moves nowhere": (
        pack_changed(lambda v: v["aliases"][0]["history"].append(v["aliases"][0]["history"][-1])),
        "a move leads nowhere else",
    ),
    "alias latest": (pack_changed(lambda v: v["aliases"][0].update(alias="latest")), "cannot be an alias"),
    "task twice": (
        pack_changed(lambda v: v["runs"][0]["tasks"].append(v["runs"][0]["tasks"][0])),
        "has two tasks called 'tickets'",
    ),
    "no composition": (
        pack_changed(lambda v: v["runs"][0]["steps"][0]["answers"].update(main={"type": "x"})),
        "no composition of type 'x'",
    ),
    "unknown version in a step": (
        pack_changed(lambda v: v["runs"][0]["steps"][0].update(versions=["gone@1"])),
        "no adapter 'gone'",
    ),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_bundle_is_refused_whole(
    bundle: Path, tmp_path: Path, change: Callable[[Members], object], message: str
) -> None:
    held = members(bundle)
    change(held)
    hostile = tmp_path / "hostile.tar"
    with tarfile.open(hostile, "w") as archive:
        for member, data in held:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    store = AdapterStore(tmp_path / "target")
    store.register("both", make_state(1), base=BASE)
    before, outside = content(store), sorted(tmp_path.iterdir())
    with pytest.raises((IntegrityError, UsageError, NotFoundError)) as caught:
        store.transfer.unbundle(hostile)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (content(store), sorted(tmp_path.iterdir())) == (before, outside)
    assert audit(store.path) == []
    assert not Path("canary").exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_bundle_cut_short_is_refused(bundle: Path, store: AdapterStore, share: float) -> None:
    last = members(bundle)[-1][0]
    os.truncate(bundle, int(share * (last.offset_data + last.size)))
    with pytest.raises(IntegrityError, match=r"all\.tar (is no bundle|lacks)"):
        store.transfer.unbundle(bundle)
    assert store.versions() == []


def test_a_sparse_giant_is_refused_unread(bundle: Path, store: AdapterStore) -> None:
    held = members(bundle)
    with tarfile.open(bundle, "w") as archive:
        for member, data in held[:-1]:
            archive.addfile(member, io.BytesIO(data))
        end = archive.offset
    member = held[-1][0]
    member.size = 10 << 30
    with bundle.open("r+b") as file:
        file.seek(end)
        file.write(member.tobuf())
        file.truncate(end + 512 + (10 << 30))
    assert os.stat(bundle).st_blocks * 512 < 1 << 20
    with pytest.raises(IntegrityError, match=r"\(10737418240 bytes\), which is not what its pack.json lists"):
        store.transfer.unbundle(bundle)
