"""How a method trains what it has put into a model: from which start, what of it, and around each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from peft import PeftConfig
from torch import Tensor, nn

from contpeft.adapters.allocation import RankAllocation
from contpeft.adapters.attachment import Attachment
from contpeft.adapters.dynamics import Dynamics
from contpeft.adapters.principal import Factors, halve, olora_factors, pissa_factors, start_at
from contpeft.adapters.variants import base_method, own_options
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec

__all__ = ["train_as"]


class _Told(NamedTuple):
    """What is known of an adapter that is to be trained.

    Attributes:
        own: the options its method has beside those of its layers, all of them.
        given: the options it was given.
        fresh: whether it has its random start.
    """

    own: Mapping[str, Any]
    given: Mapping[str, Any]
    fresh: bool


Regime = Callable[[Attachment, _Told], None]
"""Prepares an attached adapter for training."""


class FasterB(Dynamics):
    """Lets ``B`` learn faster than ``A`` (LoRA+; Hayou et al., 2024, section 4).

    The update that the optimizer has applied is scaled: for optimizers whose step is proportional to their
    learning rate (SGD, Adam, AdamW with its decay) that is the very learning rate ``ratio`` times as high,
    whatever its schedule.

    Args:
        factors: the parameters of ``B``.
        ratio: how many times faster.
    """

    idle = False

    def __init__(self, factors: list[nn.Parameter], ratio: float) -> None:
        self._factors = factors
        self._ratio = ratio
        self._before: list[Tensor] = []

    def before_step(self) -> None:
        """Remembers the factors."""
        self._before = [p.detach().clone() for p in self._factors]

    def after_step(self, step: int) -> None:
        """Scales what the optimizer has done to them."""
        with torch.no_grad():
            for parameter, before in zip(self._factors, self._before, strict=True):
                parameter.copy_(before + self._ratio * (parameter - before))
        self._before = []


class TwoPasses(Dynamics):
    """Asks for two passes over each batch, kept close to each other (AdaMix).

    Args:
        weight: of the distance between the two in the loss.
    """

    idle = False

    def __init__(self, weight: float) -> None:
        self.consistency = weight


def train_as(attachment: Attachment, spec: AdapterSpec | PeftConfig, *, fresh: bool) -> None:
    """Prepares an adapter for being trained as a method does it.

    Args:
        attachment: the adapter; one of another method than the spec's stays as it is.
        spec: the method and its options, or PEFT's own configuration.
        fresh: whether it has its random start, and not weights that were trained.

    Raises:
        SpecError: if the method cannot start from the model's weights, or go on from these.
    """
    kind = attachment.kind
    method, options = (kind, vars(spec)) if isinstance(spec, PeftConfig) else (spec.method, spec.options)
    regime = _REGIMES.get(method)
    if regime is not None and base_method(method) == kind:
        regime(attachment, _Told(own_options(method, options), options, fresh))


def _faster_b(attachment: Attachment, told: _Told) -> None:
    attachment.dynamics = FasterB(list(_of(attachment, "lora_B", "lora_embedding_B")), told.own["ratio"])


def _frozen_a(attachment: Attachment, told: _Told) -> None:
    for parameter in _of(attachment, "lora_A", "lora_embedding_A"):
        parameter.requires_grad_(False)
    attachment.settle_trainable()


def _pissa(attachment: Attachment, told: _Told) -> None:
    _principal(attachment, told, partial(pissa_factors, niter=told.own["niter"]), divide=True)


def _olora(attachment: Attachment, told: _Told) -> None:
    _principal(attachment, told, olora_factors, divide=False)


def _principal(attachment: Attachment, told: _Told, factors: Factors, *, divide: bool) -> None:
    layers = [(place.name, place.module) for _, place in attachment.places()]
    rank, whole = told.given.get("r", 8), attachment.made_json()["r"]
    if whole != 2 * rank:
        raise SpecError(
            f"the stored adapter has rank {whole}, and a start at r={rank} directions takes {2 * rank}; "
            "give the r it was trained with, or train on with method 'lora'"
        )
    if told.fresh:
        start_at(layers, factors, divide=divide)
    halve(layers)
    attachment.settle_trainable()


def _allocation(attachment: Attachment, told: _Told) -> None:
    planned = told.given.get("total_step") is not None or not told.fresh
    attachment.dynamics = RankAllocation(attachment, planned=planned)


def _consistent(attachment: Attachment, told: _Told) -> None:
    weight = attachment.made_json()["consistency"]
    if weight:
        attachment.dynamics = TwoPasses(weight)


_REGIMES: Final[Mapping[str, Regime]] = {
    "adalora": _allocation,
    "adamix": _consistent,
    "lora+": _faster_b,
    "lora-fa": _frozen_a,
    "olora": _olora,
    "pissa": _pissa,
}


def _of(attachment: Attachment, *factors: str) -> Iterator[nn.Parameter]:
    """Yields the parameters of these factors, by PEFT's names."""
    for _, place in attachment.places():
        for name, parameter in place.module.named_parameters():
            if any(factor in name for factor in factors):
                yield parameter
