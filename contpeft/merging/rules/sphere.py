"""Means on the sphere: the direction of updates apart from their size.

All of it follows from norms and inner products, so that the result is a sum with one coefficient an update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contpeft.errors import SpecError
from contpeft.merging.compare import gram
from contpeft.merging.rules.base import STRICT, Linear, RuleSpec
from contpeft.merging.site import Site

__all__ = ["Karcher", "Slerp"]

_NORM: Final = "norm: weighted mean of the norms; an adapter without the module counts as norm 0"
# Below this angle a chord is an arc to the last digit.
_SMALL: Final = 1e-7


@dataclass(frozen=True, config=STRICT)
class Slerp(Linear):
    """The point on the arc between two updates, ``w_2 / (w_1 + w_2)`` of the way.

    Shoemake (1985), section 3.3, on directions; the norm goes from one to the other in a straight line.
    """

    spec: ClassVar[RuleSpec] = RuleSpec(
        "slerp", "point on the arc between two", "Shoemake (1985)", variant=_NORM, negative=False
    )

    def coefficients(self, site: Site) -> list[float]:
        """Returns the coefficients of the arc."""
        if site.count > 2:
            raise SpecError(f"rule 'slerp' is between two adapters, there are {site.count}; use 'karcher'")
        return _mean(site, _arc)


@dataclass(frozen=True, config=STRICT)
class Karcher(Linear):
    """The weighted mean on the sphere: the direction from which all arcs cancel (Karcher, 1977).

    Attributes:
        steps: at most so many steps of Riemannian gradient descent.
        tolerance: stop when the mean of the arcs is shorter.
    """

    steps: Annotated[int, Field(ge=1)] = 100
    tolerance: Annotated[float, Field(gt=0)] = 1e-12

    spec: ClassVar[RuleSpec] = RuleSpec(
        "karcher",
        "mean on the sphere",
        "Karcher (1977); Grove & Karcher (1973)",
        variant=_NORM,
        negative=False,
    )

    def coefficients(self, site: Site) -> list[float]:
        """Returns the coefficients of the mean."""
        return _mean(site, self._mean_direction)

    def _mean_direction(self, cosines: Tensor, shares: Tensor) -> Tensor:
        point = _unit(shares, cosines)
        for _ in range(self.steps):
            along = (cosines @ point).clamp(-1, 1)
            angles = torch.arccos(along)
            pull = shares * torch.where(angles > _SMALL, angles / torch.sin(angles), 1.0)
            tangent = pull - (pull @ along) * point
            length = math.sqrt(max(0.0, float(tangent @ cosines @ tangent)))
            if length < self.tolerance:
                break
            point = _unit(math.cos(length) * point + math.sin(length) / length * tangent, cosines)
        return point


def _mean(site: Site, direction: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """Returns the coefficients of the updates, given those of unit updates as a function of their cosines."""
    weights = torch.tensor(site.weights, dtype=site.dtype)
    products = gram(site.updates)
    norms = products.diagonal().sqrt()
    there = norms > 0
    if not bool(there.any()):
        return [0.0] * len(site.weights)
    inverse = torch.where(there, 1 / torch.where(there, norms, 1), 0)
    cosines = (products * torch.outer(inverse, inverse)).clamp(-1, 1)
    shares = torch.where(there, weights, 0)
    point = direction(cosines, shares / shares.sum())
    size = (weights @ norms) / site.total
    return [float(value) for value in size * point * inverse]


def _arc(cosines: Tensor, shares: Tensor) -> Tensor:
    angle = math.acos(float(cosines[0, -1]))
    if math.sin(angle) < _SMALL:
        return _unit(shares, cosines)
    point: Tensor = torch.sin(shares * angle) / math.sin(angle)
    return point


def _unit(point: Tensor, cosines: Tensor) -> Tensor:
    length = math.sqrt(max(0.0, float(point @ cosines @ point)))
    if length < _SMALL:
        raise SpecError(
            "two updates point in opposite directions and have no mean on the sphere; use 'average'"
        )
    return point / length
