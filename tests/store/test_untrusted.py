"""Files from elsewhere: whatever is in them, they are refused in one line and soon."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251 - the canary is one
import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from store_folders import factors, snapshot, write_folder
from store_workers import BASE

from contpeft.errors import ContpeftError, IntegrityError, NotFoundError, UnsupportedError
from contpeft.store import AdapterStore
from contpeft.store.untrusted import HEADER_BYTES, TENSORS, check_structure, read_json, read_tensors

TENSOR = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def file_of(header: str | bytes, body: bytes = b"\0" * 4, length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> str:
    return json.dumps({"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}})


HOSTILE = {
    "empty": b"",
    "short": b"\x08\0\0",
    "header past the end": file_of(f'{{"a":{TENSOR}}}', length=10_000),
    "header of 2**63 bytes": file_of("{}", length=2**63),
    "no UTF-8": file_of(b'{"\xff":1}'),
    "no JSON": file_of("{"),
    "a list": file_of("[]"),
    "deep": file_of("[" * 100_000),
    "deep object": file_of('{"a":' * 50_000),
    "key twice": file_of(f'{{"a":{TENSOR},"a":{TENSOR}}}'),
    "inner key twice": file_of('{"a":{"dtype":"F32","dtype":"I64","shape":[1],"data_offsets":[0,4]}}'),
    "NaN": file_of('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}'),
    "long number": file_of(f'{{"a":{{"dtype":"F32","shape":[{"9" * 5000}],"data_offsets":[0,4]}}}}'),
    "overlap": file_of(f'{{"a":{TENSOR},"b":{TENSOR}}}'),
    "hole": file_of('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"\0" * 8),
    "trailing bytes": file_of(entry(), b"\0" * 9),
    "shape and size": file_of(entry(shape=(2,))),
    "negative shape": file_of(entry(shape=(-1,))),
    "overflow": file_of(entry(shape=(2**62, 2**62))),
    "backwards": file_of(entry(offsets=(4, 0))),
    "unknown dtype": file_of(entry(dtype="F7")),
    "dtype torch lacks here": file_of(entry(dtype="F4", shape=(8,))),
    "complex": file_of(entry(dtype="C64", shape=(1,), offsets=(0, 8)), b"\0" * 8),
    "no dtype": file_of('{"a":{"shape":[1],"data_offsets":[0,4]}}'),
    "no entry": file_of('{"a":3}'),
    "metadata of numbers": file_of(f'{{"__metadata__":{{"a":1}},"a":{TENSOR}}}'),
    "path as name": file_of(f'{{"../../etc/x":{TENSOR}}}'),
    "newline in name": file_of(f'{{"a\\nb":{TENSOR}}}'),
    "no name": file_of(f'{{"":{TENSOR}}}'),
    "long name": file_of(f'{{"{"a" * 600}":{TENSOR}}}'),
    "empty beyond memory": file_of(entry(shape=(0, *[2**31 - 1] * 7), offsets=(0, 0)), b""),
    "infinite": save({"a": torch.tensor([1.0, float("inf")])}),
    "not a number": save({"a": torch.tensor([float("nan")], dtype=torch.bfloat16)}),
    "pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(IntegrityError) as caught:
        read_tensors(path)
    assert str(caught.value).startswith(f"{path} cannot be imported: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"infinite", "not a number", "empty beyond memory"}))
def test_its_structure_alone_gives_it_away(name: str) -> None:
    with pytest.raises(IntegrityError, match=r"\Athe file of x cannot be imported: .*\Z"):
        check_structure(HOSTILE[name], "the file of x")


def test_a_header_of_too_many_tensors_is_refused_within_limits(tmp_path: Path) -> None:
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    path = tmp_path / "many.safetensors"
    for count, limit in ((TENSORS + 1, "20,001 tensors"), (200_000, "larger than 8,000,000")):
        path.write_bytes(file_of("{" + ",".join(f'"t{i}":{empty}' for i in range(count)) + "}", b""))
        begin = time.process_time()
        with pytest.raises(IntegrityError, match=limit):
            read_tensors(path)
        assert time.process_time() - begin < 1
        tracemalloc.start()
        with pytest.raises(IntegrityError, match=limit):
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 200e6
        tracemalloc.stop()


def test_what_is_sound_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sound.safetensors"
    path.write_bytes(save({"a": torch.arange(3.0), "b": torch.tensor([True])}, metadata={"x": "y", "z": ""}))
    found = read_tensors(path)
    assert torch.equal(found["a"], torch.arange(3.0))
    assert found["b"].tolist() == [True]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"r": 8, "r": 16}', "key 'r' is there twice"),
        ('{"a": {"b": 1, "b": 1}}', "key 'b' is there twice"),
        ('{"r": NaN}', "NaN is no number"),
        ('{"r": -Infinity}', "-Infinity is no number"),
        ("[1]", "its JSON is no object"),
        ("{", "its JSON is malformed"),
        ("[" * 100_000, "its JSON is malformed"),
        (" " * (HEADER_BYTES + 1), "8,000,001 bytes, more than 8,000,000"),
    ],
    ids=range(8),
)
def test_hostile_json_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(IntegrityError, match=reason):
        read_json(tmp_path / "a.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "a.json", tmp_path):
        with pytest.raises(NotFoundError, match="there is no file"):
            read_json(path)


SOUND = save(factors())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound file with bytes of its header, or of its length, exchanged, cut out or doubled."""
    data = bytearray(SOUND)
    end = 8 + int.from_bytes(SOUND[:8], "little")
    for _ in range(draw(st.integers(1, 4))):
        place, size = draw(st.integers(0, end - 1)), draw(st.integers(0, 12))
        piece = draw(
            st.one_of(
                st.binary(max_size=12),
                st.sampled_from([b"-", b"9" * 30, b"null", b'"', b"[]", b"{}", b"1e400", b"\\u0000", b"NaN"]),
                st.just(bytes(data[place : place + size]) * 2),
            )
        )
        data[place : place + size] = piece
    return bytes(data)


