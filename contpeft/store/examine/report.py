"""What looking into adapters finds, as values with a JSON form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from contpeft.merging.similarity import Similarity
    from contpeft.merging.spectrum import Spectrum

__all__ = ["BEYOND", "ENOUGH", "AdapterReport", "Family", "Inspection", "ModuleReport", "TensorNorm"]

# A robust z-score beyond is that of an outlier (Iglewicz and Hoaglin, 1993).
BEYOND: Final = 3.5
# With fewer others a median and a spread say little.
ENOUGH: Final = 5


@dataclass(frozen=True)
class ModuleReport:
    """What an adapter adds to one module.

    Attributes:
        module: dotted path of the module in the base.
        spectrum: the singular values of the update, and the numbers read off them.
        scores: robust z-scores against the family: ``log_norm``, ``effective_rank``, ``top_share``; empty
            where there is nothing to compare with.
    """

    module: str
    spectrum: Spectrum
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def beyond(self) -> dict[str, float]:
        """The scores that make it an outlier, the farthest first."""
        found = {name: score for name, score in self.scores.items() if abs(score) > BEYOND}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


@dataclass(frozen=True)
class TensorNorm:
    """One tensor of an adapter that is no sum of low-rank updates: its shape and Frobenius norm."""

    name: str
    shape: tuple[int, ...]
    norm: float


@dataclass(frozen=True)
class AdapterReport:
    """What is inside one adapter.

    Attributes:
        ref: ``name@n``.
        kind: its method.
        modules: its updates, by module; empty if it is no sum of low-rank updates.
        tensors: its tensors, only if it is none.
        remark: why it is none; None if it is.
    """

    ref: str
    kind: str
    modules: tuple[ModuleReport, ...]
    tensors: tuple[TensorNorm, ...] = ()
    remark: str | None = None

    @property
    def norm(self) -> float:
        """Frobenius norm of all updates together, or of all tensors."""
        norms = [m.spectrum.frobenius for m in self.modules] or [t.norm for t in self.tensors]
        return math.hypot(*norms)

    @property
    def rank(self) -> int:
        """Sum of the numerical ranks."""
        return sum(m.spectrum.rank for m in self.modules)

    @property
    def effective_rank(self) -> float:
        """Sum of the effective ranks."""
        return sum(m.spectrum.effective_rank for m in self.modules)

    @property
    def outliers(self) -> tuple[ModuleReport, ...]:
        """The modules unlike those of the family, the farthest first."""
        found = [m for m in self.modules if m.beyond]
        return tuple(sorted(found, key=lambda m: -max(map(abs, m.beyond.values()))))

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON."""
        totals = {"norm": self.norm, "rank": self.rank, "effective_rank": self.effective_rank}
        outliers = [{"module": m.module, "beyond": m.beyond} for m in self.outliers]
        modules = [{**asdict(m), "scores": dict(m.scores), "rank": m.spectrum.rank} for m in self.modules]
        return {**asdict(self), "modules": modules, "totals": totals, "outliers": outliers}


@dataclass(frozen=True)
class Family:
    """What an adapter was compared with.

    Attributes:
        refs: other versions on its base and of its kind, newest first.
        absent: modules it lacks that more than half of them have, with how many do.
        compared: modules with enough others to compare with.
    """

    refs: tuple[str, ...]
    absent: Mapping[str, int]
    compared: int


@dataclass(frozen=True)
class Inspection:
    """What looking into adapters found.

    Attributes:
        adapters: each of them, in the order asked for.
        family: what a single one was compared with; None for several, or if it has no updates.
        similarity: how several relate, as far as they have updates; None with fewer than two of those.
    """

    adapters: tuple[AdapterReport, ...]
    family: Family | None
    similarity: Similarity | None

    def to_json(self) -> dict[str, Any]:
        """Returns everything found as JSON."""
        return {
            "adapters": [adapter.to_json() for adapter in self.adapters],
            "family": None if self.family is None else asdict(self.family),
            "similarity": None if self.similarity is None else asdict(self.similarity),
        }
