"""Splitting labelled data to streams: no row lost, none twice, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contpeft.errors import ConfigError, SpecError
from contpeft.experiments.sampling import hold_out
from contpeft.experiments.sources.base import LabelledData, Row
from contpeft.experiments.streams import split_by_class, split_by_column
from contpeft.experiments.tasks import Examples, TaskStream

Pair = tuple[list[Row], list[Row]]


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Rows to train and to test on: 2 tasks x 4 classes, 2 to 5 rows each, some of them equal."""
    train, test = (
        [
            Row(draw(st.sampled_from("abcdefgh")), label, task)
            for task in ("north", "south")
            for label in ("k1", "k2", "k3", "k4")
            for _ in range(draw(st.integers(2, 5)))
        ]
        for _ in range(2)
    )
    return train, test


def as_set(examples: Examples) -> Counter[tuple[str, str]]:
    return Counter(zip(examples.inputs, examples.labels, strict=True))


def ids_of(stream: TaskStream, label: str) -> set[str]:
    """Ids of the rows of a class, in training and in testing, wherever in the stream they are."""
    joint = stream.union()
    return {
        row_id
        for part in (joint.train, joint.test)
        for row_id, found in zip(part.ids, part.labels, strict=True)
        if found == label
    }


# --- properties ----------------------------------------------------------------------------------


@given(pairs(), st.integers(2, 4).filter(lambda n: n != 3), st.none() | st.integers(0, 9))
def test_by_class_every_row_is_there_once(pair: Pair, classes_per_task: int, seed: int | None) -> None:
    data = LabelledData.from_rows(*pair)
    stream = split_by_class(data, classes_per_task=classes_per_task, seed=seed)
    assert [len(task.classes) for task in stream] == [classes_per_task] * (4 // classes_per_task)
    assert sorted(stream.classes) == ["k1", "k2", "k3", "k4"]
    for split, whole in (("train", data.train), ("test", data.test)):
        parts = [getattr(task, split) for task in stream]
        assert sorted(row_id for part in parts for row_id in part.ids) == sorted(whole.ids)
        assert sum((as_set(part) for part in parts), Counter()) == as_set(whole)


@given(pairs())
def test_by_column_every_row_is_there_once(pair: Pair) -> None:
    stream = split_by_column(LabelledData.from_rows(*pair))
    assert [(task.name, task.classes) for task in stream] == [
        ("north", ("k1", "k2", "k3", "k4")),
        ("south", ("k1", "k2", "k3", "k4")),
    ]
    for task in stream:
        for rows, part in zip(pair, (task.train, task.test), strict=True):
            assert as_set(part) == Counter((row.input, row.label) for row in rows if row.task == task.name)


@given(pairs(), st.integers(0, 9))
def test_union_is_the_tasks_one_after_the_other(pair: Pair, seed: int) -> None:
    stream = split_by_class(LabelledData.from_rows(*pair), classes_per_task=2, seed=seed)
    joint = stream.union()
    assert joint.classes == (*stream[0].classes, *stream[1].classes)
    assert joint.train == Examples.joined([stream[0].train, stream[1].train])
    assert joint.test == Examples.joined([stream[0].test, stream[1].test])


@given(pairs(), st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_rows_in_a_file_does_not_matter(pair: Pair, seed: int, random: Random) -> None:
    mixed = tuple(random.sample(rows, len(rows)) for rows in pair)
    one, other = LabelledData.from_rows(*pair), LabelledData.from_rows(*mixed)
    by_class = [
        split_by_class(data, classes_per_task=2, seed=seed, train_per_class=3, test_per_class=2)
        for data in (one, other)
    ]
    by_column = [split_by_column(data, seed=seed, train_per_class=2) for data in (one, other)]
    assert by_class[0] == by_class[1]
    assert by_column[0] == by_column[1]


@given(pairs(), st.permutations(["k1", "k2", "k3", "k4"]), st.integers(0, 9))
def test_order_changes_only_the_order(pair: Pair, order: list[str], seed: int) -> None:
    data = LabelledData.from_rows(*pair)
    by_seed = split_by_class(data, classes_per_task=2, seed=seed, train_per_class=2)
    ordered = split_by_class(data, classes_per_task=2, seed=seed, train_per_class=2, order=order)
    assert list(ordered.classes) == order
    for label in order:
        assert ids_of(ordered, label) == ids_of(by_seed, label)


@given(pairs(), st.integers(0, 9))
def test_draws_are_balanced_and_nested(pair: Pair, seed: int) -> None:
    data = LabelledData.from_rows(*pair)
    few, more = (split_by_column(data, seed=seed, train_per_class=n, test_per_class=n) for n in (1, 2))
    for task, larger in zip(few, more, strict=True):
        assert Counter(larger.train.labels) == dict.fromkeys(larger.classes, 2)
        assert Counter(task.test.labels) == dict.fromkeys(task.classes, 1)
        assert set(task.train.ids) < set(larger.train.ids)


@given(pairs(), st.sampled_from([0.01, 0.25, 0.5, 0.99]), st.integers(0, 9))
def test_held_out_rows_are_a_share_of_every_class(pair: Pair, fraction: float, seed: int) -> None:
    pool = LabelledData.from_rows(pair[0], []).train
    train, test = hold_out(pool, pool.labels, fraction, seed=seed)
    assert sorted((*train.ids, *test.ids)) == sorted(pool.ids)
    for label, count in Counter(pool.labels).items():
        held = test.labels.count(label)
        assert 1 <= held <= count - 1
        assert abs(held - fraction * count) <= 1


# --- seeds and orders ----------------------------------------------------------------------------


def numbered(classes: int, rows: int) -> LabelledData:
    """``rows`` different rows per class, to train on and to test on."""
    labels = [f"class {number:02}" for number in range(classes)]
    pool = [Row(f"{label} row {number}", label) for label in labels for number in range(rows)]
    return LabelledData.from_rows(pool, pool)


def test_classes_come_by_name_by_seed_or_as_ordered() -> None:
    data = numbered(6, 2)
    by_name = split_by_class(data, classes_per_task=2)
    by_seed = {split_by_class(data, classes_per_task=2, seed=seed).classes for seed in range(20)}
    assert list(by_name.classes) == data.classes
    assert len(by_seed) > 10
    assert {frozenset(classes) for classes in by_seed} == {frozenset(data.classes)}
    backwards = split_by_class(data, classes_per_task=2, seed=3, order=data.classes[::-1])
    assert list(backwards.classes) == data.classes[::-1]


def test_another_seed_draws_other_rows_and_none_draws_as_zero() -> None:
    data = numbered(2, 40)
    drawn = [
        split_by_class(data, classes_per_task=2, seed=seed, order=data.classes, train_per_class=10)[
            0
        ].train.ids
        for seed in (None, 0, 1)
    ]
    assert drawn[0] == drawn[1]
    assert 0 < len(set(drawn[1]) & set(drawn[2])) < 20


def test_the_last_task_has_the_classes_left_over() -> None:
    stream = split_by_class(numbered(11, 1), classes_per_task=3)
    assert [len(task.classes) for task in stream] == [3, 3, 3, 2]
    assert [task.name for task in stream] == ["task-1", "task-2", "task-3", "task-4"]
    assert split_by_class(numbered(20, 1), classes_per_task=2)[0].name == "task-01"


def test_a_class_incremental_stream_by_column() -> None:
    pool = [Row(f"{label} {n}", label, label[:1]) for label in ("ab", "aa", "bb", "ba") for n in range(2)]
    data = LabelledData.from_pool(pool, test_fraction=0.5, seed=0)
    stream = split_by_column(data, scenario="class-incremental", order=["b", "a"])
    assert [(task.name, task.classes) for task in stream] == [("b", ("ba", "bb")), ("a", ("aa", "ab"))]


def test_task_names_are_slugs_of_the_column() -> None:
    pool = [Row(f"{label} {n}", label, "Cards & fees") for label in "xy" for n in range(2)]
    data = LabelledData.from_pool(pool, test_fraction=0.5, seed=0)
    assert [task.name for task in split_by_column(data)] == ["Cards-fees"]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes_per_task": 1}, "classes_per_task is 1; it must be at least 2"),
        ({"train_per_class": 5}, "class 'class 00' has 4 rows, train_per_class asks for 5; lower it"),
        ({"test_per_class": 5}, "class 'class 00' has 4 rows, test_per_class asks for 5; lower it"),
        ({"train_per_class": 0}, "train_per_class is 0; it must be at least 1, or None"),
        (
            {"order": ["class 00", "clas 01"]},
            "order names 'clas 01', no class of the data; did you mean 'class 01'",
        ),
        ({"order": ["class 00", "class 00"]}, "order names the class 'class 00' 2 times"),
        ({"order": ["class 00"]}, "order leaves out the class 'class 01'"),
    ],
)
def test_by_class_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_by_class(numbered(4, 4), **{"classes_per_task": 2, **options})  # type: ignore[arg-type]


