"""Naive Bayes over tokens: how many rows of each class hold each of them.

McCallum and Nigam 1998, "A Comparison of Event Models for Naive Bayes Text Classification", the multinomial
model; of a token met several times in a row only the first counts, as in Wang and Manning 2012, "Baselines
and Bigrams: Simple, Good Sentiment and Topic Classification".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters.statistics.gathering import Gathered, LeftOut, head_options
from contpeft.errors import SpecError
from contpeft.spec import HeadSpec

__all__ = ["TOKENS", "TokenStatistics", "positions", "token_scores", "token_table"]

TOKENS: Final = "tokens"


class TokenStatistics(Gathered):
    """How many rows of each entry hold each token that was met.

    A class gives a token the share ``(n_ct + k p_t) / (n_c + k)`` of all it holds, with ``p_t`` the token's
    share among all classes: a Dirichlet prior around what is usual (MacKay and Peto 1995, "A Hierarchical
    Dirichlet Language Model"), so that what was seen once does not decide. All classes are equally likely
    beforehand. Tokens that were never met say nothing.

    Args:
        prior: ``k``, in tokens.

    Raises:
        SpecError: if the prior is not positive.

    Attributes:
        labels: label of each entry.
        groups: the task index of each entry.
        tokens: ``(S,)``, those met, ascending.
        counts: ``(C, S)``, float64.
    """

    def __init__(self, prior: float = 1000.0) -> None:
        super().__init__()
        if not prior > 0:
            raise SpecError(f"a prior of {prior:g} tokens leaves unseen ones impossible; give more than 0")
        self.prior = prior
        self.tokens = torch.empty(0, dtype=torch.long)
        self.counts = torch.empty(0, 0, dtype=torch.float64)

    def _rows(self, features: Tensor) -> Tensor:
        return features.detach().cpu().long()

    def _begin(self, width: int) -> None:
        """Rows may hold any number of tokens."""

    def _width(self) -> None:
        return None

    def _open(self) -> None:
        self.counts = torch.cat([self.counts, self.counts.new_zeros(1, self.counts.shape[1])])

    def _take(self, unit: Tensor, entries: list[int]) -> None:
        met = torch.unique(torch.cat([self.tokens, unit[unit >= 0]]))
        counts = self.counts.new_zeros(len(self.labels), len(met))
        counts[:, torch.searchsorted(met, self.tokens)] = self.counts
        self.tokens, self.counts = met, counts
        row, place = (unit >= 0).nonzero(as_tuple=True)
        at = torch.tensor(entries)[row], torch.searchsorted(met, unit[row, place])
        self.counts.index_put_(at, self.counts.new_ones(len(row)), accumulate=True)

    def left_out(self, features: Tensor, labels: Sequence[str], group: int) -> LeftOut:
        """Returns the scores of rows that were added, each left out of its own class's counts.

        How usual a token is stays as it is: one row hardly changes it, and the same for all classes.

        Args:
            features: ``(n, L)``, distinct tokens.
            labels: theirs; a row that is the only one of its label is passed over.
            group: index of their task.

        Raises:
            SpecError: if no row of a label was added.
        """
        rows, entries = self._several(features, labels, group)
        if not entries:
            return LeftOut.of_nothing(self.labels)
        place = positions(self.tokens, rows)
        scores = token_scores(token_table(self.counts, self.prior), place)
        held, own = place < len(self.tokens), torch.tensor(entries, dtype=torch.long)
        usual = torch.cat([_usual(self.counts), self.counts.new_ones(1)])[place]
        counted = torch.cat([self.counts, self.counts.new_ones(len(self.counts), 1)], 1)[own[:, None], place]
        others = self.counts.sum(1)[own] - held.sum(1)
        share = (counted - 1 + self.prior * usual) / (others[:, None] + self.prior)
        scores[torch.arange(len(own)), own] = torch.where(held, share.log(), 0).sum(1)
        return LeftOut(scores, tuple(entries), tuple(self.labels))

    def tensors(self) -> dict[str, Tensor]:
        """Returns ``tokens`` (S,) and ``counts`` (C, S), both int32."""
        return {"tokens": self.tokens.int(), "counts": self.counts.int()}

    def spec(self, over: Sequence[Mapping[str, Any]] = (), temperature: float = 1.0) -> HeadSpec:
        """Returns the head these statistics make.

        Args:
            over: what the rows are, as JSON.
            temperature: what scores are divided by.
        """
        options = {"rule": TOKENS, "groups": list(self.groups), "prior": self.prior}
        return HeadSpec("statistics", tuple(self.labels), options | head_options(over, temperature))

    @classmethod
    def from_stored(cls, spec: HeadSpec, tensors: Mapping[str, Tensor]) -> TokenStatistics:
        """Returns the statistics a version holds, to be updated further."""
        self = cls(float(spec.options["prior"]))
        self.labels, self.groups = list(spec.classes), list(spec.options["groups"])
        self.tokens, self.counts = tensors["tokens"].long(), tensors["counts"].double()
        return self


def positions(met: Tensor, tokens: Tensor) -> Tensor:
    """Returns where each of ``tokens`` is in the ascending ``met`` ``(S,)``; ``S`` if it is not there."""
    place = torch.searchsorted(met, tokens.contiguous())
    found = torch.cat([met, met.new_full((1,), -2)])[place] == tokens
    return place.masked_fill(~found, len(met))


def token_table(counts: Tensor, prior: float) -> Tensor:
    """Returns the logarithm of each token's share in each class, ``(S + 1, C)``; the last row is zero.

    Args:
        counts: ``(C, S)``.
        prior: in tokens.
    """
    share = (counts + prior * _usual(counts)) / (counts.sum(1, keepdim=True) + prior)
    return torch.cat([share.log().T, counts.new_zeros(1, len(counts))])


def _usual(counts: Tensor) -> Tensor:
    """Returns the share of each token among all that were met, ``(S,)``."""
    return counts.sum(0) / counts.sum()


def token_scores(table: Tensor, place: Tensor) -> Tensor:
    """Returns the sum ``(B, C)`` of the rows of a table that each row ``(B, L)`` of places names."""
    return F.embedding_bag(place, table, mode="sum")
