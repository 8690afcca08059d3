"""Several bottleneck adapters at one place of a model, which add one thing together."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from contpeft.adapters.tuners.bottleneck import BottleneckLayer, Site
from contpeft.adapters.tuners.flows import FLOWS, Add

__all__ = ["JointSite"]


class JointSite(nn.Module):
    """A site of the model with several bottleneck adapters around it, all reading the same.

    What flows past the adapters does so as with a single one.

    Args:
        site: the site with one of them.
    """

    # Stacked upon other adapters of the same place, a site answers for them too.
    below: tuple[Site, ...] = ()

    def __init__(self, site: BottleneckLayer) -> None:
        super().__init__()
        self.base_layer = site.base_layer
        self.flow = site.flow
        self._site = [site]  # in a list, so that it is no child

    def forward(self, *inputs: Any) -> Tensor:
        """Returns what the site computes; see :mod:`contpeft.adapters.tuners.flows`."""
        return FLOWS[self.flow](self.base_layer, self.adds(), self.residual(), *inputs)

    def residual(self) -> Tensor | None:
        """Returns what the normalisation beside the site was given, where the flow needs it."""
        for site in self.below:
            site.residual()  # the same; taken, so that it is not kept
        return self._site[0].residual()

    def adds(self) -> list[Add]:
        """Returns what the adapters add together, after what the sites below add."""
        return [*(add for site in self.below for add in site.adds()), self._added]

    @abstractmethod
    def _added(self, z: Tensor) -> Tensor:
        """Returns what the adapters add together, of the shape and type of what they read."""
