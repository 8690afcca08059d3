"""Versions going out as AdapterHub's: an adapter in a folder, a fusion in a setup with its members."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contpeft.spec import AdapterState, Version
from contpeft.store.exchange.adapterhub.files import FUSION_CONFIG, HEAD_CONFIG, SETUP, WEIGHTS
from contpeft.store.exchange.adapterhub.members import Member, hub_name, hub_names, kept_of
from contpeft.store.exchange.adapterhub.setup import setup_json
from contpeft.store.exchange.exporting import json_bytes
from contpeft.store.exchange.provenance import CONFIG

if TYPE_CHECKING:
    import torch
    from torch import nn

    from contpeft.adapters.adapterhub import Target

__all__ = ["hub_files"]


def hub_files(
    version: Version,
    state: AdapterState,
    members: Sequence[Member],
    base: nn.Module | str | os.PathLike[str] | None,
    base_name: str | None,
    *,
    head: bool,
) -> dict[str, bytes]:
    """Returns the files of a version as AdapterHub has them, by their paths in the folder.

    Args:
        version: its catalogue entry.
        state: it.
        members: what it is over, if it is a fusion.
        base: the base or its folder, where its kind or number of layers must be told.
        base_name: what the base is called; as in the catalogue, or as it came in, when None.
        head: whether its head goes along.

    Raises:
        UnsupportedError: naming what AdapterHub has no place for.
        UsageError: if the base is needed.
        BaseMismatchError: if the adapter does not fit ``base``.
    """
    told = state if head else AdapterState(state.kind, state.config, state.adapter_tensors())
    if members:
        return _setup_files(version, told, members, base, base_name)
    return _adapter_files(
        version, told, hub_name(version), _target(base_name or version.base.name, [state], base), base_name
    )


def _adapter_files(
    version: Version, state: AdapterState, name: str, target: Target, base_name: str | None
) -> dict[str, bytes]:
    from contpeft.adapters.adapterhub import adapter_to_hub, check_name

    check_name(name, f"the adapter of {version.ref}")
    kept = kept_of(version)
    before = _renamed(kept.get("adapter"), base_name)
    told, tensors = adapter_to_hub(state, name, target, before, kept.get("prefix"))
    files = {CONFIG: json_bytes(told), WEIGHTS["adapter"][0]: _bytes(tensors)}
    if state.head is None:
        return files
    return files | _head_files(
        state, name, replace(target, model_type=told["model_type"]), kept.get("head"), base_name
    )


def _setup_files(
    version: Version,
    state: AdapterState,
    members: Sequence[Member],
    base: nn.Module | str | os.PathLike[str] | None,
    base_name: str | None,
) -> dict[str, bytes]:
    from contpeft.adapters.adapterhub import VERSION, fusion_to_hub, model_type_of, module_prefix

    kept = kept_of(version)
    told_names = (kept.get("fusion") or {}).get("adapter_names")
    names = list(told_names) if told_names else hub_names([each for each, _ in members])
    target = _target(base_name or version.base.name, [each for _, each in members], base)
    files: dict[str, bytes] = {}
    for name, (member, each) in zip(names, members, strict=True):
        own = _adapter_files(member, _representable(each), name, target, base_name)
        files |= {f"{name}/{file}": content for file, content in own.items()}
    before = kept.get("fusion") or kept_of(members[0][0]).get("adapter")
    kind = model_type_of(target, before, module_prefix(members[0][1].adapter_tensors()))
    target = replace(target, model_type=kind)
    over = dict(zip(names, (each for _, each in members), strict=True))
    told, tensors = fusion_to_hub(
        state, over, target, _renamed(kept.get("fusion"), base_name), kept.get("prefix")
    )
    files[f"{told['name']}/{FUSION_CONFIG}"] = json_bytes(told)
    files[f"{told['name']}/{WEIGHTS['fusion'][0]}"] = _bytes(tensors)
    head = None
    if state.head is not None:
        head = _head_name(version, kept.get("head"), names)
        own = _head_files(state, head, target, kept.get("head"), base_name)
        files |= {f"{head}/{file}": content for file, content in own.items()}
    files[SETUP] = json_bytes(setup_json(names, head, VERSION))
    return files


def _head_files(
    state: AdapterState, name: str, target: Target, kept: Mapping[str, Any] | None, base_name: str | None
) -> dict[str, bytes]:
    from contpeft.adapters.adapterhub import head_to_hub

    told, tensors = head_to_hub(state, name, target, _renamed(kept, base_name))
    return {HEAD_CONFIG: json_bytes(told), WEIGHTS["head"][0]: _bytes(tensors)}


def _head_name(version: Version, kept: Mapping[str, Any] | None, names: Sequence[str]) -> str:
    """Returns what the head of a fusion is called: as it was, but like no member."""
    from contpeft.adapters.adapterhub import check_name

    name = str(kept["name"]) if kept else version.name.replace(".", "_")
    while name in names:
        name = f"{name}_head"
    return check_name(name, f"the head of {version.ref}")


def _representable(state: AdapterState) -> AdapterState:
    """Returns a member of a fusion, without its head if AdapterHub has none like it: the fusion answers."""
    from contpeft.adapters.mlp_head import MLP

    if state.head is None or state.head.kind == MLP:
        return state
    return AdapterState(state.kind, state.config, state.adapter_tensors())


def _renamed(kept: Mapping[str, Any] | None, base_name: str | None) -> Mapping[str, Any] | None:
    return kept if kept is None or base_name is None else {**kept, "model_name": base_name}


def _target(
    name: str, states: Sequence[AdapterState], base: nn.Module | str | os.PathLike[str] | None
) -> Target:
    from contpeft.adapters import changed_modules, find_model, module_tree
    from contpeft.adapters.adapterhub import Target

    if base is None:
        return Target(name)
    modules = {module for state in states for module in changed_modules(state)}
    model: Any = (
        module_tree(Path(base), modules) if isinstance(base, str | os.PathLike) else find_model(base)[1]
    )
    return Target(name, str(model.config.model_type), int(model.config.num_hidden_layers))


def _bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    made: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return made
