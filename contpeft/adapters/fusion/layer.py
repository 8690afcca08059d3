"""AdapterFusion at one site: attention of a token over what several adapters say of it.

Pfeiffer et al. (2021), section 3.2. A token's query scores what each adapter makes of it, without scaling;
the softmax of the scores mixes what the value matrix makes of the same. All shapes: ``B`` rows, ``T``
positions, ``N`` adapters, ``H`` the model's width, ``r`` an adapter's bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters.fusion.matrices import Rank, near_identity, projection
from contpeft.errors import SpecError

__all__ = ["Bottlenecks", "FusionLayer", "FusionOptions"]

# How hot the softmax begins, and by how much it cools with every training step (AdapterHub's schedule).
_HOT: Final = 50.0
_COOLING: Final = 0.05
_COLD: Final = 1.0


@dataclass(frozen=True)
class FusionOptions:
    """What a fusion layer is made of; the names are those of AdapterHub's configuration.

    Attributes:
        key: project what is scored; else it is scored as it is.
        query: project what scores; else it scores as it is.
        value: project what is mixed; else it is mixed as it is.
        value_before_softmax: project each adapter's output, or their mixture; the same up to rounding.
        value_initialized: begin with a value matrix that is nearly the identity.
        residual_before: add the residual to each adapter's output and not to the mixture.
        temperature: begin with a hot softmax that cools while training.
        regularization: keep the value matrix near the identity, see :meth:`FusionLayer.penalty`.
        dropout_prob: of scores, before the softmax; while training.
        query_before_ln: score with what the FFN says, before it is added and normalised, and not with what
            the adapters read; for ``pfeiffer`` adapters in post-norm models.
        rank: of each matrix, of which there are fewer parameters then: a number, or ``"diagonal"``; None for
            whole matrices. New here: AdapterHub has whole ones alone.
    """

    key: bool = True
    query: bool = True
    value: bool = True
    value_before_softmax: bool = True
    value_initialized: bool = True
    residual_before: bool = False
    temperature: bool = False
    regularization: bool = True
    dropout_prob: float = 0.0
    query_before_ln: bool = False
    rank: Rank = None

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for a dropout that is no share, and a rank that is none."""
        if not 0 <= self.dropout_prob < 1:
            raise SpecError(f"dropout_prob {self.dropout_prob:g} is no share; give 0 or more and less than 1")
        number = isinstance(self.rank, int) and not isinstance(self.rank, bool) and self.rank > 0
        if not (number or self.rank in (None, "diagonal")):
            raise SpecError(
                f"rank {self.rank!r} is none; give 1 or more, 'diagonal', or None for whole matrices"
            )
        if number and self.value and not self.value_initialized:
            raise SpecError(
                f"with rank {self.rank} the value matrix begins at the identity; "
                "leave value_initialized=False out, or rank"
            )


class Bottlenecks(NamedTuple):
    """What several bottleneck adapters say, before their up-projections are done.

    Adapters of smaller bottlenecks are filled up with zeros.

    Attributes:
        hidden: ``(B, T, N, r)``, after the activation.
        up: ``(N, H, r)``, weights of the up-projections, scales included.
        bias: ``(N, H)``, their biases, scales included.
    """

    hidden: Tensor
    up: Tensor
    bias: Tensor

    def outputs(self) -> Tensor:
        """Returns what each adapter says, ``(B, T, N, H)``."""
        return torch.einsum("btnr,nhr->btnh", self.hidden, self.up) + self.bias


