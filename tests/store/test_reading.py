"""Reading a version tensor by tensor: equal to loading it, verified first, and no more than is asked."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import safetensors
import torch
from store_workers import BASE, make_state

from contpeft.errors import IntegrityError
from contpeft.store import AdapterStore
from contpeft.store.reading import open_tensors


def test_values_are_those_of_loading_and_outlive_the_file(store: AdapterStore) -> None:
    version = store.register("a", make_state(1, head=True), base=BASE)
    loaded = store.load("a").tensors
    with open_tensors(store._blobs, version, str(store.path)) as tensors:
        assert set(tensors) == loaded.keys()
        assert len(tensors) == 3
        kept = dict(tensors)
    assert all(torch.equal(kept[name], loaded[name]) for name in loaded)


def test_only_what_is_asked_for_is_read(store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    version = store.register("a", make_state(1), base=BASE)
    read: list[str] = []

    class Watched:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = opened(*args, **kwargs)

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.__exit__(None, None, None)

        def keys(self) -> list[str]:
            return self.file.keys()

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.file.get_tensor(name)

    opened = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", Watched)
    with open_tensors(store._blobs, version, str(store.path)) as tensors:
        first = min(tensors)
        assert first in tensors
        assert "nothing" not in tensors
        assert read == []
        tensors[first]
        with pytest.raises(KeyError, match="nothing"):
            tensors["nothing"]
    assert read == [first]


@pytest.mark.parametrize("spoiled", ["flipped", "short", "gone"])
def test_a_damaged_file_is_refused_before_anything_is_read(store: AdapterStore, spoiled: str) -> None:
    version = store.register("a", make_state(1), base=BASE)
    path = store._blobs.path(version.sha256)
    data = bytearray(path.read_bytes())
    path.unlink()
    if spoiled != "gone":
        data[-1] ^= 1
        path.write_bytes(data if spoiled == "flipped" else data[:-9])
    reason = "cannot be read" if spoiled == "gone" else "is damaged: .* has other bytes than were stored"
    with (
        pytest.raises(IntegrityError, match=f"version 'a@1' in .* {reason}"),
        open_tensors(store._blobs, version, str(store.path)),
    ):
        raise AssertionError("opened")


def test_peft_is_not_needed(store: AdapterStore) -> None:
    store.register("a", make_state(1), base=BASE)
    code = f"""
import sys
from contpeft.store import AdapterStore
from contpeft.store.reading import open_tensors
store = AdapterStore({str(store.path)!r})
with open_tensors(store._blobs, store.show("a"), "") as tensors:
    print(sum(tensor.numel() for tensor in tensors.values()), "peft" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["16", "False"]
