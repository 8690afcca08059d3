"""Looking into adapters: spectra module by module, against a family, or side by side."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from contpeft.errors import SpecError, UnsupportedError, UsageError
from contpeft.merging.fuse import one_thread
from contpeft.merging.layout import Factors, find_factors
from contpeft.merging.outliers import robust_scores
from contpeft.merging.similarity import Similarity, similarity
from contpeft.merging.spectrum import Spectrum, singular_values, spectrum
from contpeft.spec import AdapterState, Version
from contpeft.store.examine.report import ENOUGH, AdapterReport, Family, Inspection, ModuleReport, TensorNorm

__all__ = ["compare", "examine"]

# Opens the tensors of a version.
Opener = Callable[[Version], AbstractContextManager[Mapping[str, Tensor]]]

_FEATURES: Final[dict[str, Callable[[Spectrum], float]]] = {
    # Zero has no logarithm; this is far below that of anything trained.
    "log_norm": lambda found: math.log(max(found.frobenius, 1e-300)),
    "effective_rank": lambda found: found.effective_rank,
    "top_share": lambda found: found.top_share,
}


@one_thread()
def examine(version: Version, family: Iterable[Version], opened: Opener) -> Inspection:
    """Returns what is inside one adapter, and where it is unlike others.

    Args:
        version: the adapter.
        family: others of its kind on its base; those that are no sums of low-rank updates are left out.
        opened: opens the tensors of a version.
    """
    report = _report(version, opened)
    if report.remark is not None:
        return Inspection((report,), None, None)
    others = [each for each in (_report(other, opened) for other in family) if each.remark is None]
    spectra: dict[str, list[Spectrum]] = defaultdict(list)
    for other in others:
        for module in other.modules:
            spectra[module.module].append(module.spectrum)
    scored = _scored(report, spectra)
    own = {module.module for module in report.modules}
    usual = {name: len(found) for name, found in sorted(spectra.items()) if 2 * len(found) > len(others)}
    absent = {name: count for name, count in usual.items() if name not in own}
    compared = sum(bool(module.scores) for module in scored.modules)
    return Inspection((scored,), Family(tuple(other.ref for other in others), absent, compared), None)


@one_thread()
def compare(versions: Sequence[Version], opened: Opener, *, cut: float) -> Inspection:
    """Returns what is inside several adapters, and how they relate.

    Args:
        versions: the adapters, two or more.
        opened: opens the tensors of a version.
        cut: the mean cosine that still joins two clusters.

    Raises:
        UsageError: if they are on several bases.
    """
    reports = [_report(version, opened) for version in versions]
    low_rank = [v for v, report in zip(versions, reports, strict=True) if report.remark is None]
    bases = {version.base.fingerprint: version for version in reversed(low_rank)}
    if len(bases) > 1:
        told = ", ".join(f"{each.ref} on {each.base.name}" for each in reversed(bases.values()))
        raise UsageError(f"adapters of different bases have nothing to compare: {told}; name those of one")
    relations = _relations(low_rank, opened, cut) if len(low_rank) > 1 else None
    return Inspection(tuple(reports), None, relations)


def _report(version: Version, opened: Opener) -> AdapterReport:
    with opened(version) as tensors:
        try:
            modules = tuple(
                ModuleReport(module, _spectrum(factors, tensors))
                for module, factors in _factors(version, tensors).items()
            )
        except (SpecError, UnsupportedError) as error:
            return AdapterReport(version.ref, version.kind, (), _norms(tensors), str(error))
    return AdapterReport(version.ref, version.kind, modules)


def _factors(version: Version, tensors: Mapping[str, Tensor]) -> dict[str, Factors]:
    return find_factors(version.kind, version.config, _adapter_names(tensors))


def _adapter_names(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in tensors if not name.startswith(AdapterState.HEAD_PREFIX)]


def _spectrum(factors: Factors, tensors: Mapping[str, Tensor]) -> Spectrum:
    b, a, scale = factors.term(tensors)
    return spectrum(singular_values(b, a, scale), (b.shape[0], a.shape[1]))


def _norms(tensors: Mapping[str, Tensor]) -> tuple[TensorNorm, ...]:
    found = ((name, tensors[name]) for name in sorted(_adapter_names(tensors)))
    return tuple(
        TensorNorm(name, tuple(tensor.shape), float(torch.linalg.vector_norm(tensor.double())))
        for name, tensor in found
    )


def _scored(report: AdapterReport, spectra: Mapping[str, Sequence[Spectrum]]) -> AdapterReport:
    """Returns the report with each module's scores against the spectra of others."""
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for name, feature in _FEATURES.items():
        own = {module.module: feature(module.spectrum) for module in report.modules}
        others = {module: [feature(each) for each in found] for module, found in spectra.items()}
        for module, score in robust_scores(own, others, enough=ENOUGH).items():
            scores[module][name] = score
    modules = (replace(module, scores=scores.get(module.module, {})) for module in report.modules)
    return replace(report, modules=tuple(modules))


def _relations(versions: Sequence[Version], opened: Opener, cut: float) -> Similarity:
    products = torch.zeros(len(versions), len(versions), dtype=torch.float64)
    with ExitStack() as stack:
        tensors = [stack.enter_context(opened(version)) for version in versions]
        factors = [_factors(*each) for each in zip(versions, tensors, strict=True)]
        for module in dict.fromkeys(module for each in factors for module in each):
            there = [place for place, each in enumerate(factors) if module in each]
            terms = [factors[place][module].term(tensors[place]) for place in there]
            products[torch.tensor(there)[:, None], torch.tensor(there)] += _inner_products(terms)
    return similarity([version.ref for version in versions], products.numpy(), cut=cut)


def _inner_products(terms: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Returns the Frobenius inner products of updates of one weight, ``(k, k)``, from their factors."""
    left = torch.cat([b.double() * scale for b, _, scale in terms], dim=1)
    right = torch.cat([a.double() for _, a, _ in terms])
    owner = torch.repeat_interleave(torch.tensor([a.shape[0] for _, a, _ in terms]))
    summed = torch.zeros(len(terms), len(owner), dtype=left.dtype)
    summed.index_add_(0, owner, (left.T @ left) * (right @ right.T))
    return torch.zeros(len(terms), len(terms), dtype=left.dtype).index_add_(1, owner, summed)
