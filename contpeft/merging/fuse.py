"""Several adapters into one: module by module, from nothing but their tensors and configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from contpeft.errors import SpecError, UnsupportedError
from contpeft.merging.kinds import open_kind
from contpeft.merging.rank import Rank
from contpeft.merging.rules import Rule
from contpeft.merging.rules.base import Cut
from contpeft.merging.site import Site
from contpeft.merging.update import Update

__all__ = ["Fusion", "Merged", "ModuleReport", "Source", "fuse", "in_order", "one_thread"]

Observer = Callable[[Site, Update], None]


@dataclass(frozen=True, eq=False)
class Source:
    """One adapter to be merged.

    Attributes:
        label: what it is called in messages.
        digest: of its tensors; names it where randomness is drawn, and puts adapters in order.
        kind: its method.
        config: its configuration.
        tensors: its own, those of a head left out; read when asked for.
        weight: what it is worth.
        moments: what is known of its data, ``<module>.gram`` and so on; see :class:`Site`.
    """

    label: str
    digest: str
    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    weight: float = 1.0
    moments: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Fusion:
    """How adapters are merged.

    Attributes:
        rule: the rule.
        rank: how large the result may get.
        seed: of whatever the rule draws.
        dtype: what is computed in.
    """

    rule: Rule
    rank: Rank = field(default_factory=Rank)
    seed: int = 0
    dtype: torch.dtype = torch.float64


@dataclass(frozen=True)
class ModuleReport:
    """What became of one module.

    Attributes:
        module: its dotted path.
        inputs: how many adapters change it.
        rank: of the result as stored.
        full: the rank it had before it was cut.
        norm: Frobenius norm before it was cut.
        error: Frobenius norm of what was cut off.
    """

    module: str
    inputs: int
    rank: int
    full: int
    norm: float
    error: float


@dataclass(frozen=True, eq=False)
class Merged:
    """A merged adapter and how exact it is.

    Attributes:
        kind: its method.
        config: its configuration.
        tensors: its own.
        modules: what became of each module, in order.
        learned: what the rule learnt from all modules.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    modules: tuple[ModuleReport, ...]
    learned: Mapping[str, float]

    @property
    def norm(self) -> float:
        """Frobenius norm of the whole merged update before it was cut."""
        return math.hypot(*(module.norm for module in self.modules))

    @property
    def error(self) -> float:
        """Frobenius norm of all that was cut off."""
        return math.hypot(*(module.error for module in self.modules))

    @property
    def lost(self) -> float:
        """The share of the energy that was cut off, 0 to 1."""
        return (self.error / self.norm) ** 2 if self.norm > 0 else 0.0


def fuse(sources: Sequence[Source], fusion: Fusion, observe: Observer | None = None) -> Merged:
    """Returns several adapters as one.

    Adapters of weight 0 count as not given. Unless the rule goes by order, they are taken in the order of
    their digests, so that the result does not depend on how they are listed, to the last bit.

    Args:
        sources: the adapters.
        fusion: how they are merged.
        observe: is called with the updates of every module and the merged one before it is cut.

    Returns:
        The merged adapter.

    Raises:
        UnsupportedError: if adapters are of a kind that cannot be merged, or not by this rule.
        SpecError: if shapes, weights or parameters do not fit, or a value is not finite.
    """
    given = in_order(sources, fusion)
    with one_thread():
        return _Fuse(given, fusion).run(observe)


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute in one thread: with several, sums are cut otherwise and differ in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_order(sources: Sequence[Source], fusion: Fusion) -> list[Source]:
    """Returns the adapters in the order in which they are merged, those of weight 0 left out."""
    spec = fusion.rule.spec
    if not sources:
        raise SpecError("there is no adapter to merge; name one at least")
    given = [source for source in sources if source.weight != 0]
    if not given:
        raise SpecError("all weights are 0, so that nothing is left to merge")
    for source in given:
        if not math.isfinite(source.weight):
            raise SpecError(f"the weight of {source.label} is {source.weight}; give a number")
        if source.weight < 0 and not spec.negative:
            raise SpecError(
                f"rule {spec.name!r} takes no negative weight, {source.label} has {source.weight:g}"
            )
    return given if spec.ordered else sorted(given, key=lambda source: (source.digest, source.weight))


