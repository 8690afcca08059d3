"""Examples, tasks and streams: what they refuse, and what their digests stand for."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from contpeft.digest import json_digest
from contpeft.errors import SpecError
from contpeft.experiments.tasks import Examples, Scenario, TaskData, TaskStream, slug
from contpeft.spec import Task, check_name


def rows(prefix: str, *labels: str) -> Examples:
    """One row per label; texts and ids start with ``prefix``."""
    names = [f"{prefix}-{number}" for number in range(len(labels))]
    return Examples(tuple(f"text {name}" for name in names), labels, tuple(names))


def task(name: str, *classes: str, metric: str = "accuracy") -> TaskData:
    """A task with one row per class to train on and one to test on."""
    train, test = rows(f"{name}-train", *classes), rows(f"{name}-test", *classes)
    return TaskData(Task(name, classes, metric), train, test)


# --- examples ------------------------------------------------------------------------------------


def test_digest_of_texts_is_over_length_prefixed_utf8() -> None:
    expected = hashlib.sha256()
    for part in (b"text", "né".encode(), b"text", b"a"):
        expected.update(len(part).to_bytes(8, "little") + part)
    assert Examples(("né",), ("a",), ("0",)).digest() == expected.hexdigest()


def test_digest_of_arrays_is_over_type_shape_and_little_endian_bytes() -> None:
    expected = hashlib.sha256()
    for part in (b"<i2[1, 2]", b"\x01\x00\x02\x00", b"text", b"a"):
        expected.update(len(part).to_bytes(8, "little") + part)
    for order in "<>":
        array = np.array([[1, 2]], dtype=f"{order}i2")
        assert Examples((array,), ("a",), ("0",)).digest() == expected.hexdigest()


def test_digest_tells_contents_apart() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    red, blue = (Image.new("P", (2, 2)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    inputs = ["a", "b", image, image.astype(np.int8), image.reshape(4, 3), image + 1, red, blue]
    digests = {Examples((value,), ("x",), ("0",)).digest() for value in inputs}
    digests |= {Examples(("a",), ("y",), ("0",)).digest(), Examples(("ax",), ("",), ("0",)).digest()}
    assert len(digests) == len(inputs) + 2


def test_digest_is_of_content_and_order_alone() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    of_array = Examples((array, "b"), ("x", "y"), ("0", "1"))
    of_image = Examples((Image.fromarray(array), "b"), ("x", "y"), ("other", "ids"))
    assert of_array.digest() == of_image.digest()
    assert of_array.digest() != of_array.select([1, 0]).digest()
    assert of_array.select([1, 0]).select([1, 0]).digest() == of_array.digest()


def test_an_input_of_another_kind_has_no_digest() -> None:
    with pytest.raises(SpecError, match="an input is a dict; it must be text, an array of numbers or"):
        Examples(({"text": "a"},), ("x",), ("0",)).digest()


def test_examples_are_equal_by_value() -> None:
    one, same = (Examples((np.zeros(2),), ("x",), ("0",)) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != Examples((np.ones(2),), ("x",), ("0",))
    assert one != Examples((np.zeros(2),), ("x",), ("1",))


def test_select_and_joined() -> None:
    examples = rows("r", "a", "b", "c")
    picked = examples.select([2, 0])
    assert (picked.inputs, picked.labels, picked.ids) == (
        ("text r-2", "text r-0"),
        ("c", "a"),
        ("r-2", "r-0"),
    )
    assert Examples.joined([examples.select([0]), examples.select([1, 2])]) == examples
    assert len(Examples.joined([])) == 0


def test_columns_follow_their_rows_and_are_no_content() -> None:
    plain = rows("r", "a", "b", "c")
    told = dataclasses.replace(plain, columns={"lang": ("de", "en", "fr")})
    assert told.select([2, 0]).columns == {"lang": ("fr", "de")}
    other = dataclasses.replace(rows("s", "a"), columns={"lang": ("it",), "channel": ("mail",)})
    assert Examples.joined([told, other]).columns == {"lang": ("de", "en", "fr", "it")}
    assert Examples.joined([told, rows("s", "a")]).columns == {}
    assert told.digest() == plain.digest()
    assert told == plain
    with pytest.raises(SpecError, match="column 'lang' has 1 values for 3 rows"):
        dataclasses.replace(plain, columns={"lang": ("de",)})


@pytest.mark.parametrize(
    ("labels", "ids", "message"),
    [
        (("x",), ("0", "1"), "as many inputs, labels and ids; there are 2, 1 and 2"),
        (("x", "y"), ("0", "0"), "row id '0' occurs twice"),
    ],
)
def test_examples_refuse(labels: tuple[str, ...], ids: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Examples(("a", "b"), labels, ids)


# --- tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "message"),
    [
        ("a b", "xy", "xy", "xy", "task name 'a b' is not usable"),
        ("t", "xyx", "xy", "xy", "task 't' names a class twice: x, y, x"),
        ("t", "x", "x", "x", "task 't' has 1 class; two at least"),
        ("t", "xy", "xx", "xy", "class 'y' of task 't' has no train row"),
        ("t", "xy", "xy", "yy", "class 'x' of task 't' has no test row"),
        (
            "t",
            "xy",
            "xyz",
            "xy",
            "a train row of task 't' has the label 'z', no class of it; there are: x, y",
        ),
        ("t", "xy", "xy", "xyq", "a test row of task 't' has the label 'q'"),
    ],
)
def test_task_refuses(name: str, classes: str, train: str, test: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TaskData(Task(name, tuple(classes)), rows("train", *train), rows("test", *test))


def test_task_refuses_a_row_in_both_splits() -> None:
    with pytest.raises(SpecError, match="row 'r-0' of task 't' is in train and in test"):
        TaskData(Task("t", ("x", "y")), rows("r", "x", "y"), rows("r", "x", "y"))


def test_task_digest_is_of_train_then_test() -> None:
    data = task("t", "x", "y")
    swapped = TaskData(data.task, data.test, data.train)
    assert data.digest() == json_digest([data.train.digest(), data.test.digest()])
    assert data.digest() != swapped.digest()


# --- streams -------------------------------------------------------------------------------------


def test_stream_is_a_sequence_that_knows_its_classes() -> None:
    one, two = task("one", "d", "c"), task("two", "b", "a")
    stream = TaskStream((one, two))
    assert (len(stream), stream[0], stream[-1], list(stream)) == (2, one, two, [one, two])
    assert [stream.seen(step) for step in (-1, 0, 1)] == [(), ("d", "c"), ("d", "c", "b", "a")]
    assert stream.classes == ("d", "c", "b", "a")


@pytest.mark.parametrize("step", [-2, 2])
def test_stream_has_no_step_outside_of_it(step: int) -> None:
    stream = TaskStream((task("one", "a", "b"), task("two", "c", "d")))
    with pytest.raises(IndexError, match=f"no step {step} in a stream of 2 tasks"):
        stream.seen(step)


@pytest.mark.parametrize(
    ("tasks", "scenario", "message"),
    [
        ((), "class-incremental", "needs at least one task"),
        (
            (task("a", "x", "y"),),
            "class_incremental",
            "no scenario 'class_incremental'; did you mean 'class-inc",
        ),
        ((task("a", "x", "y"), task("a", "v", "w")), "class-incremental", "2 tasks are named 'a'"),
        (
            (task("a", "x", "y"), task("b", "y", "z")),
            "class-incremental",
            "class 'y' is in task 'a' and in task 'b'",
        ),
        (
            (task("a", "x", "y"), task("b", "y", "z")),
            "domain-incremental",
            "class 'x' is in only one of the tasks",
        ),
        (
            (task("a", "x", "y"), task("b", "v", "w", metric="f1")),
            "task-incremental",
            "need one metric to be averaged; there are: accuracy, f1",
        ),
    ],
)
def test_stream_refuses(tasks: tuple[TaskData, ...], scenario: Scenario, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TaskStream(tasks, scenario)


def test_stream_refuses_a_row_in_two_tasks() -> None:
    one, two = task("a", "x", "y"), task("b", "x", "y")
    leaking = dataclasses.replace(two, test=one.train)
    with pytest.raises(SpecError, match="row 'a-train-0' is in task 'a' and in task 'b'"):
        TaskStream((one, leaking), "domain-incremental")


@pytest.mark.parametrize("scenario", ["task-incremental", "domain-incremental"])
def test_a_class_of_several_tasks_is_one_class_of_the_union(scenario: Scenario) -> None:
    union = TaskStream((task("a", "y", "x"), task("b", "x", "y")), scenario).union()
    assert union.task == Task("joint", ("y", "x"))
    assert union.train.labels == ("y", "x", "x", "y")
    assert union.test.ids == ("a-test-0", "a-test-1", "b-test-0", "b-test-1")


def test_stream_describes_itself_as_json() -> None:
    one, two = task("a", "x", "y"), task("b", "v", "w")
    stream = TaskStream((one, two))
    described = json.loads(json.dumps(stream.describe()))
    assert described["scenario"] == "class-incremental"
    assert described["tasks"][1] == {
        "name": "b",
        "classes": ["v", "w"],
        "train": {"rows": 2, "digest": two.train.digest()},
        "test": {"rows": 2, "digest": two.test.digest()},
    }
    assert stream.digest() == json_digest(described)
    assert stream.digest() != TaskStream((two, one)).digest()
    assert stream.digest() != TaskStream((one, two), "task-incremental").digest()


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rec.autos", "rec.autos"),
        ("Credit card / fees", "Credit-card-fees"),
        ("Müller & Söhne", "Muller-Sohne"),
        (".hidden", "hidden"),
        ("what?", "what"),
        ("ends-", "ends-"),
    ],
)
def test_slug(text: str, name: str) -> None:
    assert slug(text) == name


@pytest.mark.parametrize("text", ["", "日本語", "...", "x" * 129])
def test_slug_refuses_what_makes_no_name(text: str) -> None:
    with pytest.raises(SpecError, match=r"has no letter or digit|is not usable"):
        slug(text)


@given(st.text(max_size=40))
def test_a_slug_is_a_usable_name_and_its_own_slug(text: str) -> None:
    try:
        name = slug(text)
    except SpecError:
        return
    assert check_name(name) == slug(name) == name


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True))
def test_a_usable_name_is_its_own_slug(name: str) -> None:
    assert slug(name) == name
