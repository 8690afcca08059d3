"""The heads that AdapterHub trains: one or two layers over one feature of the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor, nn
from transformers import BertForSequenceClassification
from transformers.activations import ACT2FN

from contpeft.errors import SpecError, suggest
from contpeft.spec import HeadSpec

__all__ = ["ACTIVATIONS", "MLP", "READS", "MLPHead", "check_reads"]

MLP: Final = "mlp"
READS: Final = ("first token", "pooler")
"""The features it was trained on: the first token's last state, or what the base's pooler makes of it."""
ACTIVATIONS: Final = (
    "gelu", "gelu_new", "leaky_relu", "linear", "relu", "sigmoid", "silu", "swish", "tanh",
)  # fmt: skip


class MLPHead(nn.Module):
    """``W2 act(W1 x + b1) + b2``, or ``W2 x + b2`` alone; with dropout before each layer.

    Args:
        classes: label names.
        tensors: ``weight`` ``(C, d)`` and ``bias`` ``(C,)``, which may be missing; with two layers
            ``hidden.weight`` ``(d, d)`` and ``hidden.bias`` ``(d,)``.
        layers: 1 or 2.
        activation: of the first of two layers; None for none.
        dropout: share of what each layer reads that is dropped in training.
        reads: the features it was trained on, one of :data:`READS`; a note, it computes on what it is given.
    """

    def __init__(
        self,
        classes: Sequence[str],
        tensors: Mapping[str, Tensor],
        *,
        layers: int,
        activation: str | None,
        dropout: float,
        reads: str,
    ) -> None:
        super().__init__()
        _check(classes, tensors, layers, activation, reads)
        self.classes = tuple(classes)
        self.options = {"activation": activation, "dropout": dropout, "layers": layers, "reads": reads}
        self.dropout = nn.Dropout(dropout)
        self.hidden = _linear(tensors, "hidden.") if layers == 2 else None
        last = _linear(tensors, "")
        self.weight, self.bias = last.weight, last.bias
        self._activation = nn.Identity() if activation is None else ACT2FN[activation]

    def forward(self, features: Tensor) -> Tensor:
        """Returns scores ``(B, C)`` of features ``(B, d)``."""
        inner = self.dropout(features)
        if self.hidden is not None:
            inner = self.dropout(self._activation(self.hidden(inner)))
        return nn.functional.linear(inner, self.weight, self.bias)

    def spec(self) -> HeadSpec:
        """Returns what rebuilds this head, its tensors apart."""
        return HeadSpec(MLP, self.classes, dict(self.options))


def check_reads(spec: HeadSpec, model: nn.Module) -> None:
    """Checks that a transformers model gives a head inside it what it was trained on.

    Raises:
        SpecError: if it gives it something else.
    """
    if spec.kind != MLP:
        return
    given = "pooler" if isinstance(model, BertForSequenceClassification) else "something else"
    if spec.options["reads"] != given:
        raise SpecError(
            f"the head reads the {spec.options['reads']} of the base, and {type(model).__name__} gives its "
            f"head {given}; put the base in a module of your own whose head reads that"
        )


def _check(
    classes: Sequence[str], tensors: Mapping[str, Tensor], layers: int, activation: str | None, reads: str
) -> None:
    if activation is not None and activation not in ACTIVATIONS:
        raise SpecError(f"no activation {activation!r} of a head{suggest(activation, ACTIVATIONS)}")
    if reads not in READS:
        raise SpecError(f"a head reads no {reads!r}{suggest(reads, READS)}")
    if layers not in (1, 2):
        raise SpecError(f"a head of {layers!r} layers cannot be built; it has 1 or 2")
    needed = {"weight"} | ({"hidden.weight", "hidden.bias"} if layers == 2 else set())
    if set(tensors) - {"bias"} != needed:
        raise SpecError(
            f"a head of {layers} layers has other tensors than these: {', '.join(sorted(tensors))}"
        )
    weight = tensors["weight"]
    if weight.ndim != 2 or len(weight) != len(classes) or len(set(classes)) != len(classes):
        raise SpecError(
            f"a head of {len(set(classes))} classes needs as many rows, got shape {tuple(weight.shape)}"
        )


def _linear(tensors: Mapping[str, Tensor], prefix: str) -> nn.Linear:
    weight, bias = tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias")
    made = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, dtype=weight.dtype)
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        if bias.shape != weight.shape[:1]:
            raise SpecError(f"the bias of a head has shape {tuple(bias.shape)}, its rows are {len(weight)}")
        made.bias = nn.Parameter(bias.detach().clone())
    return made
