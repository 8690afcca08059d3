"""Init: one pair of factors for all tasks, and between them a matrix that goes on learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.adapters import check_room_for_bases, learn_routing, shared_bases, stored_factors
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterSpec, Parent
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.init.from_last import FromLast

__all__ = ["SharedFactors"]

_PART = "a routing matrix between factors"
_PLAIN = ("auto", "lora", "rslora")


@dataclass(frozen=True)
class SharedFactors(FromLast):
    """One LoRA for all tasks; later ones learn the routing matrix between its factors alone (C-LoRA).

    ``W + s B (R_old + R_new) A``: ``R_old`` is the sum of what was learnt and stays, ``R_new`` starts at 0
    (attaching changes no answer but for rounding) and is trained: ``r^2`` numbers a matrix. "C-LoRA:
    Continual Low-Rank Adaptation for Pre-trained Models", 2025, arXiv 2502.17920. What is stored after every
    task is the plain LoRA ``(B, (R_old + R_new) A)`` of the same rank: it answers alone, and PEFT reads it.

    Deviations: the first task is plain LoRA's, and ``B`` and ``A`` are learnt there alone. At each later task
    the last update's singular vectors are ``B`` and ``A``, its singular values ``R_old``. That is the same
    update between the same two spaces, in orthonormal bases; so nothing is remembered beside the adapter. A
    direction along which the update ends at exactly 0 is gone.
    """

    about: ClassVar[About] = About(paper="C-LoRA, 2025, arXiv 2502.17920", needs=frozenset({"lora"}))

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the last version with a routing matrix to train; a fresh adapter at the first task.

        Raises:
            UnsupportedError: if it is no plain LoRA of linear layers, or its rank is above what a layer has.
        """
        spec = context.spec
        if isinstance(spec, AdapterSpec) and spec.method not in _PLAIN:
            raise UnsupportedError(f"{_PART} needs a plain LoRA adapter, not {spec}; give method 'lora'")
        parents = super().start(context)
        if context.previous is None:
            for module, factors in context.factors(_PART).items():
                check_room_for_bases(factors, module)
            return parents
        attached = context.adapted.attachment
        assert attached is not None  # it was just attached
        found = stored_factors(context.previous[1], _PART)
        bases = {module: shared_bases(factors) for module, factors in found.items()}
        learn_routing(context.adapted.model, attached, bases)
        return parents
