"""The layers of bottleneck adapters: a module of the base with adapters around it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN

from contpeft.adapters.tuners.configs import BottleneckConfig
from contpeft.adapters.tuners.flows import FLOWS, Add
from contpeft.adapters.tuners.sites import Flow

__all__ = ["BottleneckLayer", "ResidualTap", "Site"]


@runtime_checkable
class Site(Protocol):
    """A place of bottleneck adapters in a model.

    Attributes:
        flow: how they are put around the module.
        below: the sites of the same flow that are stacked under it.
    """

    flow: Flow
    below: tuple[Site, ...]

    def residual(self) -> Tensor | None:
        """Returns what the normalisation beside the site was given, where the flow needs it."""
        ...

    def adds(self) -> list[Add]:
        """Returns what its adapters add, those of the sites below it first."""
        ...


class ResidualTap(nn.Module, BaseTunerLayer):
    """A normalisation that keeps what it was given until the site beside it asks for it.

    A pre-norm layer adds ``x`` after the FFN without giving it to any module but this one.

    Args:
        base_layer: the normalisation.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the normalisation does."""
        self._kept = x
        normalised: Tensor = self.base_layer(x)
        return normalised

    def take(self) -> Tensor:
        """Returns what was kept, once."""
        kept, self._kept = self._kept, None
        if kept is None:
            raise RuntimeError("the layer's normalisation was not called before the module beside it")
        return kept


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module of the base with bottleneck adapters around it.

    Args:
        base_layer: the module.
        flow: how they are put around it.
        tap: the normalisation that is given ``x``, where the flow needs that.
    """

    # Stacked upon other adapters of the same place, a site answers for them too.
    below: tuple[Site, ...] = ()

    adapter_layer_names: tuple[str, ...] = ("bottleneck_down", "bottleneck_up", "bottleneck_scaling")
    other_param_names = ("bottleneck_dropout", "settings")

    def __init__(self, base_layer: nn.Module, flow: Flow, tap: ResidualTap | None = None) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.flow = flow
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_scaling = nn.ParameterDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.settings: dict[str, BottleneckConfig] = {}
        self._tap = [] if tap is None else [tap]  # in a list, so that it is no child

    def update_layer(self, adapter: str, config: BottleneckConfig, hidden: int, like: Tensor) -> None:
        """Adds an adapter.

        Args:
            adapter: its name.
            config: its configuration.
            hidden: width of the model.
            like: a tensor on the device and of the type its parameters get.
        """
        down, up = self._linears(config, hidden, like)
        self.bottleneck_down[adapter], self.bottleneck_up[adapter] = down, up
        self.bottleneck_dropout[adapter] = nn.Dropout(config.dropout)
        if config.scaling == "learned":
            self.bottleneck_scaling[adapter] = nn.Parameter(
                torch.ones(1, device=like.device, dtype=like.dtype)
            )
        self.settings[adapter] = config
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *inputs: Any) -> Tensor:
        """Returns what the site computes; see :mod:`contpeft.adapters.tuners.flows`."""
        x = self.residual()
        active = [each for each in self.active_adapters if each in self.settings]
        if self.disable_adapters or not active:
            untouched: Tensor = self.base_layer(*inputs)
            return untouched
        return FLOWS[self.flow](self.base_layer, self.adds(), x, *inputs)

    def residual(self) -> Tensor | None:
        """Returns what the normalisation beside the site was given, where the flow needs it."""
        for site in self.below:
            site.residual()  # the same; taken, so that it is not kept
        return self._tap[0].take() if self._tap else None

    def adds(self) -> list[Add]:
        """Returns what the adapters of this site add, those of the sites below it first."""
        lower = [add for site in self.below for add in site.adds()]
        active = [each for each in self.active_adapters if each in self.settings]
        return [*lower, lambda z: self._added(z, active)]

    def _added(self, z: Tensor, active: list[str]) -> Tensor:
        """Returns what the active adapters add, of the shape and type of what they read."""
        total = torch.zeros((), dtype=z.dtype, device=z.device)
        for adapter in active:
            own = self._scaled(z.to(self._dtype(adapter)), adapter).to(z.dtype)
            # Without its residual an adapter stands for what it reads, not beside it.
            total = total + own - (0 if getattr(self.settings[adapter], "residual", True) else z)
        return total

    def _scaled(self, z: Tensor, adapter: str) -> Tensor:
        config = self.settings[adapter]
        inner = ACT2FN[config.non_linearity](self._down(self.bottleneck_dropout[adapter](z), adapter))
        learned = self.bottleneck_scaling[adapter] if config.scaling == "learned" else None
        return self._up(inner, adapter) * (float(config.scaling) if learned is None else learned)

    def _dtype(self, adapter: str) -> torch.dtype:
        return next(self.bottleneck_down[adapter].parameters()).dtype

    def _linears(self, config: BottleneckConfig, hidden: int, like: Tensor) -> tuple[nn.Module, nn.Module]:
        width = config.width(hidden)
        down = nn.Linear(hidden, width, device=like.device, dtype=like.dtype)
        up = nn.Linear(width, hidden, device=like.device, dtype=like.dtype)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.bias)
        if config.init_weights == "bert":
            nn.init.normal_(down.weight, std=0.02)
            nn.init.normal_(up.weight, std=0.02)
        else:
            nn.init.zeros_(up.weight)  # down is as torch makes it, which is LoRA's start for A
        return down, up

    def _down(self, z: Tensor, adapter: str) -> Tensor:
        narrow: Tensor = self.bottleneck_down[adapter](z)
        return narrow

    def _up(self, z: Tensor, adapter: str) -> Tensor:
        wide: Tensor = self.bottleneck_up[adapter](z)
        return wide
