"""Which modules of a model an adapter method is applied to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from contpeft.adapters.tuners.bitfit import has_bias
from contpeft.errors import SpecError, suggest

__all__ = ["default_targets", "has_conv1d", "resolve_targets"]

# The query and value projections as the transformers families spell them; the first group that is
# wholly present in the model is taken (Hu et al. 2021, section 7.1: query and value are enough).
_QUERY_VALUE = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),
    ("q", "v"),
    ("query_key_value",),
    ("c_attn",),
    ("qkv",),
)


def default_targets(method: str, model: nn.Module, head: nn.Module | None) -> list[str] | None:
    """Returns what ``method`` is applied to when nothing is said.

    Args:
        method: normalisation layers for ``"ln_tuning"``, all modules with a bias for ``"bitfit"``, PEFT's
            own choice (None) for ``"trainable_tokens"``, the attention's query and value projections for
            all others.
        model: the transformers model.
        head: the classifier head inside the model, which is never a target.

    Raises:
        SpecError: if the model has no query and value projections by any name known, or no bias.
    """
    if method == "bitfit":
        return _biased(model, head)
    if method == "trainable_tokens":
        return None
    if method == "ln_tuning":
        norms = (name for name, each in _outside(model, head) if type(each).__name__.endswith("Norm"))
        return _endings(norms)
    endings = _endings(name for name, each in _outside(model, head) if isinstance(each, nn.Linear | Conv1D))
    found = next((group for group in _QUERY_VALUE if set(endings).issuperset(group)), None)
    if found is None:
        raise SpecError(
            f"no query and value projections found in {type(model).__name__}; name them with targets=[...] "
            f"or targets='all-linear'; its linear layers end in: {', '.join(endings)}"
        )
    return list(found)


def resolve_targets(
    model: nn.Module, asked: str | Collection[str], head: nn.Module | None
) -> list[str] | str:
    """Returns ``asked`` checked against the model, spelled so that it leaves the head alone.

    Args:
        model: the transformers model.
        asked: module names or their endings; a regular expression over whole names; or
            ``"all-linear"`` for every linear layer but the head and the language-model head.
        head: the classifier head inside the model, which is never a target.

    Raises:
        SpecError: if a target is nowhere in the model, naming the nearest one, or only in the head.
    """
    if asked == "all-linear":
        return _all_linear(model, head)
    regex = isinstance(asked, str)
    targets = [asked] if isinstance(asked, str) else list(asked)
    outside = {name for name, _ in _outside(model, head)}
    found = [name for target in targets for name in _matching(model, target, outside, regex=regex)]
    if outside.issuperset(found):
        return asked if isinstance(asked, str) else targets
    return [name for name in found if name in outside]


def has_conv1d(model: nn.Module) -> bool:
    """Returns whether the model's linear layers keep their weights transposed, as GPT-2 does."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def _biased(model: nn.Module, head: nn.Module | None) -> list[str]:
    """Returns the endings of modules with a bias, whole paths where others without one end so."""
    outside = _outside(model, head)
    biased = [name for name, each in outside if has_bias(each)]
    if not biased:
        raise SpecError(
            f"method 'bitfit' trains biases, and {type(model).__name__} has none outside its head"
        )
    bare = set(_endings(name for name, each in outside if not has_bias(each)))
    return biased if bare.intersection(_endings(biased)) else _endings(biased)


def _all_linear(model: nn.Module, head: nn.Module | None) -> list[str]:
    linear = ((name, each) for name, each in _outside(model, head) if isinstance(each, nn.Linear | Conv1D))
    language_head = cast(Any, model).get_output_embeddings()
    return [name for name, each in linear if each is not language_head]


def _matching(model: nn.Module, target: str, outside: Collection[str], *, regex: bool) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    matching = [
        name for name in names if (re.fullmatch(target, name) if regex else f".{name}".endswith(f".{target}"))
    ]
    if not matching:
        raise SpecError(f"no module {target!r} in {type(model).__name__}{suggest(target, _endings(names))}")
    if not any(name in outside for name in matching):
        raise SpecError(f"target {target!r} is the head, which is trained whole anyway; leave it out")
    return matching


def _outside(model: nn.Module, head: nn.Module | None) -> list[tuple[str, nn.Module]]:
    in_head = {id(module) for module in head.modules()} if head is not None else set()
    return [(name, each) for name, each in model.named_modules() if name and id(each) not in in_head]


def _endings(names: Iterable[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})
