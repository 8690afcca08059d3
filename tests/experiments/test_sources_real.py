"""The real data that comes in packages: sizes, classes and streams as they must be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from contpeft.errors import ConfigError
from contpeft.experiments.sources import Digits, LabelledData, Newsgroups
from contpeft.experiments.streams import split_by_class

# Sizes as published with the by-date split after removing duplicates and empty posts (18,821 posts):
# Cardoso-Cachopo, Improving Methods for Single-label Text Categorization, 2007.
POSTS = {
    "alt.atheism": (480, 319),
    "comp.graphics": (584, 389),
    "comp.os.ms-windows.misc": (572, 394),
    "comp.sys.ibm.pc.hardware": (590, 392),
    "comp.sys.mac.hardware": (578, 385),
    "comp.windows.x": (593, 392),
    "misc.forsale": (585, 390),
    "rec.autos": (594, 395),
    "rec.motorcycles": (598, 398),
    "rec.sport.baseball": (597, 397),
    "rec.sport.hockey": (600, 399),
    "sci.crypt": (595, 396),
    "sci.electronics": (591, 393),
    "sci.med": (594, 396),
    "sci.space": (593, 394),
    "soc.religion.christian": (598, 398),
    "talk.politics.guns": (545, 364),
    "talk.politics.mideast": (564, 376),
    "talk.politics.misc": (465, 310),
    "talk.religion.misc": (377, 251),
}


@pytest.fixture(scope="module")
def newsgroups(tmp_path_factory: pytest.TempPathFactory) -> LabelledData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return Newsgroups().load()


def test_newsgroups_are_all_there(newsgroups: LabelledData) -> None:
    assert (len(newsgroups.train), len(newsgroups.test)) == (11_293, 7_528)
    train, test = Counter(newsgroups.train.labels), Counter(newsgroups.test.labels)
    assert {label: (train[label], test[label]) for label in newsgroups.classes} == POSTS
    assert newsgroups.train.inputs[0].startswith("alt atheism faq atheist resources archive name")
    assert newsgroups.test.inputs[0].startswith("re about the bibl")


def test_newsgroups_are_chosen_by_name_and_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    some = Newsgroups(classes=["sci.med", "rec.autos"], min_words=50).load()
    assert some.classes == ["rec.autos", "sci.med"]
    assert min(len(text.split()) for text in some.train.inputs) == 50
    with pytest.raises(ConfigError, match=r"no class 'rec\.auto'; did you mean 'rec\.autos'"):
        Newsgroups(classes=["rec.auto"]).load()


def test_a_stream_of_newsgroups_is_the_same_everywhere(newsgroups: LabelledData) -> None:
    data = newsgroups.only([*POSTS][:10])
    stream = split_by_class(data, classes_per_task=2, train_per_class=100, test_per_class=50)
    assert [task.classes for task in stream] == [
        ("alt.atheism", "comp.graphics"),
        ("comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware"),
        ("comp.sys.mac.hardware", "comp.windows.x"),
        ("misc.forsale", "rec.autos"),
        ("rec.motorcycles", "rec.sport.baseball"),
    ]
    assert [(len(task.train), len(task.test)) for task in stream] == [(200, 100)] * 5
    assert stream.digest() == "eeb7aa98a9789804cb27b4b57469dd5708975200daff4c36c869d39397e415ea"


def test_a_shuffled_stream_of_newsgroups_is_the_same_everywhere(newsgroups: LabelledData) -> None:
    stream = split_by_class(newsgroups, classes_per_task=4, seed=1, train_per_class=20, test_per_class=10)
    assert stream[0].classes == (
        "comp.sys.mac.hardware",
        "comp.graphics",
        "talk.religion.misc",
        "talk.politics.mideast",
    )
    assert stream.digest() == "885ef9940d5689f5e066c6d1f69b2f9edc0beb959ba10d3d86741c1455c6a052"


def test_digits_are_pictures_in_three_channels() -> None:
    data = Digits().load()
    raw = load_digits()
    assert (len(data.train) + len(data.test), data.classes) == (1_797, list("0123456789"))
    assert Counter(data.train.labels + data.test.labels) == Counter(map(str, raw.target))
    first = data.train.inputs[0]
    assert (first.dtype, first.shape) == (np.uint8, (8, 8, 3))
    assert (first[..., 0] == first[..., 2]).all()
    pictures = [*data.train.inputs, *data.test.inputs]
    ink = sorted((picture[..., 1] / (255 / 16)).round().tobytes() for picture in pictures)
    assert ink == sorted(grey.tobytes() for grey in raw.images)
    assert max(picture.max() for picture in pictures) == 255


def test_a_stream_of_digits_is_the_same_everywhere() -> None:
    stream = split_by_class(Digits(classes=list("1345")).load(), classes_per_task=2)
    assert stream.digest() == "ea3e36f1ade8a29cac4c85cc6b06b2fd4e2e3b993f54274634260ff73418bbab"