class FusionLayer(nn.Module):
    """Attention over adapters.

    Args:
        width: ``H``.
        options: what it is made of.

    Attributes:
        options: as given.
        attention: the last mixture weights ``(B, T, N)`` if ``watch`` is set, else None.
        watch: whether to keep them.
    """

    steps: Tensor

    def __init__(self, width: int, options: FusionOptions | None = None) -> None:
        super().__init__()
        self.options = options or FusionOptions()
        rank = self.options.rank
        self.query = projection(width, rank) if self.options.query else None
        self.key = projection(width, rank) if self.options.key else None
        self.value = near_identity(width, rank) if self.options.value else None
        # Kept with the weights: a layer that is loaded goes on where it was.
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64), persistent=self.options.temperature)
        self.watch = False
        self.attention: Tensor | None = None
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Begins anew: near a plain mean of what the adapters say."""
        for matrix in (self.query, self.key):
            if matrix is not None:
                matrix.reset()
        if self.value is not None:
            self.value.reset(initialized=self.options.value_initialized)
        self.steps.zero_()

    def forward(self, source: Tensor, outputs: Tensor, residual: Tensor) -> Tensor:
        """Returns the mixture of what adapters say, and the residual.

        Args:
            source: ``(B, T, H)``, what scores.
            outputs: ``(B, T, N, H)``, what each adapter says, residual left out.
            residual: ``(B, T, H)``.

        Returns:
            ``(B, T, H)``.
        """
        if self.options.residual_before:
            outputs = outputs + residual.unsqueeze(2)
        keys = outputs if self.key is None else self.key(outputs)
        weights = self._weights(torch.einsum("bth,btnh->btn", self._query(source), keys))
        if self.value is not None and self.options.value_before_softmax:
            mixed = torch.einsum("btn,btnh->bth", weights, self.value(outputs))
        else:
            mixed = self._value(torch.einsum("btn,btnh->bth", weights, outputs))
        return mixed if self.options.residual_before else mixed + residual

    def folded(self, source: Tensor, adapters: Bottlenecks, residual: Tensor) -> Tensor:
        """Returns what :meth:`forward` does, at a cost that hardly grows with the number of adapters.

        A score ``Q . (W_k (U h + c) + b_k)`` is ``(U^T W_k^T Q) . h`` and what is the same for all
        positions of ``h``; so is the mixture. What adapters say is never made: only ``r`` numbers of it are
        touched.

        Args:
            source: ``(B, T, H)``, what scores.
            adapters: what they say, before their up-projections.
            residual: ``(B, T, H)``.

        Returns:
            ``(B, T, H)``.
        """
        query = self._query(source)
        seen = query if self.key is None else self.key.transposed(query)
        scores = torch.einsum(
            "btnr,btnr->btn", torch.einsum("bth,nhr->btnr", seen, adapters.up), adapters.hidden
        )
        scores = scores + seen @ adapters.bias.T
        # These are the same for all adapters; they cancel in the softmax unless scores are dropped before it.
        if self.key is not None:
            scores = scores + (query @ self.key.bias).unsqueeze(-1)
        if self.options.residual_before:
            scores = scores + (seen * residual).sum(-1, keepdim=True)
        weights = self._weights(scores)
        mixed = torch.einsum("btnr,nhr->bth", weights.unsqueeze(-1) * adapters.hidden, adapters.up)
        mixed = mixed + weights @ adapters.bias
        # The weights of a token sum to 1, so that what is added to all it mixes is added once.
        return (
            self._value(mixed + residual) if self.options.residual_before else self._value(mixed) + residual
        )

    def penalty(self) -> Tensor:
        """Returns ``0.01 ||I - W_v||_F^2``, a scalar; 0 without a value matrix or without regularisation."""
        if self.value is None or not self.options.regularization:
            return self.steps.new_zeros((), dtype=torch.get_default_dtype())
        return 0.01 * self.value.distance()

    def _query(self, source: Tensor) -> Tensor:
        projected: Tensor = source if self.query is None else self.query(source)
        return projected

    def _value(self, mixed: Tensor) -> Tensor:
        projected: Tensor = mixed if self.value is None else self.value(mixed)
        return projected

    def _weights(self, scores: Tensor) -> Tensor:
        scores = F.dropout(scores, self.options.dropout_prob, self.training)
        weights = torch.softmax(scores / self._heat(), dim=-1)
        self.attention = weights.detach() if self.watch else None
        return weights

    def _heat(self) -> float | Tensor:
        if not self.options.temperature:
            return 1.0
        heat = (_HOT - _COOLING * self.steps).clamp_min(_COLD)
        if self.training:
            self.steps += 1
        return heat
