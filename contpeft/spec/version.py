"""The catalogue entry of a stored version, its base model and its parents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from contpeft.spec.adapter import HeadSpec

__all__ = ["BaseModel", "Parent", "Version"]

_REMEMBERED = ("memory", "moments", "statistics")


@dataclass(frozen=True)
class BaseModel:
    """A frozen pretrained model, named by what it is in memory.

    Attributes:
        name: a label for people (hub id or folder name).
        fingerprint: SHA-256 over its configuration and its tensors, head excluded.
        parameters: number of parameters, head excluded.
    """

    name: str
    fingerprint: str
    parameters: int


@dataclass(frozen=True)
class Parent:
    """One edge of the lineage: the version this one was made from.

    Attributes:
        ref: ``name@n`` of the parent.
        role: ``"continued"`` (trained on), ``"fused"``, ``"distilled"``, ``"frozen"`` (was active).
        weight: its coefficient in a fusion, or None.
    """

    ref: str
    role: Literal["continued", "fused", "distilled", "frozen"] = "continued"
    weight: float | None = None


@dataclass(frozen=True)
class Version:
    """The catalogue entry of one immutable version.

    Attributes:
        ref: ``name@n``.
        name: the adapter's name.
        n: the version number, dense from 1, never reused.
        kind: see :class:`AdapterState`.
        fingerprint: digest of the tensors (not of the file).
        sha256: digest of the blob file.
        bytes: size of the blob file.
        parameters: number of stored adapter parameters, head excluded.
        config: see :class:`AdapterState`.
        head: see :class:`AdapterState`.
        base: the model it was trained on.
        origin: ``"trained"``, ``"fused"`` or ``"imported"``.
        parents: what it was made from.
        recipe: how, for versions made of others (free JSON unless fused); None for what was trained, or when
            nothing is known.
        run: id of the run that made it, or None.
        task: name of the task after whose training this is the state, or None.
        data: digest of the training data, or None.
        environment: versions of what made it.
        seconds: training time, or None when not measured.
        created_at: UTC, ISO 8601.
    """

    ref: str
    name: str
    n: int
    kind: str
    fingerprint: str
    sha256: str
    bytes: int
    parameters: int
    config: Mapping[str, Any]
    head: HeadSpec | None
    base: BaseModel
    origin: str
    parents: tuple[Parent, ...]
    recipe: Mapping[str, Any] | None
    run: str | None
    task: str | None
    data: str | None
    environment: Mapping[str, Any]
    seconds: float | None
    created_at: str

    @property
    def adapts(self) -> bool:
        """Whether it answers through an adapter or a head, and is not what a strategy remembers."""
        return self.kind not in _REMEMBERED

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as JSON."""
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        value["config"] = dict(self.config)
        value["head"] = self.head.to_json() if self.head else None
        value["base"] = asdict(self.base)
        value["parents"] = [asdict(parent) for parent in self.parents]
        value["environment"] = dict(self.environment)
        value["recipe"] = dict(self.recipe) if self.recipe is not None else None
        return value
