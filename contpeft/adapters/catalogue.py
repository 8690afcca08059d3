"""What every adapter method would be in one model: what it trains, what it changes, who can use it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import nn
from transformers import BertConfig, BertModel

from contpeft.adapters.composable import composes
from contpeft.adapters.cost import adapter_cost, base_parameters, flops_per_token
from contpeft.adapters.find import find_head, get_path
from contpeft.adapters.methods import method_names
from contpeft.adapters.notes import NOTES
from contpeft.adapters.presets import UNION, expanded, parts_of
from contpeft.adapters.tuners import OWN_METHODS
from contpeft.adapters.variants import base_method, is_plain
from contpeft.errors import SpecError, UnsupportedError
from contpeft.merging import RULES, rules_for
from contpeft.merging.fuse import one_thread
from contpeft.spec import AdapterSpec

__all__ = ["MethodRow", "catalogue", "reference_model"]

# What methods that have no usual value for an option are listed with.
_NEEDED: Final[dict[str, dict[str, Any]]] = {
    "c3a": {"block_size": 64},
    "trainable_tokens": {"token_indices": [0]},
    "vblora": {"vector_length": 64},
}


@dataclass(frozen=True)
class MethodRow:
    """A method as it would be in one model.

    Attributes:
        method: its name.
        options: what it is listed with; all others are as usual.
        trainable: how many numbers it trains; None if it cannot be attached.
        share: the same as a share of the base's parameters.
        stored: how many numbers a version holds.
        bytes: size of these.
        flops: floating-point operations a token takes more; None for models that read no tokens.
        refused: why it cannot be attached; None if it can.
        changes: what it changes.
        merge: by which rules adapters of it are merged; none where it has no merge.
        composes: the compositions that adapters of it can be in, beside those that take any.
        folder: whether PEFT reads an export ``"alone"``, with ``"contpeft"`` imported, or ``"none"`` does.
        served: whether the profile ``serving`` of an export exists.
        paper: where it was published, and the address; None where there is no paper.
        link: of the paper.
    """

    method: str
    options: dict[str, Any]
    trainable: int | None
    share: float | None
    stored: int | None
    bytes: int | None
    flops: int | None
    refused: str | None
    changes: str | None
    merge: tuple[str, ...]
    composes: tuple[str, ...]
    folder: str
    served: bool
    paper: str | None
    link: str | None

    @property
    def merged_by(self) -> str | None:
        """Returns the rules in words: ``"all rules"``, ``"entry by entry"``, ``"average"``, or None."""
        if len(self.merge) < 2:
            return next(iter(self.merge), None)
        return "all rules" if len(self.merge) == len(RULES) else "entry by entry"

    @property
    def read_by(self) -> str:
        """Returns who reads an exported adapter, in words."""
        if self.served:
            return "PEFT, engines"
        return {"alone": "PEFT", "contpeft": "PEFT + contpeft", "none": "contpeft"}[self.folder]

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON."""
        return asdict(self) | {"merge": list(self.merge), "composes": list(self.composes)}


def catalogue(model: nn.Module) -> list[MethodRow]:
    """Returns what every method would be in a model, each attached once with usual options and taken out.

    Args:
        model: a transformers model with no adapter in it; it is as it was afterwards.

    Returns:
        One row a method, by name.
    """
    path = find_head(model, model, "")
    head = None if path is None else get_path(model, path)
    size = base_parameters(model, head)
    with one_thread():  # on matrices this small, threads only wait for each other
        flops = flops_per_token(model)
        return [_row(method, model, head, size, flops) for method in method_names()]


def reference_model() -> nn.Module:
    """Returns a random model of the shape of MiniLM: 6 layers of width 384, 22.7 million parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertModel(
            BertConfig(
                vocab_size=30_522,
                hidden_size=384,
                num_hidden_layers=6,
                num_attention_heads=12,
                intermediate_size=1536,
            )
        )


def _row(method: str, model: nn.Module, head: nn.Module | None, size: int, flops: float | None) -> MethodRow:
    options = _NEEDED.get(method, {})
    note = NOTES.get(method)
    cost = refused = None
    try:
        cost = adapter_cost(AdapterSpec(method, **options), model, head, flops)
    except (SpecError, UnsupportedError) as error:
        refused = str(error)
    return MethodRow(
        method=method,
        options=options,
        trainable=cost.trainable if cost else None,
        share=cost.trainable / size if cost else None,
        stored=cost.stored if cost else None,
        bytes=cost.bytes if cost else None,
        flops=cost.flops if cost else None,
        refused=refused,
        changes=note.changes if note else None,
        merge=rules_for(base_method(method)) if is_plain(method) else (),
        composes=composes(method),
        folder=_folder(AdapterSpec(method)),
        served=base_method(method) == "lora" and is_plain(method),
        paper=note.paper if note else None,
        link=note.link if note else None,
    )


def _folder(spec: AdapterSpec) -> str:
    full = expanded(spec)
    if full.method != UNION:
        return "contpeft" if full.method in OWN_METHODS else "alone"
    if full.options["gated"]:
        return "none"
    return "contpeft" if any(part.method in OWN_METHODS for part in parts_of(full)) else "alone"
