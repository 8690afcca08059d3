"""Merging versions straight from their files, without a base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from contpeft.errors import NotFoundError
from contpeft.spec import AdapterRef, AdapterState, BaseModel, Parent, Version, check_name
from contpeft.store import versions
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.fusion.request import Request, check_versions, follow, recipe
from contpeft.store.fusion.running import adapters_in, next_step
from contpeft.store.reading import open_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from contpeft.merging import Fusion, Interference, Merged, Source

__all__ = ["Candidate", "Fusing", "Plan", "Verdict"]

# The kind of versions that hold what is known of an adapter's data.
MOMENTS: Final = "moments"
# Of which shares of the energy a plan tells the rank.
_SHARES: Final = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True)
class Candidate:
    """A merged adapter that is not stored.

    Attributes:
        state: what it is.
        base: the model it is for.
        parents: the versions it is made of.
        recipe: how it is made.
        merged: how exact it is, module by module.
    """

    state: AdapterState
    base: BaseModel
    parents: tuple[Parent, ...]
    recipe: Mapping[str, Any]
    merged: Merged


@dataclass(frozen=True)
class Plan:
    """What a merge would come to, before it is written.

    Attributes:
        candidate: the merged adapter.
        interference: how its parents meet, and what it would do to each.
        ranks: the singular values that a share of the energy takes, over all modules together.
        bytes: size of its tensors.
    """

    candidate: Candidate
    interference: Interference
    ranks: Mapping[float, int]
    bytes: int


@dataclass(frozen=True)
class Verdict:
    """What came of making a fused version again.

    Attributes:
        ref: the version.
        equal: whether every bit of every tensor came out the same.
        difference: the largest difference of two values; None where tensors have other shapes.
    """

    ref: str
    equal: bool
    difference: float | None


class Fusing:
    """Merging stored versions, reached as ``store.fusion``.

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

    def fuse(self, request: Request, name: str) -> Version:
        """Stores versions merged as the next version of ``name``.

        Args:
            request: what is merged, and how.
            name: the adapter of which it becomes a version.

        Returns:
            The catalogue entry; its recipe tells how to make it again.

        Raises:
            NotFoundError: if there is no such version.
            UsageError: if versions, weights, rule, rank or heads do not go together.
            BaseMismatchError: if versions are of different bases.
            IntegrityError: if a stored file is missing or damaged.
        """
        check_name(name)
        return self.keep(self.candidate(request), name)

    def keep(self, candidate: Candidate, name: str) -> Version:
        """Stores a candidate as the next version of ``name``."""
        made = candidate
        return self._register(
            name, made.state, base=made.base, origin="fused", parents=made.parents, recipe=made.recipe
        )

    def take_in(self, name: str, ref: str | AdapterRef, request: Request) -> Version:
        """Takes one more version into the running merge ``name``, as its next version.

        Whatever was taken in before stays as it is in the store, so that a merge of all of it, or of all but
        one, can still be made from the parts.

        Args:
            name: the running merge; the first version taken in begins it.
            ref: what is taken in.
            request: rule, rank and the like; its versions and weights are not used.

        Raises:
            UsageError: if the version was taken in before, and what :meth:`fuse` raises.
        """
        check_name(name)
        [new] = self._find([ref])
        line = self._line(name)
        candidate = self.candidate(next_step(request, line, new))
        told = {**candidate.recipe, "seen": adapters_in(line) + 1}
        return self.keep(replace(candidate, recipe=told), name)

    def candidate(self, request: Request) -> Candidate:
        """Returns versions merged, without storing anything; raises what :meth:`fuse` raises."""
        from contpeft.merging import fuse

        return self._made(request, lambda sources, fusion: fuse(sources, fusion))

    def plan(self, request: Request) -> Plan:
        """Returns what a merge would come to; raises what :meth:`fuse` raises."""
        from contpeft.merging import InterferenceReport, Site, Update, fuse

        report, spectra = InterferenceReport(), []

        def made(sources: Sequence[Source], fusion: Fusion) -> Merged:
            order = _order(sources, fusion)

            def observe(site: Site, update: Update) -> None:
                there = dict(zip(site.places, site.updates, strict=True))
                report.add(site.module, [there.get(place) for place in order], update)
                spectra.append(update.s)

            return fuse(sources, fusion, observe)

        candidate = self._made(request, made)
        size = sum(tensor.nbytes for tensor in candidate.state.adapter_tensors().values())
        return Plan(candidate, report.result(), _ranks(spectra), size)

    def verify(self, ref: str | AdapterRef) -> Verdict:
        """Makes a fused version again from its parents and compares every bit.

        Raises:
            NotFoundError: if there is no such version, or a parent is gone.
            UsageError: if it was not made by a recipe that can be followed.
            IntegrityError: if a parent is not what it was.
        """
        [version] = self._find([ref])
        request = follow(version, self._find([parent.ref for parent in version.parents]))
        again = self.candidate(request).state.tensors
        with open_tensors(self._blobs, version, self._store) as stored:
            shapes = {name: tensor.shape for name, tensor in again.items()}
            if shapes != {name: stored[name].shape for name in stored}:
                return Verdict(version.ref, False, None)
            pairs = [(again[name], stored[name]) for name in again]
            apart = max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
            equal = all(a.dtype == b.dtype and bool((a == b).all()) for a, b in pairs)
        return Verdict(version.ref, equal, apart)

    def _made(self, request: Request, merge: Callable[[Sequence[Source], Fusion], Merged]) -> Candidate:
        from contpeft.merging import merge_heads

        found, weights = self._find(request.refs), request.all_weights()
        check_versions(found)
        fusion = request.fusion()
        with self._sources(found, weights, fusion) as (sources, heads):
            merged = merge(sources, fusion)
            labels = [version.ref for version in found]
            head, head_tensors = merge_heads(heads, weights, labels, request.heads)
        state = AdapterState(merged.kind, merged.config, merged.tensors | head_tensors, head)
        pairs = [(version, weight) for version, weight in zip(found, weights, strict=True) if weight != 0]
        parents = tuple(Parent(version.ref, "fused", weight) for version, weight in pairs)
        return Candidate(state, found[0].base, parents, recipe(request, fusion, pairs, merged), merged)

    @contextmanager
    def _sources(
        self, found: Sequence[Version], weights: Sequence[float], fusion: Fusion
    ) -> Iterator[tuple[list[Source], list[Any]]]:
        """Yields what is merged, and the heads; files stay open meanwhile."""
        from contpeft.merging import Source

        with ExitStack() as files:
            sources, heads = [], []
            for version, weight in zip(found, weights, strict=True):
                tensors = files.enter_context(open_tensors(self._blobs, version, self._store))
                moments = files.enter_context(self._moments(version)) if fusion.rule.spec.needs else {}
                own = _Part(tensors, lambda name: not name.startswith(AdapterState.HEAD_PREFIX))
                label, digest = version.ref, version.fingerprint
                sources.append(Source(label, digest, version.kind, version.config, own, weight, moments))
                state = AdapterState(version.kind, version.config, tensors, version.head)
                heads.append((version.head, state.head_tensors()) if version.head else None)
            yield sources, heads

    @contextmanager
    def _moments(self, version: Version) -> Iterator[Mapping[str, Tensor]]:
        """Yields what is known of the data of a version: of its newest child of that kind."""
        with self._db.read() as connection:
            found, _ = versions.find(connection, version.ref, self._store)
            children = versions.children(connection, found)
        known = [child for child in self._find(children) if child.kind == MOMENTS]
        if not known:
            raise NotFoundError(
                f"no moments of {version.ref} are stored; register what contpeft.adapters.measure_moments "
                "tells of its data, with it as the parent"
            )
        with open_tensors(self._blobs, known[-1], self._store) as tensors:
            yield tensors

    def _line(self, name: str) -> list[Version]:
        """Returns the versions of an adapter, oldest first; none if there is no such adapter."""
        with self._db.read() as connection:
            return versions.select(connection, [("adapter.name = ?", name)])[::-1]

    def _find(self, refs: Sequence[str | AdapterRef]) -> list[Version]:
        with self._db.read() as connection:
            return [versions.get(connection, ref, self._store) for ref in refs]


class _Part(Mapping[str, "Tensor"]):
    """Some of the tensors of a mapping, none of them read before it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], wanted: Callable[[str], bool]) -> None:
        self._tensors = tensors
        self._names = [name for name in tensors if wanted(name)]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _order(sources: Sequence[Source], fusion: Fusion) -> list[int]:
    """Returns the place in the merge of each source as listed, without those of weight 0."""
    from contpeft.merging import in_order

    taken = in_order(sources, fusion)
    places = {id(source): place for place, source in enumerate(taken)}
    return [places[id(source)] for source in sources if id(source) in places]


def _ranks(spectra: Sequence[Tensor]) -> dict[float, int]:
    import torch

    from contpeft.merging import rank_for_energy

    together = torch.cat(list(spectra)).sort(descending=True).values
    return {share: rank_for_energy(together, share) for share in _SHARES}
