"""Adapters going out to the folders that PEFT and AdapterHub load, and coming in from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contpeft.errors import IntegrityError, UsageError
from contpeft.spec import AdapterRef, AdapterState, BaseModel, Version, check_name
from contpeft.store import steps, versions
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.exchange import exporting, importing
from contpeft.store.exchange.adapterhub import HubImport, Reader, hub_files, kind_of_folder
from contpeft.store.exchange.exporting import Exported, Profile
from contpeft.store.exchange.provenance import Ancestor
from contpeft.store.loading import file_bytes, load

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Exchange"]


class Exchange:
    """The traffic between a store and folders of PEFT and AdapterHub, reached as ``store.exchange``.

    Args:
        database: the catalogue.
        blobs: the files.
        store: the store's folder, for messages.
        register: stores what comes in.
    """

    def __init__(
        self, database: Database, blobs: Blobs, store: str, register: Callable[..., Version]
    ) -> None:
        """Keeps what it works on."""
        self._db = database
        self._blobs = blobs
        self._store = store
        self._register = register

    def export_folder(
        self,
        ref: str | AdapterRef,
        folder: str | os.PathLike[str],
        *,
        profile: Profile = "faithful",
        base: nn.Module | str | os.PathLike[str] | None = None,
        base_name: str | None = None,
        head: bool = True,
    ) -> Exported:
        """Writes a version to a folder that ``PeftModel.from_pretrained`` loads; whole or not at all.

        With the profile ``"adapterhub"`` the library ``adapters`` loads it, a fusion as a setup with its
        members. Its own folder ``contpeft/`` beside PEFT's files keeps where it comes from, and its head;
        PEFT reads neither, and :meth:`import_folder` brings all of it back.

        Args:
            ref: the version.
            folder: new or empty.
            profile: ``"faithful"`` is what was trained. ``"serving"`` is one rank, no scaling and factors
                for every layer of a type, which all engines read alike; LoRA only. ``"adapterhub"`` is
                what AdapterHub would have saved, bit for bit; bottleneck adapters, LoRA, fusions.
            base: for the last two: the model it was trained on or its folder, of which names and shapes
                alone are read; needed when the targets are more than module types, or nothing else tells
                what kind of model it is.
            base_name: what the folder calls the base; the store's name for it when None.
            head: whether the head goes along; False is for heads that AdapterHub has not.

        Raises:
            NotFoundError: if there is no such version.
            UsageError: if something is in the folder, or ``base`` is needed.
            UnsupportedError: if PEFT, or an engine, has no place for what the version holds.
            BaseMismatchError: if the adapter does not fit ``base``.
            IntegrityError: if the stored file is missing or damaged.
            StoreBusyError: if the folder cannot be written.
        """
        target = Path(folder)
        exporting.check(target, profile, base, head=head)
        with self._db.read() as connection:
            version_id, exact = versions.find(connection, ref, self._store)
            version = versions.get(connection, exact, self._store)
            scores = steps.scores_of_version(connection, version_id)
            parents = [
                Ancestor(parent, versions.get(connection, parent.ref, self._store).fingerprint)
                for parent in version.parents
            ]
        if profile == "adapterhub":
            state = self._load(version)
            files = hub_files(version, state, self._members(version, state), base, base_name, head=head)
            return exporting.write(target, version, files, parents, scores, profile)
        data = file_bytes(self._blobs, version, self._store)
        if profile == "faithful":
            files = exporting.faithful(version, data, base_name)
        else:
            files = exporting.serving(version, data, base_name, base)
        return exporting.write(target, version, files, parents, scores, profile)

    def import_folder(
        self,
        folder: str | os.PathLike[str],
        name: str,
        *,
        task: str | None = None,
        base: BaseModel | nn.Module | str | os.PathLike[str] | None = None,
        over: Sequence[str | AdapterRef] = (),
        legacy: bool = False,
        pickle: bool = False,
    ) -> Version:
        """Stores the adapter in a folder of PEFT's, AdapterHub's or :meth:`export_folder`'s as a version.

        Nothing is taken on trust: every tensor must be a factor of the method or of a declared head,
        every factor must be there, and no pickle is read. With a model at hand the adapter is attached
        to it once, which also tells of layers that are left out. The same folder gives the same version.

        Args:
            folder: it holds ``adapter_config.json`` and ``adapter_model.safetensors``, or what AdapterHub
                writes: an adapter, a fusion, or a setup, whose adapters become versions, too
                (``name.theirs``).
            name: the adapter of which it becomes a version.
            task: the task after which this is the state; what the folder says when None.
            base: the model it was trained on, its folder, or its identity (``store.show(ref).base``);
                what the folder says when None.
            over: for a fusion of AdapterHub's: the stored versions of its members, in its order.
            legacy: take in the names and rules of older releases of AdapterHub.
            pickle: read the pickles that AdapterHub writes by default, where there are no safetensors.

        Returns:
            The catalogue entry; its origin is ``"imported"``, its parents are those that are in this
            store, and its recipe keeps what else is known.

        Raises:
            NotFoundError: if there is no adapter in the folder.
            UsageError: if nothing says which base it is, or the members of a fusion are not given.
            BaseMismatchError: if it was trained on another base.
            SpecError: if configuration and tensors do not belong together.
            UnsupportedError: if it is a pickle, or of a kind that contpeft does not attach.
            IntegrityError: if a file is malformed, or not the one that was exported.
        """
        check_name(name)
        given = Path(base) if isinstance(base, str | os.PathLike) else base
        kind = kind_of_folder(Path(folder))
        if kind is not None:
            reader = Reader(legacy=legacy, pickle=pickle)
            hub = HubImport(self._db, self._blobs, self._store, self._register, reader, over)
            return hub.run(kind, Path(folder), name, task, given)
        if over or legacy or pickle:
            raise UsageError(
                f"{folder} is no folder of AdapterHub's; --over, --legacy and --pickle are for those"
            )
        found = importing.read(Path(folder))
        told = importing.told_base(found, given)
        with self._db.read() as connection:
            parents = importing.known_parents(connection, found.provenance)
        known = found.provenance
        return self._register(
            name,
            found.state,
            base=told,
            origin="imported",
            parents=parents,
            recipe=found.recipe,
            task=task or (known.task if known else None),
            data=known.data if known else None,
            seconds=known.seconds if known else None,
        )

    def _load(self, version: Version) -> AdapterState:
        return load(self._blobs, version, self._store, verify=True)

    def _members(self, version: Version, state: AdapterState) -> list[tuple[Version, AdapterState]]:
        """Returns the versions that a fusion is over, none for others."""
        if version.kind != "fusion":
            return []
        told = state.config["over"]
        with self._db.read() as connection:
            found = [versions.get(connection, entry["ref"], self._store) for entry in told]
        for entry, member in zip(told, found, strict=True):
            if member.fingerprint != entry["fingerprint"]:
                raise IntegrityError(
                    f"{version.ref} was made over {entry['ref']} of tensors {entry['fingerprint'][:12]}, "
                    f"here {member.ref} has others; the fusion cannot be exported with it"
                )
        return [(member, self._load(member)) for member in found]
