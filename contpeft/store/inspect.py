"""Questions about a store as a whole, and about versions side by side."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

from contpeft.digest import canonical_json
from contpeft.spec import AdapterRef, Score, Version
from contpeft.store import diff, lineage, query, steps, usage, versions
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.diff import Difference
from contpeft.store.examine import Inspection
from contpeft.store.lineage import Branch
from contpeft.store.loading import load
from contpeft.store.query import Answer
from contpeft.store.reading import open_tensors
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

    def measured(self, composition: str) -> list[Score]:
        """Returns what was measured of a composition in any run, the newest first.

        Args:
            composition: its key, such as :func:`contpeft.spec.identity.calibration_key` gives.
        """
        with self._db.read() as connection:
            return steps.scores_of_composition(connection, composition)

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

    def adapters(
        self,
        refs: Sequence[str | AdapterRef],
        *,
        family: Sequence[str] = (),
        limit: int = 50,
        cut: float = 0.5,
    ) -> Inspection:
        """Returns what is inside adapters: spectra, outliers against a family, and how several relate.

        Only catalogue and files are read, module by module; no model is needed. One adapter is compared
        with the newest other versions of its kind on its base, several with each other.

        Args:
            refs: the versions; named twice, one counts once.
            family: names of the adapters whose versions a single one is compared with; all without it.
            limit: compare a single one with at most so many.
            cut: the mean cosine that still joins two clusters of several.

        Raises:
            NotFoundError: if there is no such version or family.
            UsageError: if several are on different bases.
            IntegrityError: if a file is missing or damaged.
        """
        from contpeft.store.examine.adapters import compare, examine

        with self._db.read() as connection:
            ids = dict(versions.find(connection, ref, self._store) for ref in refs)
            asked = [versions.select(connection, [("version.id = ?", each)])[0] for each in ids]
            others = []
            if len(asked) == 1:
                others = self._family(connection, asked[0], family, limit)
        opened = partial(open_tensors, self._blobs, store=self._store)
        return examine(asked[0], others, opened) if len(asked) == 1 else compare(asked, opened, cut=cut)

    def _family(
        self, connection: sqlite3.Connection, version: Version, names: Sequence[str], limit: int
    ) -> list[Version]:
        """Returns the newest other versions of a version's kind on its base."""
        where: list[tuple[str, ...]] = [
            ("version.kind = ?", version.kind),
            ("base_model.fingerprint = ?", version.base.fingerprint),
            ("adapter.name || '@' || version.n <> ?", version.ref),
        ]
        if names:
            ids = [versions.adapter_id(connection, name, self._store) for name in names]
            where.append(("adapter.id IN (SELECT value FROM json_each(?))", canonical_json(ids)))
        return versions.select(connection, where, limit)

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
