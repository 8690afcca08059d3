"""Where the updates of a stored LoRA adapter are: its tensors, module by module.

Linear layers, embeddings and convolutions alike become pairs of matrices whose product is the update of
one weight: ``(d_out, r)`` and ``(r, d_in)``, where a convolution's ``d_in`` is its input channels times
the size of its kernel, and the update of an embedding is that of its transposed table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec.lora import ROOT, lora_scaling

__all__ = ["Factors", "Term", "find_factors"]

# Left factor, right factor, and what their product is multiplied by.
Term = tuple[Tensor, Tensor, float]

_A, _B = ".lora_A.weight", ".lora_B.weight"
_SUFFIXES: Final = {
    _A: "a",
    _B: "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
}
# Options with which an adapter is more than the product of two factors, and what it then is.
_MORE: Final = {
    "use_dora": "rescales the base's columns (DoRA)",
    "lora_bias": "has biases",
    "arrow_config": "routes between its factors (Arrow)",
    "kasa_config": "scales its factors by singular values (KaSA)",
    "monteclora_config": "draws its factors at random (MonteCLoRA)",
    "velora_config": "compresses what it reads (VeLoRA)",
    "use_bdlora": "has block-diagonal factors (BD-LoRA)",
    "use_qalora": "pools what it reads (QA-LoRA)",
    "target_parameters": "changes parameters that are no layer's",
    "trainable_token_indices": "replaces rows of the embedding",
    "layer_replication": "repeats layers of the base",
}


@dataclass(frozen=True)
class Factors:
    """The pair of tensors of one module.

    Attributes:
        module: dotted path of the module in the base.
        a: name of the tensor ``(r, d_in)``, of a convolution ``(r, channels, *kernel)``.
        b: name of the tensor ``(d_out, r)``, of a convolution ``(d_out, r, 1, ...)``.
        scale: what their product is multiplied by.
    """

    module: str
    a: str
    b: str
    scale: float

    def term(self, tensors: Mapping[str, Tensor]) -> Term:
        """Returns the factors as matrices, and their scale.

        Raises:
            UnsupportedError: if they have no product, as those of a grouped convolution.
        """
        a, b = tensors[self.a].flatten(1), tensors[self.b]
        if b.shape[1] != a.shape[0] or b[0, 0].numel() != 1:
            raise UnsupportedError(
                f"the factors of {self.module!r} have shapes {tuple(b.shape)} and "
                f"{tuple(tensors[self.a].shape)}, which have no product; grouped convolutions are not merged"
            )
        return b.flatten(1), a, self.scale


def find_factors(kind: str, config: Mapping[str, Any], names: Collection[str]) -> dict[str, Factors]:
    """Returns the factors of every module of a LoRA adapter, by the module's path, sorted.

    Args:
        kind: the adapter's method.
        config: its configuration.
        names: of its tensors, those of a head left out.

    Raises:
        UnsupportedError: if it is no LoRA adapter, or more than the product of two factors per module.
        SpecError: if a factor is missing, or a tensor is none.
    """
    if kind != "lora":
        raise UnsupportedError(f"method {kind!r} is no sum of low-rank updates; only 'lora' is")
    for option, effect in _MORE.items():
        if config.get(option):
            raise UnsupportedError(
                f"an adapter with {option}={config[option]!r} {effect}; it cannot be merged"
            )
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in sorted(names):
        suffix = next((each for each in _SUFFIXES if name.endswith(each)), None)
        if suffix is None or not name.startswith(ROOT):
            raise SpecError(f"tensor {name!r} is no factor of a LoRA adapter")
        found[name.removeprefix(ROOT).removesuffix(suffix)][_SUFFIXES[suffix]] = name
    return {module: _pair(config, module, parts) for module, parts in sorted(found.items())}


def _pair(config: Mapping[str, Any], module: str, parts: Mapping[str, str]) -> Factors:
    if set(parts) != {"a", "b"}:
        raise SpecError(f"factor {'b' if 'a' in parts else 'a'} of {module!r} is missing")
    return Factors(module, parts["a"], parts["b"], lora_scaling(config, module))
