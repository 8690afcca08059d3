"""What versions have in common as a basis, and each as coordinates in it: tensors as they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from contpeft.errors import UnsupportedError, UsageError
from contpeft.merging import Update, canonical, combine
from contpeft.merging.config import merged_config
from contpeft.merging.layout import Factors, find_factors
from contpeft.merging.sharing import Cost, SharedBasis, coordinates, fill, mode_spectra, shared_basis
from contpeft.merging.update import scaled
from contpeft.spec import AdapterState, Version
from contpeft.store.compression.expanding import expand, mark
from contpeft.store.compression.plan import Compressed, Compression
from contpeft.store.tensors import BASIS

__all__ = ["Shared", "share"]


@dataclass(frozen=True)
class Shared:
    """Versions on a shared basis, not stored yet.

    Attributes:
        compression: what it comes to.
        basis: the tensors of the basis.
        parts: of each version: its coordinates, its heads' tensors, its configuration.
    """

    compression: Compression
    basis: dict[str, Tensor]
    parts: Sequence[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, object]]]

    def states(self, versions: Sequence[Version], sha256: str) -> Iterator[AdapterState]:
        """Yields each version as it is stored.

        Args:
            versions: what is compressed.
            sha256: of the file that holds the basis.
        """
        for version, (inner, head, config) in zip(versions, self.parts, strict=True):
            yield AdapterState(version.kind, config, {BASIS: mark(sha256), **inner, **head}, version.head)


class _Adapter:
    """One of the versions: where its factors are, and what becomes of it."""

    def __init__(self, version: Version, tensors: Mapping[str, Tensor]) -> None:
        own = [name for name in tensors if not name.startswith(AdapterState.HEAD_PREFIX)]
        try:
            self.factors = find_factors(version.kind, version.config, own)
        except UnsupportedError as error:
            raise UnsupportedError(f"{version.ref}: {error}") from error
        self.version, self.tensors = version, tensors
        self.head = {name: tensors[name] for name in tensors if name not in own}
        self.inner: dict[str, Tensor] = {}
        self.ranks: dict[str, int] = {}
        self.lost = 0.0
        self.before, squares = 0, 0.0
        for factors in self.factors.values():
            b, a, scale = factors.term(tensors)
            self.before += b.nbytes + a.nbytes
            squares += float(((b.double().T @ b.double()) * (a.double() @ a.double().T)).sum()) * scale**2
        self.norm = math.sqrt(max(squares, 0.0))

    def update(self, module: str) -> Update:
        return canonical(*self.factors[module].term(self.tensors))

    def unit(self, module: str) -> Update:
        """Returns its update as that of an adapter of norm 1, so that all versions count alike."""
        return scaled(self.update(module), 1 / self.norm if self.norm else 1.0)

    def dtype(self, module: str) -> torch.dtype:
        factors = self.factors[module]
        return torch.promote_types(self.tensors[factors.a].dtype, self.tensors[factors.b].dtype)

    def tell(self, module: str, basis: SharedBasis, stored: Mapping[str, Tensor]) -> None:
        """Keeps its update of a module as coordinates, and counts what that loses once it is loaded."""
        factors, update = self.factors[module], self.update(module)
        parts = [part.to(self.dtype(module)) for part in coordinates(update, basis)]
        rank = parts[0].shape[1]
        terms = [(update.u * update.s, update.v.T, 1.0)]
        if rank:
            names = (factors.b, factors.a)
            self.inner |= dict(zip(names, parts, strict=True))
            self.ranks[module] = rank
            b, a = (expand(n, p, stored[n]).flatten(1) for n, p in zip(names, parts, strict=True))
            terms.append((b, a, -1.0))
        self.lost += float(combine(terms).s.square().sum())

    def leave(self, module: str) -> None:
        """Counts a module that has no basis."""
        self.lost += float(self.update(module).s.square().sum())

    def result(self) -> Compressed:
        error = math.sqrt(self.lost) / self.norm if self.norm else 0.0
        after = sum(tensor.nbytes for tensor in self.inner.values())
        return Compressed(self.version.ref, error, sum(self.ranks.values()), self.before, after)

    def config(self) -> dict[str, object]:
        if not self.ranks:
            raise UsageError(
                f"nothing would be left of {self.version.ref}; give a larger budget, or leave it out"
            )
        return merged_config([self.version.config], [self.version.ref], self.ranks, set(self.factors))


def share(
    versions: Sequence[Version], tensors: Sequence[Mapping[str, Tensor]], budget: int | float
) -> Shared:
    """Returns versions on a basis that they share.

    Args:
        versions: LoRA adapters of one base.
        tensors: of each version.
        budget: bytes, or a share as a float.

    Raises:
        UnsupportedError: if one is no sum of low-rank updates.
        UsageError: if the budget is no size or share, or so small that nothing is left of a version.
    """
    adapters = [_Adapter(*each) for each in zip(versions, tensors, strict=True)]
    size = _bytes(budget, sum(adapter.before for adapter in adapters))
    modules = sorted({module for adapter in adapters for module in adapter.factors})
    spectra, costs = {}, {}
    for module in modules:
        there = _having(adapters, module)
        output, input_ = mode_spectra([adapter.unit(module) for adapter in there])
        rounding = torch.finfo(_dtype(there, module)).eps
        # Directions that came of rounding the factors are worth no bytes.
        spectra[module] = output[output > rounding * output[:1]], input_[input_ > rounding * input_[:1]]
        costs[module] = _cost(there, module)
    sizes = fill(spectra, costs, size)
    stored: dict[str, Tensor] = {}
    for module in modules:
        if module in sizes:
            stored |= _tell(_having(adapters, module), module, *sizes[module])
        else:
            for adapter in _having(adapters, module):
                adapter.leave(module)
    parts = [(adapter.inner, adapter.head, adapter.config()) for adapter in adapters]
    lost = tuple(module for module in modules if module not in sizes)
    basis = sum(tensor.nbytes for tensor in stored.values())
    results = tuple(adapter.result() for adapter in adapters)
    return Shared(Compression(results, basis, size, sizes, lost), stored, parts)


def _bytes(budget: int | float, before: int) -> int:
    if isinstance(budget, float):
        if not 0 < budget < 1:
            raise UsageError(f"budget {budget:g} is no share; give more than 0 and less than 1, or bytes")
        return int(budget * before)
    if budget <= 0:
        raise UsageError(f"a budget of {budget} bytes holds nothing; give more")
    return budget


def _having(adapters: Sequence[_Adapter], module: str) -> list[_Adapter]:
    return [adapter for adapter in adapters if module in adapter.factors]


def _cost(adapters: Sequence[_Adapter], module: str) -> Cost:
    """Returns what a direction takes: itself, in the basis, and a number for each rank of each version."""
    b, a, _ = adapters[0].factors[module].term(adapters[0].tensors)
    width = _dtype(adapters, module).itemsize
    numbers = sum(
        adapter.factors[module].term(adapter.tensors)[1].shape[0] * adapter.dtype(module).itemsize
        for adapter in adapters
    )
    return Cost(b.shape[0] * width + numbers, a.shape[1] * width + numbers)


def _dtype(adapters: Sequence[_Adapter], module: str) -> torch.dtype:
    return reduce(torch.promote_types, [adapter.dtype(module) for adapter in adapters])


def _tell(adapters: Sequence[_Adapter], module: str, p: int, q: int) -> dict[str, Tensor]:
    """Returns the tensors of a module's basis, and tells every adapter in it as it is rounded there."""
    found = shared_basis([adapter.unit(module) for adapter in adapters], p, q)
    dtype = _dtype(adapters, module)
    u, v = found.u.to(dtype), found.v.to(dtype)
    factors: Factors = adapters[0].factors[module]
    a, b = (adapters[0].tensors[name] for name in (factors.a, factors.b))
    stored = {
        factors.b: u.reshape(u.shape[0], u.shape[1], *b.shape[2:]).contiguous(),
        factors.a: v.T.reshape(v.shape[1], *a.shape[1:]).contiguous(),
    }
    for adapter in adapters:
        adapter.tell(module, SharedBasis(u.double(), v.double()), stored)
    return stored
