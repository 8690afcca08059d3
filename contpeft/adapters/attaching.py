"""From a spec or a stored version to the adapter in the model, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from peft import PeftConfig
from torch import nn

from contpeft.adapters.attached import Attached
from contpeft.adapters.attachment import Attachment
from contpeft.adapters.fusion import FUSION, FusionAttachment, members_of
from contpeft.adapters.gated import GatedAttachment
from contpeft.adapters.methods import make_config
from contpeft.adapters.naming import method_of
from contpeft.adapters.pools import POOL, PoolAttachment
from contpeft.adapters.presets import UNION, expanded, parts_of
from contpeft.adapters.prompts import PROMPT_METHODS, is_prompt
from contpeft.adapters.prompts.attachment import PromptAttachment
from contpeft.adapters.quantised import check_quantised
from contpeft.adapters.regimes import train_as
from contpeft.adapters.union import Union, part_states
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec, AdapterState, Version
from contpeft.spec.methods import GATED

__all__ = ["AnySpec", "Load", "attach_fresh", "attach_stored"]

AnySpec = AdapterSpec | PeftConfig
"""How a fresh adapter is made: a spec, or PEFT's own configuration."""

Load = Callable[[str], tuple[Version, AdapterState]]
"""Maps a reference to the version's entry and its weights."""


def attach_fresh(model: nn.Module, spec: AnySpec, head: nn.Module | None) -> Attached:
    """Returns a fresh adapter, installed in ``model``.

    Args:
        model: the transformers model, with no adapter installed.
        spec: what it is made of.
        head: the head inside the model, which is left alone.

    Raises:
        SpecError: if the spec does not fit the model, which is as it was then.
        UnsupportedError: if it would change more than the modules it is applied to.
    """
    spec = expanded(spec) if isinstance(spec, AdapterSpec) else spec
    if isinstance(spec, AdapterSpec) and spec.method == UNION:
        makers = [partial(attach_fresh, model, part, head) for part in parts_of(spec)]
        return Union(model, makers, gated=spec.options.get("gated", False))
    config = make_config(spec, model, head)
    check_quantised(method_of(config), model)
    if is_prompt(config):
        return PromptAttachment(model, config)
    return _trained_as(Attachment(model, config), spec, fresh=True)


def attach_stored(
    model: nn.Module, state: AdapterState, load: Load | None = None, spec: AnySpec | None = None
) -> Attached:
    """Returns a stored adapter, installed in ``model``, with its weights.

    Args:
        model: the transformers model, with no adapter installed.
        state: the adapter.
        load: gives the versions that the adapter is made over, if it is.
        spec: the method it is trained on with; what it is of for one that only answers.

    Raises:
        SpecError: if it does not fit the model, which is as it was then.
        IntegrityError: if a version it is over is not the one it was made over.
    """
    if state.kind == UNION:
        return _stored_union(model, state, spec)
    if state.kind in PROMPT_METHODS:
        return PromptAttachment.from_state(model, state)
    if state.kind == POOL:
        return PoolAttachment(model, state)
    if state.kind == GATED:
        return GatedAttachment.from_states(model, [state])
    if state.kind != FUSION:
        return _trained_as(Attachment.from_state(model, state), spec, fresh=False)
    if load is None:
        raise SpecError("a fusion cannot be attached without the versions it is over")
    return FusionAttachment.from_state(model, state, [load(ref) for ref in members_of(state)])


def _stored_union(model: nn.Module, state: AdapterState, spec: AnySpec | None) -> Union:
    parts, gates = part_states(state)
    whole = expanded(spec) if isinstance(spec, AdapterSpec) else None
    told = parts_of(whole) if whole is not None and whole.method == UNION else []
    specs: list[AnySpec | None] = [*told] if len(told) == len(parts) else [None] * len(parts)
    makers = [partial(attach_stored, model, part, spec=own) for part, own in zip(parts, specs, strict=True)]
    with torch.random.fork_rng(devices=[]):
        made = Union(model, makers, gated=bool(state.config.get("gated")))
    try:
        made.load_gates(gates)
    except SpecError:
        made.remove()
        raise
    return made


def _trained_as(attachment: Attachment, spec: AnySpec | None, *, fresh: bool) -> Attachment:
    """Prepares an adapter for training; taken out again where the method refuses."""
    with ExitStack() as undo:
        undo.callback(attachment.remove)
        if spec is not None:
            train_as(attachment, spec, fresh=fresh)
        undo.pop_all()
    return attachment
