"""Versions going out: a folder that PEFT loads, or one in the form that serving engines read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from contpeft.digest import bytes_digest
from contpeft.errors import UnsupportedError, UsageError, suggest
from contpeft.spec import AdapterState, Score, Version
from contpeft.spec.methods import FUSION, GATED, UNION
from contpeft.store.disk import one_line_errors, whole_folder
from contpeft.store.exchange.provenance import CONFIG, HEAD, SIDE, WEIGHTS, Ancestor, Provenance
from contpeft.store.tensors import Entry, entries, join, serialize, unpack

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Exported", "Profile", "check", "faithful", "json_bytes", "serving", "write"]

Profile = Literal["faithful", "serving", "adapterhub"]

# Group and others may read as far as the umask lets them: whoever serves may be another user.
_MODE: Final = 0o644


@dataclass(frozen=True)
class Exported:
    """A folder that was written.

    Attributes:
        ref: ``name@n`` of the version in it.
        path: where it is.
        profile: the form of the adapter.
        files: the names of its files, sorted.
        bytes: their size together.
    """

    ref: str
    path: Path
    profile: Profile
    files: tuple[str, ...]
    bytes: int


def check(folder: Path, profile: str, base: object, *, head: bool = True) -> None:
    """Checks what can be checked before anything is read.

    Raises:
        UsageError: if something is in the folder, there is no such profile, it needs no base, or it leaves
            out no head.
    """
    if profile not in get_args(Profile):
        raise UsageError(f"no profile {profile!r}{suggest(profile, get_args(Profile))}")
    if base is not None and profile == "faithful":
        raise UsageError(f"the profile {profile!r} needs no base; leave it out, or ask for 'serving'")
    if not head and profile != "adapterhub":
        raise UsageError(
            f"the profile {profile!r} has a place for every head; only 'adapterhub' leaves it out"
        )
    with one_line_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} exists and is not empty; name a folder that is new or empty")


def faithful(version: Version, data: bytes, base_name: str | None) -> dict[str, bytes]:
    """Returns the files of a version as PEFT itself would save it, and its head.

    Each part of a union gets a folder of its own.

    Args:
        version: its catalogue entry.
        data: its stored file.
        base_name: what the base is called; as in the catalogue when None.

    Raises:
        UnsupportedError: if it holds no adapter of PEFT's, gates, or a fusion, which PEFT has not.
    """
    factors = _factors(version, data)
    if version.kind == UNION:
        return _parts(version, factors, base_name) | _head(data)
    return _adapter(version, version.config, join(factors), base_name) | _head(data)


def serving(
    version: Version,
    data: bytes,
    base_name: str | None,
    base: nn.Module | str | os.PathLike[str] | None,
) -> dict[str, bytes]:
    """Returns the files of a LoRA version as every engine reads them; see :func:`faithful`.

    Args:
        version: its catalogue entry.
        data: its stored file.
        base_name: what the base is called; as in the catalogue when None.
        base: the model it was trained on, or its folder, where the adapter may leave out some layers.

    Raises:
        UnsupportedError: if it holds no adapter of PEFT's, or engines have no place for it.
        UsageError: if ``base`` is needed.
        BaseMismatchError: if the adapter does not fit ``base``.
    """
    from contpeft.adapters import serving_state

    _factors(version, data)
    stored = AdapterState(version.kind, version.config, unpack(data))
    state = serving_state(stored, _modules(stored, base))
    weights = serialize(state.tensors, version.name)
    return _adapter(version, state.config, weights, base_name) | _head(data)


def write(
    folder: Path,
    version: Version,
    files: dict[str, bytes],
    parents: Sequence[Ancestor],
    scores: Sequence[Score],
    profile: Profile,
) -> Exported:
    """Writes the files of a version and where it comes from, whole or not at all.

    Raises:
        StoreBusyError: if the folder cannot be written.
    """
    digests = {name: bytes_digest(content) for name, content in files.items()}
    files[SIDE] = json_bytes(Provenance.of(version, parents, scores, profile, digests).to_json())
    with whole_folder(folder) as partial:
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _write(partial / name, content)
    size = sum(map(len, files.values()))
    return Exported(version.ref, folder, profile, tuple(sorted(files)), size)


def _factors(version: Version, data: bytes) -> list[Entry]:
    own = [each for each in entries(data) if not each[0].startswith(AdapterState.HEAD_PREFIX)]
    if not own or "peft_type" not in version.config:
        raise UnsupportedError(
            f"{version.ref} is of kind {version.kind!r} and holds no adapter that PEFT could load; "
            "it cannot be exported to such a folder"
        )
    if version.kind == FUSION:
        raise UnsupportedError(
            f"{version.ref} is a fusion, of which PEFT knows none; write it with its members by the profile "
            "'adapterhub'"
        )
    if version.kind == GATED:
        raise UnsupportedError(
            f"{version.ref} is an adapter with a gate, for which PEFT has no place; share it with contpeft's "
            "own bundle or push"
        )
    return own


def _parts(version: Version, factors: Sequence[Entry], base_name: str | None) -> dict[str, bytes]:
    """Returns the files of a union, those of each part in a folder ``<number>-<method>``."""
    if version.config["gated"]:
        raise UnsupportedError(
            f"{version.ref} is a union with gates, for which PEFT has no place; share it with contpeft's own "
            "bundle or push"
        )
    files: dict[str, bytes] = {}
    for number, config in enumerate(version.config["parts"]):
        prefix = f"{number}."
        own = [
            (name.removeprefix(prefix), dtype, shape, body)
            for name, dtype, shape, body in factors
            if name.startswith(prefix)
        ]
        made = _adapter(version, config, join(own), base_name)
        folder = f"{number}-{str(config['peft_type']).lower()}"
        files |= {f"{folder}/{name}": content for name, content in made.items()}
    return files


def _adapter(
    version: Version, config: Mapping[str, Any], weights: bytes, base_name: str | None
) -> dict[str, bytes]:
    told = dict(config) | {"base_model_name_or_path": base_name or version.base.name, "inference_mode": True}
    if "peft" in version.environment:
        told["peft_version"] = version.environment["peft"]
    return {CONFIG: json_bytes(told), WEIGHTS: weights}


def _head(data: bytes) -> dict[str, bytes]:
    head = [
        (name.removeprefix(AdapterState.HEAD_PREFIX), dtype, shape, body)
        for name, dtype, shape, body in entries(data)
        if name.startswith(AdapterState.HEAD_PREFIX)
    ]
    return {HEAD: join(head)} if head else {}


def _modules(state: AdapterState, base: nn.Module | str | os.PathLike[str] | None) -> nn.Module | None:
    """Returns the base's modules; those of a folder have no weights."""
    from contpeft.adapters import changed_modules, find_model, module_tree

    if base is None:
        return None
    if isinstance(base, str | os.PathLike):
        return module_tree(Path(base), changed_modules(state))
    return find_model(base)[1]


def json_bytes(value: Any) -> bytes:
    """Returns a JSON file, the same for equal values."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with one_line_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
