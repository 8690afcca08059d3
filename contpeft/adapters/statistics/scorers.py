"""From stored statistics to scores of features, one function of them a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters.statistics.lifting import RandomFeatures
from contpeft.adapters.statistics.tokens import positions, token_scores, token_table
from contpeft.errors import SpecError

__all__ = [
    "Affine",
    "Lifted",
    "Mahalanobis",
    "Nearest",
    "Subspaces",
    "TokenScores",
    "gate",
    "lda",
    "means",
    "oas_shrinkage",
    "ridge",
]

Tensors = Mapping[str, Tensor]
Options = Mapping[str, Any]


class Affine(nn.Module):
    """``W f + b``.

    Args:
        weight: ``(C, d)``.
        bias: ``(C,)``.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Returns scores ``(B, C)`` of unit-length features ``(B, d)``."""
        return F.linear(unit, self.weight, self.bias)


class Lifted(nn.Module):
    """Scores of random features ``relu(Wr' f)``.

    Args:
        options: ``width`` and ``seed`` of ``Wr``.
        scorer: of the random features.
        unit: whether these are scaled to unit length.
    """

    def __init__(self, options: Options, scorer: nn.Module, unit: bool) -> None:
        super().__init__()
        self._lift = RandomFeatures(int(options["width"]), int(options["seed"]))
        self._scorer, self._unit = scorer, unit

    def forward(self, unit: Tensor) -> Tensor:
        """Returns scores ``(B, C)`` of unit-length features ``(B, d)``."""
        lifted = self._lift(unit)
        scores: Tensor = self._scorer(F.normalize(lifted, dim=1) if self._unit else lifted)
        return scores


class TokenScores(nn.Module):
    """Naive Bayes: the sum over a row's tokens of what each says of each class.

    Args:
        options: ``prior``.
        tensors: ``tokens`` (S,), ``counts`` (C, S).
    """

    tokens: Tensor
    table: Tensor

    def __init__(self, options: Options, tensors: Tensors) -> None:
        super().__init__()
        table = token_table(tensors["counts"].double(), float(options["prior"]))
        self.register_buffer("tokens", tensors["tokens"].long(), persistent=False)
        self.register_buffer("table", table, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Returns scores ``(B, C)`` of rows of distinct tokens ``(B, L)``."""
        return token_scores(self.table, positions(self.tokens, rows))


class Mahalanobis(nn.Module):
    """Minus the squared distance to each class mean, ``(f - m)' (S + g I)^-1 (f - m)``.

    Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks", arXiv 1807.03888, equation 2; there without ``g``.

    Args:
        options: ``ridge``, so that ``g = ridge tr(S) / d``; without it the covariance is shrunk by
            :func:`oas_shrinkage`.
        tensors: ``means`` (C, d), ``counts`` (C,), ``scatter`` (d, d).

    Raises:
        SpecError: if the covariance cannot be inverted.
    """

    whitening: Tensor
    means: Tensor

    def __init__(self, options: Options, tensors: Tensors) -> None:
        super().__init__()
        covariance = tensors["scatter"].double() / tensors["counts"].double().sum()
        mean_variance = torch.trace(covariance) / len(covariance)
        unit = mean_variance * torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
        if "ridge" in options:
            regular = covariance + float(options["ridge"]) * unit
        else:
            share = oas_shrinkage(covariance, int(tensors["counts"].sum()))
            regular = (1 - share) * covariance + share * unit
        factor, failed = torch.linalg.cholesky_ex(regular)
        if failed:
            raise SpecError(
                "distances need a covariance that can be inverted, and these features do not vary; "
                "gather more examples, or use the rule 'class-means'"
            )
        self.register_buffer("whitening", factor, persistent=False)
        self.register_buffer("means", self._whitened(tensors["means"].double()), persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Returns scores ``(B, C)``, 0 at the mean, of unit-length features ``(B, d)``."""
        distances: Tensor = torch.cdist(
            self._whitened(unit), self.means, compute_mode="donot_use_mm_for_euclid_dist"
        )
        return -distances.square()

    def _whitened(self, rows: Tensor) -> Tensor:
        white: Tensor = torch.linalg.solve_triangular(self.whitening, rows.T, upper=False)
        return white.T.contiguous()


class Nearest(nn.Module):
    """The mean cosine to the nearest of the features kept of each entry.

    Args:
        options: ``neighbours``, how many count.
        tensors: ``features`` (n, d), ``entries`` (n,).
    """

    features: Tensor
    entries: Tensor

    def __init__(self, options: Options, tensors: Tensors) -> None:
        super().__init__()
        self._count = int(options["neighbours"])
        self.register_buffer("features", tensors["features"].double(), persistent=False)
        self.register_buffer("entries", tensors["entries"], persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Returns scores ``(B, C)`` of unit-length features ``(B, d)``."""
        cosines = unit @ self.features.T
        found = [cosines[:, self.entries == entry] for entry in range(int(self.entries.max()) + 1)]
        return torch.stack([each.topk(min(self._count, each.shape[1])).values.mean(1) for each in found], 1)


class Subspaces(nn.Module):
    """The cosine in a class's own subspace, and a share of those in the others (EASE, equation 10).

    Args:
        options: ``groups``, the own subspace of each class; ``share``.
        tensors: ``prototypes`` (C, T, d).
    """

    prototypes: Tensor

    def __init__(self, options: Options, tensors: Tensors) -> None:
        super().__init__()
        prototypes = F.normalize(tensors["prototypes"].double(), dim=2)
        own = F.one_hot(torch.tensor(options["groups"]), prototypes.shape[1]).to(prototypes)
        counts = own + float(options["share"]) * (1 - own)
        self.register_buffer("prototypes", prototypes * counts[:, :, None], persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Returns scores ``(B, C)`` of features ``(B, T d)``."""
        blocks = F.normalize(unit.reshape(len(unit), self.prototypes.shape[1], -1), dim=2)
        return F.linear(blocks.flatten(1), self.prototypes.flatten(1))


def means(options: Options, tensors: Tensors) -> nn.Module:
    """Returns the cosines to the class means (Rebuffi et al. 2017, eq. 2; Zhou et al. 2023, SimpleCIL)."""
    rows = tensors["means"].double()
    return Affine(F.normalize(rows, dim=1), rows.new_zeros(len(rows)))


def lda(options: Options, tensors: Tensors) -> nn.Module:
    """Returns shrinkage LDA with equal priors: class means times the inverse of the shrunk covariance.

    Raises:
        SpecError: if the covariance cannot be inverted.
    """
    centres, shrinkage = tensors["means"].double(), float(options["shrinkage"])
    count, width = int(tensors["counts"].sum()), centres.shape[1]
    covariance = tensors["scatter"].double() / count
    target = torch.trace(covariance) / width * torch.eye(width, dtype=centres.dtype, device=centres.device)
    rows, failed = torch.linalg.solve_ex((1 - shrinkage) * covariance + shrinkage * target, centres.T)
    if failed:
        raise SpecError(
            f"LDA cannot answer: the covariance of {count} features of width {width} is singular "
            f"at shrinkage {shrinkage}; gather more examples, shrink more, or use the rule 'class-means'"
        )
    return Affine(rows.T, -0.5 * (rows.T * centres).sum(1))


def ridge(options: Options, tensors: Tensors) -> nn.Module:
    """Returns ``W relu(Wr' f)``, the classifier of RanPAC."""
    weight = tensors["weight"].double()
    return Lifted(options, Affine(weight, weight.new_zeros(len(weight))), unit=False)


def gate(options: Options, tensors: Tensors) -> nn.Module:
    """Returns the softmax regression over what was kept."""
    return Affine(tensors["weight"].double(), tensors["bias"].double())


def oas_shrinkage(covariance: Tensor, count: int) -> Tensor:
    """Returns the oracle approximating shrinkage of a covariance towards a multiple of the identity.

    Chen et al. 2010, "Shrinkage Algorithms for MMSE Covariance Estimation", arXiv 0907.4698, equation 23,
    without its terms in ``2 / d``, as scikit-learn has it.

    Args:
        covariance: ``(d, d)``, the sum of squares over ``count``.
        count: of the features it is of.
    """
    mean_square, variance = covariance.square().mean(), torch.trace(covariance) / len(covariance)
    above = mean_square + variance**2
    below = (count + 1) * (mean_square - variance**2 / len(covariance))
    return torch.ones_like(above) if below == 0 else (above / below).clamp(max=1)
