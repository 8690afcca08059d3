"""What came and what went when versions travelled between stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Arrived", "Bundled", "Conflict", "Pushed", "Remote"]


@dataclass(frozen=True)
class Conflict:
    """Something that is one thing here and another there; what is here stays.

    Attributes:
        subject: what it is about: ``name@alias``, ``run/way/step``, ...
        here: what it is here.
        there: what it is there.
    """

    subject: str
    here: str
    there: str


@dataclass(frozen=True)
class Arrived:
    """What came from another store.

    Attributes:
        versions: ``name@n`` of the versions that are new here, as they are called here.
        renamed: of those that have another name here, what they are called there.
        runs: the runs that are new here or have new steps or scores.
        scores: how many scores are new here.
        aliases: ``name@alias`` of the aliases that moved.
        conflicts: what stayed as it was here though it is another thing there.
        healed: ``name@n`` of the versions that were here and whose missing or damaged files came.
    """

    versions: tuple[str, ...]
    renamed: Mapping[str, str]
    runs: tuple[str, ...]
    scores: int
    aliases: tuple[str, ...]
    conflicts: tuple[Conflict, ...]
    healed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundled:
    """A bundle that was written.

    Attributes:
        path: the file.
        versions: ``name@n`` of what is in it.
        bytes: its size.
    """

    path: Path
    versions: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Pushed:
    """What a remote did not have.

    Attributes:
        versions: ``name@n`` of the versions.
        records: how many versions, runs, aliases and sets of tags were new or had changed.
        files: how many files were sent.
        bytes: size of these files.
    """

    versions: tuple[str, ...]
    records: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Remote:
    """A shared folder by name."""

    name: str
    url: str
