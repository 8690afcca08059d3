"""References: which version each spelling stands for, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_workers import BASE, make_state

from contpeft.errors import NotFoundError, SpecError
from contpeft.spec import AdapterRef, Parent
from contpeft.store import AdapterStore


@pytest.fixture
def lines(store: AdapterStore) -> AdapterStore:
    """billing@1, billing@2 made from it, refunds@1 made from both."""
    store.start_run("demo", config={}, seed=0, tasks=[], scenario="class-incremental")
    store.register("billing", make_state(1), base=BASE, task="a", run="demo")
    store.register("billing", make_state(2), base=BASE, task="b", parents=[Parent("billing@1")], run="demo")
    parents = [Parent("billing@2", "frozen"), Parent("billing@1")]
    store.register("refunds", make_state(3), base=BASE, task="b", parents=parents)
    return store


def test_resolve(lines: AdapterStore) -> None:
    digest = lines.show("billing@1").sha256
    spellings = {
        "billing": "billing@2",
        "billing@latest": "billing@2",
        "billing@1": "billing@1",
        f"sha256:{digest[:8]}": "billing@1",
        f"sha256:{digest}": "billing@1",
        AdapterRef("refunds"): "refunds@1",
    }
    assert {ref: lines.resolve(ref) for ref in spellings} == spellings


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("billng", "no adapter 'billng' in {}; did you mean 'billing'?"),
        ("Billing", "no adapter 'Billing' in {}; did you mean 'billing'?"),
        ("zzz", "no adapter 'zzz' in {}; there are: billing, refunds"),
        ("billing@3", "no version 'billing@3' in {}; there are: 1 to 2"),
        ("billing@0", "no version 'billing@0' in {}; there are: 1 to 2"),
        ("refunds@champion", "no version 'refunds@champion' in {}: no such alias; there are none yet"),
        ("sha256:00000000", "no version with digest 'sha256:00000000' in {}; contpeft store list has them"),
    ],
)
def test_not_found(lines: AdapterStore, ref: str, message: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        lines.resolve(ref)
    assert str(caught.value) == message.format(lines.path)
    for method in (lines.show, lines.load, lines.children):
        with pytest.raises(NotFoundError):
            method(ref)


@pytest.mark.parametrize("ref", ["", "a b", "@1", "billing@", "sha256:xyz", "sha256:abc", "../x@1"])
def test_not_a_reference(lines: AdapterStore, ref: str) -> None:
    with pytest.raises(SpecError):
        lines.resolve(ref)


def test_a_digest_two_versions_share_names_none(lines: AdapterStore) -> None:
    version = lines.register("copy", make_state(1), base=BASE)
    with pytest.raises(SpecError, match=r"is that of 2 versions: billing@1, copy@1; name one of them"):
        lines.resolve(f"sha256:{version.sha256[:12]}")


def test_versions_are_filtered_and_paged(lines: AdapterStore) -> None:
    def refs(**filters: object) -> list[str]:
        return [version.ref for version in lines.versions(**filters)]  # type: ignore[arg-type]

    assert refs() == ["refunds@1", "billing@2", "billing@1"]
    assert refs(name="billing") == ["billing@2", "billing@1"]
    assert refs(name="BILLING") == []
    assert refs(run="demo", task="b") == ["billing@2"]
    assert refs(task="b") == ["refunds@1", "billing@2"]
    assert refs(kind="lora", limit=2) == ["refunds@1", "billing@2"]
    assert refs(kind="ia3") == []
    assert refs(before="billing@2") == ["billing@1"]
    assert refs(limit=1, before="refunds") == ["billing@2"]
    assert refs(limit=0) == []


def test_lineage(lines: AdapterStore) -> None:
    assert lines.children("billing@1") == ["billing@2", "refunds@1"]
    assert lines.children("refunds") == []
    assert lines.show("refunds").parents == (Parent("billing@2", "frozen"), Parent("billing@1"))
    by_ref = {version.ref: version for version in lines.versions()}
    assert by_ref["billing@2"].parents == (Parent("billing@1"),)
    assert by_ref["billing@1"].parents == ()


def test_names(lines: AdapterStore) -> None:
    assert lines.names() == ["billing", "refunds"]


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no adapter store in .*nowhere"):
        AdapterStore(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_opening_touches_nothing(tmp_path: Path) -> None:
    AdapterStore(tmp_path / "store").close()
    assert list(tmp_path.iterdir()) == []
