"""Registering: what is stored, what is refused before anything is written, and what is the same."""

from __future__ import annotations

import copy
import getpass
import json
import os
import pickle  # noqa: TID251 - that a store can be copied into another process
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.digest import tensors_digest
from contpeft.errors import ContpeftError, NotFoundError, SpecError, TrainingError
from contpeft.spec import AdapterState, BaseModel, HeadSpec, Parent, check_name
from contpeft.store import AdapterStore, events
from contpeft.store.environment import environment


def files(folder: Path) -> set[str]:
    """Returns every path below ``folder`` but those SQLite keeps while a catalogue is open."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.name.startswith("store.db-")}


def with_tensors(tensors: Mapping[str, Any]) -> AdapterState:
    return AdapterState("lora", {"r": 2}, tensors)


def test_version_tells_what_was_registered(store: AdapterStore) -> None:
    state = make_state(head=True)
    store.start_run("demo", config={}, seed=0, tasks=[], scenario="class-incremental")
    first = store.register("billing", state, base=BASE)
    version = store.register(
        "billing",
        state,
        base=BASE,
        origin="fused",
        parents=[Parent("billing", "fused", 0.1), Parent(f"sha256:{first.sha256[:8]}", "frozen")],
        recipe={"rule": "tsv", "rank": 16},
        run="demo",
        task="tickets",
        data="da7a",
        seconds=1.25,
    )
    raw = [
        (name, "F32", tuple(tensor.shape), tensor.numpy().tobytes()) for name, tensor in state.tensors.items()
    ]
    assert version.fingerprint == tensors_digest(raw)
    expected = {
        "ref": "billing@2",
        "name": "billing",
        "n": 2,
        "kind": "lora",
        "fingerprint": first.fingerprint,
        "sha256": first.sha256,
        "bytes": (store.path / "blobs" / first.sha256[:2] / f"{first.sha256}.safetensors").stat().st_size,
        "parameters": 16,  # A (2, 4) and B (4, 2); the head is not counted
        "config": {"peft_type": "LORA", "r": 2, "target_modules": ["query"]},
        "head": {"kind": "linear", "classes": ["no", "yes"], "options": {"scale": 1.0}},
        "base": {"name": "tiny-bert", "fingerprint": BASE.fingerprint, "parameters": 1000},
        "origin": "fused",
        "parents": [
            {"ref": "billing@1", "role": "fused", "weight": 0.1},
            {"ref": "billing@1", "role": "frozen", "weight": None},
        ],
        "recipe": {"rule": "tsv", "rank": 16},
        "run": "demo",
        "task": "tickets",
        "data": "da7a",
        "seconds": 1.25,
    }
    told = version.to_json()
    assert {key: told[key] for key in expected} == expected
    assert set(told) - set(expected) == {"environment", "created_at"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", version.created_at)
    assert store.show("billing@2") == version
    assert json.loads(json.dumps(told)) == told


def test_environment_is_that_of_the_installed_packages(store: AdapterStore) -> None:
    from importlib.metadata import version

    import contpeft

    found = store.register("line", make_state(), base=BASE).environment
    assert found["contpeft"] == contpeft.__version__
    assert {key: found[key] for key in ("torch", "peft")} == {
        "torch": version("torch"),
        "peft": version("peft"),
    }
    assert {"python", "platform", "transformers", "lightning"} <= set(found)


def test_packages_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contpeft.store.environment._PACKAGES", ("torch", "no-such-package"))
    found = environment.__wrapped__()
    assert set(found) == {"python", "platform", "contpeft", "torch"}


def test_a_user_without_a_name_is_told_by_number(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nameless)
    events.actor.cache_clear()
    store.register("line", make_state(), base=BASE)
    assert store.events("line@1")[0].actor == f"uid {os.getuid()}"
    events.actor.cache_clear()


def test_registering_again_changes_nothing(store: AdapterStore) -> None:
    first = store.register("line", make_state(), base=BASE, seconds=1.0)
    before = files(store.path), store.events()
    assert store.register("line", make_state(), base=BASE, seconds=2.0) == first
    assert (files(store.path), store.events()) == before


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"state": make_state(1)},
        {"state": AdapterState("lora", {"r": 3}, make_state().tensors)},
        {"state": AdapterState("dora", make_state().config, make_state().tensors)},
        {"state": make_state(head=True)},
        {"base": BaseModel("tiny-bert", "0ther" * 12 + "0000", 1000)},
        {"parents": [Parent("parent@1")]},
        {"run": "demo"},
        {"task": "tickets"},
    ],
    ids=["name", "tensors", "config", "kind", "head", "base", "parents", "run", "task"],
)
def test_what_makes_another_version(store: AdapterStore, change: dict[str, Any]) -> None:
    store.start_run("demo", config={}, seed=0, tasks=[], scenario="class-incremental")
    store.register("parent", make_state(), base=BASE)
    same: dict[str, Any] = {"name": "line", "state": make_state(), "base": BASE}
    assert store.register(**same).ref == "line@1"
    changed = {**same, **change}
    expected = "other@1" if "name" in change else "line@2"
    assert store.register(**changed).ref == expected
    assert store.register(**changed).ref == expected


def test_heads_with_equal_tensors_differ_by_their_classes(store: AdapterStore) -> None:
    state = make_state(head=True)
    renamed = AdapterState(state.kind, state.config, state.tensors, HeadSpec("linear", ("yes", "no")))
    assert store.register("line", state, base=BASE).ref == "line@1"
    assert store.register("line", renamed, base=BASE).ref == "line@2"


REFUSED: dict[str, tuple[dict[str, Any], type[ContpeftError], str]] = {
    "name": ({"name": "../x"}, SpecError, "adapter name '../x' is not usable"),
    "case": ({"name": "LINE"}, SpecError, "'LINE' differs from 'line' only in case; use 'line'"),
    "no tensors": ({"state": with_tensors({})}, SpecError, "adapter 'line' has no tensors"),
    "tensor name": ({"state": with_tensors({"../../etc/x": torch.ones(1)})}, SpecError, "'../../etc/x'"),
    "reserved": ({"state": with_tensors({"__metadata__": torch.ones(1)})}, SpecError, "unusable name"),
    "newline": ({"state": with_tensors({"a\n": torch.ones(1)})}, SpecError, r"'a\\n' .* unusable name"),
    "list": ({"state": with_tensors({"a": [1.0]})}, SpecError, "'a' .* no dense tensor"),
    "sparse": ({"state": with_tensors({"a": torch.ones(2).to_sparse()})}, SpecError, "no dense tensor"),
    "meta": ({"state": with_tensors({"a": torch.ones(2, device="meta")})}, SpecError, "no dense tensor"),
    "complex": ({"state": with_tensors({"a": torch.ones(2) * 1j})}, SpecError, "'a' .* is complex64"),
    "nan": (
        {"state": with_tensors({"a": torch.ones(2), "b": torch.tensor([1, float("nan"), float("-inf")])})},
        TrainingError,
        "tensor 'b' of adapter 'line' has 2 of 3 values that are NaN or infinite",
    ),
    "config": (
        {"state": AdapterState("lora", {"r": 1, "modules": {"q"}}, make_state().tensors)},
        SpecError,
        "config key 'modules' of adapter 'line' has no JSON form",
    ),
    "config nan": (
        {"state": AdapterState("lora", {"alpha": float("nan")}, make_state().tensors)},
        SpecError,
        "config key 'alpha'",
    ),
    "head": (
        {"state": AdapterState("lora", {}, make_state().tensors, HeadSpec("linear", (), {"x": {1}}))},
        SpecError,
        "head of adapter 'line'",
    ),
    "recipe": ({"recipe": {"x": {1}}}, SpecError, "recipe of adapter 'line'"),
    "no recipe": ({"origin": "fused"}, SpecError, "'line' is fused but has no recipe"),
    "origin": ({"origin": "train"}, SpecError, "origin of 'line' is 'train'; did you mean 'trained'?"),
    "seconds": ({"seconds": float("nan")}, SpecError, "seconds of 'line' is nan"),
    "run": ({"run": "dem"}, NotFoundError, "no run 'dem' in .*; did you mean 'demo'?"),
    "parent": ({"parents": [Parent("lime@1")]}, NotFoundError, "no adapter 'lime' in .*did you mean 'line'"),
    "parent number": ({"parents": [Parent("line@9")]}, NotFoundError, "no version 'line@9'"),
    "twice": ({"parents": [Parent("line@1"), Parent("line")]}, SpecError, "'line@1' is named twice"),
    "role": ({"parents": [Parent("line", "fuse")]}, SpecError, "'fuse'; did you mean 'fused'?"),  # type: ignore[arg-type]
    "weight": ({"parents": [Parent("line", "fused", float("inf"))]}, SpecError, "weight of parent 'line'"),
}


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_before_anything_is_written(
    store: AdapterStore, change: dict[str, Any], error: type[ContpeftError], message: str
) -> None:
    store.start_run("demo", config={}, seed=0, tasks=[], scenario="class-incremental")
    store.register("line", make_state(), base=BASE)
    before = files(store.path), store.events()
    with pytest.raises(error, match=message) as caught:
        store.register(**{"name": "line", "state": make_state(1), "base": BASE, **change})
    assert "\n" not in str(caught.value)
    assert (files(store.path), store.events()) == before
    assert store.register("line", make_state(1), base=BASE).ref == "line@2"


HOSTILE = st.one_of(
    st.text(max_size=140),
    st.sampled_from(
        ["", ".", "..", "../x", "/etc/x", "a/b", "a\0b", "a\n", "-rf", "[red]", "\uff41", "x" * 129]
    ),
    st.sampled_from(["'; DROP TABLE version; --", "a@1", "sha256:abcdef12", "con", "CON", "a b", "%00", "~"]),
)


@given(name=HOSTILE)
def test_hostile_names_stay_inside_the_store(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    around = tmp_path_factory.mktemp("around")
    store = AdapterStore(around / "store")
    store.names()
    before = files(around)
    try:
        expected = check_name(name)
    except SpecError:
        expected = None
    if expected is None:
        with pytest.raises(SpecError):
            store.register(name, make_state(), base=BASE)
        assert files(around) == before
    else:
        version = store.register(name, make_state(), base=BASE)
        assert (version.ref, store.names()) == (f"{name}@1", [name])
        blob = f"blobs/{version.sha256[:2]}/{version.sha256}.safetensors"
        assert files(around) - before == {f"store/{Path(blob).parent}", f"store/{blob}"}
    store.close()


def test_tensors_come_back_as_they_were(store: AdapterStore) -> None:
    shared = torch.randn(3, 4)
    tensors = {
        "transposed": shared.T,
        "row": shared[0],
        "shared": shared,
        "half": torch.randn(2, 2, requires_grad=True).to(torch.bfloat16),
        "counts": torch.tensor([1, 2**40]),
        "mask": torch.tensor([True, False]),
        "scalar": torch.tensor(0.5, dtype=torch.float64),
        "empty": torch.ones(0, 3),
    }
    store.register("line", with_tensors(tensors), base=BASE)
    for verify in (True, False):
        loaded = store.load("line", verify=verify)
        assert (loaded.kind, loaded.config, loaded.head) == ("lora", {"r": 2}, None)
        assert loaded.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded.tensors[name].dtype == tensor.dtype
            assert torch.equal(loaded.tensors[name], tensor.detach()), name


def test_a_name_taken_in_another_case_meanwhile_is_refused(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = store._blobs.put

    def put_after_the_other(data: bytes, sha256: str) -> Path | None:
        monkeypatch.undo()
        store.register("Line", make_state(1), base=BASE)
        return put(data, sha256)

    monkeypatch.setattr(store._blobs, "put", put_after_the_other)
    with pytest.raises(SpecError, match="'line' differs from 'Line' only in case"):
        store.register("line", make_state(), base=BASE)
    assert store.names() == ["Line"]
    assert audit(store.path) == []


def test_copies_of_a_store_open_their_own_connections(store: AdapterStore) -> None:
    store.register("line", make_state(), base=BASE)
    for twin in (copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
        assert (twin.path, twin.names()) == (store.path, ["line"])
        assert twin._db.connection() is not store._db.connection()
        twin.close()


def test_a_closed_store_opens_again(store: AdapterStore) -> None:
    store.register("line", make_state(), base=BASE)
    store.close()
    assert store.names() == ["line"]


def test_the_path_may_be_text(tmp_path: Path) -> None:
    store = AdapterStore(os.fspath(tmp_path / "store"))
    assert store.path == tmp_path / "store"
