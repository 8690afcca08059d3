"""Adapters, fusions and setups of AdapterHub's coming in: all of a folder understood, or nothing stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contpeft.errors import BaseMismatchError, SpecError, UsageError
from contpeft.spec import AdapterRef, AdapterState, BaseModel, Parent, Version, check_name
from contpeft.spec.methods import FUSION
from contpeft.store import versions
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.exchange.adapterhub.base import Where, find_base
from contpeft.store.exchange.adapterhub.files import Found, Kind, Reader, provenance_of
from contpeft.store.exchange.adapterhub.members import KEPT, Member, check_members
from contpeft.store.exchange.adapterhub.setup import read_setup
from contpeft.store.exchange.importing import known_parents
from contpeft.store.exchange.provenance import Provenance
from contpeft.store.loading import load
from contpeft.store.reading import open_tensors

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HubImport"]


@dataclass(frozen=True)
class HubImport:
    """One import into a store.

    Attributes:
        database: the catalogue.
        blobs: the files.
        store: the store's folder, for messages.
        register: stores what comes in.
        reader: how liberally folders are read.
        over: the versions that a fusion is over.
    """

    database: Database
    blobs: Blobs
    store: str
    register: Callable[..., Version]
    reader: Reader
    over: Sequence[str | AdapterRef]

    def run(
        self, kind: Kind, path: Path, name: str, task: str | None, base: BaseModel | nn.Module | Path | None
    ) -> Version:
        """Stores what is in a folder and returns the version called ``name``.

        Args:
            kind: what the folder holds.
            path: the folder.
            name: of the adapter or the fusion; the adapters of a setup are called ``name.theirs``.
            task: the task after which this is the state.
            base: the base, as far as the caller knows it.

        Raises:
            ContpeftError: as :meth:`Exchange.import_folder` tells.
        """
        if kind != "fusion" and self.over:
            raise UsageError(
                f"{path} holds its adapters itself or is none of several; --over is for a fusion"
            )
        provenance = provenance_of(path)
        if kind == "adapter":
            return self._adapter(self.reader.one(path, "adapter"), name, task, base, provenance)
        if kind == "fusion":
            return self._fusion(self.reader.one(path, "fusion"), name, task, base, provenance)
        return self._setup(path, name, task, base, provenance)

    def _adapter(
        self,
        found: Found,
        name: str,
        task: str | None,
        base: BaseModel | nn.Module | Path | None,
        provenance: Provenance | None,
    ) -> Version:
        where = find_base([found], base, provenance, self._known_prefix)
        state = _state(found, where)
        with self.database.read() as connection:
            parents = known_parents(connection, provenance)
        return self._keep(name, state, where, found, task, parents, provenance)

    def _fusion(
        self,
        found: Found,
        name: str,
        task: str | None,
        base: BaseModel | nn.Module | Path | None,
        provenance: Provenance | None,
    ) -> Version:
        members = self._members()
        check_members(
            found.told.file.get("adapter_names"), [version for version, _ in members], str(found.path)
        )
        given = base if base is not None or provenance else members[0][0].base
        where = find_base([found], given, provenance, self._known_prefix)
        for version, _ in members:
            if version.base.fingerprint != where.base.fingerprint:
                raise BaseMismatchError(
                    f"{version.ref} is of the base {version.base.name!r} ({version.base.fingerprint[:12]}), "
                    f"the fusion of {where.base.name!r} ({where.base.fingerprint[:12]}); give others"
                )
        options, tensors = _fused(found, [state for _, state in members])
        state = _fusion_state(found, options, tensors, [version for version, _ in members])
        return self._keep(name, state, where, found, task, _frozen(members), provenance)

    def _setup(
        self,
        path: Path,
        name: str,
        task: str | None,
        base: BaseModel | nn.Module | Path | None,
        provenance: Provenance | None,
    ) -> Version:
        setup = read_setup(path, self.reader)
        where = find_base(setup.adapters, base, provenance, self._known_prefix)
        states = [_state(each, where) for each in setup.adapters]
        if setup.fusion is None:
            return self._keep(name, states[0], where, setup.adapters[0], task, [], None)
        options, tensors = _fused(setup.fusion, states)
        names = [f"{name}.{each.told.name}" for each in setup.adapters]
        self._check_names([name, *names])
        # All of it is understood: from here on only the disk can refuse.
        members = [
            self._keep(each, state, where, found, None, [], None)
            for each, state, found in zip(names, states, setup.adapters, strict=True)
        ]
        state = _fusion_state(setup.fusion, options, tensors, members)
        parents = _frozen([(version, state) for version in members])
        return self._keep(name, state, where, setup.fusion, task, parents, provenance)

    def _keep(
        self,
        name: str,
        state: AdapterState,
        where: Where,
        found: Found,
        task: str | None,
        parents: Sequence[Parent],
        provenance: Provenance | None,
    ) -> Version:
        facts = {**provenance.facts, "profile": provenance.profile} if provenance else {}
        return self.register(
            name,
            state,
            base=where.base,
            origin="imported",
            parents=tuple(parents),
            recipe={"imported": {**facts, KEPT: found.kept()}},
            task=task or (provenance.task if provenance else None),
            data=provenance.data if provenance else None,
            seconds=provenance.seconds if provenance else None,
        )

    def _members(self) -> list[Member]:
        with self.database.read() as connection:
            found = [versions.get(connection, ref, self.store) for ref in self.over]
        return [(version, load(self.blobs, version, self.store, verify=True)) for version in found]

    def _known_prefix(self, base: BaseModel) -> str | None:
        """Returns what names of modules begin with in the newest version on a base, if there is one."""
        from contpeft.adapters.adapterhub import METHODS, module_prefix

        marks = ", ".join("?" * len(METHODS))
        where = [
            ("base_model.fingerprint = ?", base.fingerprint),
            (f"version.kind IN ({marks})", *METHODS),
        ]
        with self.database.read() as connection:
            found = versions.select(connection, where, limit=1)
        if not found:
            return None
        with open_tensors(self.blobs, found[0], self.store) as tensors:
            return module_prefix([each for each in tensors if not each.startswith(AdapterState.HEAD_PREFIX)])

    def _check_names(self, names: Sequence[str]) -> None:
        with self.database.read() as connection:
            for name in names:
                known = versions.spelling(connection, check_name(name))
                if known not in (None, name):
                    raise SpecError(
                        f"adapter name {name!r} differs from {known!r} only in case; use {known!r}"
                    )


def _state(found: Found, where: Where) -> AdapterState:
    """Returns an adapter and its head, after it was put into the model once, if that is at hand."""
    from contpeft.adapters.adapterhub import adapter_from_hub

    state = adapter_from_hub(found.told, found.tensors, where.prefix, where.layers)
    where.check_fits(state, found.path)
    return _with_head(state, found)


def _fused(found: Found, members: Sequence[AdapterState]) -> tuple[dict[str, Any], dict[str, Any]]:
    from contpeft.adapters.adapterhub import fusion_from_hub

    return fusion_from_hub(found.told, found.tensors, members)


def _fusion_state(
    found: Found, options: Mapping[str, Any], tensors: Mapping[str, Any], members: Sequence[Version]
) -> AdapterState:
    over = [{"ref": version.ref, "fingerprint": version.fingerprint} for version in members]
    config = {"peft_type": FUSION.upper(), "options": dict(options), "over": over}
    return _with_head(AdapterState(FUSION, config, tensors), found)


def _with_head(state: AdapterState, found: Found) -> AdapterState:
    if found.head is None:
        return state
    _, spec, tensors = found.head
    return AdapterState(state.kind, state.config, {**state.tensors, **tensors}, spec)


def _frozen(members: Sequence[Member]) -> list[Parent]:
    return [Parent(version.ref, "frozen") for version, _ in members]
