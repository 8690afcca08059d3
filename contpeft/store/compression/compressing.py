"""Compressing versions together, straight from their files, and storing what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from contpeft.errors import UsageError
from contpeft.spec import AdapterRef, AdapterState, Parent, Version, check_name
from contpeft.store import versions
from contpeft.store.blobs import Blobs
from contpeft.store.compression.plan import Compression, Stored
from contpeft.store.database import Database
from contpeft.store.reading import open_tensors

if TYPE_CHECKING:
    from contpeft.store.compression.shared import Shared

__all__ = ["KIND", "Compressing"]

# The kind of versions that hold a basis others share.
KIND: Final = "basis"


class Compressing:
    """Compressing stored versions, reached as ``store.compression``.

    Args:
        database: the catalogue.
        blobs: the files.
        store: the store's folder, for messages.
        register: stores what comes out.
    """

    def __init__(
        self, database: Database, blobs: Blobs, store: str, register: Callable[..., Version]
    ) -> None:
        """Keeps what it works on."""
        self._db = database
        self._blobs = blobs
        self._store = store
        self._register = register

    def plan(self, refs: Sequence[str | AdapterRef], budget: int | float) -> Compression:
        """Returns what compressing versions would come to; raises what :meth:`compress` raises."""
        return self._made(self._find(refs), budget).compression

    def compress(
        self,
        refs: Sequence[str | AdapterRef],
        budget: int | float,
        *,
        basis: str = "shared-basis",
        max_error: float | None = None,
    ) -> Stored:
        """Stores versions anew, on one basis: each as the next version of its adapter, loaded as before.

        Of each module, the basis holds the directions that are worth most to all versions together, each
        version counting alike whatever its norm, and a version only coordinates between them. Doing it
        again with the same versions and budget finds what is there, so one that was killed can be
        repeated. The versions that were given stay; removing them is what frees bytes.

        Args:
            refs: LoRA versions of one base, two or more; named twice, one counts once.
            budget: bytes that basis and coordinates may take, heads and the headers of files aside; a
                float between 0 and 1 is a share of what the versions take.
            basis: the adapter of which the basis becomes a version.
            max_error: store nothing if a version would lose a larger share of its norm.

        Raises:
            NotFoundError: if there is no such version.
            UnsupportedError: if one is no sum of low-rank updates.
            UsageError: if they are of several bases, too few, the budget is too small for one of them, or
                an error too large.
            IntegrityError: if a file is missing or damaged.
        """
        check_name(basis)
        found = self._find(refs)
        shared = self._made(found, budget)
        _check_errors(shared.compression, max_error)
        self._check_line(basis)
        told = {"operation": "compress", "budget": shared.compression.budget}
        below = self._register(
            basis,
            AdapterState(
                KIND, {"modules": {m: list(n) for m, n in shared.compression.modules.items()}}, shared.basis
            ),
            base=found[0].base,
            origin="fused",
            recipe=told | {"of": [version.fingerprint for version in found]},
        )
        states = shared.states(found, below.sha256)
        refs_stored = [
            self._store_one(version, state, below, told | {"error": each.error})
            for version, state, each in zip(found, states, shared.compression.versions, strict=True)
        ]
        return Stored(shared.compression, below.ref, tuple(refs_stored))

    def _store_one(
        self, version: Version, state: AdapterState, basis: Version, recipe: Mapping[str, Any]
    ) -> str:
        stored = self._register(
            version.name,
            state,
            base=version.base,
            origin="fused",
            # Not what it was made from: that is what may go.
            parents=[Parent(basis.ref, "frozen")],
            recipe={**recipe, "of": version.fingerprint},
            task=version.task,
            data=version.data,
        )
        return stored.ref

    def _made(self, found: Sequence[Version], budget: int | float) -> Shared:
        from contpeft.store.compression.shared import share

        with ExitStack() as files:
            tensors = [
                files.enter_context(open_tensors(self._blobs, version, self._store)) for version in found
            ]
            return share(found, tensors, budget)

    def _find(self, refs: Sequence[str | AdapterRef]) -> list[Version]:
        with self._db.read() as connection:
            ids = dict(versions.find(connection, ref, self._store) for ref in refs)
            found = [versions.select(connection, [("version.id = ?", each)])[0] for each in ids]
        if len(found) < 2:
            raise UsageError("only versions that differ can share a basis; name two or more")
        bases = {version.base.fingerprint: version for version in reversed(found)}
        if len(bases) > 1:
            told = ", ".join(f"{each.ref} on {each.base.name}" for each in reversed(bases.values()))
            raise UsageError(f"versions of different bases cannot share one: {told}; name those of one")
        return found

    def _check_line(self, name: str) -> None:
        """Refuses to put a basis into the line of an adapter."""
        with self._db.read() as connection:
            line = versions.select(connection, [("adapter.name = ?", name)], 1)
        if line and line[0].kind != KIND:
            raise UsageError(f"{name!r} is an adapter of kind {line[0].kind!r}; name another one by --basis")


def _check_errors(compression: Compression, limit: float | None) -> None:
    worst = max(compression.versions, key=lambda version: version.error)
    if limit is not None and worst.error > limit:
        raise UsageError(
            f"{worst.ref} would lose {worst.error:.1%} of its norm, more than {limit:.1%}; "
            "give a larger budget, or leave it out"
        )
