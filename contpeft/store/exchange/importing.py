"""Versions coming in: a folder that PEFT or contpeft wrote, read strictly, and its base."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contpeft.errors import BaseMismatchError, NotFoundError, SpecError, UsageError, suggest
from contpeft.spec import AdapterState, BaseModel, Parent
from contpeft.store.disk import one_line_errors
from contpeft.store.exchange.provenance import CONFIG, HEAD, SIDE, WEIGHTS, Provenance
from contpeft.store.untrusted import read_json, read_tensors, refuse_pickle

if TYPE_CHECKING:
    from torch import nn

    from contpeft.adapters import AdaptedModel

__all__ = ["Folder", "check_fits", "check_same", "known_parents", "read", "told_base"]

# What a configuration of PEFT's tells about its making that a version has no place of its own for.
_FACTS: Final = ("base_model_name_or_path", "peft_version", "revision", "task_type")


@dataclass(frozen=True)
class Folder:
    """What was in a folder, checked.

    Attributes:
        path: the folder.
        told: its ``adapter_config.json``.
        state: the adapter and its head.
        provenance: what its side file says, or None when PEFT alone wrote it.
    """

    path: Path
    told: Mapping[str, Any]
    state: AdapterState
    provenance: Provenance | None

    @property
    def recipe(self) -> dict[str, Any]:
        """What is known of its making, for the catalogue."""
        if self.provenance is None:
            return {"imported": {key: self.told[key] for key in _FACTS if self.told.get(key) is not None}}
        parents = [
            asdict(each.parent) | {"fingerprint": each.fingerprint} for each in self.provenance.parents
        ]
        return {"imported": {**self.provenance.facts, "parents": parents, "profile": self.provenance.profile}}


def read(path: Path) -> Folder:
    """Returns what is in a folder, which PEFT or :func:`contpeft.store.exchange.exporting.write` wrote.

    Raises:
        NotFoundError: if there is no such folder or no adapter in it.
        UnsupportedError: if the weights are a pickle, or contpeft does not attach the method.
        SpecError: if configuration and tensors do not belong together.
        IntegrityError: if a file is malformed or not the one that was exported.
    """
    from contpeft.adapters import state_from_peft

    _check_files(path)
    told = read_json(path / CONFIG)
    provenance = None
    if (path / SIDE).exists():
        provenance = Provenance.from_json(read_json(path / SIDE), path / SIDE)
        there = [name for name in (CONFIG, WEIGHTS, HEAD) if (path / name).exists()]
        provenance.check_files(path, there, "PEFT")
    state = state_from_peft(told, read_tensors(path / WEIGHTS))
    return Folder(path, told, _with_head(path, state, provenance), provenance)


def told_base(folder: Folder, base: BaseModel | nn.Module | str | Path | None) -> BaseModel:
    """Returns the base of an adapter, after checking what can be checked with what is at hand.

    Args:
        folder: the adapter.
        base: its identity, a model, or a folder with one; None when the side file says.

    Raises:
        UsageError: if nothing says which it is.
        BaseMismatchError: if it is not the one the adapter was trained on, or the adapter does not fit it.
    """
    if isinstance(base, BaseModel):
        check_same(folder.path, folder.provenance, base)
        return base
    if base is not None:
        adapted = _at_hand(folder, base)
        check_same(folder.path, folder.provenance, adapted.base)
        check_fits(folder.path, folder.state, adapted)
        return adapted.base
    if folder.provenance is None:
        raise UsageError(
            f"{folder.path} names its base by a path alone "
            f"({folder.told.get('base_model_name_or_path')!r}); "
            "give the base: a model folder (--base), or that of a stored version (--like)"
        )
    return folder.provenance.base


def check_same(path: Path, provenance: Provenance | None, base: BaseModel) -> None:
    """Checks that a base is the one that a side file tells of, if there is one.

    Args:
        path: the folder, for the error.
        provenance: its side file.
        base: the base that was given.

    Raises:
        BaseMismatchError: if it is another one.
    """
    told = provenance.base if provenance else base
    if told.fingerprint != base.fingerprint:
        raise BaseMismatchError(
            f"the adapter in {path} was trained on {told.name!r} ({told.fingerprint[:12]}), the base "
            f"given is {base.name!r} ({base.fingerprint[:12]}); give the base it was trained on"
        )


def check_fits(path: Path, state: AdapterState, adapted: AdaptedModel) -> None:
    """Puts an adapter into its base once.

    Args:
        path: the folder it comes from, for the error.
        state: the adapter.
        adapted: the base.

    Raises:
        BaseMismatchError: if it does not fit.
    """
    try:
        adapted.check_fits(state)
    except SpecError as error:
        raise BaseMismatchError(f"the adapter in {path} is of another base: {error}") from error


def known_parents(connection: sqlite3.Connection, provenance: Provenance | None) -> list[Parent]:
    """Returns those parents that a side file tells of and that are in this store, by their tensors.

    Of several versions with equal tensors the one of the same reference is taken, else the oldest.
    """
    found: dict[tuple[str, str], Parent] = {}
    for each in provenance.parents if provenance else ():
        row = connection.execute(
            """
            SELECT adapter.name || '@' || version.n AS ref
            FROM version JOIN adapter ON adapter.id = version.adapter_id
            WHERE version.fingerprint = ? ORDER BY ref <> ?, version.id LIMIT 1
            """,
            (each.fingerprint, each.parent.ref),
        ).fetchone()
        if row:
            parent = Parent(row["ref"], each.parent.role, each.parent.weight)
            found.setdefault((parent.ref, parent.role), parent)
    return list(found.values())


def _check_files(path: Path) -> None:
    refuse_pickle(path)
    with one_line_errors(path):
        if not path.is_dir():
            raise NotFoundError(f"there is no folder {path}; name one that holds {CONFIG} and {WEIGHTS}")
        for weights in sorted(path.glob(f"{WEIGHTS.partition('.')[0]}.*")):
            refuse_pickle(weights)
        missing = next((name for name in (CONFIG, WEIGHTS) if not (path / name).exists()), None)
        if missing:
            inner = [each.parent.name for each in path.glob(f"*/{CONFIG}")]
            raise NotFoundError(f"no {missing} in {path}{suggest(path.name, inner) if inner else ''}")


def _with_head(path: Path, state: AdapterState, provenance: Provenance | None) -> AdapterState:
    from contpeft.adapters import check_head

    spec = provenance.head if provenance else None
    if not (path / HEAD).exists() and spec is None:
        return state
    if spec is None or state.head is not None:
        raise SpecError(f"{path / HEAD} is a head that nothing declares; take it out of the folder")
    tensors = read_tensors(path / HEAD) if (path / HEAD).exists() else {}
    check_head(spec, tensors)
    named = {AdapterState.HEAD_PREFIX + name: tensor for name, tensor in tensors.items()}
    return AdapterState(state.kind, state.config, {**state.tensors, **named}, spec)


def _at_hand(folder: Folder, base: nn.Module | str | Path) -> AdaptedModel:
    from contpeft.adapters import AdaptedModel, changed_modules, load_base

    if isinstance(base, str | Path):
        base = load_base(Path(base), changed_modules(folder.state), folder.told)
    return AdaptedModel.of(base)
