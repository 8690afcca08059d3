"""A LoRA within a budget: as many layers as there is room for at a useful rank, then as high a rank."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from torch import nn
from transformers.pytorch_utils import Conv1D

from contpeft.adapters.targets import default_targets, resolve_targets
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec

__all__ = ["AUTO", "check_budget", "spec_within"]

AUTO: Final = "auto"
# Below this rank more room is given to rank than to layers: all linear layers at a small rank are worth more
# than two of each block at a large one (Dettmers et al., 2023, section 4), but not at any price.
_USEFUL: Final = 4
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%\Z")


def check_budget(spec: AdapterSpec) -> float | int:
    """Returns the budget of an automatic spec: a share of the base, or a number of parameters.

    Raises:
        SpecError: if it is neither, or there are other options.
    """
    unknown = sorted(set(spec.options) - {"budget"})
    if unknown:
        raise SpecError(f"{AUTO!r} chooses {unknown[0]!r} itself; leave it out, or name a method")
    told = spec.options.get("budget", "0.5%")
    share = _SHARE.match(told) if isinstance(told, str) else None
    if share and 0 < float(share[1]) <= 100:
        return float(share[1]) / 100
    if isinstance(told, int) and not isinstance(told, bool) and told > 0:
        return told
    raise SpecError(f"budget {told!r} cannot be meant; write '0.5%' of the base, or a number of parameters")


def spec_within(spec: AdapterSpec, model: nn.Module, head: nn.Module | None) -> AdapterSpec:
    """Returns the LoRA that an automatic spec stands for on a model.

    Raises:
        SpecError: if not even rank 1 on query and value projections fits.
    """
    told = check_budget(spec)
    inside = {id(p) for p in head.parameters()} if head is not None else set()
    base = sum(p.numel() for p in model.parameters() if id(p) not in inside)
    budget = int(told * base) if isinstance(told, float) else told
    everywhere = resolve_targets(model, "all-linear", head)
    rank = _rank(model, everywhere, budget)
    if rank >= _USEFUL:
        return AdapterSpec("lora", r=rank, alpha=2 * rank, targets="all-linear")
    usual = default_targets("lora", model, head) or []
    rank = _rank(model, usual, budget)
    if rank < 1:
        needed = _per_rank(model, usual)
        raise SpecError(f"a budget of {budget:,} parameters holds no adapter; rank 1 takes {needed:,}")
    return AdapterSpec("lora", r=rank, alpha=2 * rank, targets=usual)


def _rank(model: nn.Module, targets: Sequence[str] | str, budget: int) -> int:
    """Returns the highest rank within the budget, which no layer's smaller side can exceed."""
    shapes = _shapes(model, targets)
    return min(budget // _per_rank(model, targets), *(min(shape) for shape in shapes)) if shapes else 0


def _per_rank(model: nn.Module, targets: Sequence[str] | str) -> int:
    return sum(map(sum, _shapes(model, targets)))


def _shapes(model: nn.Module, targets: Sequence[str] | str) -> list[tuple[int, int]]:
    return [
        _shape(module)
        for name, module in model.named_modules()
        if any(f".{name}".endswith(f".{target}") for target in targets)
    ]


def _shape(module: Any) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return module.in_features, module.out_features