class _Fuse:
    """One merge on its way through the modules."""

    def __init__(self, sources: Sequence[Source], fusion: Fusion) -> None:
        self._sources = sources
        self._fusion = fusion
        self._rule = fusion.rule
        self._kind = open_kind(sources, fusion.rule)
        if fusion.rule.dense and fusion.rank.kind == "full" and not self._kind.elementwise:
            raise SpecError(
                f"rule {fusion.rule} gives matrices of full rank; say what to keep: rank 'same', ..."
            )

    def run(self, observe: Observer | None) -> Merged:
        if self._rule.global_pass:
            self._rule = self._rule.prepared(self._sites())
        ranks = self._shared_ranks() if self._fusion.rank.shared and not self._kind.elementwise else {}
        tensors: dict[str, Tensor] = {}
        reports = []
        for site in self._sites():
            if observe:
                observe(site, self._rule.merge(site))
            kept, spectrum = self._rule.merge_cut(site, self._cut(site, ranks))
            reports.append(_report(site, kept, spectrum))
            if kept.rank or self._kind.elementwise:
                tensors |= self._kind.tensors(site.module, kept)
        if not tensors:
            raise SpecError("the merged adapter is zero everywhere; there is nothing to store")
        config = self._kind.config({report.module: report.rank for report in reports if report.rank})
        return Merged(self._sources[0].kind, config, tensors, tuple(reports), self._rule.learned())

    def _cut(self, site: Site, ranks: Mapping[str, int]) -> Cut:
        """Returns how many singular values of a module stay, given all of them."""
        if self._kind.elementwise:
            return Tensor.numel
        if ranks:
            return lambda _: ranks[site.module]
        largest = max(b.shape[1] for b, _, _ in site.terms)
        return lambda s: self._fusion.rank.of_module(s, largest)

    def _shared_ranks(self) -> dict[str, int]:
        spectra, sizes = {}, {}
        for site in self._sites():
            spectra[site.module] = self._rule.merge_cut(site, lambda _: 0)[1]
            sizes[site.module] = self._kind.bytes_per_rank(site.module)
        return self._fusion.rank.of_all(spectra, sizes)

    def _sites(self) -> Iterator[Site]:
        total = sum(source.weight for source in self._sources)
        for module, places in self._kind.places.items():
            own = [self._sources[place] for place, _ in places]
            yield Site(
                module=module,
                terms=tuple(map(self._kind.term, places)),
                weights=tuple(source.weight for source in own),
                sources=tuple(source.digest for source in own),
                places=tuple(place for place, _ in places),
                total=total,
                count=len(self._sources),
                seed=self._fusion.seed,
                dtype=self._fusion.dtype,
                elementwise=self._kind.elementwise,
                moments=tuple(self._moments(source, module) for source in own),
            )

    def _moments(self, source: Source, module: str) -> dict[str, Tensor]:
        found = {need: source.moments.get(f"{module}.{need}") for need in self._rule.spec.needs}
        lacking = next((need for need, value in found.items() if value is None), None)
        if lacking:
            raise UnsupportedError(
                f"rule {self._rule.spec.name!r} needs {lacking!r} of {source.label} at {module!r}; "
                "measure it first"
            )
        return {need: value for need, value in found.items() if value is not None}


def _report(site: Site, kept: Update, spectrum: Tensor) -> ModuleReport:
    norm, error = (float(torch.linalg.vector_norm(part)) for part in (spectrum, spectrum[kept.rank :]))
    return ModuleReport(site.module, len(site.terms), kept.rank, spectrum.numel(), norm, error)
