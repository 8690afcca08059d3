"""A few features of every class, kept, and the classifiers over them: a learned gate, the nearest ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters.statistics.gathering import Gathered, head_options
from contpeft.errors import SpecError
from contpeft.spec import HeadSpec

__all__ = ["GATE", "NEAREST", "KeptFeatures"]

GATE: Final = "gate"
NEAREST: Final = "nearest"


class KeptFeatures(Gathered):
    """Unit-length features of every entry, chosen by herding when its task is seen.

    Herding takes one after another the feature that brings the mean of those taken nearest to the mean of all
    (Welling 2009; Rebuffi et al. 2017, iCaRL, arXiv 1611.07725, algorithm 4). An entry is seen at one update.

    Args:
        each: how many at most of an entry.

    Attributes:
        labels: label of each entry.
        groups: the task index of each entry.
        features: ``(n, d)``, float64.
        entries: ``(n,)``, which entry each is of.
    """

    def __init__(self, each: int = 10) -> None:
        super().__init__()
        if each < 1:
            raise SpecError(f"{each} features of a class are none; keep 1 or more")
        self.each = each
        self.features = torch.empty(0, 0, dtype=torch.float64)
        self.entries = torch.empty(0, dtype=torch.int64)

    def _begin(self, width: int) -> None:
        self.features = self.features.new_zeros(0, width)

    def _width(self) -> int:
        return self.features.shape[1]

    def _open(self) -> None:
        """There is room."""

    def _take(self, unit: Tensor, entries: list[int]) -> None:
        for entry in dict.fromkeys(entries):
            rows = unit[[row for row, each in enumerate(entries) if each == entry]]
            kept = rows[_herded(rows, self.each)]
            self.features = torch.cat([self.features, kept])
            self.entries = torch.cat([self.entries, torch.full((len(kept),), entry)])

    def tensors(self, rule: Literal["gate", "nearest"], decay: float = 1e-4) -> dict[str, Tensor]:
        """Returns what is kept; for the gate its weights too.

        The gate is a softmax regression over the entries: mean cross-entropy over what is kept, plus
        ``decay / 2`` times the squared weights, the bias left out. It is convex and starts at zero, so
        nothing is drawn.

        Returns:
            ``features`` (n, d), ``entries`` (n,); for the gate ``weight`` (C, d), ``bias`` (C,).
        """
        kept = {"features": self.features.clone(), "entries": self.entries.clone()}
        if rule == NEAREST:
            return kept
        weight, bias = _softmax_regression(self.features, self.entries, len(self.labels), decay)
        return {**kept, "weight": weight, "bias": bias}

    def spec(
        self, rule: Literal["gate", "nearest"], neighbours: int = 3, over: Sequence[Mapping[str, Any]] = ()
    ) -> HeadSpec:
        """Returns the head these make under a rule.

        Args:
            rule: ``"gate"`` or ``"nearest"``.
            neighbours: how many of an entry's features count, for ``"nearest"``.
            over: the compositions whose features these are, as JSON; none for the bare base's.

        Raises:
            SpecError: if no neighbour counts.
        """
        if neighbours < 1:
            raise SpecError(f"{neighbours} neighbours say nothing; let 1 or more count")
        told = {"neighbours": neighbours} if rule == NEAREST else {}
        options = {"rule": rule, "groups": list(self.groups), "each": self.each, **told, **head_options(over)}
        return HeadSpec("statistics", tuple(self.labels), options)

    @classmethod
    def from_stored(cls, spec: HeadSpec, tensors: Mapping[str, Tensor]) -> KeptFeatures:
        """Returns what a version keeps, to be added to."""
        self = cls(spec.options["each"])
        self.labels, self.groups = list(spec.classes), list(spec.options["groups"])
        self.features, self.entries = tensors["features"].clone(), tensors["entries"].clone()
        return self


def _herded(rows: Tensor, count: int) -> list[int]:
    """Returns the row numbers that herding takes, in its order."""
    mean, taken = rows.mean(0), rows.new_zeros(rows.shape[1])
    left, chosen = list(range(len(rows))), []
    for n in range(1, min(count, len(rows)) + 1):
        best = int((mean - (taken + rows[left]) / n).norm(dim=1).argmin())
        chosen.append(left.pop(best))
        taken = taken + rows[chosen[-1]]
    return chosen


def _softmax_regression(features: Tensor, entries: Tensor, count: int, decay: float) -> tuple[Tensor, Tensor]:
    """Returns the weights ``(count, d)`` and biases ``(count,)`` at the optimum."""
    weight = features.new_zeros(count, features.shape[1]).requires_grad_()
    bias = features.new_zeros(count).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-8, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), entries) + decay / 2 * (weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
