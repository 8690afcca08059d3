"""What scores at a site instead of what its adapters read (``query_before_ln`` of AdapterHub's fusion).

In a post-norm model ``pfeiffer`` adapters read ``LN(f + x)``; what scores may be ``f`` itself, which the
module before the normalisation returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from contpeft.adapters.places import Place
from contpeft.adapters.tuners.sites import site_of
from contpeft.errors import UnsupportedError

__all__ = ["OutputTap", "output_taps"]


class OutputTap(nn.Module):
    """A module that keeps what it returns until the site beside it asks for it.

    Args:
        base_layer: the module.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._kept: Tensor | None = None

    def forward(self, *inputs: Any) -> Tensor:
        """Returns what the module does."""
        output: Tensor = self.base_layer(*inputs)
        self._kept = output
        return output

    def take(self) -> Tensor:
        """Returns what was kept, once."""
        kept, self._kept = self._kept, None
        if kept is None:
            raise RuntimeError("what returns f was not called before the normalisation beside it")
        return kept


def output_taps(model: nn.Module, kind: str, paths: Iterable[str]) -> dict[str, tuple[Place, OutputTap]]:
    """Returns, by the path of each site, the place beside it that returns ``f``, and a tap for there.

    Args:
        model: with no adapter installed.
        kind: the method of the adapters.
        paths: of the sites.

    Raises:
        UnsupportedError: if the adapters' input is not a normalised sum, so that there is nothing before it.
    """
    if kind != "pfeiffer":
        raise UnsupportedError(
            f"query_before_ln is for fusions over pfeiffer adapters, which read what is normalised; {kind} "
            "adapters do not: leave it out"
        )
    return {path: _tap(model, kind, path) for path in paths}


def _tap(model: nn.Module, kind: str, path: str) -> tuple[Place, OutputTap]:
    name = site_of(kind, "pfeiffer", model, path).output
    if name is None:
        family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise UnsupportedError(
            f"query_before_ln is for post-norm models; in {family} nothing is normalised after the FFN: "
            "leave it out"
        )
    parent = model.get_submodule(path.rpartition(".")[0])
    place = Place(parent, name, getattr(parent, name))
    return place, OutputTap(place.module)
