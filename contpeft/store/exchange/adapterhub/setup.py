"""A setup of AdapterHub's: adapters, a fusion over them, and a head, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contpeft.errors import SpecError, UnsupportedError
from contpeft.store.exchange.adapterhub.files import SETUP, Found, Reader, folder_of
from contpeft.store.untrusted import read_json

__all__ = ["Setup", "read_setup", "setup_json"]


@dataclass(frozen=True)
class Setup:
    """What is in a setup's folder, read.

    Attributes:
        adapters: in the fusion's order.
        fusion: over them, with its head; None for a single adapter.
    """

    adapters: tuple[Found, ...]
    fusion: Found | None


def read_setup(path: Path, reader: Reader) -> Setup:
    """Returns what is in the folder of a setup.

    Raises:
        NotFoundError: if a folder or file is missing.
        UnsupportedError: if the setup is anything else than one adapter or one fusion of adapters.
        SpecError: if its parts do not belong together.
        IntegrityError: if a file is malformed.
    """
    told = read_json(path / SETUP)
    names = _names(told.get("adapter_setup"), path)
    adapters = tuple(_adapter(path, name, reader) for name in names)
    if len(names) == 1:
        head = told.get("head_setup")
        if head not in (None, names[0]):
            raise UnsupportedError(
                f"{path / SETUP} lets {names[0]!r} answer with the head {head!r}; it is not taken in"
            )
        return Setup(adapters, None)
    fusion = reader.one(folder_of(path, ",".join(names)), "fusion")
    if fusion.told.file.get("adapter_names") != names:
        raise SpecError(
            f"{fusion.path} is over {fusion.told.file.get('adapter_names')!r}, {path / SETUP} over {names!r}"
        )
    return Setup(adapters, _with_head(path, fusion, told.get("head_setup"), reader))


def setup_json(names: list[str], head: str | None, version: str) -> dict[str, Any]:
    """Returns the content of a setup's file: a fusion of adapters, answering with a head.

    Args:
        names: of the adapters, in the fusion's order.
        head: what the head is called; None if there is none.
        version: the release of AdapterHub whose format it is.
    """
    single = [{"type": "single", "children": [name]} for name in names]
    return {"adapter_setup": {"type": "Fuse", "children": single}, "head_setup": head, "version": version}


def _names(tree: Any, path: Path) -> list[str]:
    from contpeft.adapters.adapterhub import check_name

    if not isinstance(tree, Mapping) or not isinstance(tree.get("children"), list):
        raise SpecError(f"{path / SETUP} has adapter_setup {tree!r}, which is no composition")
    if tree.get("type") == "single":
        return [check_name(name, f"an adapter in {path / SETUP}") for name in tree["children"]]
    if tree.get("type") != "Fuse" or any(set(_names_of(child)) == set() for child in tree["children"]):
        raise UnsupportedError(
            f"{path / SETUP} is a composition of type {tree.get('type')!r} with parts; only one adapter, or "
            "one fusion (Fuse) of adapters is taken in: import the folders of the adapters one by one"
        )
    names = [name for child in tree["children"] for name in _names(child, path)]
    if len(names) < 2 or len(set(names)) < len(names):
        raise SpecError(f"{path / SETUP} fuses {names!r}; a fusion is over two adapters or more, each once")
    return names


def _names_of(child: Any) -> list[Any]:
    """Returns the name in a part of a fusion that is an adapter, else nothing."""
    single = isinstance(child, Mapping) and child.get("type") == "single"
    children = child.get("children") if single else None
    return children if isinstance(children, list) and len(children) == 1 else []


def _adapter(path: Path, name: str, reader: Reader) -> Found:
    found = reader.one(folder_of(path, name), "adapter")
    if found.told.name != name:
        raise SpecError(f"{found.path} holds the adapter {found.told.name!r}, not {name!r}")
    return found


def _with_head(path: Path, fusion: Found, name: Any, reader: Reader) -> Found:
    from contpeft.adapters.adapterhub import check_name

    if name is None:
        return fusion
    head = reader.head(folder_of(path, check_name(name, f"the head in {path / SETUP}")))
    if head is None or head[0].name != name:
        raise SpecError(f"{path / SETUP} names the head {name!r}, which is not in {path / name}")
    if fusion.head is not None:
        raise SpecError(f"{fusion.path} holds a head, and {path / SETUP} names another one; take one out")
    return replace(fusion, head=head)
