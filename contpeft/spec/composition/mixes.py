"""Compositions that mix what adapters add, row by row or token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contpeft.errors import SpecError
from contpeft.spec.composition.parts import Single
from contpeft.spec.composition.value import Value

__all__ = ["Arrow", "Mix"]


@dataclass(frozen=True)
class Mix(Value):
    """Each row is computed by a weighted sum of the adapters that a router finds likeliest for it.

    The weights are ``softmax(score / temperature)`` over the best ``top`` choices, a choice's score being
    that of its task's best class. Their heads read the same features, and a label's score is the weighted sum
    of its probabilities over the choices that know it. With ``top`` 1 it answers as :class:`Route`.

    Attributes:
        router: the version that scores the choices (class statistics).
        choices: LoRA adapters; choice ``k`` serves the task the router calls ``k``.
        top: how many are mixed at most.
        temperature: of the weights.
    """

    router: str
    choices: tuple[Single, ...]
    top: int = 2
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for a mixture without a meaning."""
        _check(self.choices, self.top, self.temperature)

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return (self.router, *(ref for choice in self.choices for ref in choice.refs()))

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        choices = [choice.to_json() for choice in self.choices]
        how = {"top": self.top, "temperature": self.temperature}
        return {"type": "mix", "router": self.router, "choices": choices, **how}

    def __str__(self) -> str:
        told = ", ".join(map(str, self.choices))
        return f"mix({self.router}: {told}; top {self.top} at {self.temperature:g})"


@dataclass(frozen=True)
class Arrow(Value):
    """In every layer each token is computed by a mixture of adapters, weighed by their own directions.

    Ostapenko et al. 2024, "Towards Modular LLMs by Building and Reusing a Library of LoRAs", arXiv
    2405.11157, section 4.2: with ``v_n`` the first right singular vector of adapter ``n``'s ``B_n A_n`` in a
    layer and ``h`` what a token brings there, the weights are ``softmax(|v_n . h| / temperature)`` over the
    best ``top``. The heads of all choices read the features, and are put together as in :class:`Parallel`;
    the paper's adapters have no heads.

    Attributes:
        choices: LoRA adapters; choice ``k`` serves task ``k`` where the task is known.
        top: how many are mixed at most.
        temperature: of the weights.
    """

    choices: tuple[Single, ...]
    top: int = 4
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raises :class:`SpecError` for a mixture without a meaning."""
        _check(self.choices, self.top, self.temperature)

    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""
        return tuple(ref for choice in self.choices for ref in choice.refs())

    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""
        choices = [choice.to_json() for choice in self.choices]
        return {"type": "arrow", "choices": choices, "top": self.top, "temperature": self.temperature}

    def __str__(self) -> str:
        return f"arrow({', '.join(map(str, self.choices))}; top {self.top} at {self.temperature:g})"


def _check(choices: Sequence[Single], top: int, temperature: float) -> None:
    if not choices:
        raise SpecError("a mixture of nothing has no answer; give one choice at least")
    if top < 1:
        raise SpecError(f"a mixture of the best {top} has no answer; let 1 or more be mixed")
    if temperature <= 0:
        raise SpecError(f"a temperature of {temperature:g} weighs nothing; give one above 0")
