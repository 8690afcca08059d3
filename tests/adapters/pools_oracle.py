"""BERT with a prefix of each row's own, and what a pool makes of queries, in numpy from the formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]
Prefixes = Mapping[int, tuple[Array, Array]]


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def states(model: nn.Module, ids: Tensor, mask: Tensor, prefixes: Prefixes | None = None) -> Array:
    """Returns the last states ``(B, T, d)`` of a BERT encoder.

    Args:
        model: the encoder.
        ids: ``(B, T)``.
        mask: ``(B, T)``.
        prefixes: by layer, keys and values ``(B, P, d)`` that stand before those of the tokens, have no
            position and are seen by all.
    """
    told = {name: array(each) for name, each in model.state_dict().items()}
    here = told["embeddings.word_embeddings.weight"][ids.numpy()]
    here = here + told["embeddings.position_embeddings.weight"][: ids.shape[1]]
    here = _norm(here + told["embeddings.token_type_embeddings.weight"][0], told, "embeddings.LayerNorm")
    for layer in range(model.config.num_hidden_layers):
        here = _layer(here, told, f"encoder.layer.{layer}", mask, model, (prefixes or {}).get(layer))
    return here


def _layer(
    here: Array,
    told: Mapping[str, Array],
    at: str,
    mask: Tensor,
    model: nn.Module,
    prefix: tuple[Array, Array] | None,
) -> Array:
    query, key, value = (_map(here, told, f"{at}.attention.self.{n}") for n in ("query", "key", "value"))
    seen = mask.numpy().astype(bool)
    if prefix is not None:
        key, value = np.concatenate([prefix[0], key], 1), np.concatenate([prefix[1], value], 1)
        seen = np.concatenate([np.ones((len(seen), prefix[0].shape[1]), bool), seen], 1)
    out, size = np.zeros_like(here), here.shape[-1] // model.config.num_attention_heads
    for start in range(0, here.shape[-1], size):
        own = slice(start, start + size)
        scores = query[..., own] @ key[..., own].transpose(0, 2, 1) / math.sqrt(size)
        out[..., own] = softmax(np.where(seen[:, None], scores, -np.inf)) @ value[..., own]
    here = _norm(
        here + _map(out, told, f"{at}.attention.output.dense"), told, f"{at}.attention.output.LayerNorm"
    )
    inner = _map(here, told, f"{at}.intermediate.dense")
    inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    return _norm(here + _map(inner, told, f"{at}.output.dense"), told, f"{at}.output.LayerNorm")


def _map(here: Array, told: Mapping[str, Array], name: str) -> Array:
    return here @ told[f"{name}.weight"].T + told[f"{name}.bias"]


def _norm(here: Array, told: Mapping[str, Array], name: str) -> Array:
    centred = here - here.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return scaled * told[f"{name}.weight"] + told[f"{name}.bias"]


def mean_query(here: Array, mask: Tensor) -> Array:
    """Returns the mean ``(B, d)`` of the states of tokens that are no padding."""
    rows = mask.numpy().astype(bool)
    return np.stack([each[own].mean(0) for each, own in zip(here, rows, strict=True)])


def cosines(left: Array, right: Array) -> Array:
    """Returns the cosine ``(B, M)`` of each row of ``(B, d)`` or ``(B, M, d)`` to each of ``(M, d)``."""
    left = left[:, None] if left.ndim == 2 else left
    lengths = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return (left * right).sum(-1) / lengths


def bank_prefix(weighting: str, top: int, tensors: Mapping[str, Tensor], query: Array) -> Array:
    """Returns the prefix ``(B, L, 2, positions, w)`` that a bank makes of queries ``(B, d)``."""
    components = array(tensors["components"])
    if weighting == "all":
        return np.stack([np.concatenate(list(components[::-1]), axis=2)] * len(query))
    keys = array(tensors["keys"])
    if weighting == "attended":
        weights = cosines(query[:, None] * array(tensors["attention"]), keys)
        return np.stack([sum(w * c for w, c in zip(row, components, strict=True)) for row in weights])
    order = np.argsort(-cosines(query, keys), axis=1)[:, :top]
    return np.stack([np.concatenate([components[m] for m in row], axis=2) for row in order])
