"""Class statistics of features, gathered in a stream, and the classifiers they give.

One pass over each task, no old data: per class a mean and a count, and one scatter matrix shared
by all. Features are scaled to unit length first. Everything is float64, so that the order of
tasks and the cutting into batches do not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.errors import SpecError, suggest
from contpeft.spec import HeadSpec

__all__ = ["RULES", "ClassStatistics", "Rule", "StatisticsHead"]

Rule = Literal["class-means", "lda"]
RULES: tuple[Rule, ...] = ("class-means", "lda")


class ClassStatistics:
    """Means, counts and the pooled within-class scatter of unit-length features.

    Updated exactly from batches of any size (Chan, Golub and LeVeque 1983, "Algorithms for
    Computing the Sample Variance"). An entry is a (label, group) pair: the same label met in two
    tasks keeps a mean per task.

    Attributes:
        labels: label of each entry.
        groups: the task index of each entry.
        means: ``(C, d)``, float64.
        counts: ``(C,)``, float64.
        scatter: ``(d, d)``, float64: sum over entries of ``(f - mean)(f - mean)'``.
    """

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.groups: list[int] = []
        self.means = torch.empty(0, 0, dtype=torch.float64)
        self.counts = torch.empty(0, dtype=torch.float64)
        self.scatter = torch.empty(0, 0, dtype=torch.float64)

    def update(self, features: Tensor, labels: Sequence[str], group: int) -> None:
        """Adds features ``(n, d)`` of one task.

        Args:
            features: any float type.
            labels: their label names.
            group: index of the task they belong to.

        Raises:
            SpecError: if there are not as many labels as features, or these are of another width
                than the ones before.
        """
        unit = F.normalize(features.detach().to("cpu", torch.float64), dim=1)
        if len(labels) != len(unit):
            raise SpecError(f"class statistics need a label per feature, got {len(labels)} for {len(unit)}")
        if self.labels and unit.shape[1] != self.means.shape[1]:
            raise SpecError(
                f"class statistics are of features of width {self.means.shape[1]}, got {unit.shape[1]}"
            )
        if not self.labels:
            width = unit.shape[1]
            self.means, self.scatter = unit.new_zeros(0, width), unit.new_zeros(width, width)
        for label in dict.fromkeys(labels):
            rows = unit[[i for i, each in enumerate(labels) if each == label]]
            self._add(rows, self._entry(label, group))

    def _entry(self, label: str, group: int) -> int:
        key = (label, group)
        known = list(zip(self.labels, self.groups, strict=True))
        if key in known:
            return known.index(key)
        self.labels.append(label)
        self.groups.append(group)
        self.means = torch.cat([self.means, self.means.new_zeros(1, self.means.shape[1])])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(1)])
        return len(self.labels) - 1

    def _add(self, rows: Tensor, entry: int) -> None:
        old, new = self.counts[entry], len(rows)
        mean = rows.mean(0)
        centred, shift = rows - mean, mean - self.means[entry]
        self.scatter += centred.T @ centred + torch.outer(shift, shift) * (old * new / (old + new))
        self.means[entry] += shift * (new / (old + new))
        self.counts[entry] += new

    def tensors(self) -> dict[str, Tensor]:
        """Returns the statistics as named tensors; what is added later does not change them."""
        return {"means": self.means.clone(), "counts": self.counts.clone(), "scatter": self.scatter.clone()}

    def spec(self, rule: Rule, shrinkage: float = 0.1) -> HeadSpec:
        """Returns the head these statistics make under ``rule``.

        Raises:
            SpecError: if the rule is unknown or the shrinkage outside 0 to 1.
        """
        if rule not in RULES:
            raise SpecError(f"no rule {rule!r} over class statistics{suggest(rule, RULES)}")
        if not 0 <= shrinkage <= 1:
            raise SpecError(f"shrinkage {shrinkage} is not between 0 and 1")
        options: dict[str, Any] = {"rule": rule, "groups": list(self.groups)}
        if rule == "lda":
            options["shrinkage"] = shrinkage
        return HeadSpec("statistics", tuple(self.labels), options)

    @classmethod
    def from_stored(cls, spec: HeadSpec, tensors: Mapping[str, Tensor]) -> ClassStatistics:
        """Returns the statistics a version holds, to be updated further."""
        self = cls()
        self.labels, self.groups = list(spec.classes), list(spec.options["groups"])
        self.means, self.counts = tensors["means"].clone(), tensors["counts"].clone()
        self.scatter = tensors["scatter"].clone()
        return self


class StatisticsHead(nn.Module):
    """The linear classifier that class statistics give, without any training.

    ``"class-means"``: cosine to the class mean (Rebuffi et al. 2017, iCaRL, eq. 2; Zhou et al.
    2023, SimpleCIL). ``"lda"``: streaming linear discriminant analysis with shrinkage
    ``S' = (1-a) S + a tr(S)/d I`` and equal priors (Hayes and Kanan 2020, "Lifelong Machine
    Learning with Deep Streaming Linear Discriminant Analysis", eq. 2-5).

    Args:
        spec: labels, groups, rule and shrinkage.
        tensors: ``means`` (C, d), ``counts`` (C,), ``scatter`` (d, d).

    Attributes:
        classes: label of each output.
        groups: task index of each output.

    Raises:
        SpecError: if the covariance cannot be inverted.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, spec: HeadSpec, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._spec = spec
        self.classes = spec.classes
        self.groups = tuple(int(group) for group in spec.options["groups"])
        means, counts = tensors["means"].double(), tensors["counts"].double()
        if spec.options["rule"] == "class-means":
            weight, bias = F.normalize(means, dim=1), means.new_zeros(len(means))
        else:
            weight = _lda_rows(means, counts, tensors["scatter"].double(), float(spec.options["shrinkage"]))
            bias = -0.5 * (weight * means).sum(1)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Returns scores ``(B, C)``, float64, of features ``(B, d)``."""
        return F.linear(F.normalize(features.double(), dim=1), self.weight, self.bias)

    def route(self, features: Tensor) -> Tensor:
        """Returns for features ``(B, d)`` the task index ``(B,)`` of the best entry."""
        groups = torch.tensor(self.groups, device=features.device)
        return groups[self(features).argmax(1)]

    def spec(self) -> HeadSpec:
        """Returns what rebuilds this head, its tensors apart."""
        return self._spec


def _lda_rows(means: Tensor, counts: Tensor, scatter: Tensor, shrinkage: float) -> Tensor:
    """Returns rows ``(C, d)``: each class mean times the inverse of the shrunk covariance."""
    width = means.shape[1]
    covariance = scatter / counts.sum()
    target = torch.trace(covariance) / width * torch.eye(width, dtype=means.dtype)
    rows: Tensor
    rows, failed = torch.linalg.solve_ex((1 - shrinkage) * covariance + shrinkage * target, means.T)
    if failed:
        raise SpecError(
            f"LDA cannot answer: the covariance of {int(counts.sum())} features of width {width} is singular "
            f"at shrinkage {shrinkage}; gather more examples, shrink more, or use the rule 'class-means'"
        )
    return rows.T
