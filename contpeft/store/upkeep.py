"""What is done to a store as a whole: less of it, other names, checked, copied."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from contpeft.errors import UsageError
from contpeft.spec import AdapterRef
from contpeft.store import backup, fsck, gc, prune, removal, rename, versions
from contpeft.store.backup import Backup
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.fsck import Checked
from contpeft.store.gc import Collected
from contpeft.store.prune import Policy, Pruned
from contpeft.store.removal import Removed

__all__ = ["Upkeep"]

GRACE: Final = timedelta(days=1)


class Upkeep:
    """The maintenance of a store, reached as ``store.upkeep``.

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

    def remove(self, refs: Sequence[str | AdapterRef], *, dry_run: bool = False) -> Removed:
        """Removes versions from the catalogue, all of them or none; :meth:`gc` frees their files.

        Their numbers are never given again, and the audit log keeps what they were.

        Args:
            refs: the versions.
            dry_run: only say what would go.

        Raises:
            NotFoundError: if there is no such version.
            UsageError: if an alias, the answer of a finished step or a version that stays needs one.
        """
        with self._db.write() as connection:
            return removal.remove(connection, refs, str(self._path), dry_run=dry_run)

    def remove_run(self, run: str, *, dry_run: bool = False) -> Removed:
        """Removes a run with its steps, its scores and the versions it made; :meth:`gc` frees the files.

        Args:
            run: its name.
            dry_run: only say what would go.

        Raises:
            NotFoundError: if there is no such run.
            UsageError: if an alias, another run's step or a version that stays needs one of them.
        """
        with self._db.write() as connection:
            return removal.remove_run(connection, run, str(self._path), dry_run=dry_run)

    def prune(
        self, policy: Policy, name: str | None = None, *, everything: bool = False, dry_run: bool = False
    ) -> Pruned:
        """Removes the versions a policy does not keep; :meth:`gc` frees their files.

        Versions stay whatever the policy that an alias stands for, that a finished step needs, that
        have the tag ``keep``, or that a version which stays was made from.

        Args:
            policy: what stays.
            name: only versions of this adapter go.
            everything: an adapter may lose all its versions.
            dry_run: only say what would go.

        Raises:
            UsageError: if nothing would be left of an adapter and ``everything`` is not set.
            NotFoundError: if there is no adapter called ``name``.
        """
        with self._db.write() as connection:
            if name is not None:
                versions.adapter_id(connection, name, str(self._path))
            return prune.prune(connection, policy, name, everything=everything, dry_run=dry_run)

    def rename(self, old: str, new: str) -> None:
        """Gives an adapter another name; its versions keep their numbers, aliases and lineage.

        Raises:
            NotFoundError: if there is no adapter ``old``.
            SpecError: if ``new`` is no name, or another adapter's.
            UsageError: if a finished step or a recipe, which never change, names a version of it.
        """
        with self._db.write() as connection:
            rename.rename(connection, old, new, str(self._path))

    def gc(self, grace: timedelta = GRACE, *, dry_run: bool = False) -> Collected:
        """Frees what no version needs: files of removed versions, and what killed processes left.

        Safe while others write, with any grace.

        Args:
            grace: what was written within this time stays.
            dry_run: only say what would go.

        Raises:
            StoreBusyError: if a file cannot be deleted.
        """
        return gc.collect(self._db, self._blobs, grace, dry_run=dry_run)

    def fsck(
        self,
        *,
        quick: bool = False,
        sample: float | None = None,
        max_seconds: float | None = None,
        repair: bool = False,
    ) -> Checked:
        """Checks that all that was stored is there and is what was stored.

        The catalogue is always checked wholly, and so are names and sizes of the files.

        Args:
            quick: read no file.
            sample: read this share of the files, 0 to 1, others each time.
            max_seconds: read no further file after this time.
            repair: move files that are not what was stored to ``quarantine/``; registering the same
                content again, or a backup, brings them back. No version is removed.

        Raises:
            IntegrityError: if the catalogue cannot be read at all.
            UsageError: if ``sample`` is no share.
        """
        if sample is not None and not 0 < sample <= 1:
            raise UsageError(f"cannot check a share of {sample:g}; give more than 0 and at most 1")
        return fsck.check(
            self._db, self._blobs, quick=quick, sample=sample, max_seconds=max_seconds, repair=repair
        )

    def backup(self, target: str | os.PathLike[str]) -> Backup:
        """Copies the store as it is at one moment, while others go on reading and writing.

        On one file system the files are hard links, made in an instant. To another one they are
        copied, and writers wait only for those that were new meanwhile. Opening the folder is all
        that restoring takes.

        Args:
            target: a folder that does not exist.

        Raises:
            UsageError: if there is something at ``target``.
            StoreBusyError: if the copy cannot be written; nothing is left of it then.
        """
        return backup.copy(self._db, self._blobs, Path(target))
