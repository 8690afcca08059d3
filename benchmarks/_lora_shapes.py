"""Adapters of the shapes of well-known models, made without the models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from contpeft.merging import Fusion, Rank, Source, make_rule
from contpeft.spec import AdapterState, BaseModel
from contpeft.spec.lora import ROOT

__all__ = ["BASE", "BERT", "LLAMA", "config", "fusion", "lora", "sources"]

BASE = BaseModel("shapes", "5a" * 32, 1)
Shapes = Mapping[str, tuple[int, int]]


def _bert() -> dict[str, tuple[int, int]]:
    parts = {
        "attention.self.query": (768, 768),
        "attention.self.value": (768, 768),
        "intermediate.dense": (3072, 768),
        "output.dense": (768, 3072),
    }
    return {f"encoder.layer.{layer}.{part}": shape for layer in range(12) for part, shape in parts.items()}


def _llama() -> dict[str, tuple[int, int]]:
    parts = {"q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096)}
    return {f"layers.{layer}.self_attn.{part}": shape for layer in range(32) for part, shape in parts.items()}


# Of BERT-base the query, value and both feed-forward layers; of Llama-3-8B all of attention.
BERT, LLAMA = _bert(), _llama()


def config(rank: int, targets: Iterable[str]) -> dict[str, object]:
    """Returns a LoRA configuration with scaling 2."""
    return {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets)}


def lora(shapes: Shapes, rank: int, seed: int, dtype: torch.dtype = torch.float32) -> AdapterState:
    """Returns a LoRA adapter with random factors of those shapes."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for module, (d_out, d_in) in shapes.items():
        tensors[f"{ROOT}{module}.lora_A.weight"] = torch.randn(rank, d_in, generator=generator).to(dtype) / 30
        tensors[f"{ROOT}{module}.lora_B.weight"] = (
            torch.randn(d_out, rank, generator=generator).to(dtype) / 30
        )
    targets = sorted({module.rpartition(".")[2] for module in shapes})
    return AdapterState("lora", config(rank, targets), tensors)


def sources(states: Iterable[AdapterState]) -> list[Source]:
    """Returns adapters as a merge takes them, at weights 1, 1/2, 1/3, ..."""
    return [
        Source(f"a{place}", f"{place:064d}", state.kind, state.config, state.tensors, 1 / (place + 1))
        for place, state in enumerate(states)
    ]


def fusion(rule: str, rank: str) -> Fusion:
    """Returns a merge by a rule at a rank."""
    return Fusion(make_rule(rule), Rank.parse(rank))
