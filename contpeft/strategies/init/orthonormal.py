"""Init: the last adapter is trained on, its inputs made orthonormal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from contpeft.errors import UnsupportedError
from contpeft.spec import Parent
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.init.from_last import FromLast

__all__ = ["Orthonormal", "orthonormal_rows"]

_PART = "an orthonormal start"


@dataclass(frozen=True)
class Orthonormal(FromLast):
    """``A`` starts as an orthonormal basis of what the last ``A`` read, ``B`` as the last ``B`` (SLAO).

    From arXiv 2512.23017: ``Q R = A_prev^T``, ``A_0 = (Q sign(diag R))^T``, ``B_0 = B_prev``. The signs make
    the factorisation unique, so that equal adapters start equal. Attaching it is no no-op: the product of the
    two factors is not the last adapter's. The first task starts afresh.
    """

    about: ClassVar[About] = About(paper="SLAO 2025, arXiv 2512.23017", needs=frozenset({"lora"}))

    def check(self, context: Context) -> None:
        """Checks that the adapter has factors, of ranks that layers have.

        Raises:
            UnsupportedError: if not.
        """
        for module, factors in context.factors(_PART).items():
            orthonormal_rows(factors.down, module)

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the last version with orthonormal ``A``; a fresh adapter at the first task.

        Raises:
            UnsupportedError: if it is no LoRA adapter, or its rank is above what a layer reads.
        """
        parents = super().start(context)
        if parents:
            with torch.no_grad():
                for module, factors in context.factors(_PART).items():
                    factors.down.copy_(orthonormal_rows(factors.down, module))
        return parents


def orthonormal_rows(a: Tensor, module: str) -> Tensor:
    """Returns an orthonormal basis of the row space of ``a``, ``(r, d)``, unique if its rank is ``r``.

    Args:
        a: ``(r, d)``.
        module: names it in an error.

    Raises:
        UnsupportedError: if ``r`` is above ``d``, so that there are no such rows.
    """
    if a.shape[0] > a.shape[1]:
        raise UnsupportedError(
            f"{module!r} reads {a.shape[1]} values, which have no {a.shape[0]} orthonormal directions; "
            f"give a rank of {a.shape[1]} at most"
        )
    q, r = torch.linalg.qr(a.double().T)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)
    rows: Tensor = (q * signs).T.to(a)
    return rows
