"""Versions that travel: into one file and out of it, to a shared folder and from it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from contpeft.digest import bytes_digest, tensors_digest
from contpeft.errors import IntegrityError, NotFoundError, SpecError, StoreBusyError, suggest
from contpeft.spec import Version, check_name
from contpeft.store import events, versions
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.rows import json_text, parse_json
from contpeft.store.tensors import count_parameters, entries
from contpeft.store.transfer.results import Arrived, Bundled, Pushed, Remote
from contpeft.store.untrusted import check_structure

if TYPE_CHECKING:  # they load pydantic and fsspec, which finding a version must not
    from contpeft.store.transfer.records import Pack, VersionRecord
    from contpeft.store.transfer.remote import RemoteFolder

__all__ = ["Transfer"]

Item = TypeVar("Item")


class Transfer:
    """What leaves a store and what comes in, reached as ``store.transfer``.

    Everything that arrives is a union: nothing that is here changes, nothing that comes is lost,
    and what cannot be both is reported.

    Args:
        database: the catalogue.
        blobs: the files.
        path: the store's folder.
    """

    def __init__(self, database: Database, blobs: Blobs, path: Path) -> None:
        """Keeps what it works on."""
        self._db = database
        self._blobs = blobs
        self._path = path

    def bundle(self, target: str | os.PathLike[str], refs: Sequence[str] = ()) -> Bundled:
        """Writes versions into one file, with their parents, steps, scores, aliases and tags.

        Args:
            target: a file that does not exist.
            refs: the versions; all when empty.

        Raises:
            NotFoundError: if there is no such version.
            UsageError: if there is something at ``target``.
            IntegrityError: if a version's file is missing or damaged.
        """
        from contpeft.store.transfer import bundle

        pack, path = self._pack(refs), Path(target)
        size = bundle.write(path, pack, self._blobs)
        return Bundled(path, tuple(version.ref for version in pack.versions), size)

    def unbundle(self, source: str | os.PathLike[str], *, dry_run: bool = False) -> Arrived:
        """Takes in what a bundle holds and is not here, all of it or nothing.

        Args:
            source: a file that :meth:`bundle` wrote.
            dry_run: only say what would come.

        Raises:
            UsageError: if there is no such file.
            IntegrityError: if it is no bundle, or anything in it is not what it says.
        """
        from contpeft.store.transfer import bundle

        with bundle.read(Path(source)) as opened:
            # All of it is checked before anything is written.
            for version in opened.pack.versions:
                check_file(opened.read(version.sha256), version, str(source))
            return self._take(
                [opened.pack], lambda version: opened.read(version.sha256), str(source), dry_run=dry_run
            )

    def add_remote(self, name: str, url: str) -> Remote:
        """Gives a shared folder a name in this store.

        Args:
            name: how :meth:`push` and :meth:`pull` call it.
            url: where it is: a path, ``s3://bucket/prefix``, ``sftp://host/path``, or any other
                address fsspec knows.

        Raises:
            SpecError: if there is a remote of that name.
            UsageError: if nothing installed knows the address.
        """
        from contpeft.store.transfer.remote import RemoteFolder

        check_name(name, "remote")
        RemoteFolder(url)
        with self._db.write() as connection:
            known = _remotes(connection)
            if name.lower() in (each.lower() for each in known):
                raise SpecError(f"there is a remote {name!r} in {self._path} already; remove it first")
            connection.execute("INSERT INTO remote (name, url) VALUES (?, ?)", (name, url))
            events.record(connection, "remote.added", name, url=url)
        return Remote(name, url)

    def remove_remote(self, name: str) -> Remote:
        """Forgets the name of a shared folder; the folder stays as it is.

        Raises:
            NotFoundError: if there is no remote of that name.
        """
        with self._db.write() as connection:
            url = self._url(connection, name)
            connection.execute("DELETE FROM remote WHERE name = ?", (name,))
            events.record(connection, "remote.removed", name, url=url)
        return Remote(name, url)

    def remotes(self) -> list[Remote]:
        """Returns all remotes, sorted by name."""
        with self._db.read() as connection:
            return [Remote(name, url) for name, url in _remotes(connection).items()]

    def push(self, remote: str, refs: Sequence[str] = (), *, dry_run: bool = False) -> Pushed:
        """Sends a remote what it does not have: files first, then one pack that names them.

        Cut short, it leaves nothing that anybody could see, and the next push goes on.

        Args:
            remote: its name.
            refs: the versions, with all they need; everything when empty.
            dry_run: only say what would go.

        Raises:
            NotFoundError: if there is no such remote or version.
            StoreBusyError: if the remote cannot be used.
            IntegrityError: if a version's file is missing or damaged here.
        """
        folder = self._folder(remote)
        everything = self._pack(refs)
        pack = everything.without(self._known(folder))
        held = folder.blobs()
        files = {v.sha256: v for v in everything.versions if held.get(v.sha256) != v.bytes}
        pushed = Pushed(
            tuple(version.ref for version in pack.versions),
            len(pack.records()),
            len(files),
            sum(version.bytes for version in files.values()),
        )
        if not dry_run:
            _in_parallel(folder.at_once, files.values(), lambda version: self._send(folder, version))
            if not pack.is_empty():
                sha256 = folder.write_pack(pack.to_bytes())
                self._remember(sha256, pack, merged=True)
                with self._db.write() as connection:
                    events.record(connection, "store.pushed", remote, pack=sha256, records=pushed.records)
        return pushed

    def pull(self, remote: str, *, dry_run: bool = False) -> Arrived:
        """Takes in what a remote has and is not here; every file is checked on arrival.

        Cut short, it leaves the files it got, which the next pull need not get again.

        Args:
            remote: its name.
            dry_run: only say what would come.

        Raises:
            NotFoundError: if there is no such remote.
            StoreBusyError: if the remote cannot be used.
            IntegrityError: if something there is not what was pushed.
        """
        from contpeft.store.transfer.records import Pack

        folder = self._folder(remote)
        with self._db.read() as connection:
            merged = {row["sha256"] for row in connection.execute("SELECT sha256 FROM pack WHERE merged")}
        new = [sha256 for sha256 in folder.packs() if sha256 not in merged]
        packs = [Pack.parse(folder.read_pack(sha256), f"{folder.url}/packs/{sha256}") for sha256 in new]
        lost = self._lost(folder)

        def read(version: Stored) -> bytes:
            data = folder.read_blob(version.sha256)
            check_file(data, version, folder.url)
            return data

        arrived = self._take(packs, read, folder.url, dry_run=dry_run, at_once=folder.at_once, lost=lost)
        if not dry_run:
            for sha256, pack in zip(new, packs, strict=True):
                self._remember(sha256, pack, merged=True)
        return arrived

    def _lost(self, folder: RemoteFolder) -> list[Version]:
        """Returns the versions here whose file is gone, and is in a remote."""
        with self._db.read() as connection:
            files = connection.execute(
                "SELECT sha256, bytes FROM blob WHERE sha256 IN (SELECT sha256 FROM version)"
            )
            gone = {row["sha256"] for row in files if not self._blobs.present(row["sha256"], row["bytes"])}
            there = sorted(gone & folder.blobs().keys()) if gone else []
            named = json_text(there, "digests")
            return versions.select(
                connection, [("version.sha256 IN (SELECT value FROM json_each(?))", named)]
            )

    def _pack(self, refs: Sequence[str]) -> Pack:
        from contpeft.store.transfer import packing

        with self._db.read() as connection:
            return packing.pack(connection, refs, str(self._path))

    def _folder(self, name: str) -> RemoteFolder:
        from contpeft.store.transfer.remote import RemoteFolder

        with self._db.read() as connection:
            return RemoteFolder(self._url(connection, name))

    def _url(self, connection: sqlite3.Connection, name: str) -> str:
        known = _remotes(connection)
        if name not in known:
            raise NotFoundError(
                f"no remote {name!r} in {self._path}{suggest(name, known)}; "
                "add it: contpeft store remote add NAME URL"
            )
        return known[name]

    def _known(self, folder: RemoteFolder) -> set[str]:
        """Returns the names of all records a remote has; only packs never seen before are read."""
        from contpeft.store.transfer.records import Pack

        there = folder.packs()
        with self._db.read() as connection:
            seen = {row["sha256"]: row["records"] for row in connection.execute("SELECT * FROM pack")}
        for sha256 in there:
            if sha256 not in seen:
                pack = Pack.parse(folder.read_pack(sha256), f"{folder.url}/packs/{sha256}")
                seen[sha256] = self._remember(sha256, pack, merged=False)
        return {name for sha256 in there for name in parse_json(seen[sha256])}

    def _remember(self, sha256: str, pack: Pack, *, merged: bool) -> str:
        records = json_text(sorted(pack.records()), "records")
        with self._db.write() as connection:
            connection.execute(
                "INSERT INTO pack (sha256, records, merged) VALUES (?, ?, ?) "
                "ON CONFLICT (sha256) DO UPDATE SET merged = max(merged, excluded.merged)",
                (sha256, records, merged),
            )
        return records

    def _send(self, folder: RemoteFolder, version: VersionRecord) -> None:
        folder.write_blob(version.sha256, self._blobs.read(version.sha256, f"version {version.ref!r}"))

    def _take(
        self,
        packs: Sequence[Pack],
        read: Callable[[Stored], bytes],
        source: str,
        *,
        dry_run: bool,
        at_once: int = 1,
        lost: Sequence[Stored] = (),
    ) -> Arrived:
        """Gets the files that are not here, then writes all rows in one transaction."""
        from contpeft.store.transfer import arrival

        sent = [version for pack in packs for version in pack.versions]
        needed: dict[str, Stored] = {
            v.sha256: v for v in (*lost, *sent) if not self._blobs.intact(v.sha256, v.bytes)
        }
        if not dry_run:
            self._blobs.make_folders()
            _in_parallel(at_once, needed.values(), lambda v: self._blobs.put(read(v), v.sha256))
        with self._db.write(keep=not dry_run) as connection:
            healed = versions.holding(connection, needed)
            for ref in healed:
                events.record(connection, "version.healed", ref, source=source)
            if not dry_run:
                self._check_present(arrival.missing(connection, packs))
            arrived = arrival.merge(connection, packs, str(self._path), source)
        return replace(arrived, healed=tuple(healed))

    def _check_present(self, new: Iterable[VersionRecord]) -> None:
        for version in new:
            if not self._blobs.present(version.sha256, version.bytes):
                raise StoreBusyError(
                    f"the file of {version.ref} vanished from {self._path}/blobs while others came; "
                    "do it again when no garbage is collected"
                )


class Stored(Protocol):
    """A version, as far as its file is concerned."""

    @property
    def ref(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def parameters(self) -> int: ...


def check_file(data: bytes, version: Stored, source: str) -> None:
    """Checks that a file is what its version says, whoever sent it.

    Raises:
        IntegrityError: if it is no safetensors file, or holds other tensors.
    """
    if (len(data), bytes_digest(data)) != (version.bytes, version.sha256):
        raise IntegrityError(f"{source} has other bytes for {version.ref} than it says; get it again")
    check_structure(data, f"the file of {version.ref} in {source}")
    held = list(entries(data))
    if (tensors_digest(held), count_parameters(held)) != (version.fingerprint, version.parameters):
        raise IntegrityError(f"{source} has other tensors for {version.ref} than it says; refused")


def _in_parallel(at_once: int, items: Iterable[Item], act: Callable[[Item], object]) -> None:
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(act, item) for item in items]:
            done.result()


def _remotes(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, url FROM remote ORDER BY name")
    return {row["name"]: row["url"] for row in rows}
