"""The gate of one task: from what a row is to how much of the task's adapter it gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

__all__ = ["LAYERS", "Gate", "GateOptions", "GateRule", "weigh"]

GateRule = Literal["independent", "attention", "cosine"]
"""How gates weigh adapters; see :func:`weigh`."""

LAYERS: Final = 2
"""Linear layers between what a row is and its query, where there are any."""

_STEEPNESS: Final = 4.0  # what the cosine is multiplied by in the sigmoid of an independent gate


@dataclass(frozen=True)
class GateOptions:
    """What gates are made of.

    Attributes:
        rule: how they weigh.
        hidden: the width of their layers; of no meaning for ``"cosine"``, which has none.
    """

    rule: GateRule = "independent"
    hidden: int = 128

    def to_json(self) -> dict[str, Any]:
        """Returns them as JSON."""
        return asdict(self)

    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each tensor of a gate that reads vectors of a width."""
        if self.rule == "cosine":
            return {"key": (width,)}
        return {"0": (self.hidden, width), "1": (self.hidden, self.hidden), "key": (self.hidden,)}

    def drawn(self, width: int, generator: Generator) -> dict[str, Tensor]:
        """Returns the tensors of a gate at its random start, each row of length about ``sqrt 2``."""
        return {
            name: torch.randn(shape, generator=generator) * math.sqrt(2 / shape[-1])
            for name, shape in self.shapes(width).items()
        }


class Gate(nn.Module):
    """A query of two layers, ``z = s(W_1 s(W_0 x))`` with ``s`` the SiLU and no biases, and a key.

    ``x`` is what a row is, at a mean square of 1, so that the layers read vectors of one size whatever the
    model. Attention normalises ``z`` instead of the last ``s``; cosine has no layers, and there ``z = x``.

    Args:
        options: what it is made of.
        tensors: ``"0"``, ``"1"`` and ``"key"``, as far as there are layers.
    """

    key: nn.Parameter

    def __init__(self, options: GateOptions, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.options = options
        for name, value in tensors.items():
            self.register_parameter(f"w{name}" if name.isdigit() else name, nn.Parameter(value.clone()))

    def named(self) -> dict[str, nn.Parameter]:
        """Returns the parameters under the names of the tensors they were made of."""
        return {name.removeprefix("w"): parameter for name, parameter in self.named_parameters()}

    def reads(self, rows: Tensor) -> dict[str, Tensor]:
        """Returns what each tensor is multiplied with, ``(B, its last dimension)``, by its name.

        Args:
            rows: what the rows are, ``(B, d)``.
        """
        read = {}
        x = math.sqrt(rows.shape[-1]) * F.normalize(rows.to(self.key.dtype), dim=-1)
        for number in range(LAYERS if self.options.rule != "cosine" else 0):
            read[str(number)] = x
            x = F.linear(x, cast(Tensor, getattr(self, f"w{number}")))
            last_of_attention = self.options.rule == "attention" and number == LAYERS - 1
            x = F.layer_norm(x, x.shape[-1:]) if last_of_attention else F.silu(x)
        return {**read, "key": x}

    def query(self, rows: Tensor) -> Tensor:
        """Returns what the key is compared with, ``(B, its size)``."""
        return self.reads(rows)["key"]


def weigh(gates: Sequence[Gate], rows: Tensor) -> Tensor:
    """Returns how much each row gets of each adapter, ``(B, N)``.

    ``"independent"`` (GainLoRA, Liang et al. 2025, arXiv 2505.15424):
    ``|2 sigmoid(4 cos(q_i(x), k_i)) - 1|``, 0 at a right angle and 0.964 along the key or against it.

    ``"attention"`` (SAPT, Zhao et al. 2024, arXiv 2401.08295): ``softmax_i(q(x) . k_i / sqrt(d))`` with the
    query of the last gate.

    ``"cosine"`` (MoCL, Wang et al. 2024, arXiv 2404.00790): ``cos(x, k_i)``.

    Args:
        gates: of one rule, in the order in which they were learnt.
        rows: what the rows are, ``(B, d)``.
    """
    rule = gates[-1].options.rule
    if rule == "independent":
        cosines = [F.cosine_similarity(gate.query(rows), gate.key, dim=-1) for gate in gates]
        return (2 * torch.sigmoid(_STEEPNESS * torch.stack(cosines, dim=1)) - 1).abs()
    query, keys = gates[-1].query(rows), torch.stack([gate.key for gate in gates])
    if rule == "attention":
        return torch.softmax(query @ keys.T / math.sqrt(keys.shape[1]), dim=1)
    return F.cosine_similarity(query[:, None], keys[None], dim=-1)
