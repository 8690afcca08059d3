"""Compressing versions together, straight from their files, and storing what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from contpeft.errors import UsageError
from contpeft.spec import AdapterRef, AdapterState, Parent, Version, check_name
from contpeft.store import versions
from contpeft.store.blobs import Blobs
from contpeft.store.compression.expanding import Expanded
from contpeft.store.compression.plan import Compression, Stored
from contpeft.store.database import Database
from contpeft.store.reading import open_tensors

if TYPE_CHECKING:
    from contpeft.store.compression.shared import Shared

__all__ = ["KIND", "Candidate", "Compressing"]

# The kind of versions that hold a basis others share.
KIND: Final = "basis"
# The file of a basis that has none yet.
NOWHERE: Final = 64 * "0"


@dataclass(frozen=True)
class Candidate:
    """Versions compressed, not stored.

    Attributes:
        versions: what is compressed.
        shared: their basis and what each is in it.
    """

    versions: tuple[Version, ...]
    shared: Shared

    @property
    def compression(self) -> Compression:
        """What it comes to."""
        return self.shared.compression

    def states(self) -> Iterator[AdapterState]:
        """Yields each version as it will be loaded."""
        for version, state in zip(self.versions, self.shared.states(self.versions, NOWHERE), strict=True):
            tensors = dict(Expanded(state.tensors, self.shared.basis, version.ref))
            yield AdapterState(state.kind, state.config, tensors, state.head)


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

    def plan(self, refs: Sequence[str | AdapterRef], budget: int | float) -> Candidate:
        """Returns versions compressed, without storing anything.

        Of each module, the basis holds the directions that are worth most to all versions together, each
        version counting alike whatever its norm, and a version only coordinates between them.

        Args:
            refs: LoRA versions of one base, two or more; named twice, one counts once.
            budget: bytes that basis and coordinates may take, heads and the headers of files aside; a
                float between 0 and 1 is a share of what the versions take.

        Raises:
            NotFoundError: if there is no such version.
            UnsupportedError: if one is no sum of low-rank updates.
            UsageError: if they are of several bases, too few, or the budget is too small for one of them.
            IntegrityError: if a file is missing or damaged.
        """
        from contpeft.merging.fuse import one_thread
        from contpeft.store.compression.shared import share

        found = self._find(refs)
        # On matrices this small threads only wait for each other.
        with one_thread(), ExitStack() as files:
            tensors = [
                files.enter_context(open_tensors(self._blobs, version, self._store)) for version in found
            ]
            return Candidate(tuple(found), share(found, tensors, budget))

    def compress(
        self,
        refs: Sequence[str | AdapterRef],
        budget: int | float,
        *,
        basis: str = "shared-basis",
        max_error: float | None = None,
    ) -> Stored:
        """Stores versions anew, on one basis; see :meth:`plan` for what is raised, and :meth:`store`.

        Args:
            refs: LoRA versions of one base.
            budget: bytes, or a share as a float.
            basis: the adapter of which the basis becomes a version.
            max_error: store nothing if a version would lose a larger share of its norm.

        Raises:
            UsageError: also if an error is too large.
        """
        candidate = self.plan(refs, budget)
        candidate.compression.check_errors(max_error)
        return self.store(candidate, basis=basis)

    def store(self, candidate: Candidate, *, basis: str = "shared-basis") -> Stored:
        """Stores compressed versions, each as the next version of its adapter, loaded as before.

        Doing it again finds what is there, so what was killed can be repeated. The versions that were
        compressed stay; removing them is what frees bytes.

        Args:
            candidate: what :meth:`plan` returned.
            basis: the adapter of which the basis becomes a version.

        Raises:
            UsageError: if ``basis`` is an adapter of another kind.
        """
        check_name(basis)
        self._check_line(basis)
        found, compression = candidate.versions, candidate.compression
        told = {"operation": "compress", "budget": compression.budget}
        config = {"modules": {module: list(sizes) for module, sizes in compression.modules.items()}}
        below = self._register(
            basis,
            AdapterState(KIND, config, candidate.shared.basis),
            base=found[0].base,
            origin="fused",
            recipe=told | {"of": [version.fingerprint for version in found]},
        )
        states = candidate.shared.states(found, below.sha256)
        refs = [
            self._store_one(version, state, below, told | {"error": each.error})
            for version, state, each in zip(found, states, compression.versions, strict=True)
        ]
        return Stored(compression, below.ref, tuple(refs))

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
