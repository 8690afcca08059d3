"""What a merging rule is: parameters, a declaration of what it does, and one function.

A rule is a frozen value. Its fields are its parameters, checked when it is made; its ``spec`` says what it
needs and gives; :meth:`Rule.merge` is pure.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, final

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from contpeft.merging.layout import Term
from contpeft.merging.site import Site
from contpeft.merging.update import Update, combine, combine_cut, decompose, truncated

__all__ = ["STRICT", "Core", "Cut", "Entrywise", "Linear", "Ordered", "Rule", "RuleSpec", "Share", "Space"]

# What parameters are checked with.
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
# A share of something: more than nothing, at most all.
Share = Annotated[float, Field(gt=0, le=1)]
Space = Literal["core", "knots", "delta"]
# How many singular values stay, given all of them.
Cut = Callable[[Tensor], int]


@dataclass(frozen=True)
class RuleSpec:
    """What a rule declares.

    Attributes:
        name: what it is called by.
        summary: what it does, a few words.
        paper: where it is from.
        variant: which of the readings of the paper this is, where libraries differ.
        needs: what must be stored with every adapter: ``"gram"``, ``"fisher"``.
        keeps_one: whether one adapter at weight 1 comes out as it went in.
        seeded: whether it draws random numbers.
        negative: whether a weight may be negative.
        ordered: whether the order of the adapters matters.
        gauge_free: whether it depends on the updates alone, not on how each is split into factors.
    """

    name: str
    summary: str
    paper: str
    variant: str = ""
    needs: tuple[str, ...] = ()
    keeps_one: bool = True
    seeded: bool = False
    negative: bool = True
    ordered: bool = False
    gauge_free: bool = True


class Rule(ABC):
    """A way to make one update of several."""

    spec: ClassVar[RuleSpec]

    @abstractmethod
    def merge(self, site: Site) -> Update:
        """Returns the merged update of one weight."""

    def merge_cut(self, site: Site, keep: Cut) -> tuple[Update, Tensor]:
        """Returns the merged update cut to a rank, and all its singular values ``(r,)``.

        Args:
            site: the weight.
            keep: how many singular values stay, given all of them.
        """
        update = self.merge(site)
        return truncated(update, keep(update.s))[0], update.s

    @property
    def global_pass(self) -> bool:
        """Whether :meth:`prepared` must see all modules before the first is merged."""
        return False

    def prepared(self, sites: Iterable[Site]) -> Self:
        """Returns the rule with what it had to learn from all modules."""
        return self

    def learned(self) -> dict[str, float]:
        """Returns what :meth:`prepared` learnt, for whoever goes on from the result."""
        return {}

    @property
    def dense(self) -> bool:
        """Whether results are matrices of full rank, which storing cuts down."""
        return False

    @property
    def elementwise(self) -> bool:
        """Whether it can merge vectors whose entries act one by one."""
        return False

    @final
    def parameters(self) -> dict[str, Any]:
        """Returns the values of its parameters."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in fields if field.init}

    @final
    def __str__(self) -> str:
        told = ", ".join(f"{key}={value}" for key, value in self.parameters().items())
        return f"{self.spec.name}({told})"


class Linear(Rule):
    """A rule whose result is a sum of the updates with one coefficient each: exact, no dense matrix."""

    @abstractmethod
    def coefficients(self, site: Site) -> list[float]:
        """Returns what each update of a module is multiplied by."""

    @final
    def merge(self, site: Site) -> Update:
        """Returns the sum."""
        return combine(self._terms(site), dtype=site.dtype)

    @final
    def merge_cut(self, site: Site, keep: Cut) -> tuple[Update, Tensor]:
        """Returns the sum cut to a rank; what is cut off is not computed."""
        return combine_cut(self._terms(site), keep, dtype=site.dtype)

    def _terms(self, site: Site) -> list[Term]:
        pairs = zip(site.terms, self.coefficients(site), strict=True)
        return [(b, a, scale * weight) for (b, a, scale), weight in pairs]

    @property
    @final
    def elementwise(self) -> bool:
        """A sum of vectors is one too."""
        return True


class Core(Rule):
    """A rule whose result lies in the core space of the updates."""

    @abstractmethod
    def core(self, site: Site) -> Tensor:
        """Returns the merged core ``(p, q)``."""

    @final
    def merge(self, site: Site) -> Update:
        """Returns the update with the merged core."""
        return site.space.update(self.core(site))

    @final
    def merge_cut(self, site: Site, keep: Cut) -> tuple[Update, Tensor]:
        """Returns the update cut to a rank; what is cut off never leaves the core."""
        return site.space.update_cut(self.core(site), keep)


class Ordered(Core):
    """A rule that takes one adapter after another into a running merge; all within their core space."""

    @abstractmethod
    def step(self, running: Update, new: Update) -> Update:
        """Returns the running merge with one more update taken in."""

    def core(self, site: Site) -> Tensor:
        """Returns what the updates become, the first taken as it is."""
        running, *others = site.space.parts
        for new in others:
            running = self.step(running, new)
        return (running.u * running.s) @ running.v.T


class Entrywise(Rule):
    """A rule on the entries of matrices, in coordinates to choose.

    Such a rule makes a low-rank matrix one of full rank, unless it runs in coordinates that only hold what
    the updates span: the **core** of each update between two shared bases (Panariello et al., 2025), or,
    after **KnOTS** (Stoica et al., 2025), its rows in a shared output basis. ``"delta"`` is the weight
    itself; what is then lost by storing factors is reported.
    """

    space: Space

    @abstractmethod
    def entries(self, stack: Tensor, site: Site) -> Tensor:
        """Returns the merged entries.

        Args:
            stack: ``(k, p, q)``, each adapter's entries times its weight.
            site: where they are from.

        Returns:
            ``(p, q)``.
        """

    @final
    def merge(self, site: Site) -> Update:
        """Returns the update with the merged entries."""
        return self.merge_cut(site, Tensor.numel)[0]

    @final
    def merge_cut(self, site: Site, keep: Cut) -> tuple[Update, Tensor]:
        """Returns the update with the merged entries cut to a rank."""
        if site.elementwise:
            return combine_cut(
                [(self.entries(_deltas(site), site), torch.ones(1, 1), 1.0)], keep, dtype=site.dtype
            )
        if self.space == "delta":
            update = decompose(self.entries(_deltas(site), site))
            return truncated(update, keep(update.s))[0], update.s
        core = site.space
        if self.space == "core":
            return core.update_cut(self.entries(core.cores, site), keep)
        rows = self.entries(core.cores @ core.v.T, site)
        return combine_cut([(core.u, rows, 1.0)], keep, dtype=site.dtype)

    @property
    @final
    def dense(self) -> bool:
        """Entries of the weight itself keep no rank."""
        return self.space == "delta"

    @property
    @final
    def elementwise(self) -> bool:
        """Entries of vectors are entries."""
        return True


def _deltas(site: Site) -> Tensor:
    pairs = zip(site.terms, site.weights, strict=True)
    return torch.stack(
        [(b.to(site.dtype) * (scale * weight)) @ a.to(site.dtype) for (b, a, scale), weight in pairs]
    )
