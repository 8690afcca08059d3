"""What adapters of one method are to a merge: which updates they hold, and how a merged one is written.

LoRA adapters are low-rank updates. Methods that scale, shift or replace vectors, such as (IA)³, are updates
of vectors whose entries act one by one. Bottleneck adapters are small networks: the mean of their parameters
is a network of the same shape (AdapterSoup, Chronopoulou et al., 2023), nothing else is. Of all other
methods neither a sum nor a mean of tensors is a merge of what they compute; they are refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from contpeft.errors import SpecError, UnsupportedError
from contpeft.merging.config import merged_config
from contpeft.merging.layout import Factors, Term, find_factors
from contpeft.merging.rules import RULES, Rule, make_rule
from contpeft.merging.update import Update, balanced_factors

if TYPE_CHECKING:
    from contpeft.merging.fuse import Source

__all__ = ["MERGEABLE", "Kind", "LowRank", "Vectors", "check_mergeable", "open_kind", "rules_for"]

# Which of the adapters, and where its update of the module is.
Place = tuple[int, Factors]


class Kind(ABC):
    """Adapters of one method on their way into a merge.

    Attributes:
        places: of every module, by its path: which adapters change it, and by which tensors.
        elementwise: True if updates are vectors whose entries act one by one.
    """

    places: Mapping[str, Sequence[Place]]
    elementwise: bool

    @abstractmethod
    def term(self, place: Place) -> Term:
        """Returns the factors of one adapter's update of a module."""

    @abstractmethod
    def tensors(self, module: str, update: Update) -> dict[str, Tensor]:
        """Returns a merged update under the names and in the shapes of the method."""

    @abstractmethod
    def config(self, ranks: Mapping[str, int]) -> dict[str, Any]:
        """Returns the configuration of a merged adapter with these ranks."""

    @abstractmethod
    def bytes_per_rank(self, module: str) -> int:
        """Returns what one singular value of a module takes when stored."""


class LowRank(Kind):
    """LoRA adapters."""

    elementwise = False

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        found: dict[str, list[Place]] = {}
        for place, source in enumerate(sources):
            for module, factors in _naming(
                source.label, find_factors, source.kind, source.config, source.tensors
            ).items():
                found.setdefault(module, []).append((place, factors))
        self.places = dict(sorted(found.items()))
        for module, places in self.places.items():
            self._check_shapes(module, places)

    def term(self, place: Place) -> Term:
        """Returns the factors as matrices and their scaling."""
        source, factors = self._sources[place[0]], place[1]
        term: Term = _naming(source.label, factors.term, source.tensors)
        return term

    def tensors(self, module: str, update: Update) -> dict[str, Tensor]:
        """Returns both factors, the singular values split evenly between them."""
        factors, (a, b), dtype = self._first(module)
        left, right = balanced_factors(update)
        return {
            factors.a: right.to(dtype).reshape(update.rank, *a.shape[1:]).contiguous(),
            factors.b: left.to(dtype).reshape(b.shape[0], update.rank, *b.shape[2:]).contiguous(),
        }

    def config(self, ranks: Mapping[str, int]) -> dict[str, Any]:
        """Returns a configuration with scaling 1."""
        configs, labels = (
            [source.config for source in self._sources],
            [source.label for source in self._sources],
        )
        return merged_config(configs, labels, ranks, set(self.places))

    def bytes_per_rank(self, module: str) -> int:
        """Returns the bytes of a column and a row."""
        _, (a, b), dtype = self._first(module)
        return (a[0].numel() + b.shape[0]) * dtype.itemsize

    def _first(self, module: str) -> tuple[Factors, tuple[Tensor, Tensor], torch.dtype]:
        """Returns how the first adapter that has a module keeps it, and the widest type of all that have."""
        place, factors = self.places[module][0]
        tensors = self._sources[place].tensors
        dtype = tensors[factors.a].dtype
        for each, own in self.places[module]:
            dtype = torch.promote_types(dtype, self._sources[each].tensors[own.a].dtype)
        return factors, (tensors[factors.a], tensors[factors.b]), dtype

    def _check_shapes(self, module: str, places: Sequence[Place]) -> None:
        """Checks, before anything is computed, that all updates of a module are of one weight."""
        first, factors = places[0]
        told = self._shapes(places[0])
        for place in places[1:]:
            if self._shapes(place) != told or place[1].a != factors.a:
                raise SpecError(
                    f"{module!r} has updates of {told} in {self._sources[first].label} and of "
                    f"{self._shapes(place)} in {self._sources[place[0]].label}; they are of different weights"
                )

    def _shapes(self, place: Place) -> str:
        tensors, factors = self._sources[place[0]].tensors, place[1]
        a, b = tensors[factors.a].shape, tensors[factors.b].shape
        return f"{b[0]} x {' x '.join(map(str, a[1:]))}"