def test_by_class_refuses_a_single_class_left_over() -> None:
    with pytest.raises(SpecError, match="task 'task-3' has 1 class"):
        split_by_class(numbered(5, 1), classes_per_task=2)


def test_by_column_names_task_and_class_with_too_few_rows() -> None:
    pool = [Row(f"{n}", label, task) for task in "AB" for label in "xy" for n in range(4)]
    data = LabelledData.from_pool(pool, test_fraction=0.25, seed=0)
    with pytest.raises(ConfigError, match="class 'x' of task 'A' has 3 rows, train_per_class asks for 4"):
        split_by_column(data, train_per_class=4)
    with pytest.raises(ConfigError, match="order names 'C', no task of the data; there are: A, B"):
        split_by_column(data, order=["A", "C"])


def test_by_column_needs_a_column() -> None:
    with pytest.raises(
        ConfigError, match="no task column to split by; name one in the source: task: <column>"
    ):
        split_by_column(numbered(2, 2))


def test_by_column_refuses_two_tasks_of_one_name() -> None:
    pool = [Row(f"{n}", label, task) for task in ("a b", "a-b") for label in "xy" for n in range(2)]
    data = LabelledData.from_pool(pool, test_fraction=0.5, seed=0)
    with pytest.raises(SpecError, match="2 tasks are named 'a-b'"):
        split_by_column(data)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_lies_between_0_and_1(fraction: float) -> None:
    with pytest.raises(ConfigError, match=f"test_fraction is {fraction}; it must lie between 0 and 1"):
        LabelledData.from_pool([Row("a", "x"), Row("b", "x")], test_fraction=fraction, seed=0)


def test_a_single_row_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="class 'x' of task 'A' has a single row"):
        LabelledData.from_pool([Row("a", "x", "A"), Row("b", "x", "B")], test_fraction=0.5, seed=0)
