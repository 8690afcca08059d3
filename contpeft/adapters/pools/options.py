"""What a bank of a pool is made of, and where in a model it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, get_args

from torch import nn

from contpeft.adapters.pools.attention import attention_modules
from contpeft.adapters.prompts.backbone import backbone_of, is_causal
from contpeft.errors import SpecError, UnsupportedError

__all__ = ["BankOptions", "Sizes", "Weighting", "sizes_of"]

Weighting = Literal["attended", "top", "all"]

_PAPERS: Final = 12  # layers of ViT-B/16, on which prompt pools were published


@dataclass(frozen=True)
class BankOptions:
    """A bank: components, and how a row's query weighs them.

    Attributes:
        weighting: ``"attended"``: the sum of all, weighted by the cosine of the attended query to each key;
            ``"top"``: those of the nearest keys, one before the other; ``"all"``: all of them, whatever the
            query, the newest first.
        layers: the first layer and the one after the last, of a model of 12 layers; the same share of
            another's depth.
        length: positions of a component: as many keys, and as many values, in each layer.
        components: how many are trained at a task.
        grows: whether every task gets components of its own, those before being frozen; else all tasks
            train the same.
        top: how many are picked, of ``"top"``.
        apart: whether each layer has keys of its own; else one set weighs for all its layers.
    """

    weighting: Weighting = "attended"
    layers: tuple[int, int] = (0, 5)
    length: int = 4
    components: int = 10
    grows: bool = True
    top: int = 1
    apart: bool = False

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for a weighting that is none, and sizes that are not positive."""
        if self.weighting not in get_args(Weighting):
            told = ", ".join(get_args(Weighting))
            raise SpecError(f"a bank cannot weigh by {self.weighting!r}; give one of: {told}")
        for name in ("length", "components", "top"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} of a bank is {getattr(self, name)!r}; give 1 or more")
        if not 0 <= self.layers[0] < self.layers[1]:
            raise SpecError(
                f"layers of a bank are {self.layers!r}; give the first, and the one after the last"
            )

    def placed(self, depth: int) -> list[BankOptions]:
        """Returns the bank in a model of ``depth`` layers, by the numbers of these: one layer at least.

        One whose layers are apart is a bank in each.

        Raises:
            SpecError: if the model is not deep enough.
        """
        first = math.ceil(self.layers[0] * depth / _PAPERS)
        stop = max(first + 1, math.ceil(self.layers[1] * depth / _PAPERS))
        if stop > depth:
            raise SpecError(
                f"layers {self.layers[0]} to {self.layers[1] - 1} of {_PAPERS} have no like in a model of "
                f"{depth} layers; give a bank of other layers"
            )
        if self.apart:
            return [replace(self, layers=(layer, layer + 1)) for layer in range(first, stop)]
        return [replace(self, layers=(first, stop))]

    def to_json(self) -> dict[str, Any]:
        """Returns the bank as JSON."""
        return asdict(self) | {"layers": list(self.layers)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BankOptions:
        """Returns the bank :meth:`to_json` wrote."""
        first, stop = value["layers"]
        return cls(**{**value, "layers": (first, stop)})


@dataclass(frozen=True)
class Sizes:
    """What a model decides of a pool.

    Attributes:
        depth: how many layers it has.
        width: of the keys of all its heads together; of the values too.
        heads: how many there are.
        query: width of a query.
    """

    depth: int
    width: int
    heads: int
    query: int


def sizes_of(model: nn.Module) -> Sizes:
    """Returns the sizes of a model.

    Raises:
        UnsupportedError: if it is no encoder, or its attention takes no prefix.
    """
    backbone = backbone_of(model)
    told: Any = backbone.config
    if getattr(told, "is_encoder_decoder", False) or is_causal(backbone):
        raise UnsupportedError(
            f"pools of prompts are for encoders, a {told.model_type} model is none; use a method that is a "
            "set of layers, such as 'lora'"
        )
    depth = len(attention_modules(backbone))
    heads: int = told.num_attention_heads
    size: int = getattr(told, "head_dim", None) or told.hidden_size // heads
    return Sizes(depth, heads * size, heads, told.hidden_size)
