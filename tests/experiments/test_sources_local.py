"""Local files: what is read, and how every problem is named by file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonargparse
import pytest

from contpeft.errors import ConfigError, NotFoundError, SpecError
from contpeft.experiments.sources import LabelledData, LocalFolder, Row, Source
from contpeft.experiments.streams import split_by_column

TRAIN = [("where is my card", "card"), ("when will it arrive, please", "card"), ('a "fee"?', "fee")]
TEST = [("né\r\nnew line", "fee"), ("lost it", "card")]


def write_jsonl(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    cells = ('"{}","{}"'.format(text.replace('"', '""'), label) for text, label in rows)
    path.write_text("\n".join(["text,label", *cells]) + "\n", encoding="utf-8", newline="")


@pytest.mark.parametrize("write", [write_jsonl, write_csv])
def test_both_formats_hold_the_same_rows(tmp_path: Path, write: object) -> None:
    assert callable(write)
    suffix = "csv" if write is write_csv else "jsonl"
    write(tmp_path / f"train.{suffix}", TRAIN)
    write(tmp_path / f"test.{suffix}", TEST)
    data = LocalFolder(str(tmp_path)).load()
    assert list(zip(data.train.inputs, data.train.labels, strict=True)) == TRAIN
    assert list(zip(data.test.inputs, data.test.labels, strict=True)) == TEST
    assert data.classes == ["card", "fee"]
    assert data == LabelledData.from_rows([Row(*row) for row in TRAIN], [Row(*row) for row in TEST])


def test_columns_and_files_are_named_and_numbers_are_names(tmp_path: Path) -> None:
    for name in ("first", "second"):
        row = {"utterance": f"hello {name}", "intent": 7, "domain": "small talk", "other": None}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n\n")
    source = LocalFolder(str(tmp_path), "utterance", "intent", task="domain", train="first", test="second")
    data = source.load()
    assert (data.train.inputs, data.train.labels, data.test.inputs) == (
        ("hello first",),
        ("7",),
        ("hello second",),
    )
    assert data.tasks == {data.train.ids[0]: "small talk", data.test.ids[0]: "small talk"}


def test_a_byte_order_mark_and_empty_lines_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbftext,label\r\na,x\r\n\r\nb,y\r\n")
    (tmp_path / "test.csv").write_text("text,label\nc,x\n")
    data = LocalFolder(str(tmp_path)).load()
    assert (data.train.inputs, data.train.labels) == (("a", "b"), ("x", "y"))


def test_ids_are_of_the_content_and_equal_rows_are_kept_apart(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", TEST)
    write_jsonl(tmp_path / "train.jsonl", [*TRAIN, TRAIN[0]])
    forwards = LocalFolder(str(tmp_path)).load().train
    write_jsonl(tmp_path / "train.jsonl", [TRAIN[0], *TRAIN[::-1]])
    backwards = LocalFolder(str(tmp_path)).load().train
    assert set(forwards.ids) == set(backwards.ids)
    assert forwards.ids[3] == f"{forwards.ids[0]}-2"
    assert all(re.fullmatch(r"train/[0-9a-f]{16}(-2)?", row_id) for row_id in forwards.ids)


def test_one_file_is_split_by_class_and_seed(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", [(f"text {n}", "abc"[n % 3]) for n in range(30)])
    splits = [LocalFolder(str(tmp_path), test_fraction=0.3, seed=seed).load() for seed in (0, 0, 1)]
    for data in splits:
        assert [data.test.labels.count(label) for label in "abc"] == [3, 3, 3]
        assert {*data.train.inputs, *data.test.inputs} == {f"text {n}" for n in range(30)}
    assert splits[0] == splits[1]
    assert set(splits[0].test.ids) != set(splits[2].test.ids)


def test_classes_are_chosen(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    write_jsonl(tmp_path / "test.jsonl", TEST)
    data = LocalFolder(str(tmp_path), classes=["fee"]).load()
    assert (data.train.inputs, data.test.inputs) == (('a "fee"?',), ("né\r\nnew line",))
    with pytest.raises(ConfigError, match="the data has no class 'fees'; did you mean 'fee'"):
        LocalFolder(str(tmp_path), classes=["fees"]).load()
    with pytest.raises(ConfigError, match="classes names 'fee' 2 times"):
        LocalFolder(str(tmp_path), classes=["fee", "fee"]).load()


def test_choosing_classes_keeps_the_task_column(tmp_path: Path) -> None:
    rows = [Row("a", "x", "A"), Row("b", "y", "A"), Row("c", "x", "B"), Row("d", "y", "B")]
    data = LabelledData.from_rows(rows, rows).only(["x"])
    assert data.tasks == dict(zip((*data.train.ids, *data.test.ids), "ABAB", strict=True))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.jsonl",
            '{"text": "a", "label": "x"}\n{"text": \n',
            "train.jsonl, line 2: not JSON .*mend the line",
        ),
        ("train.jsonl", '["a", "x"]\n', "train.jsonl, line 1: list where an object"),
        ("train.jsonl", '{"txt": "a", "label": "x"}', "line 1 has no column 'text'; did you mean 'txt'?"),
        ("train.jsonl", '{"q": "a", "label": "x"}', "line 1 has no column 'text'; there are: label, q"),
        ("train.jsonl", '{"text": null, "label": "x"}', "line 1: 'text' is None; it must be text"),
        ("train.jsonl", '{"text": "a", "label": 1.5}', "line 1: 'label' is 1.5; it must be text"),
        ("train.jsonl", '{"text": "a", "label": ""}', "line 1: 'label' is empty"),
        ("train.jsonl", '{"text": "\\ud83d", "label": "x"}', "line 1: 'text' has half a character pair"),
        ("train.jsonl", "\n", "train.jsonl has no rows"),
        ("train.csv", "", "train.csv has no rows"),
        ("train.csv", "text,label\n", "train.csv has no rows"),
        ("train.csv", "text,label\na,x\nb,c,y\n", "train.csv, line 3: 3 cells under a header of 2"),
        ("train.csv", 'text,label\n"a"b,x\n', "train.csv, line 2: not CSV"),
        ("train.csv", "text,lable\na,x\n", "train.csv, line 2 has no column 'label'; did you mean 'lable'?"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    write_jsonl(tmp_path / "test.jsonl", TEST)
    with pytest.raises(ConfigError, match=message):
        LocalFolder(str(tmp_path)).load()


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes("text,label\nMüller,x\n".encode("latin-1"))
    with pytest.raises(
        ConfigError, match=r"train\.csv is not UTF-8 \(invalid start byte at byte 12\); convert it"
    ):
        LocalFolder(str(tmp_path)).load()


def test_missing_and_ambiguous_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no folder '.*nowhere'; 'path' must name one"):
        LocalFolder(str(tmp_path / "nowhere")).load()
    with pytest.raises(NotFoundError, match=r"no train.jsonl or train.csv in .*; there are none yet"):
        LocalFolder(str(tmp_path)).load()
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    with pytest.raises(NotFoundError, match=r"no data.jsonl or data.csv in .*; there are: train\.jsonl"):
        LocalFolder(str(tmp_path), test_fraction=0.5).load()
    write_csv(tmp_path / "train.csv", TRAIN)
    with pytest.raises(ConfigError, match=r"has both train.jsonl and train.csv; keep one"):
        LocalFolder(str(tmp_path)).load()


def test_data_made_by_hand_is_checked() -> None:
    data = LabelledData.from_rows([Row("a", "x", "A")], [Row("b", "x", "A")])
    with pytest.raises(SpecError, match=r"row 'train/.*' is in train and in test"):
        LabelledData(data.train, data.train)
    with pytest.raises(SpecError, match=r"row 'test/.*' has no task while others have"):
        LabelledData(data.train, data.test, {data.train.ids[0]: "A"})


def test_a_source_is_made_from_a_configuration() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--source", type=Source)
    options = {"path": "data", "task": "domain", "test_fraction": 0.5, "classes": ["a", "b"]}
    chosen = {"class_path": "contpeft.experiments.sources.LocalFolder", "init_args": options}
    made = parser.instantiate(parser.parse_object({"source": chosen})).source
    assert made == LocalFolder("data", task="domain", test_fraction=0.5, classes=["a", "b"])


def test_further_columns_are_kept_row_by_row_through_every_split(tmp_path: Path) -> None:
    rows = [
        {"text": f"text {n}", "label": "ab"[n % 2], "team": "xy"[n // 10], "channel": f"c{n}", "turn": n}
        for n in range(20)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = LocalFolder(str(tmp_path), task="team", test_fraction=0.5, columns=["channel", "turn"])
    data = source.load()
    stream = split_by_column(data, train_per_class=2)
    for examples in (data.train, data.test, *(part for task in stream for part in (task.train, task.test))):
        number = [text.removeprefix("text ") for text in examples.inputs]
        assert examples.columns == {"channel": tuple(f"c{n}" for n in number), "turn": tuple(number)}
    assert len(stream.union().test.columns["turn"]) == 8
    plain = LocalFolder(str(tmp_path), task="team", test_fraction=0.5)
    assert split_by_column(plain.load(), train_per_class=2).digest() == stream.digest()
    with pytest.raises(ConfigError, match=r"line 1 has no column 'chanel'; did you mean 'channel'"):
        LocalFolder(str(tmp_path), test_fraction=0.5, columns=["chanel"]).load()


def test_rows_differ_in_their_columns_never(tmp_path: Path) -> None:
    rows = [Row("a", "x", None, {"lang": "de"}), Row("b", "x")]
    with pytest.raises(SpecError, match="some train rows have no column 'lang'; give it to all of them"):
        LabelledData.from_rows(rows, [])
