"""Names of tensors: those of AdapterHub's files and those of stored versions.

Both are ``<prefix>encoder.layer.<n>.<place>`` and what sits there. What AdapterHub calls a place is where it
keeps an adapter; ours is the module the adapter is put around, see :mod:`contpeft.adapters.tuners.sites`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec.lora import ROOT

__all__ = [
    "FAMILIES",
    "FUSED_PARTS",
    "LORA_PLACES",
    "Family",
    "Sorted",
    "activation_here",
    "check_name",
    "family_of",
    "kind_of",
    "ours",
    "prefix_of",
    "sort_ours",
    "sort_theirs",
    "theirs",
]


@dataclass(frozen=True)
class Family:
    """How AdapterHub names things in one kind of model.

    Attributes:
        prefix: before the names of a model's own modules, when it is saved with a head beside it.
        model_class: the class there that has heads.
    """

    prefix: str
    model_class: str


FAMILIES: Final[Mapping[str, Family]] = {
    "bert": Family("bert.", "BertAdapterModel"),
    "electra": Family("electra.", "ElectraAdapterModel"),
    "roberta": Family("roberta.", "RobertaAdapterModel"),
    "xlm-roberta": Family("roberta.", "XLMRobertaAdapterModel"),
}
"""The kinds of models whose layers have the same names there and here, by ``model_type``."""

LORA_PLACES: Final = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "intermediate.dense",
    "output.dense",
)
# By method, then by AdapterHub's place: the module that the adapter is put around here.
_SITES: Final[Mapping[str, Mapping[str, str]]] = {
    "houlsby": {"attention.output": "attention.output.dropout", "output": "output.dropout"},
    "lora": {place: place for place in LORA_PLACES},
    "parallel": {"output": "output"},
    "pfeiffer": {"output": "output.LayerNorm"},
}
_BOTTLENECK_PARTS: Final[Mapping[str, str]] = {
    "adapter_down.0.weight": "bottleneck_down.weight",
    "adapter_down.0.bias": "bottleneck_down.bias",
    "adapter_up.weight": "bottleneck_up.weight",
    "adapter_up.bias": "bottleneck_up.bias",
    "scaling": "bottleneck_scaling",
}
_LORA_PARTS: Final[Mapping[str, str]] = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
FUSED_PARTS: Final[Mapping[str, str]] = {
    "query.weight": "fusion.query.weight",
    "query.bias": "fusion.query.bias",
    "key.weight": "fusion.key.weight",
    "key.bias": "fusion.key.bias",
    "value.weight": "fusion.value.offset",
}
_LAYER: Final = r"encoder\.layer\.(?P<layer>0|[1-9]\d{0,4})\."
_NAME: Final = re.compile(r"[A-Za-z0-9_\-]{1,128}\Z")

Sorted = Mapping[int, Mapping[tuple[str, str], Tensor]]
"""Tensors by the number of their layer, then by AdapterHub's place and part."""


def check_name(name: object, what: str) -> str:
    """Returns a name that AdapterHub can give an adapter, a fusion's member or a head.

    Raises:
        SpecError: if it cannot: a comma stands between the members of a fusion, a dot between modules, and
            a container of modules has names of its own.
    """
    if not isinstance(name, str) or not _NAME.match(name):
        raise SpecError(
            f"{what} is named {name!r}; names in AdapterHub's folders are A-Z a-z 0-9 _ - without comma "
            "or dot: rename it there"
        )
    if hasattr(nn.ModuleDict, name):
        raise SpecError(
            f"{what} is named {name!r}, as torch's modules name something of their own, so AdapterHub cannot "
            "keep it; rename it"
        )
    return name


def activation_here(name: object) -> str:
    """Returns what an activation is called here, as transformers does."""
    lower = str(name).lower()
    return "leaky_relu" if lower == "leakyrelu" else lower


def family_of(model_type: object) -> Family:
    """Returns how AdapterHub names things in a kind of model.

    Raises:
        UnsupportedError: if that is not known here.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedError(
            f"AdapterHub's folders for models of type {model_type!r} are not known here; "
            f"those for these are: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def kind_of(method: str) -> str:
    """Returns what AdapterHub calls the container of a method's adapters in a module."""
    return "loras" if method == "lora" else "adapters"


