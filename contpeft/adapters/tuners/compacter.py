"""The layers of Compacter: bottleneck adapters of PHM layers, one rule for all of a model's."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from contpeft.adapters.tuners.bottleneck import BottleneckLayer, ResidualTap
from contpeft.adapters.tuners.configs import BottleneckConfig, CompacterConfig
from contpeft.adapters.tuners.phm import PHMLinear
from contpeft.adapters.tuners.sites import Flow

__all__ = ["CompacterLayer"]


class CompacterLayer(BottleneckLayer):
    """A module of the base with adapters of PHM layers around it.

    Args:
        base_layer: the module.
        flow: how they are put around it.
        tap: the normalisation that is given ``x``, where the flow needs that.
        rules: the rule of each adapter, the very same in all of its layers.
    """

    adapter_layer_names = (*BottleneckLayer.adapter_layer_names, "bottleneck_rule")

    def __init__(
        self, base_layer: nn.Module, flow: Flow, tap: ResidualTap | None, rules: nn.ParameterDict
    ) -> None:
        super().__init__(base_layer, flow, tap)
        self.bottleneck_rule = rules

    def _linears(self, config: BottleneckConfig, hidden: int, like: Tensor) -> tuple[nn.Module, nn.Module]:
        own, width = cast(CompacterConfig, config), config.width(hidden)
        down = PHMLinear(hidden, width, own.phm_dim, own.phm_rank, like)
        up = PHMLinear(width, hidden, own.phm_dim, own.phm_rank, like)
        if config.init_weights == "lora":
            nn.init.zeros_(up.right)
        return down, up

    def _down(self, z: Tensor, adapter: str) -> Tensor:
        narrow: Tensor = self.bottleneck_down[adapter](z, self.bottleneck_rule[adapter])
        return narrow

    def _up(self, z: Tensor, adapter: str) -> Tensor:
        wide: Tensor = self.bottleneck_up[adapter](z, self.bottleneck_rule[adapter])
        return wide
