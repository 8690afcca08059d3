"""The models of bottleneck adapters, as PEFT builds them."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from contpeft.adapters.tuners.bottleneck import BottleneckLayer, ResidualTap
from contpeft.adapters.tuners.compacter import CompacterLayer
from contpeft.adapters.tuners.phm import fresh_rule
from contpeft.adapters.tuners.sites import Flow, site_of, site_pattern

__all__ = ["BottleneckModel", "CompacterModel"]


class BottleneckModel(BaseTuner):
    """A model with bottleneck adapters."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> PeftConfig:
        if peft_config.target_modules is None:
            method = str(peft_config.peft_type).lower()
            peft_config.target_modules = site_pattern(method, peft_config.placement, self.model)
        prepared: PeftConfig = peft_config
        return prepared

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
        layer = target
        if not isinstance(layer, BottleneckLayer):
            method = str(peft_config.peft_type).lower()
            site = site_of(method, peft_config.placement, self.model, current_key)
            layer = self._layer(target, site.flow, _tap(parent, site.norm))
            layer._active_adapter = self.active_adapters
            setattr(parent, target_name, layer)
        layer.update_layer(adapter_name, peft_config, self._hidden(), _near(parent))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: Any) -> None:
        setattr(
            parent, child_name, new_module
        )  # PEFT expects a weight of either, and sites need not have one

    def _layer(self, target: nn.Module, flow: Flow, tap: ResidualTap | None) -> BottleneckLayer:
        return BottleneckLayer(target, flow, tap)

    def _hidden(self) -> int:
        width: int = self.model.config.hidden_size
        return width


class CompacterModel(BottleneckModel):
    """A model with Compacter's adapters; the rule is kept once, beside the layers."""

    uses_shared_state = True

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        if not hasattr(self, "bottleneck_rule"):
            self.bottleneck_rule = nn.ParameterDict()
        self.bottleneck_rule[adapter_name] = fresh_rule(config.phm_dim, _near(model))

    def _layer(self, target: nn.Module, flow: Flow, tap: ResidualTap | None) -> BottleneckLayer:
        return CompacterLayer(target, flow, tap, self.bottleneck_rule)

    @classmethod
    def _get_adapter_state_dict(cls, *arguments: Any, **options: Any) -> dict[str, Tensor]:
        """Returns an adapter's tensors, the layers' views of the rule left out."""
        found: dict[str, Tensor] = super()._get_adapter_state_dict(*arguments, **options)
        return {name: tensor for name, tensor in found.items() if not _is_repeated(name)}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Returns the tensors by the model's names; without the layers' views PEFT would miss these."""
        found: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict
        )
        rule = found.get(f"base_model.bottleneck_rule.{adapter_name}")
        if rule is None:
            return found
        own = f".bottleneck_rule.{adapter_name}"
        views = (name for name in model.state_dict() if name.endswith(own) and _is_repeated(name))
        return found | dict.fromkeys(views, rule)


def _is_repeated(name: str) -> bool:
    """Returns whether a tensor is a layer's view of the model's rule."""
    place, found, _ = name.partition(".bottleneck_rule.")
    return bool(found) and place != "base_model"


def _tap(parent: nn.Module, norm: str | None) -> ResidualTap | None:
    """Returns the tap beside a site, put in if it is not there; None where the site needs none."""
    if norm is None:
        return None
    there = getattr(parent, norm)
    if not isinstance(there, ResidualTap):
        there = ResidualTap(there)
        setattr(parent, norm, there)
    return there


def _near(module: nn.Module) -> Tensor:
    """Returns a floating-point parameter of a module, whose device and type a new adapter gets."""
    return next((each for each in module.parameters() if each.dtype.is_floating_point), torch.empty(0))
