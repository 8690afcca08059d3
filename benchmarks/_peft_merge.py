"""PEFT's own merge of adapters, on a model of the right shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import BertConfig, BertModel

from contpeft.spec import AdapterState
from contpeft.spec.lora import ROOT

__all__ = ["PeftModelOf"]


class PeftModelOf:
    """A BERT-base of random weights with several LoRA adapters.

    Args:
        states: the adapters, of equal configuration; their weights are 1, 1/2, 1/3, ...
    """

    def __init__(self, states: Sequence[AdapterState]) -> None:
        modules = [
            name.removeprefix(ROOT).removesuffix(".lora_A.weight")
            for name in states[0].tensors
            if "lora_A" in name
        ]
        rank = states[0].config["r"]
        config = LoraConfig(r=rank, lora_alpha=states[0].config["lora_alpha"], target_modules=modules)
        layers = 1 + max(int(module.split(".")[2]) for module in modules)
        self._names = [f"a{place}" for place in range(len(states))]
        self._weights = [1 / (place + 1) for place in range(len(states))]
        base = BertModel(BertConfig(num_hidden_layers=layers, vocab_size=100), add_pooling_layer=False)
        self._model: Any = get_peft_model(base, config, adapter_name="a0")
        for name in self._names[1:]:
            self._model.add_adapter(name, config)
        for name, state in zip(self._names, states, strict=True):
            tensors = {
                key.replace(".weight", f".{name}.weight"): value for key, value in state.tensors.items()
            }
            if self._model.load_state_dict(tensors, strict=False).unexpected_keys:
                raise ValueError(f"PEFT did not take adapter {name}")

    def merge(self, kind: str, **options: Any) -> None:
        """Merges all adapters by PEFT; an earlier merge is dropped."""
        if "merged" in self._model.peft_config:
            self._model.delete_adapter("merged")
        self._model.base_model.add_weighted_adapter(
            self._names, self._weights, "merged", combination_type=kind, **options
        )

    def deltas(self) -> dict[str, Tensor]:
        """Returns what the last merge adds to each weight."""
        layers = (
            (name, module)
            for name, module in self._model.named_modules()
            if hasattr(module, "get_delta_weight")
        )
        with torch.no_grad():
            return {name.removeprefix(ROOT): module.get_delta_weight("merged") for name, module in layers}
