"""Questions about a store as a whole, and about versions side by side."""

from __future__ import annotations

from contpeft.spec import AdapterRef, Score
from contpeft.store import diff, lineage, query, steps, usage, versions
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.diff import Difference
from contpeft.store.lineage import Branch
from contpeft.store.loading import load
from contpeft.store.query import Answer
from contpeft.store.usage import Usage

__all__ = ["Inspect"]


class Inspect:
    """The questions a store answers, reached as ``store.inspect``.

    Args:
        database: the catalogue.
        blobs: the files.
        store: the store's folder, for messages.
    """

    def __init__(self, database: Database, blobs: Blobs, store: str) -> None:
        """Keeps what it works on."""
        self._db = database
        self._blobs = blobs
        self._store = store

    def scores(self, ref: str | AdapterRef) -> list[Score]:
        """Returns what was measured after the steps that made a version.

        A version of a run without steps has all scores of its run.

        Raises:
            NotFoundError: if there is no such version.
        """
        with self._db.read() as connection:
            found, _ = versions.find(connection, ref, self._store)
            return steps.scores_of_version(connection, found)

    def tree(self, ref: str | AdapterRef | None = None, *, parents: bool = False) -> list[Branch]:
        """Returns the lineage below a version, depth first, or that of the whole store.

        Args:
            ref: the version at the top; without it every version that has no parents is one.
            parents: show what a version was made from, not what was made from it.

        Raises:
            NotFoundError: if there is no such version.
        """
        with self._db.read() as connection:
            top = None if ref is None else versions.find(connection, ref, self._store)[0]
            return lineage.branches(connection, top, parents=parents)

    def diff(self, before: str | AdapterRef, after: str | AdapterRef) -> Difference:
        """Returns what differs between two versions; their files are verified.

        Raises:
            NotFoundError: if there is no such version.
            IntegrityError: if a file is missing or damaged.
        """
        with self._db.read() as connection:
            ids = [versions.find(connection, ref, self._store)[0] for ref in (before, after)]
            old, new = (versions.select(connection, [("version.id = ?", each)])[0] for each in ids)
            scores = [steps.scores_of_version(connection, each) for each in ids]
        states = (load(self._blobs, version, self._store, verify=True) for version in (old, new))
        return Difference(
            old.ref, new.ref, diff.fields(old, new), diff.tensors(*states), diff.scores(*scores)
        )

    def usage(self) -> Usage:
        """Returns how many bytes the store holds, adapter by adapter."""
        with self._db.read() as connection:
            return usage.measure(connection, self._blobs)

    def query(self, sql: str) -> Answer:
        """Returns what the catalogue answers to one SELECT; nothing can be changed by it.

        The views ``version_list``, ``version_score``, ``matrix``, ``forgetting`` and ``lineage`` are
        made to be asked.

        Raises:
            UsageError: if it is no query.
        """
        with self._db.read():
            return query.query(self._db.path, sql)
