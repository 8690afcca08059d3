"""Bottleneck adapters once more, in numpy and float64, beside what a model's own modules compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from adapters_tiny import IDS, WIDTH, bert, dinov2, distilbert, gpt2, llama, t5, vit
from numpy.typing import NDArray
from scipy.special import erf, expit
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, MT5EncoderModel

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Family:
    """Where, seen from a layer, the model's own modules compute what the maths is about.

    Attributes:
        make: a small model.
        layers: path of the list of its layers.
        f_attention: module that returns the attention's output.
        x: module that is given what the FFN's output is added to.
        f: module that returns the FFN's output.
        norms: the normalisations after the two sums of a post-norm model.
    """

    make: Callable[[], nn.Module]
    layers: str
    f_attention: str
    x: str
    f: str
    norms: tuple[str, str] | None = None


FAMILIES = {
    "bert": Family(
        bert, "bert.encoder.layer", "attention.output.dense", "intermediate", "output.dense",
        ("attention.output.LayerNorm", "output.LayerNorm"),
    ),
    "distilbert": Family(
        distilbert, "distilbert.transformer.layer", "attention.out_lin", "ffn.lin1", "ffn.lin2",
        ("sa_layer_norm", "output_layer_norm"),
    ),
    "dinov2": Family(dinov2, "encoder.layer", "layer_scale1", "norm2", "layer_scale2"),
    "gpt2": Family(gpt2, "transformer.h", "attn.c_proj", "ln_2", "mlp.c_proj"),
    "llama": Family(llama, "layers", "self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj"),
    "t5": Family(
        t5, "encoder.block", "layer.0.SelfAttention.o", "layer.1.layer_norm", "layer.1.DenseReluDense.wo"
    ),
    "vit": Family(vit, "vit.layers", "attention.o_proj", "layernorm_after", "mlp.fc2"),
}  # fmt: skip


def _like(kind: str, family: Family, layers: str) -> Family:
    """Returns the family of another kind of model whose layers are built alike."""
    sizes = dict(
        hidden_size=WIDTH, d_model=WIDTH, embedding_size=WIDTH, d_kv=8, d_ff=32, num_hidden_layers=2,
        num_layers=2, num_attention_heads=2, num_key_value_heads=2, num_heads=2, head_dim=8,
        intermediate_size=32, vocab_size=48, pad_token_id=0,
    )  # fmt: skip

    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = AutoConfig.for_model(kind)
            for name, value in sizes.items():
                if hasattr(config, name):
                    setattr(config, name, value)
            return (MT5EncoderModel if kind == "mt5" else AutoModel.from_config)(config).eval()

    return replace(family, make=make, layers=layers)


FAMILIES |= {
    kind: _like(kind, FAMILIES["bert"], "encoder.layer")
    for kind in ("camembert", "electra", "roberta", "xlm-roberta")
}
FAMILIES |= {kind: _like(kind, FAMILIES["llama"], "layers") for kind in ("mistral", "qwen2", "qwen3")}
FAMILIES["mt5"] = _like("mt5", FAMILIES["t5"], "encoder.block")

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda z: z * (1 + erf(z / math.sqrt(2))) / 2,
    "gelu_new": lambda z: z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": expit,
    "silu": lambda z: z * expit(z),
    "swish": lambda z: z * expit(z),
    "tanh": np.tanh,
}


@dataclass
class Seen:
    """What one layer was given, computed on the way, and returned."""

    x_attention: Array | None = None
    f_attention: Array | None = None
    x: Array | None = None
    f: Array | None = None
    out: Array | None = None


def plain(module: nn.Module) -> nn.Module:
    """Returns the base's own module, whatever is around it."""
    return plain(module.base_layer) if hasattr(module, "base_layer") else module


def find(module: nn.Module, path: str) -> nn.Module:
    """Returns the base's own module at a path of the base."""
    for part in path.split("."):
        module = plain(getattr(module, part))
    return module


def watch(model: nn.Module, family: Family, ids: Tensor = IDS[:, :6]) -> list[Seen]:
    """Returns what each layer computes for one batch."""
    seen, hooks = [], []
    for layer in find(model, family.layers):
        one = Seen()
        seen.append(one)
        hooks += [
            layer.register_forward_pre_hook(_given(one, "x_attention"), with_kwargs=True),
            find(layer, family.f_attention).register_forward_hook(_returned(one, "f_attention")),
            find(layer, family.x).register_forward_pre_hook(_given(one, "x"), with_kwargs=True),
            find(layer, family.f).register_forward_hook(_returned(one, "f")),
            layer.register_forward_hook(_returned(one, "out")),
        ]
    pixels = torch.linspace(-1, 1, 2 * 3 * 64, dtype=torch.float64).reshape(2, 3, 8, 8)
    with torch.no_grad():
        model(pixels if family.make in (vit, dinov2) else ids)
    for hook in hooks:
        hook.remove()
    return seen


def _given(seen: Seen, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], options: Any) -> None:
        setattr(seen, name, (inputs[0] if inputs else options["hidden_states"]).numpy().copy())

    return hook


def _returned(seen: Seen, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        setattr(seen, name, (output[0] if isinstance(output, tuple) else output).numpy().copy())

    return hook


def normalised(norm: nn.Module | None, z: Array) -> Array:
    if norm is None:
        return z
    centred = z - z.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return centred / spread * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def dense(tensors: dict[str, Tensor], site: str, part: str, rule: str = "") -> tuple[Array, Array]:
    """Returns weight ``(inputs, outputs)`` and bias of an adapter's layer."""
    own = {name.rpartition(".")[2]: t.numpy() for name, t in tensors.items() if f"{site}.{part}." in name}
    if "weight" in own:
        return own["weight"].T, own["bias"]
    weight = sum(
        np.kron(a, left @ right)
        for a, left, right in zip(tensors[rule].numpy(), own["left"], own["right"], strict=True)
    )
    return np.asarray(weight), own["bias"]


def adapter(config: Any, tensors: dict[str, Tensor], site: str) -> Callable[[Array], Array]:
    """Returns ``u`` of one site."""
    rule = "base_model.bottleneck_rule"
    (w_down, b_down), (w_up, b_up) = (
        dense(tensors, site, part, rule) for part in ("bottleneck_down", "bottleneck_up")
    )
    learned = [t.item() for name, t in tensors.items() if f"{site}.bottleneck_scaling" in name]
    scaling = learned[0] if config.scaling == "learned" else config.scaling
    act = ACTIVATIONS[config.non_linearity]
    return lambda z: scaling * (act(z @ w_down + b_down) @ w_up + b_up)
