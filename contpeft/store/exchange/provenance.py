"""What an exported folder says about its adapter: where it comes from, and what it was.

It stands apart from PEFT's own files: of a key that it does not know PEFT warns, and some engines read
every safetensors file that lies beside the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from contpeft.digest import file_digest
from contpeft.errors import IntegrityError
from contpeft.spec import BaseModel, HeadSpec, Parent, Score, Version

__all__ = ["ASIDE", "CONFIG", "HEAD", "SIDE", "WEIGHTS", "Ancestor", "Provenance"]

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
ASIDE: Final = "contpeft"
HEAD: Final = f"{ASIDE}/head.safetensors"
SIDE: Final = f"{ASIDE}/version.json"
_FORMAT: Final = 1


@dataclass(frozen=True)
class Ancestor:
    """A parent of the exported version.

    Attributes:
        parent: the edge, its reference as in the store it comes from.
        fingerprint: digest of the parent's tensors, by which any store can tell it.
    """

    parent: Parent
    fingerprint: str


@dataclass(frozen=True)
class Provenance:
    """What a folder says about the version in it.

    Attributes:
        profile: the form it was exported in.
        base: the model it was trained on.
        head: what its head is, or None.
        parents: what it was made from.
        task: the task after whose training this is the state, or None.
        data: digest of the training data, or None.
        seconds: training time, or None.
        facts: the rest of its catalogue entry, and its scores.
        files: name to SHA-256 of every other file.
    """

    profile: str
    base: BaseModel
    head: HeadSpec | None
    parents: tuple[Ancestor, ...]
    task: str | None
    data: str | None
    seconds: float | None
    facts: Mapping[str, Any]
    files: Mapping[str, str]

    @classmethod
    def of(
        cls,
        version: Version,
        parents: Iterable[Ancestor],
        scores: Sequence[Score],
        profile: str,
        files: Mapping[str, str],
    ) -> Provenance:
        """Returns what there is to say about a stored version."""
        apart = ("base", "config", "data", "head", "parents", "seconds", "task")
        facts = {key: value for key, value in version.to_json().items() if key not in apart}
        return cls(
            profile=profile,
            base=version.base,
            head=version.head,
            parents=tuple(parents),
            task=version.task,
            data=version.data,
            seconds=version.seconds,
            facts=facts | {"scores": [asdict(score) for score in scores]},
            files=dict(files),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the content of the side file."""
        return {
            "format": _FORMAT,
            "profile": self.profile,
            "base": asdict(self.base),
            "head": self.head.to_json() if self.head else None,
            "parents": [asdict(each.parent) | {"fingerprint": each.fingerprint} for each in self.parents],
            "task": self.task,
            "data": self.data,
            "seconds": self.seconds,
            "facts": dict(self.facts),
            "files": dict(self.files),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], path: Path) -> Provenance:
        """Returns what :meth:`to_json` wrote, every value checked.

        Raises:
            IntegrityError: if it is of another form.
        """
        try:
            return cls._parse(value)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"{path} is not what contpeft writes there ({type(error).__name__}: {error}); "
                f"take {ASIDE}/ out of the folder to import what PEFT would read"
            ) from error

    def check_files(self, folder: Path, there: Iterable[str], reader: str) -> None:
        """Checks that the files of a folder are those that were exported: a changed one is another adapter.

        Args:
            folder: where they are.
            there: the names of those that are there, the side file aside.
            reader: who reads the folder without the side file, for the error.

        Raises:
            IntegrityError: naming a file that changed, came, or went.
        """
        digests = {name: file_digest(folder / name) for name in there}
        changed = [name for name in {*digests, *self.files} if digests.get(name) != self.files.get(name)]
        if changed:
            raise IntegrityError(
                f"{folder / min(changed)} is not the file that was exported; export it again, or take "
                f"{ASIDE}/ out of the folder to import what {reader} would read"
            )

    @classmethod
    def _parse(cls, value: Mapping[str, Any]) -> Provenance:
        if value["format"] != _FORMAT:
            raise ValueError(f"format {value['format']!r} is not {_FORMAT}")
        seconds = value["seconds"]
        if seconds is not None and not math.isfinite(seconds):
            raise ValueError(f"seconds {seconds!r}")
        return cls(
            profile=_text(value["profile"]),
            base=_base(**value["base"]),
            head=None if value["head"] is None else _head(**value["head"]),
            parents=tuple(_ancestor(**each) for each in value["parents"]),
            task=_text(value["task"], optional=True),
            data=_text(value["data"], optional=True),
            seconds=seconds,
            facts=_mapping(value["facts"]),
            files={name: _text(digest) for name, digest in _mapping(value["files"]).items()},
        )


def _base(name: Any, fingerprint: Any, parameters: Any) -> BaseModel:
    if type(parameters) is not int or not 0 <= parameters < 2**63:
        raise TypeError(f"parameters {parameters!r}")
    return BaseModel(_text(name), _text(fingerprint), parameters)


def _head(kind: Any, classes: Any, options: Any) -> HeadSpec:
    if not isinstance(classes, list):
        raise TypeError(f"classes {classes!r}")
    return HeadSpec(_text(kind), tuple(map(_text, classes)), _mapping(options))


def _ancestor(ref: Any, role: Any, weight: Any, fingerprint: Any) -> Ancestor:
    if weight is not None and not math.isfinite(weight):
        raise ValueError(f"weight {weight!r}")
    return Ancestor(Parent(_text(ref), _text(role), weight), _text(fingerprint))


def _text(value: Any, *, optional: bool = False) -> Any:
    if not isinstance(value, str) and not (optional and value is None):
        raise TypeError(f"{value!r} is no text")
    if isinstance(value, str):
        value.encode()  # refuses half of a character
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value
