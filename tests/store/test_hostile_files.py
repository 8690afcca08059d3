"""Files that anybody may have made: refused at once, or exactly what they say they are."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contpeft.errors import IntegrityError
from contpeft.store.tensors import entries, foreign_entries

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file(header: Any, body: bytes = bytes(8), *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(**change: Any) -> dict[str, Any]:
    return {"a": {**GOOD["a"], **change}}


HOSTILE = {
    "nothing": b"",
    "half a length": b"\x08\0\0",
    "no header": struct.pack("<Q", 0),
    "length beyond the end": file(GOOD, length=10_000),
    "length of an exabyte": file(GOOD, length=1 << 60),
    "no JSON": file(b"{'a': 1}"),
    "no UTF-8": file(b'{"\xff": {}}'),
    "a list": file([1, 2]),
    "deep": file(b'{"a":' * 100_000),
    "overlap": file({"a": GOOD["a"], "b": GOOD["a"]}),
    "hole": file(tensor(data_offsets=[8, 16]), bytes(16)),
    "trailing bytes": file(GOOD, bytes(8) + b"PK\x03\x04"),
    "shape that is no size": file(tensor(shape=[3])),
    "shape that overflows": file(tensor(shape=[1 << 33, 1 << 33])),
    "negative": file(tensor(data_offsets=[-8, 0])),
    "unknown type": file(tensor(dtype="F31")),
    "metadata of numbers": file({"__metadata__": {"a": 1}, **GOOD}),
    "name that is a path": file({"../../etc/x": GOOD["a"]}),
    "type that is not stored": file(tensor(dtype="C64", shape=[1])),
    "a header of 9 MB": file(b"{" + b" " * 9_000_000 + b"}"),
    "pickle": b"\x80\x04cos\nsystem\n(S'touch canary'\ntR." * 10,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_made_by_hand(data: bytes) -> None:
    started = time.process_time()
    with pytest.raises(IntegrityError, match=r"\Athe file of x .*refused\Z"):
        foreign_entries(data, "the file of x")
    assert time.process_time() - started < 1


def test_a_good_one_is_taken() -> None:
    ((name, dtype, shape, data),) = foreign_entries(file(GOOD, bytes(range(8))), "x")
    assert (name, dtype, shape, bytes(data)) == ("a", "F32", (2,), bytes(range(8)))


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A file of two tensors with bytes of its header replaced, removed or added."""
    two = {"b.c": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [8, 12]}}
    data = bytearray(file({"__metadata__": {"format": "pt"}, **GOOD, **two}, bytes(12)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data) - 1))
        cut = draw(st.integers(0, 3))
        data[place : place + cut] = draw(
            st.binary(max_size=3) | st.sampled_from([b"9", b"0", b'"', b"}", b"-1"])
        )
    return bytes(data)


def check(data: bytes) -> None:
    started = time.process_time()
    try:
        held = foreign_entries(data, "the file of x")
    except IntegrityError as error:
        told = str(error)
    else:
        told = ""
        assert held == list(entries(data))
        assert sum(view.nbytes for *_, view in held) == len(data) - 8 - int.from_bytes(data[:8], "little")
    assert "\n" not in told
    assert time.process_time() - started < 1


@given(data=changed())
@settings(max_examples=200)
def test_changed_at_random(data: bytes) -> None:
    check(data)


@pytest.mark.acceptance
@given(data=changed())
@settings(max_examples=2000)
def test_changed_at_random_for_long(data: bytes) -> None:
    check(data)
