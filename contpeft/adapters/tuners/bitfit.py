"""BitFit: trained biases, as layers of PEFT."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from contpeft.adapters.tuners.configs import BitFitConfig

__all__ = ["BitFitLayer", "BitFitModel", "has_bias"]


def has_bias(module: nn.Module) -> bool:
    """Returns whether a module adds a bias to the last dimension of what it returns."""
    return isinstance(module, nn.Linear | Conv1D | nn.LayerNorm) and module.bias is not None


class BitFitLayer(nn.Module, BaseTunerLayer):
    """A module of the base and what adapters add to its bias.

    Args:
        base_layer: the module.
    """

    adapter_layer_names = ("bitfit_bias",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bitfit_bias = nn.ParameterDict()

    def update_layer(self, adapter: str, config: BitFitConfig) -> None:
        """Adds an adapter of zeros."""
        bias = cast(Tensor, self.get_base_layer().bias)
        self.bitfit_bias[adapter] = nn.Parameter(torch.zeros_like(bias))
        self._move_adapter_to_device_of_base_layer(adapter)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """Returns what the module does with its bias changed."""
        answer: Tensor = self.base_layer(*inputs, **options)
        for adapter in () if self.disable_adapters else self.active_adapters:
            if adapter in self.bitfit_bias:
                answer = answer + self.bitfit_bias[adapter].to(answer.dtype)
        return answer


class BitFitModel(BaseTuner):
    """A model whose biases are trained (Ben Zaken et al., 2022), as PEFT builds it."""

    prefix = "bitfit_"
    tuner_layer_cls = BitFitLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BitFitLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if not has_bias(target):
            raise ValueError(f"{current_key!r} ({type(target).__name__}) has no bias; take it out of targets")
        layer = BitFitLayer(target)
        layer._active_adapter = self.active_adapters
        layer.update_layer(adapter_name, peft_config)
        setattr(parent, target_name, layer)
