"""Hugging Face data sets, from folders on disk and from a hub that is not there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from contpeft.errors import ConfigError, NotFoundError
from contpeft.experiments.sources import HubDataset
from contpeft.experiments.streams import split_by_column


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No progress bars, and a cache that is thrown away."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def save(folder: Path, features: Features | None = None, **splits: dict[str, list[Any]]) -> str:
    made = {name: Dataset.from_dict(columns, features=features) for name, columns in splits.items()}
    DatasetDict(made).save_to_disk(folder)
    return str(folder)


def test_texts_and_label_names_from_disk(tmp_path: Path) -> None:
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["neg", "pos"]), "domain": Value("string")}
    )
    columns = {
        "text": ["good", "bad", "fine", "poor"],
        "label": [1, 0, 1, 0],
        "domain": ["film"] * 2 + ["food"] * 2,
    }
    path = save(tmp_path / "saved", features, train=columns, test=columns)
    data = HubDataset(path, task="domain").load()
    assert data.train.inputs == data.test.inputs == ("good", "bad", "fine", "poor")
    assert data.train.labels == ("pos", "neg", "pos", "neg")
    stream = split_by_column(data)
    assert [(task.name, sorted(task.train.inputs)) for task in stream] == [
        ("film", ["bad", "good"]),
        ("food", ["fine", "poor"]),
    ]


def test_images_from_disk_come_back_pixel_by_pixel(tmp_path: Path) -> None:
    pixels = [np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8) for seed in range(4)]
    features = Features({"img": Image(), "fine": Value("int64")})
    path = save(
        tmp_path / "saved",
        features,
        train={"img": pixels[:2], "fine": [3, 4]},
        valid={"img": pixels[2:], "fine": [4, 3]},
    )
    data = HubDataset(path, test="valid", input="img", label="fine").load()
    assert (data.train.labels, data.test.labels) == (("3", "4"), ("4", "3"))
    for image, expected in zip((*data.train.inputs, *data.test.inputs), pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_classes_are_chosen_and_data_files_are_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        lines = "".join(f'{{"text": "{split} {n}", "label": "{"xyz"[n]}"}}\n' for n in range(3))
        (tmp_path / f"{split}.jsonl").write_text(lines)
    data = HubDataset(str(tmp_path), classes=["z", "x"]).load()
    assert (data.train.inputs, data.test.labels) == (("train 0", "train 2"), ("x", "z"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test": "tests"}, "has no split 'tests'; did you mean 'test'?"),
        ({"input": "txt"}, "split 'train' of data set '.*' has no column 'txt'; did you mean 'text'?"),
        ({"label": "gold"}, "has no column 'gold'; there are: label, text"),
        ({"task": "domain"}, "has no column 'domain'; there are: label, text"),
        ({"classes": ["pos", "bad"]}, "the data has no class 'bad'; there are: neg, pos"),
        ({"revision": "main"}, "was written by save_to_disk: it has no name or revision"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    columns = {"text": ["a", "b"], "label": ["pos", "neg"]}
    path = save(tmp_path / "saved", train=columns, test=columns)
    with pytest.raises(ConfigError, match=message):
        HubDataset(path, **options).load()


@pytest.mark.parametrize("missing", [-1, None])
def test_a_row_without_a_label_is_refused(tmp_path: Path, missing: int | None) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    columns = {"text": ["a", "b"], "label": [0, missing]}
    path = save(tmp_path / "saved", features, train=columns, test=columns)
    with pytest.raises(ConfigError, match="a row has no 'label' in split 'train' of data set"):
        HubDataset(path).load()


def test_a_single_saved_split_is_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a"], "label": ["x"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ConfigError, match="holds a single split; save a DatasetDict of train and test"):
        HubDataset(str(tmp_path / "saved")).load()


@pytest.mark.parametrize("path", ["someone/something", "./nowhere"])
def test_what_cannot_be_reached_is_named(path: str) -> None:
    with pytest.raises(
        NotFoundError, match=rf"cannot load data set '{path}' \(Couldn't reach .*; check name"
    ):
        HubDataset(path).load()


def test_without_the_library_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(NotFoundError, match=r"this source needs datasets .*; pip install 'contpeft\[data\]'"):
        HubDataset("someone/something").load()


def test_further_columns_are_kept_by_name(tmp_path: Path) -> None:
    features = Features(
        {"text": Value("string"), "label": Value("string"), "lang": ClassLabel(names=["de", "en"])}
    )
    columns = {"text": ["a", "b"], "label": ["x", "y"], "lang": [1, 0]}
    path = save(tmp_path / "saved", features, train=columns, test=columns)
    data = HubDataset(path, columns=["lang", "label"]).load()
    assert data.test.columns == {"lang": ("en", "de"), "label": ("x", "y")}
    assert data.test.labels == ("x", "y")
    with pytest.raises(ConfigError, match="has no column 'language'"):
        HubDataset(path, columns=["language"]).load()