@dataclass(frozen=True)
class _Vector:
    """How a method means its vectors: the value that changes nothing, None where there is none."""

    neutral: float | None


_VECTORS: Final = {
    "adamix": _Vector(None),
    "bitfit": _Vector(0.0),
    "houlsby": _Vector(None),
    "ia3": _Vector(1.0),
    "ln_tuning": _Vector(None),
    "parallel": _Vector(None),
    "pfeiffer": _Vector(None),
}
# The methods of which several adapters have a merge.
MERGEABLE: Final = tuple(sorted({"lora", *_VECTORS}))


class Vectors(Kind):
    """Adapters of vectors that scale, shift or replace, entry by entry; all of the same vectors.

    A scaling is merged by how far it is from 1, since at 1 nothing changes, and a shift by how far from 0. A
    replacement has no such point, nor has a network, and only means of these are.
    """

    elementwise = True

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        first = sources[0]
        self._neutral = _VECTORS[first.kind].neutral or 0.0
        for source in sources:
            shapes = {name: tuple(tensor.shape) for name, tensor in source.tensors.items()}
            if shapes != {name: tuple(tensor.shape) for name, tensor in first.tensors.items()}:
                raise SpecError(
                    f"{first.label} and {source.label} have other tensors; only equal ones are merged"
                )
            if dict(source.config) != dict(first.config):
                raise SpecError(f"{first.label} and {source.label} differ in configuration; make them alike")
        self.places = {
            name: [(place, Factors(name, name, name, 1.0)) for place in range(len(sources))]
            for name in sorted(first.tensors)
        }

    def term(self, place: Place) -> Term:
        """Returns the vector as a matrix of one column, less what changes nothing."""
        vector = self._sources[place[0]].tensors[place[1].module]
        return vector.double().reshape(-1, 1) - self._neutral, torch.ones(1, 1), 1.0

    def tensors(self, module: str, update: Update) -> dict[str, Tensor]:
        """Returns the merged vector."""
        like = self._sources[0].tensors[module]
        values = (update.u * update.s) @ update.v.T + self._neutral
        return {module: values.reshape(like.shape).to(like.dtype)}

    def config(self, ranks: Mapping[str, int]) -> dict[str, Any]:
        """Returns the configuration all of them have."""
        return dict(self._sources[0].config)

    def bytes_per_rank(self, module: str) -> int:
        """Returns the bytes of the vector."""
        return self._sources[0].tensors[module].nbytes


def rules_for(kind: str) -> tuple[str, ...]:
    """Returns the names of the rules that merge adapters of a method; none where it has no merge.

    Rules are taken as they are without parameters.
    """
    if kind == "lora":
        return tuple(RULES)
    if kind not in _VECTORS:
        return ()
    if _VECTORS[kind].neutral is None:
        return ("average",)
    return tuple(name for name in RULES if make_rule(name).elementwise)


def open_kind(sources: Sequence[Source], rule: Rule) -> Kind:
    """Returns what the adapters are to a merge by ``rule``.

    Raises:
        UnsupportedError: if their methods differ or cannot be merged, or not by this rule.
        SpecError: if their tensors do not fit together.
    """
    kinds = {source.kind: source.label for source in reversed(sources)}  # the first of each
    if len(kinds) > 1:
        told = ", ".join(f"{label} is of method {kind!r}" for kind, label in sorted(kinds.items()))
        raise UnsupportedError(f"adapters of different methods have no merge: {told}")
    (kind, label), *_ = kinds.items()
    if kind == "lora":
        return LowRank(sources)
    if kind not in _VECTORS:
        raise UnsupportedError(
            f"{label} is of method {kind!r}, whose tensors have no sum or mean that is a merge of what it "
            f"computes; methods that can be merged: {', '.join(MERGEABLE)}"
        )
    if not rule.elementwise or (_VECTORS[kind].neutral is None and rule.spec.name != "average"):
        can = "'average'" if _VECTORS[kind].neutral is None else "'sum', 'average', 'ties', ..."
        raise UnsupportedError(f"rule {rule.spec.name!r} cannot merge vectors of {kind!r}; use {can}")
    return Vectors(sources)


def check_mergeable(source: Source, rule: Rule) -> None:
    """Checks that adapters such as this one have a merge by ``rule``, before there is a second one.

    Raises:
        UnsupportedError: if not.
        SpecError: if its tensors do not fit together.
    """
    open_kind([source], rule)


def _naming(label: str, function: Any, *arguments: Any) -> Any:
    """Returns what a function returns; its complaints begin with whose adapter it is."""
    try:
        return function(*arguments)
    except (SpecError, UnsupportedError) as error:
        raise type(error)(f"{label}: {error}") from error