def prefix_of(names: Collection[str], family: Family) -> str:
    """Returns what all of a folder's tensor names begin with: the family's prefix, or nothing.

    Raises:
        SpecError: if some names have it and others do not.
    """
    having = [name for name in names if name.startswith(family.prefix)]
    if having and len(having) < len(names):
        other = next(name for name in sorted(names) if name not in having)
        raise SpecError(f"tensor {other!r} lacks the prefix {family.prefix!r} that others have")
    return family.prefix if having else ""


def sort_theirs(tensors: Mapping[str, Tensor], prefix: str, kind: str, owner: str) -> Sorted:
    """Returns AdapterHub's tensors of one adapter or fusion, sorted.

    Args:
        tensors: all that are in the file.
        prefix: what their names begin with.
        kind: ``"adapters"``, ``"loras"`` or ``"adapter_fusion_layer"``.
        owner: the name of the adapter or fusion.

    Raises:
        SpecError: naming a tensor that is none of its own.
    """
    form = re.compile(
        rf"{re.escape(prefix)}{_LAYER}(?P<place>[a-z._]+)\.{kind}\.{re.escape(owner)}\.(?P<part>[A-Za-z_.0-9]+)"
    )
    found: dict[int, dict[tuple[str, str], Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        match = form.fullmatch(name)
        if match is None:
            raise SpecError(f"tensor {name!r} is unexpected: it is no part of {owner!r} ({kind})")
        found.setdefault(int(match["layer"]), {})[match["place"], match["part"]] = tensor
    return found


def sort_ours(tensors: Mapping[str, Tensor], method: str, prefix: str, *, fused: bool = False) -> Sorted:
    """Returns a stored version's tensors, head left out, sorted by AdapterHub's places and parts.

    Args:
        tensors: under the names of stored versions.
        method: of the adapter, or of those that are fused.
        prefix: what the names of modules begin with.
        fused: whether they are a fusion's.

    Raises:
        UnsupportedError: naming a tensor that AdapterHub has no place for.
    """
    ends = {end: key for key, end in _ends(method, fused).items()}
    form = re.compile(rf"{re.escape(ROOT + prefix)}{_LAYER}(?P<end>.+)")
    found: dict[int, dict[tuple[str, str], Tensor]] = {}
    for name, tensor in tensors.items():
        match = form.fullmatch(name)
        if match is None or match["end"] not in ends:
            raise UnsupportedError(f"AdapterHub has no place for {name!r} of method {method!r}")
        found.setdefault(int(match["layer"]), {})[ends[match["end"]]] = tensor
    return dict(sorted(found.items()))


def ours(method: str, prefix: str, layer: int, place: str, part: str, *, fused: bool = False) -> str:
    """Returns what a stored version calls a tensor.

    Args:
        method: of the adapter, or of those that are fused.
        prefix: what the names of modules begin with, here.
        layer: number of the layer.
        place: AdapterHub's, in the layer.
        part: AdapterHub's, at the place.
        fused: whether it is a fusion's.
    """
    return f"{ROOT}{prefix}encoder.layer.{layer}.{_ends(method, fused)[place, part]}"


def theirs(prefix: str, layer: int, place: str, kind: str, owner: str, part: str) -> str:
    """Returns what AdapterHub calls a tensor.

    Args:
        prefix: what the names of modules begin with, there.
        layer: number of the layer.
        place: in the layer.
        kind: ``"adapters"``, ``"loras"`` or ``"adapter_fusion_layer"``.
        owner: the name of the adapter or fusion.
        part: at the place.
    """
    return f"{prefix}encoder.layer.{layer}.{place}.{kind}.{owner}.{part}"


def _ends(method: str, fused: bool) -> dict[tuple[str, str], str]:
    parts = FUSED_PARTS if fused else _LORA_PARTS if method == "lora" else _BOTTLENECK_PARTS
    sites = _SITES.get(method, {})
    return {(place, part): f"{site}.{own}" for place, site in sites.items() for part, own in parts.items()}
