"""How scores of several heads become choices and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from contpeft.errors import SpecError

__all__ = ["joined_probabilities", "likeliest", "sureness"]


def sureness(scores: Tensor, temperature: float, by: str) -> Tensor:
    """Returns how sure a head is of each row, ``(n,)``, float64.

    Args:
        scores: ``(n, C)``.
        temperature: of the head.
        by: ``"confidence"``: ``max_c softmax(s / T)_c``; ``"energy"``: ``T logsumexp_c(s_c / T)`` (Liu et al.
            2020, arXiv 2010.03759, equation 4, the sign turned).
    """
    scaled = scores.double() / temperature
    return scaled.softmax(1).amax(1) if by == "confidence" else temperature * scaled.logsumexp(1)


def likeliest(scores: Tensor, top: int, temperature: float) -> Tensor:
    """Returns ``softmax(score / temperature)`` over the best ``top`` of the last dimension, 0 elsewhere.

    Args:
        scores: ``(..., N)``.
        top: how many share the weight.
        temperature: small ones favour the best.
    """
    best = scores.topk(min(top, scores.shape[-1]), dim=-1)
    weights = (best.values / temperature).softmax(-1)
    return torch.zeros_like(scores).scatter(-1, best.indices, weights)


def joined_probabilities(
    told: Sequence[tuple[Tensor, Sequence[str]]],
    temperatures: Sequence[float],
    weights: Tensor | None = None,
    by: Literal["mean", "max", "product"] = "mean",
) -> tuple[Tensor, tuple[str, ...]]:
    """Returns one probability for each label that any head knows, and the labels.

    Args:
        told: of each head its scores ``(n, C)`` and labels.
        temperatures: of each head.
        weights: ``(n, len(told))``, what each head counts for each row; None where all count the same.
        by: without weights, the mean over the heads that know a label, or the highest of theirs; or their
            product, scaled to sum to 1, of heads that all know the same labels.

    Raises:
        SpecError: if heads whose probabilities are multiplied know different labels.
    """
    if by == "product":
        return _multiplied(told, temperatures)
    found: dict[str, list[Tensor]] = {}
    for index, ((scores, labels), temperature) in enumerate(zip(told, temperatures, strict=True)):
        probabilities = (scores.double() / temperature).softmax(1)
        if weights is not None:
            probabilities = probabilities * weights[:, index, None]
        for label, column in zip(labels, probabilities.T, strict=True):
            found.setdefault(label, []).append(column)
    stacked = [torch.stack(columns) for columns in found.values()]
    if weights is not None:
        joined = [each.sum(0) for each in stacked]
    else:
        joined = [each.amax(0) if by == "max" else each.mean(0) for each in stacked]
    return torch.stack(joined, 1), tuple(found)


def _multiplied(
    told: Sequence[tuple[Tensor, Sequence[str]]], temperatures: Sequence[float]
) -> tuple[Tensor, tuple[str, ...]]:
    labels = tuple(dict.fromkeys(told[0][1]))
    total = torch.zeros(len(told[0][0]), len(labels), dtype=torch.float64)
    for (scores, own), temperature in zip(told, temperatures, strict=True):
        if set(own) != set(labels):
            raise SpecError("probabilities can be multiplied where every head knows the same labels")
        told_of = (scores.double() / temperature).log_softmax(1)
        # Statistics keep an entry a task of a label met in several: its probability is their sum.
        columns = [[at for at, each in enumerate(own) if each == label] for label in labels]
        total += torch.stack([told_of[:, found].logsumexp(1) for found in columns], 1)
    return total.softmax(1), labels
