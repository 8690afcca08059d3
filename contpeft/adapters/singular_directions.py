"""Singular directions of the weights under an attached OSF adapter: the main ones, and those it trains."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from contpeft.adapters.attached import Attached
from contpeft.adapters.places import Places
from contpeft.errors import UnsupportedError

__all__ = ["SingularDirections", "singular_directions"]


class SingularDirections(NamedTuple):
    """``W = main part + left diag(sizes) right`` of one linear layer.

    Attributes:
        layer: the name of the layer in its parent, for messages.
        left: trained, ``(d_out, n)``.
        sizes: trained, ``(n,)``.
        right: trained, ``(n, d_in)``.
        main_left: orthonormal columns ``(d_out, k)`` of the main part, which stays.
        main_right: orthonormal columns ``(d_in, k)``.
    """

    layer: str
    left: nn.Parameter
    sizes: nn.Parameter
    right: nn.Parameter
    main_left: Tensor
    main_right: Tensor

    def order(self) -> None:
        """Makes the trained part its own singular value decomposition, the largest direction first.

        The weight stays the same but for rounding.
        """
        with torch.no_grad():
            part = (self.left.double() * self.sizes.double()) @ self.right.double()
            u, s, vh = torch.linalg.svd(part, full_matrices=False)
            count = len(self.sizes)
            self.left.copy_(u[:, :count])
            self.sizes.copy_(s[:count])
            self.right.copy_(vh[:count])


def singular_directions(attached: Attached | None, what: str) -> list[SingularDirections]:
    """Returns the directions that the attached adapter of PEFT's method ``osf`` trains, layer by layer.

    Args:
        attached: the adapter.
        what: names who asks in an error.

    Raises:
        UnsupportedError: if it is none of that method, or stands over another one.
    """
    if not isinstance(attached, Places) or attached.kind != "osf":
        found = "none" if attached is None else f"one of kind {attached.kind!r}"
        raise UnsupportedError(f"{what} works on an adapter of method 'osf' on the bare base, not on {found}")
    return [_directions(base.name, layer.module) for base, layer in attached.places()]


def _directions(name: str, layer: nn.Module) -> SingularDirections:
    osf = cast(Any, layer)
    slot = next(iter(osf.osf_svd_params))
    trained = osf.osf_svd_params[slot]
    first_left, first_right = osf._osf_U_low_init[slot], osf._osf_V_low_init[slot].mT
    return SingularDirections(
        name,
        trained["U_low"],
        trained["S_low"],
        trained["V_low"],
        osf._osf_U_high[slot] if slot in osf._osf_U_high else _beside(first_left),
        osf._osf_V_high[slot].mT if slot in osf._osf_V_high else _beside(first_right),
    )


def _beside(basis: Tensor) -> Tensor:
    """Returns an orthonormal basis of the complement of what orthonormal columns span."""
    whole: Tensor = torch.linalg.qr(basis, mode="complete").Q
    return whole[:, basis.shape[1] :]