def refusal(call: Callable[[], object]) -> str | None:
    """Returns what a call is refused with; anything but an error of the package's own is a crash."""
    try:
        call()
    except ContpeftError as error:
        return str(error)
    return None


def _read_mutated(data: bytes, folder: Path) -> None:
    path = folder / "mutated.safetensors"
    path.write_bytes(data)
    begin = time.process_time()
    message = refusal(lambda: read_tensors(path))
    assert time.process_time() - begin < 1
    assert message is None or message.startswith(f"{path} cannot be imported: ")
    assert "\n" not in (message or "")


def _fuzz(examples: int) -> Any:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, suppress_health_check=checks)


@_fuzz(200)
@given(mutated())
def test_mutated_headers(tmp_path: Path, data: bytes) -> None:
    _read_mutated(data, tmp_path)


@pytest.mark.acceptance
@_fuzz(2000)
@given(mutated())
def test_two_thousand_mutated_headers(tmp_path: Path, data: bytes) -> None:
    _read_mutated(data, tmp_path)


@_fuzz(60)
@given(mutated(), st.booleans())
def test_a_folder_with_a_mutated_file_never_crashes(tmp_path: Path, data: bytes, like: bool) -> None:
    folder = write_folder(tmp_path / "in")
    (folder / "adapter_model.safetensors").write_bytes(data)
    with closing(AdapterStore(tmp_path / "store")) as store:
        message = refusal(lambda: store.exchange.import_folder(folder, "in", base=BASE if like else None))
        assert "\n" not in (message or "")
        stored = [store.load(version.ref).tensors for version in store.versions()]
    # Some changes are harmless: two layers swapped, metadata.
    shapes = {tuple(tensor.shape) for tensors in stored for tensor in tensors.values()}
    assert shapes <= {(2, 4), (6, 2)}


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "sings")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pkl"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside safetensors"])
def test_a_pickle_is_never_opened(
    suffix: str, beside: bool, store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", opened)
    canary = tmp_path / "canary"
    folder = write_folder(tmp_path / "in")
    weights = folder / f"adapter_model{suffix}"
    buffer = io.BytesIO()
    torch.save({"base_model.model.x.lora_A.weight": Canary(canary)}, buffer)
    weights.write_bytes(buffer.getvalue())
    if not beside:
        (folder / "adapter_model.safetensors").unlink()
    before = snapshot(tmp_path)
    for place in (folder, weights):
        with pytest.raises(UnsupportedError, match=f"adapter_model{suffix} is a pickle, which is never read"):
            store.exchange.import_folder(place, "in", base=BASE)
    assert snapshot(tmp_path) == before
    assert not canary.exists()
    monkeypatch.undo()
    torch.load(weights, weights_only=False)  # the canary can sing
    assert canary.read_text() == "sings"
