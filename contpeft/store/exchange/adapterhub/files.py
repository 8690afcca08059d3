"""The files of a folder of AdapterHub's, read strictly; nothing is compared with a model or the store yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from contpeft.errors import NotFoundError, SpecError, UnsupportedError
from contpeft.spec import HeadSpec
from contpeft.store.disk import one_line_errors
from contpeft.store.exchange.provenance import CONFIG, SIDE, Provenance
from contpeft.store.untrusted import read_json, read_pickle, read_tensors

if TYPE_CHECKING:
    import torch

    from contpeft.adapters.adapterhub import Told

__all__ = [
    "FUSION_CONFIG",
    "HEAD_CONFIG",
    "SETUP",
    "WEIGHTS",
    "Found",
    "Head",
    "Kind",
    "Reader",
    "folder_of",
    "kind_of_folder",
    "provenance_of",
]

Kind = Literal["adapter", "fusion", "setup"]

FUSION_CONFIG: Final = "adapter_fusion_config.json"
HEAD_CONFIG: Final = "head_config.json"
SETUP: Final = "adapter_setup.json"
# By what they are of: safetensors, and the pickle that stands for them by default.
WEIGHTS: Final[Mapping[str, tuple[str, str]]] = {
    "adapter": ("adapter.safetensors", "pytorch_adapter.bin"),
    "fusion": ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin"),
    "head": ("model_head.safetensors", "pytorch_model_head.bin"),
}

Head = tuple["Told", HeadSpec, "dict[str, torch.Tensor]"]


@dataclass(frozen=True)
class Found:
    """An adapter or a fusion in a folder, its files read.

    Attributes:
        path: the folder.
        kind: which of the two.
        told: its configuration.
        tensors: as they are in the file.
        prefix: what their names begin with.
        head: the head beside it: its configuration, what it is, its tensors as in a version.
    """

    path: Path
    kind: Literal["adapter", "fusion"]
    told: Told
    tensors: Mapping[str, torch.Tensor]
    prefix: str
    head: Head | None

    def kept(self) -> dict[str, Any]:
        """Returns what a version keeps of the files, from which they can be written again."""
        files = {self.kind: dict(self.told.file), "prefix": self.prefix}
        return files | ({"head": dict(self.head[0].file)} if self.head else {})


def kind_of_folder(path: Path) -> Kind | None:
    """Returns what a folder of AdapterHub's holds, or None if it is no such folder."""
    with one_line_errors(path):
        if (path / SETUP).is_file():
            return "setup"
        if (path / FUSION_CONFIG).is_file():
            return "fusion"
        if not (path / CONFIG).is_file():
            return None
    told = read_json(path / CONFIG)
    return "adapter" if "peft_type" not in told and ("config" in told or "model_type" in told) else None


@dataclass(frozen=True)
class Reader:
    """Reads folders of AdapterHub's.

    Attributes:
        legacy: take in the form and the rules of older releases.
        pickle: read pickles where there are no safetensors.
    """

    legacy: bool = False
    pickle: bool = False

    def one(self, path: Path, kind: Literal["adapter", "fusion"]) -> Found:
        """Returns the adapter or the fusion in a folder, and its head.

        Raises:
            NotFoundError: if a file is missing.
            UnsupportedError: if it is a pickle or of an older release, which was not asked for.
            SpecError: if configuration and tensors of the head do not belong together.
            IntegrityError: if a file is malformed.
        """
        from contpeft.adapters.adapterhub import Told, prefix_of

        name = CONFIG if kind == "adapter" else FUSION_CONFIG
        told = Told.of(self._config(path / name), str(path / name), fused=kind == "fusion")
        tensors = self._weights(path, kind)
        return Found(path, kind, told, tensors, prefix_of(tensors, told.family), self.head(path))

    def head(self, path: Path) -> Head | None:
        """Returns the head in a folder, None if there is none; raises what :meth:`one` does."""
        from contpeft.adapters.adapterhub import Told, head_from_hub

        there = [name for name in WEIGHTS["head"] if (path / name).exists()]
        if not (path / HEAD_CONFIG).exists():
            if there:
                raise SpecError(
                    f"{path / there[0]} is a head that nothing declares; take it out of the folder"
                )
            return None
        value = self._config(path / HEAD_CONFIG)
        if value.get("config") is None:
            raise UnsupportedError(
                f"{path / HEAD_CONFIG} is the head of the class {value.get('model_class')!r} itself, which "
                "says not how it is made; take it and its weights out to import the adapter alone"
            )
        told = Told.of(value, str(path / HEAD_CONFIG))
        return told, *head_from_hub(told, self._weights(path, "head"))

    def _config(self, path: Path) -> dict[str, Any]:
        from contpeft.adapters.adapterhub import renewed

        return renewed(read_json(path), str(path), allowed=self.legacy)

    def _weights(self, path: Path, kind: str) -> dict[str, torch.Tensor]:
        from contpeft.adapters.adapterhub import renewed_names

        safe, pickled = (path / name for name in WEIGHTS[kind])
        commas = kind == "fusion"
        if safe.exists() or not pickled.exists():
            tensors, used = read_tensors(safe, commas=commas), safe
        elif self.pickle:
            tensors, used = read_pickle(pickled, commas=commas), pickled
        else:
            raise UnsupportedError(
                f"{pickled} is a pickle, which is read only when asked for (--pickle); better save the "
                "adapter again with use_safetensors=True"
            )
        return renewed_names(tensors, str(used), allowed=self.legacy)


def provenance_of(path: Path) -> Provenance | None:
    """Returns what contpeft wrote beside the files of a folder that it exported, None for others.

    Raises:
        IntegrityError: if a file is not the one that was exported.
    """
    if not (path / SIDE).exists():
        return None
    provenance = Provenance.from_json(read_json(path / SIDE), path / SIDE)
    there = [
        str(file.relative_to(path))
        for file in path.rglob("*")
        if file.suffix in (".bin", ".json", ".safetensors") and file != path / SIDE
    ]
    provenance.check_files(path, there, "AdapterHub")
    return provenance


def folder_of(path: Path, name: str) -> Path:
    """Returns a folder in a setup.

    Raises:
        NotFoundError: if it is not there.
    """
    if not (path / name).is_dir():
        raise NotFoundError(f"{path / SETUP} names {name!r}, and there is no folder {path / name}")
    return path / name
