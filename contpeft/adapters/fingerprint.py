"""The identity of a base model: what it is in memory, adapters and head left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from contpeft.digest import canonical_json, json_digest, tensors_digest
from contpeft.spec import BaseModel

__all__ = ["base_model", "base_seal", "tensor_items"]

# What a configuration says about the head, the label names, or where the files came from; it does
# not change what the base computes.
_VOLATILE = frozenset(
    [
        "_name_or_path",
        "architectures",
        "dtype",
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    ]
)
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def base_tensors(model: nn.Module, head: nn.Module | None) -> dict[str, Tensor]:
    """Returns the persistent tensors of ``model`` themselves, those of ``head`` left out."""
    skip = {id(t) for t in (*head.parameters(), *head.buffers())} if head is not None else set()
    return {name: t for name, t in model.state_dict(keep_vars=True).items() if id(t) not in skip}


def base_seal(model: nn.Module, head: nn.Module | None) -> list[tuple[int, int, torch.dtype]]:
    """Returns what changes when a parameter or buffer of the base is written or replaced.

    A quantised layer makes some of its tensors anew whenever it is asked; those are left out.
    """
    held = {id(t) for t in (*model.parameters(), *model.buffers())}
    return [(id(t), t._version, t.dtype) for t in base_tensors(model, head).values() if id(t) in held]


def base_model(model: nn.Module, head: nn.Module | None) -> BaseModel:
    """Returns the identity of ``model``: its label, fingerprint and number of parameters.

    The fingerprint is over the configuration's non-default values and every persistent tensor.

    Args:
        model: a transformers model without adapters installed.
        head: the head inside ``model``, left out; None when there is none.
    """
    config = cast(Any, model).config
    tensors = base_tensors(model, head)
    content = {
        "type": type(config).__name__,
        "config": canonical_json(_plain(_told(config.to_dict(), _defaults(config)))),
        "tensors": tensors_digest(tensor_items(dict(_opened(tensors)))),
    }
    # Tied parameters have several names and count once.
    count = sum(_size(t) for t in {id(t): t for t in tensors.values()}.values())
    label = str(getattr(config, "_name_or_path", "") or type(model).__name__).rstrip("/")
    return BaseModel(label.rpartition("/")[2] or label, json_digest(content), count)


def tensor_items(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
    """Yields tensors as :func:`contpeft.digest.tensors_digest` takes them."""
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield name, _DTYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), flat.numpy().data


def _opened(tensors: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yields tensors, those that are made of others (quantised ones) as what they are made of."""
    for name, tensor in tensors.items():
        if is_traceable_wrapper_subclass(tensor):
            parts, _ = tensor.__tensor_flatten__()
            yield from _opened({f"{name}.{part}": getattr(tensor, part) for part in parts})
        else:
            yield name, tensor


def _size(tensor: Tensor) -> int:
    """Returns how many parameters a tensor holds: none of a buffer, all that a quantised one stands for."""
    if not isinstance(tensor, nn.Parameter):
        return 0
    quantised = getattr(tensor, "quant_state", None)  # of bitsandbytes, which packs several into a byte
    return tensor.numel() if quantised is None else math.prod(quantised.shape)


def _defaults(config: Any) -> dict[str, Any]:
    try:
        defaults: dict[str, Any] = type(config)().to_dict()
    except (TypeError, ValueError):
        return {}  # a configuration made of others has none
    return defaults


def _told(value: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """Returns what ``value`` says otherwise than ``default``, so that a new key changes no fingerprint."""
    told = {}
    for key, item in value.items():
        usual = default.get(key)
        if key in _VOLATILE or (key in default and item == usual):
            continue
        told[key] = _told(item, usual) if isinstance(item, dict) and isinstance(usual, dict) else item
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
