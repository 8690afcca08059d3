"""What happens to versions on a shared basis: whatever is done to a store, they load, and so does no less."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from store_audit import audit
from store_shared import apart, related
from store_workers import BASE

from contpeft.errors import IntegrityError, UnsupportedError, UsageError
from contpeft.spec import AdapterState, Parent
from contpeft.store import AdapterStore, Policy, Request
from contpeft.store.compression.expanding import mark
from contpeft.store.reading import open_tensors
from contpeft.store.tensors import BASIS

COUNT = 4
OLD, NEW = ([f"task-{place}@{n}" for place in range(COUNT)] for n in (1, 2))
NOW = timedelta(0)


@pytest.fixture
def shared(store: AdapterStore) -> AdapterStore:
    """task-0@2 to task-3@2 on shared-basis@1, and the versions they were made of."""
    for place, state in enumerate(related(COUNT, noise=0.1)):
        store.register(f"task-{place}", state, base=BASE)
    store.compression.compress(OLD, 0.75)
    return store


def loaded(store: AdapterStore, refs: list[str] = NEW) -> list[dict[str, torch.Tensor]]:
    return [dict(store.load(ref).tensors) for ref in refs]


def same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_every_way_of_reading_gives_the_same_tensors(shared: AdapterStore) -> None:
    expected = loaded(shared)
    assert same([dict(shared.load(ref, verify=False).tensors) for ref in NEW], expected)
    for ref, tensors in zip(NEW, expected, strict=True):
        with open_tensors(shared._blobs, shared.show(ref), "") as opened:
            assert (len(opened), set(opened)) == (len(tensors), tensors.keys())
            assert BASIS not in opened
            assert same([dict(opened)], [tensors])
            with pytest.raises(KeyError):
                opened[BASIS]


def test_the_basis_cannot_be_removed_from_under_its_versions(shared: AdapterStore) -> None:
    with pytest.raises(UsageError, match=r"'shared-basis@1' in .* must stay: task-0@2 was made from it"):
        shared.upkeep.remove(["shared-basis"])
    shared.upkeep.remove(NEW[:3])
    with pytest.raises(UsageError, match="task-3@2 was made from it"):
        shared.upkeep.remove(["shared-basis"])
    shared.upkeep.remove(["shared-basis@1", NEW[3]])
    assert [version.ref for version in shared.versions()] == OLD[::-1]


def test_what_they_were_made_of_can_go_and_its_bytes_with_it(shared: AdapterStore) -> None:
    expected, before = loaded(shared), shared.inspect.usage().bytes
    shared.upkeep.remove(OLD)
    shared.upkeep.gc(NOW)
    assert same(loaded(shared), expected)
    assert shared.inspect.usage().bytes < before
    assert audit(shared.path) == []


def test_garbage_collection_takes_a_basis_nobody_needs(shared: AdapterStore) -> None:
    path = shared._blobs.path(shared.show("shared-basis").sha256)
    shared.upkeep.gc(NOW)
    assert path.exists()
    shared.upkeep.remove([*NEW, "shared-basis"])
    shared.upkeep.gc(NOW)
    assert not path.exists()


def test_pruning_keeps_the_basis_of_what_it_keeps(shared: AdapterStore) -> None:
    expected = loaded(shared)
    pruned = shared.upkeep.prune(Policy(last=1))
    assert sorted(pruned.removed.refs) == OLD
    shared.tags.set(NEW[2], {"keep": ""})
    pruned = shared.upkeep.prune(Policy(last=0), everything=True)
    assert pruned.kept == {NEW[2]: "has the tag keep", "shared-basis@1": f"{NEW[2]} was made from it"}
    shared.upkeep.gc(NOW)
    assert same(loaded(shared, [NEW[2]]), [expected[2]])


def test_bundles_take_the_basis_along(shared: AdapterStore, tmp_path: Path) -> None:
    shared.transfer.bundle(tmp_path / "one.tar", [NEW[1]])
    other = AdapterStore(tmp_path / "other")
    assert sorted(other.transfer.unbundle(tmp_path / "one.tar").versions) == ["shared-basis@1", NEW[1]]
    assert same(loaded(other, [NEW[1]]), loaded(shared, [NEW[1]]))
    other.close()


def test_a_basis_of_the_same_name_there_is_no_trouble(shared: AdapterStore, tmp_path: Path) -> None:
    other = AdapterStore(tmp_path / "other")
    for place, state in enumerate(related(COUNT, noise=0.3)):
        other.register(f"mine-{place}", state, base=BASE)
    other.compression.compress([f"mine-{place}" for place in range(COUNT)], 0.6)
    own = loaded(other, ["mine-1"])
    shared.transfer.add_remote("hub", str(tmp_path / "hub"))
    other.transfer.add_remote("hub", str(tmp_path / "hub"))
    shared.transfer.push("hub")
    arrived = other.transfer.pull("hub")
    (basis,) = arrived.renamed
    assert arrived.renamed[basis] == "shared-basis@1"
    assert other.show(NEW[0]).parents == (Parent(basis, "frozen"),)
    assert same(loaded(other), loaded(shared))
    assert same(loaded(other, ["mine-1"]), own)
    assert other.upkeep.fsck().findings == ()
    other.close()


def test_going_out_they_are_ordinary_folders(shared: AdapterStore, tmp_path: Path) -> None:
    exported = shared.exchange.export_folder(NEW[0], tmp_path / "out")
    expected = shared.load(NEW[0])
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert same([weights], [expected.adapter_tensors()])
    assert exported.ref == NEW[0]
    other = AdapterStore(tmp_path / "other")
    found = other.exchange.import_folder(tmp_path / "out", "again")
    assert same([dict(other.load(found.ref).tensors)], [dict(expected.tensors)])
    assert found.parents == ()
    other.close()
    with pytest.raises(UnsupportedError, match="shared-basis@1 is of kind 'basis' and holds no adapter"):
        shared.exchange.export_folder("shared-basis", tmp_path / "basis")


def test_a_backup_has_both(shared: AdapterStore, tmp_path: Path) -> None:
    shared.upkeep.backup(tmp_path / "copy")
    copy = AdapterStore(tmp_path / "copy")
    assert same(loaded(copy), loaded(shared))
    copy.close()


def test_checking_finds_nothing_wrong_and_damage_of_the_basis(shared: AdapterStore) -> None:
    assert shared.upkeep.fsck().findings == ()
    path = shared._blobs.path(shared.show("shared-basis").sha256)
    data = bytearray(path.read_bytes())
    path.unlink()
    with pytest.raises(IntegrityError, match=r"the basis of version 'task-0@2' in .* cannot be read"):
        shared.load(NEW[0])
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"the basis of version 'task-0@2' in .* is damaged"):
        shared.load(NEW[0])
    assert [(f.kind, f.subject) for f in shared.upkeep.fsck().findings] == [("corrupt", "shared-basis@1")]
    data[-1] ^= 1
    path.write_bytes(data)
    assert shared.upkeep.fsck().findings == ()


def test_a_version_told_in_nothing_is_found(shared: AdapterStore) -> None:
    state = AdapterState("lora", {}, {BASIS: mark("ab" * 32), "x": torch.ones(1)})
    shared.register("lost", state, base=BASE)
    (finding,) = shared.upkeep.fsck().findings
    assert (finding.kind, finding.subject) == ("basis", "lost@1")
    with pytest.raises(IntegrityError, match=r"the basis of version 'lost@1' in .* cannot be read"):
        shared.load("lost")


def test_coordinates_that_do_not_fit_are_refused(shared: AdapterStore) -> None:
    digest, stored = shared.show("shared-basis").sha256, shared.load("shared-basis").tensors
    name = min(stored)
    wrong = {
        "short": ({BASIS: mark(digest)[:31], "x": torch.ones(1)}, "names its basis by what is no digest"),
        "float": ({BASIS: torch.rand(32), "x": torch.ones(1)}, "names its basis by what is no digest"),
        "foreign": ({BASIS: mark(digest), "x": torch.ones(1)}, "is told in a basis that lacks 'x'"),
        "narrow": ({BASIS: mark(digest), name: torch.ones(2, 1)}, "does not fit its basis"),
    }
    for label, (tensors, reason) in wrong.items():
        shared.register(label, AdapterState("lora", {}, tensors), base=BASE)
        with pytest.raises(IntegrityError, match=f"version '{label}@1' in .* {reason}"):
            shared.load(label)


def test_they_are_fused_compared_and_looked_into_as_others_are(shared: AdapterStore) -> None:
    fused = shared.fusion.fuse(Request(NEW[:1]), "alone")
    assert apart(shared.load(NEW[0]), shared.load(fused.ref)) < 1e-5
    assert shared.fusion.verify("alone").equal
    change = shared.inspect.diff(OLD[0], NEW[0])
    assert {each.shapes[0] for each in change.tensors} <= {(4, 20), (30, 4), (18, 4)}
    found = shared.inspect.adapters([OLD[0], NEW[0]])
    assert found.similarity is not None
    expected = apart(shared.load(OLD[0]), shared.load(NEW[0]))
    assert found.similarity.cosines[0][1] == pytest.approx(1 - expected**2 / 2, abs=expected**2)
    with pytest.raises(UsageError, match="task-0@2 was not made by 'fuse'"):
        shared.fusion.verify(NEW[0])


def test_the_basis_can_be_renamed(shared: AdapterStore) -> None:
    expected = loaded(shared)
    shared.upkeep.rename("shared-basis", "common")
    assert same(loaded(shared), expected)
    assert shared.show(NEW[0]).parents == (Parent("common@1", "frozen"),)


def test_registered_again_they_are_ordinary_versions(shared: AdapterStore) -> None:
    again = shared.register("free", shared.load(NEW[0]), base=BASE)
    shared.upkeep.remove([*NEW, "shared-basis"])
    shared.upkeep.gc(NOW)
    assert again.parents == ()
    assert BASIS not in shared.load("free").tensors
