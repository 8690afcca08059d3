"""What is done to a store as a whole: less of it, other names, checked, copied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from contpeft.errors import UsageError
from contpeft.spec import AdapterRef
from contpeft.store import fsck, gc, removal
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.fsck import Checked
from contpeft.store.gc import Collected
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
