"""The replay buffer: rows as bytes, what is kept, and how large it gets."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chi2

from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState
from contpeft.strategies.replay import (
    Bounds,
    Buffer,
    Row,
    from_bytes,
    herding_order,
    keep_balanced,
    keep_first,
    random_ranks,
    to_bytes,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.floats(0, 1, width=32)),
    min_size=1,
    max_size=20,
    unique_by=lambda row: row[2],
)


def rows_of(told: list[tuple[str, int, float]]) -> list[Row]:
    return [Row(bytes(length), label, rank) for label, length, rank in told]


def plain(label: str, rank: float) -> Row:
    return Row(b"0123", label, rank)


# --- rows as bytes --------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.text(st.characters()) | st.lists(JSON, max_size=4) | st.lists(JSON, max_size=4).map(tuple))
def test_texts_and_json_come_back_equal(value: object) -> None:
    back = from_bytes(to_bytes(value))
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "<f4", "float64", "bool", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_arrays_come_back_byte_for_byte(dtype: str, shape: tuple[int, ...]) -> None:
    value = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    back = from_bytes(to_bytes(value))
    assert (back.dtype, back.shape, back.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_tensors_and_images_come_back_equal() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    assert torch.equal(from_bytes(to_bytes(tensor)), tensor)
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    assert np.array_equal(np.asarray(from_bytes(to_bytes(image))), np.asarray(image))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "type object"),
        (3, "type int"),
        (Image.new("P", (2, 2)), "type Image and mode 'P'"),
        (torch.zeros(2, dtype=torch.bfloat16), "type Tensor"),
        (np.array(["a"]), "an array of <U1"),
        ([(1, 2)], "this list: it holds something that JSON does not give back"),
        ((np.int64(1),), "this tuple"),
        ([float("nan")], "this list"),
        ({1: "a"}, "this dict"),
    ],
)
def test_what_has_no_exact_form_is_refused_by_name(value: object, named: str) -> None:
    with pytest.raises(UnsupportedError, match="a replay buffer cannot keep") as refused:
        to_bytes(value)
    assert named in str(refused.value)


# --- which rows -----------------------------------------------------------------------------------


def test_every_row_is_in_a_reservoir_equally_often() -> None:
    """Chi-square over 2000 buffers of 6 that were offered 24 rows in three tasks."""
    runs, capacity, tasks = 2000, 6, 3
    seen: Counter[int] = Counter()
    for run in range(runs):
        kept = Buffer(())
        for task in range(tasks):
            ranks = random_ranks(8, run * tasks + task)
            offered = [Row(bytes([8 * task + i]), "a", rank) for i, rank in enumerate(ranks)]
            kept = keep_first(Buffer((*kept.rows, *offered), kept.below), Bounds(10**6, capacity))
        assert len(kept.rows) == capacity
        seen.update(row.content[0] for row in kept.rows)
    n, share = 8 * tasks, capacity / (8 * tasks)
    counts = np.array([seen[row] for row in range(n)])
    # Draws without replacement vary less than independent ones, by (n - capacity) / (n - 1).
    spread = ((counts - runs * share) ** 2 / (runs * share)).sum() * (n - 1) / (n - capacity)
    assert chi2.sf(spread, n - 1) > 0.01


@given(ROWS, st.integers(84, 2000), st.none() | st.integers(1, 12))
def test_a_reservoir_fits_and_forgets_nothing_it_should_keep(
    told: list[tuple[str, int, float]], size: int, count: int | None
) -> None:
    rows, bounds = rows_of(told), Bounds(size, count)
    at_once = keep_first(Buffer(tuple(rows)), bounds)
    assert at_once.nbytes <= size
    assert count is None or len(at_once.rows) <= count
    streamed = Buffer(())
    for row in rows:
        streamed = keep_first(Buffer((*streamed.rows, row), streamed.below), bounds)
    assert list(map(id, streamed.rows)) == list(map(id, at_once.rows))
    assert streamed.below == at_once.below


@given(ROWS, st.integers(84, 2000), st.none() | st.integers(1, 12))
def test_a_balanced_buffer_fits_and_is_balanced(
    told: list[tuple[str, int, float]], size: int, count: int | None
) -> None:
    rows = rows_of(told)
    kept = keep_balanced(Buffer(tuple(rows)), Bounds(size, count)).rows
    assert sum(row.nbytes for row in kept) <= size
    assert count is None or len(kept) <= count
    offered, left = Counter(row.label for row in rows), Counter(row.label for row in kept)
    most = max(left.values(), default=0)
    assert all(left[label] >= min(offered[label], most - 1) for label in offered)
    for row in rows:  # the lowest ranks of each class
        if row not in kept:
            assert all(other.rank <= row.rank for other in kept if other.label == row.label)


def test_balance_holds_from_task_to_task() -> None:
    kept = Buffer(())
    for task, labels in enumerate(["ab", "cd", "ef"]):
        ranks = random_ranks(40, task)
        offered = [plain(labels[i % 2], rank) for i, rank in enumerate(ranks)]
        kept = keep_balanced(Buffer((*kept.rows, *offered)), Bounds(10**6, 20))
        sizes = Counter(row.label for row in kept.rows).values()
        assert sum(sizes) == 20
        assert max(sizes) - min(sizes) <= 1


def test_a_row_larger_than_the_buffer_is_refused() -> None:
    with pytest.raises(SpecError, match="of 50 bytes cannot hold a row of 60; make it larger"):
        keep_first(Buffer((Row(bytes(36), "a", 0.0),)), Bounds(50))


def test_herding_is_the_greedy_choice() -> None:
    features = np.random.default_rng(0).normal(size=(9, 4))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    left, chosen = list(range(9)), []
    while left:
        means = {row: unit[[*chosen, row]].mean(0) for row in left}
        best = min(left, key=lambda row: float(np.linalg.norm(unit.mean(0) - means[row])))
        chosen.append(best)
        left.remove(best)
    assert herding_order(torch.tensor(features)) == chosen


# --- the buffer as a version ----------------------------------------------------------------------


@given(ROWS)
def test_a_buffer_comes_back_row_for_row(told: list[tuple[str, int, float]]) -> None:
    more = [{"scores": torch.arange(float(i % 3)), "states": torch.ones(i % 4, 2)} for i in range(len(told))]
    rows = [
        Row(row.content, row.label, row.rank, each) for row, each in zip(rows_of(told), more, strict=True)
    ]
    buffer = Buffer(tuple(rows))
    tensors = buffer.tensors()
    assert buffer.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    back = Buffer.of(AdapterState("memory", buffer.facts(), tensors))
    assert [(r.content, r.label, r.rank) for r in back.rows] == [(r.content, r.label, r.rank) for r in rows]
    for one, other in zip(back.rows, rows, strict=True):
        assert all(torch.equal(one.more[name], other.more[name]) for name in ("scores", "states"))


def test_nothing_stored_is_an_empty_buffer() -> None:
    assert Buffer.of(None).rows == ()
