"""A bank of a pool: components, their keys, and the prefix that they make for each query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters.pools.options import BankOptions

__all__ = ["Bank"]


class Bank(nn.Module):
    """Components, of which the newest are trained and the others are frozen.

    What is frozen is a buffer: a parameter without a gradient is still moved by weight decay and momentum.
    Shapes: ``M`` components of ``P`` positions in ``L`` layers of width ``w``; queries of width ``d``.

    Args:
        options: what it is, its layers numbered as in the model.
        tensors: ``components (M, L, 2, P, w)``, keys before values; ``keys (M, d)`` unless all are taken;
            ``attention (M, d)`` where queries are attended.

    Attributes:
        options: as given.
        nearness: cosine ``(B, N)`` of each query to the keys picked for it, of the last call in train mode.
    """

    def __init__(self, options: BankOptions, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.options = options
        self.nearness: Tensor | None = None
        self._names = sorted(tensors)
        with torch.inference_mode(False):
            for name, rows in sorted(tensors.items()):
                rows = rows.detach().clone()
                self.register_buffer(f"frozen_{name}", rows[: -options.components])
                self.register_parameter(name, nn.Parameter(rows[-options.components :]))

    def rows(self, name: str) -> Tensor:
        """Returns a tensor with the rows of all components, the oldest first."""
        return torch.cat([cast(Tensor, getattr(self, f"frozen_{name}")), getattr(self, name)])

    def stored(self) -> dict[str, Tensor]:
        """Returns its tensors as versions hold them."""
        return {name: self.rows(name) for name in self._names}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets its tensors, of the names and shapes of :meth:`stored`."""
        for name, rows in tensors.items():
            getattr(self, f"frozen_{name}").copy_(rows[: -self.options.components])
            getattr(self, name).copy_(rows[-self.options.components :])

    def forward(self, query: Tensor) -> Tensor:
        """Returns the prefix ``(B, L, 2, positions, w)`` of each query ``(B, d)``."""
        components = self.rows("components")
        if self.options.weighting == "attended":
            return torch.einsum("bm,mlspw->blspw", self.weights(query), components)
        if self.options.weighting == "all":
            return _joined(components.flip(0)[None]).expand(len(query), -1, -1, -1, -1)
        return _joined(components[self._picked(query)])

    def weights(self, query: Tensor) -> Tensor:
        """Returns the cosine ``(B, M)`` of attended queries to keys (Smith et al. 2023, section 4.2)."""
        attended = query[:, None] * self.rows("attention")
        return F.cosine_similarity(attended, self.rows("keys"), dim=-1)

    def _picked(self, query: Tensor) -> Tensor:
        """Returns the components ``(B, N)`` of the nearest keys; while it is trained, of those trained."""
        frozen = len(self.frozen_keys) if self.training else 0  # type: ignore[arg-type]
        cosines = F.normalize(query, dim=-1) @ F.normalize(self.rows("keys")[frozen:], dim=-1).T
        nearest = cosines.topk(min(self.options.top, cosines.shape[1]), dim=-1)
        self.nearness = nearest.values if self.training else None
        return nearest.indices + frozen


def _joined(picked: Tensor) -> Tensor:
    """Returns components ``(B, N, L, 2, P, w)`` one before the other, ``(B, L, 2, N P, w)``."""
    return picked.permute(0, 2, 3, 1, 4, 5).flatten(3, 4)
