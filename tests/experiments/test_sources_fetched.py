"""Sources of what was fetched, on small files of the same form."""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from contpeft.errors import ConfigError, NotFoundError
from contpeft.experiments import archives
from contpeft.experiments.sources import FashionMnist, Source, Vader, WordNetGlosses


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, archive in archives.ARCHIVES.items():
        (tmp_path / "contpeft" / "fetched" / f"{name}-{archive.sha256[:12]}").mkdir(parents=True)
    return tmp_path


def put(name: str, file: str, content: bytes) -> None:
    (archives.fetched(name) / file).write_bytes(content)


def vader() -> None:
    for domain in ("tweets", "nytEditorialSnippets", "movieReviewSnippets", "amazonReviewSnippets"):
        lines = [f"{n}\t{n - 4}.5\t{domain} says\t{n}" for n in range(8)] + [f"9\t0.0\t{domain} is silent"]
        put("vader", f"{domain}_GroundTruth.txt", "\r\n".join(lines).encode())


@pytest.mark.usefixtures("folder")
def test_vader_is_dealt_by_domain_and_sign() -> None:
    vader()
    data = Vader(test_fraction=0.25).load()
    assert data.classes == ["negative", "positive"]
    assert Counter(data.tasks.values()) == dict.fromkeys(["editorials", "films", "products", "tweets"], 8)
    told = dict(zip(data.train.inputs + data.test.inputs, data.train.labels + data.test.labels, strict=True))
    assert told["tweets says\t0"] == "negative"
    assert told["tweets says\t7"] == "positive"
    assert not any("silent" in text for text in told)
    assert len(data.test.inputs) == 8  # a quarter of each class of each domain
    assert set(Vader(domains=["films"]).load().tasks.values()) == {"films"}
    with pytest.raises(ConfigError, match="VADER has no domain 'film'; did you mean 'films'"):
        Vader(domains=["film"]).load()


@pytest.mark.usefixtures("folder")
def test_glosses_are_labelled_by_their_file_and_lose_their_examples() -> None:
    lines = ["  1 This software and database is being provided to you"]
    for n in range(4):
        lines.append(f'0000{n} 05 n 01 cat 0 000 | a small feline number {n}; "the cat sat"; "so it did"  ')
        lines.append(f"0001{n} 13 n 01 pie 0 000 | something baked {n}; of fruit  ")
        lines.append(f"0002{n} 16 n 01 why 0 000 | a reason {n}  ")
    put("wordnet", "data.noun", "\n".join(lines).encode())
    data = WordNetGlosses(test_fraction=0.25).load()
    assert data.classes == ["animal", "food"]
    texts = {*data.train.inputs, *data.test.inputs}
    assert texts == {f"a small feline number {n}" for n in range(4)} | {
        f"something baked {n}; of fruit" for n in range(4)
    }
    assert len(data.test.inputs) == 2


@pytest.mark.usefixtures("folder")
def test_pictures_keep_their_splits() -> None:
    for split, count in (("train", 6), ("t10k", 4)):
        pictures = np.arange(count * 784, dtype=np.uint32).astype(np.uint8)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        put("fashion-mnist", f"{split}-images-idx3-ubyte.gz", gzip.compress(header + pictures.tobytes()))
        labels = bytes(n % 3 for n in range(count))
        put(
            "fashion-mnist",
            f"{split}-labels-idx1-ubyte.gz",
            gzip.compress(struct.pack(">II", 2049, count) + labels),
        )
    data = FashionMnist().load()
    assert data.train.labels == ("t-shirt", "trouser", "pullover") * 2
    assert data.train.inputs[1].shape == (28, 28)
    assert data.train.inputs[1].dtype == np.uint8
    assert data.train.inputs[1].ravel().tolist() == [n % 256 for n in range(784, 1568)]
    assert len(data.test.inputs) == 4
    few = FashionMnist(classes=["trouser"], train_rows=3, test_rows=1).load()
    assert (few.train.labels, few.test.labels) == (("trouser",), ())


@pytest.mark.parametrize("source", [Vader(), WordNetGlosses(), FashionMnist()])
def test_what_was_not_fetched_says_how_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Source
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NotFoundError, match="is not here yet; fetch it with 'contpeft data fetch"):
        source.load()


@pytest.mark.acceptance
def test_the_real_packages_hold_what_they_say() -> None:
    for name in archives.ARCHIVES:
        archives.fetch(name)
    vader = Vader().load()
    expected = {"films": 10_568, "editorials": 4_946, "tweets": 4_196, "products": 3_610}
    assert Counter(vader.tasks.values()) == expected
    glosses = WordNetGlosses().load()
    assert len(glosses.classes) == 20
    pictures = FashionMnist().load()
    assert (len(pictures.train.inputs), len(pictures.test.inputs)) == (60_000, 10_000)
    assert set(Counter(pictures.train.labels).values()) == {6_000}
