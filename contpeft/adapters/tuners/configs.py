"""Configurations of the methods that contpeft adds to PEFT."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from peft import PeftConfig

from contpeft.errors import suggest

__all__ = [
    "AdaMixConfig",
    "BitFitConfig",
    "BottleneckConfig",
    "CompacterConfig",
    "HoulsbyConfig",
    "ParallelConfig",
    "PfeifferConfig",
]

_NON_LINEARITIES: Final = (
    "gelu",
    "gelu_new",
    "leaky_relu",
    "linear",
    "relu",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
)
_INITS: Final = ("lora", "bert")


@dataclass
class BottleneckConfig(PeftConfig):
    """What all bottleneck adapters have: ``u(z) = scaling * (up(act(down(dropout(z)))))``.

    Attributes:
        target_modules: the modules they are put around; the family of the model decides when None.
        reduction_factor: how many times narrower than the model the bottleneck is.
        non_linearity: its activation function.
        scaling: what its output is multiplied by: a number, or ``"learned"`` (starts at 1).
        dropout: probability that an entry of what it reads is dropped in training.
        init_weights: ``"lora"``, ``up`` all zero, so that a fresh adapter changes no bit; or ``"bert"``, all
            weights normal with deviation 0.02.
    """

    target_modules: list[str] | str | None = None
    reduction_factor: float = 16
    non_linearity: str = "relu"
    scaling: float | str = 1.0
    dropout: float = 0.0
    init_weights: str = "lora"

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: if one has no meaning.
        """
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = type(self).__name__.removesuffix("Config").upper()
        _check_known("non_linearity", self.non_linearity, _NON_LINEARITIES)
        _check_known("init_weights", self.init_weights, _INITS)
        _check_number("reduction_factor", self.reduction_factor, positive=True)
        _check_number("dropout", self.dropout, below=1)
        if self.scaling != "learned":
            _check_number("scaling", self.scaling)

    @property
    def placement(self) -> str:
        """Where they sit: one of :data:`contpeft.adapters.tuners.sites.PLACEMENTS`."""
        raise NotImplementedError

    def width(self, hidden: int) -> int:
        """Returns the width of the bottleneck in a model of width ``hidden``."""
        return max(1, int(hidden // self.reduction_factor))


@dataclass
class HoulsbyConfig(BottleneckConfig):
    """Adapters after the attention and after the FFN (Houlsby et al., 2019, section 2.1).

    Attributes:
        after_attention: False leaves out those after the attention.
        residual: False leaves out the sub-block's own output, so that only the adapter's goes on.
    """

    non_linearity: str = "swish"
    after_attention: bool = True
    residual: bool = True

    @property
    def placement(self) -> str:
        """After both sub-blocks, or after the FFN."""
        return "houlsby" if self.after_attention else "ffn"


@dataclass
class PfeifferConfig(BottleneckConfig):
    """Adapters after the FFN that read its normalised sum (Pfeiffer et al., 2021, section 3.1)."""

    @property
    def placement(self) -> str:
        """After the FFN, reading its normalised sum."""
        return "pfeiffer"


@dataclass
class AdaMixConfig(PfeifferConfig):
    """Several adapters a site while training, their mean afterwards (Wang et al., 2022, section 3).

    Attributes:
        experts: how many there are.
        consistency: weight of the distance between two passes over a batch in the loss; 0 for one pass.
    """

    experts: int = 4
    consistency: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: if one has no meaning.
        """
        super().__post_init__()
        if not isinstance(self.experts, int) or self.experts < 1:
            raise ValueError(f"experts={self.experts!r} is no number of adapters; give 1 or more")
        if not 0 <= self.consistency < math.inf:
            raise ValueError(f"consistency={self.consistency!r} is no weight of a loss; give 0 or more")


@dataclass
class ParallelConfig(BottleneckConfig):
    """Scaled adapters beside the FFN (He et al., 2022, section 3.3)."""

    reduction_factor: float = 2
    scaling: float | str = 4.0

    @property
    def placement(self) -> str:
        """Beside the FFN."""
        return "parallel"


@dataclass
class CompacterConfig(HoulsbyConfig):
    """Adapters whose weights are sums of Kronecker products (Mahabadi et al., 2021, section 4).

    Compacter++ has them after the FFN alone: ``after_attention=False``.

    Attributes:
        phm_dim: number of Kronecker products; divides the width of the model and of the bottleneck.
        phm_rank: rank of their right factors. The left ones are shared by all layers.
    """

    reduction_factor: float = 32
    non_linearity: str = "gelu"
    phm_dim: int = 4
    phm_rank: int = 1


@dataclass
class BitFitConfig(PeftConfig):
    """Trained biases (Ben Zaken et al., 2022, section 3), kept as what is added to the base's.

    Attributes:
        target_modules: modules with a bias; when None, all outside the head.
    """

    target_modules: list[str] | str | None = None

    def __post_init__(self) -> None:
        """Names the method."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = "BITFIT"


def _check_known(option: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"no {option} {value!r}{suggest(str(value), known)}")


def _check_number(option: str, value: Any, *, positive: bool = False, below: float | None = None) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (positive and value <= 0) or (below is not None and not 0 <= value < below):
        bounds = " > 0" if positive else "" if below is None else f" from 0 to below {below}"
        raise ValueError(f"{option}={value!r} is no number{bounds}")
