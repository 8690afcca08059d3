"""The model that adapters are put into when their cost is measured."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertModel

__all__ = ["encoder"]


def encoder(layers: int = 6, width: int = 384) -> Any:
    """Returns a BERT of MiniLM's shape with random weights."""
    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=1000,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
    )
    model: Any = BertModel(sizes, add_pooling_layer=False)
    return model.eval()
