"""Pickles, for those who insist: tensors by name come out, everything else is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from contpeft.errors import IntegrityError, NotFoundError
from contpeft.store import untrusted
from contpeft.store.untrusted import read_pickle


class Hostile:
    """What a pickle can make whoever loads it do."""

    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


def saved(folder: Path, value: Any) -> Path:
    torch.save(value, folder / "weights.bin")
    return folder / "weights.bin"


def test_tensors_come_out_as_they_were(tmp_path: Path) -> None:
    given = {"a.weight": torch.randn(3, 2), "b": torch.ones(2, 3, dtype=torch.bfloat16).T}
    found = read_pickle(saved(tmp_path, given))
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], given[name]) for name in given)
    assert all(tensor.is_contiguous() for tensor in found.values())


def test_views_of_one_tensor_become_tensors_of_their_own(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    found = read_pickle(saved(tmp_path, {"a": whole[:2], "b": whole[2:]}))
    found["a"].zero_()
    assert found["b"].tolist() == [2.0, 3.0]
    assert found["a"].untyped_storage().nbytes() == 8


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (Hostile(), "it is no pickle of tensors alone"),
        ({"a": Hostile()}, "it is no pickle of tensors alone"),
        (torch.ones(2), "it holds a Tensor, not up to"),
        ({"a": 1}, "'a' is no dense tensor"),
        ({1: torch.ones(1)}, "it has a tensor named '1'"),
        ({"../a": torch.ones(1)}, "it has a tensor named '../a'"),
        ({"a,b": torch.ones(1)}, "it has a tensor named 'a,b'"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is no dense tensor"),
        ({"a": torch.tensor([1.0, torch.inf])}, "'a' has values that are NaN or infinite"),
    ],
)
def test_anything_else_is_refused(
    value: Any, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IntegrityError, match=match) as caught:
        read_pickle(saved(tmp_path, value))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hacked").exists()


def test_commas_are_for_fusions(tmp_path: Path) -> None:
    assert list(read_pickle(saved(tmp_path, {"a,b": torch.ones(1)}), commas=True)) == ["a,b"]


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "TENSORS", 1)
    with pytest.raises(IntegrityError, match="it holds a dict, not up to 1 tensors"):
        read_pickle(saved(tmp_path, {"a": torch.ones(1), "b": torch.ones(1)}))


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"PK\x03\x04" + bytes(40), b"\x80\x02}q\x00."])
def test_damaged_files_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"weights.bin cannot be imported"):
        read_pickle(tmp_path / "weights.bin")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no file"):
        read_pickle(tmp_path / "weights.bin")
