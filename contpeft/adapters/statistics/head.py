"""The classifier and router that stored statistics are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters.statistics import scorers
from contpeft.adapters.statistics.kept import GATE, NEAREST
from contpeft.adapters.statistics.ridge import RIDGE
from contpeft.adapters.statistics.subspaces import SUBSPACES
from contpeft.adapters.statistics.tokens import TOKENS
from contpeft.errors import SpecError, suggest
from contpeft.spec import HeadSpec

__all__ = ["STATISTICS_RULES", "StatisticsHead", "check_statistics"]


class _Kind(NamedTuple):
    """How scores are made of what is stored."""

    make: Callable[[Mapping[str, Any], Mapping[str, Tensor]], nn.Module]
    tensors: frozenset[str]
    tokens: bool = False


_MOMENTS = frozenset({"counts", "means", "scatter"})
_KINDS: Final[Mapping[str, _Kind]] = {
    "class-means": _Kind(scorers.means, _MOMENTS),
    "lda": _Kind(scorers.lda, _MOMENTS),
    "mahalanobis": _Kind(scorers.Mahalanobis, _MOMENTS),
    "oas": _Kind(scorers.Mahalanobis, _MOMENTS),
    RIDGE: _Kind(scorers.ridge, frozenset({"gram", "targets", "weight"})),
    GATE: _Kind(scorers.gate, frozenset({"bias", "entries", "features", "weight"})),
    NEAREST: _Kind(scorers.Nearest, frozenset({"entries", "features"})),
    TOKENS: _Kind(scorers.TokenScores, frozenset({"counts", "tokens"}), tokens=True),
    SUBSPACES: _Kind(scorers.Subspaces, frozenset({"prototypes"})),
}
STATISTICS_RULES: Final = tuple(_KINDS)


class StatisticsHead(nn.Module):
    """The classifier that statistics of features give, without any training of the model.

    * ``"class-means"``: cosine to the class mean (Rebuffi et al. 2017, iCaRL, eq. 2; Zhou et al. 2023,
      SimpleCIL).
    * ``"lda"``: streaming linear discriminant analysis with shrinkage ``S' = (1-a) S + a tr(S)/d I`` and
      equal priors (Hayes and Kanan 2020, "Lifelong Machine Learning with Deep Streaming Linear Discriminant
      Analysis", eq. 2-5).
    * ``"mahalanobis"``, ``"oas"``: minus the squared Mahalanobis distance to the class mean, the covariance
      with a ridge, or shrunk as far as its sample tells.
    * ``"ridge"``: ridge regression on random features (McDonnell et al. 2023, RanPAC).
    * ``"tokens"``: naive Bayes over tokens (McCallum and Nigam 1998).
    * ``"gate"``: softmax regression over a few features kept of every class.
    * ``"nearest"``: the mean cosine to the nearest of these.
    * ``"subspaces"``: cosines to prototypes in the subspaces of all adapters (Zhou et al. 2024, EASE).

    Scores are divided by the option ``temperature``, where there is one (Guo et al. 2017).

    Args:
        spec: labels, groups, rule and what the rule needs.
        tensors: the statistics.

    Attributes:
        classes: label of each output.
        groups: task index of each output.
        over: the compositions whose features it reads, as JSON; none for the bare base's.

    Raises:
        SpecError: if the rule is unknown, or cannot answer from these statistics.
    """

    def __init__(self, spec: HeadSpec, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._spec = spec
        self.classes = spec.classes
        self.groups = tuple(int(group) for group in spec.options["groups"])
        self.over: tuple[Mapping[str, Any], ...] = tuple(spec.options.get("over", ()))
        self._kind = _kind(spec)
        self._scorer = self._kind.make(spec.options, tensors)
        if "width" in spec.options and self._kind.tensors == _MOMENTS:
            self._scorer = scorers.Lifted(spec.options, self._scorer, unit=True)
        self._temperature = float(spec.options.get("temperature", 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Returns scores ``(B, C)``, float64, of features ``(B, d)``, or of tokens ``(B, L)``."""
        read = features.long() if self._kind.tokens else F.normalize(features.double(), dim=1)
        scores: Tensor = self._scorer(read)
        return scores / self._temperature

    def of_groups(self, features: Tensor, normed: bool = False) -> Tensor:
        """Returns for features ``(B, d)`` the score of each task's best entry, ``(B, T)``.

        A task without an entry has ``-inf``.

        Args:
            features: as the head takes them.
            normed: whether scores become log-probabilities over all entries first.
        """
        scores, groups = self(features), torch.tensor(self.groups, device=features.device)
        scores = scores.log_softmax(1) if normed else scores
        count = int(groups.max()) + 1
        none = scores.new_full((len(scores), count), -torch.inf)
        best: Tensor = none.scatter_reduce(1, groups.expand(len(scores), -1), scores, "amax")
        return best

    def route(self, features: Tensor) -> Tensor:
        """Returns for features ``(B, d)`` the task index ``(B,)`` of the best entry."""
        groups = torch.tensor(self.groups, device=features.device)
        return groups[self(features).argmax(1)]

    def spec(self) -> HeadSpec:
        """Returns what rebuilds this head, its tensors apart."""
        return self._spec


def check_statistics(spec: HeadSpec, names: set[str]) -> bool:
    """Returns whether the tensors of these names are those that the head's rule needs.

    Raises:
        SpecError: if there is no such rule.
    """
    return _kind(spec).tensors == names


def _kind(spec: HeadSpec) -> _Kind:
    rule = str(spec.options.get("rule"))
    if rule not in _KINDS:
        raise SpecError(f"no rule {rule!r} over class statistics{suggest(rule, STATISTICS_RULES)}")
    return _KINDS[rule]
