"""One adapter in a model: its layers can be put into the module tree and taken out again.

PEFT builds the layers; from then on the adapter is the list of places where they sit. Taking them
out puts the very same base modules back, so the base is restored exactly, whatever the method,
and the cost depends on the number of places only, never on how many adapters were there before.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from contpeft.adapters.methods import config_from_json, config_to_json
from contpeft.errors import SpecError
from contpeft.spec import AdapterState

__all__ = ["Attachment"]

_SLOT = "current"
_CONFIG_ATTRIBUTE = "peft_config"  # PEFT leaves it on the model; it must go when the layers go


class _Site(NamedTuple):
    """A place in the model: its dotted name, the adapter's layer, and the base's own module."""

    name: str
    layer: nn.Module
    base: nn.Module


class Attachment:
    """An adapter made for one model.

    Made installed: the model computes with it at once. Use :meth:`removed` and :meth:`install` /
    :meth:`remove` to change that.

    Args:
        model: the transformers model, with no other adapter installed.
        config: PEFT's configuration.
    """

    def __init__(self, model: nn.Module, config: PeftConfig) -> None:
        flags = {id(p): p.requires_grad for p in model.parameters()}
        self._model = model
        self.config = config
        self._peft = _build(model, config)
        self._sites = [
            _Site(name, cast(nn.Module, layer), layer.get_base_layer())
            for name, layer in model.named_modules()
            if isinstance(layer, BaseTunerLayer)
        ]
        self._marker = getattr(model, _CONFIG_ATTRIBUTE, None)
        self.installed = True
        for parameter in self._base_parameters():
            parameter.requires_grad_(flags[id(parameter)])

    @classmethod
    def from_state(cls, model: nn.Module, state: AdapterState) -> Attachment:
        """Returns the stored adapter, installed in ``model``, with its weights.

        Raises:
            SpecError: if a stored tensor does not fit the model.
        """
        attachment = cls(model, config_from_json(state.config))
        try:
            attachment.load(state.adapter_tensors())
        except SpecError:
            attachment.remove()
            raise
        return attachment

    def parameters(self) -> list[nn.Parameter]:
        """Returns the adapter's own parameters, the base's left out."""
        base = {id(p) for p in self._base_parameters()}
        found = {id(p): p for site in self._sites for p in site.layer.parameters() if id(p) not in base}
        return list(found.values())

    def train(self) -> None:
        """Puts the adapter's own modules in train mode, the base's left as they are."""
        for site in self._sites:
            base = {id(module) for module in site.base.modules()}
            for module in site.layer.modules():
                if id(module) not in base:
                    module.training = True

    def tensors(self) -> dict[str, Tensor]:
        """Returns the adapter's tensors on the CPU, under PEFT's names on disk."""
        with self._inside():
            state = get_peft_model_state_dict(self._peft, adapter_name=_SLOT, save_embedding_layers=False)
        return {
            name.replace("._orig_mod", ""): value.detach().to("cpu", copy=True).contiguous()
            for name, value in state.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the adapter's tensors.

        Raises:
            SpecError: if a tensor is missing, foreign or of another shape; nothing is loaded then.
        """
        own = self.tensors()
        missing, foreign = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
        if missing or foreign:
            raise SpecError(
                f"stored adapter does not fit {type(self._model).__name__}: {len(missing)} tensors missing"
                f"{_first(missing)}, {len(foreign)} foreign{_first(foreign)}"
            )
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise SpecError(
                    f"stored tensor {name} has shape {tuple(tensors[name].shape)}, "
                    f"the model's place for it {tuple(tensor.shape)}"
                )
        with self._inside(), torch.inference_mode(False), torch.no_grad():
            set_peft_model_state_dict(self._peft, dict(tensors), adapter_name=_SLOT)

    def config_json(self) -> dict[str, Any]:
        """Returns the method's full configuration as plain JSON."""
        return config_to_json(self.config)

    def install(self) -> None:
        """Puts the adapter's layers into the model; nothing happens if they are there."""
        if not self.installed:
            for site in self._sites:
                self._model.set_submodule(site.name, site.layer)
            setattr(self._model, _CONFIG_ATTRIBUTE, self._marker)
            self.installed = True

    def remove(self) -> None:
        """Puts the base's own modules back; nothing happens if they are there."""
        if self.installed:
            for site in self._sites:
                self._model.set_submodule(site.name, site.base)
            if hasattr(self._model, _CONFIG_ATTRIBUTE):
                delattr(self._model, _CONFIG_ATTRIBUTE)
            self.installed = False

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Takes the adapter out inside the block, and puts it back if it was in."""
        was = self.installed
        self.remove()
        try:
            yield
        finally:
            if was:
                self.install()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        was = self.installed
        self.install()
        try:
            yield
        finally:
            if not was:
                self.remove()

    def _base_parameters(self) -> list[nn.Parameter]:
        inside = [p for site in self._sites for p in site.base.parameters()]
        wrapped = {id(p) for site in self._sites for p in site.layer.parameters()}
        return inside + [p for p in self._model.parameters() if id(p) not in wrapped]


def _build(model: nn.Module, config: PeftConfig) -> PeftModel:
    # Parameters made under inference mode could never be trained or written in place later.
    with torch.inference_mode(False), warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers has deprecated; nothing a user can mend.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return cast(PeftModel, get_peft_model(cast(Any, model), config, adapter_name=_SLOT))


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""
