"""Names for what answers: equal adapters on an equal base have an equal key, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from contpeft.digest import json_digest
from contpeft.spec.adapter import HeadSpec
from contpeft.spec.composition import Composition
from contpeft.spec.version import BaseModel, Version

__all__ = ["calibration_key", "composition_key", "content_key", "key_of"]

# In place of how inputs are read, which a calibration is told of by the digest of its data.
_CALIBRATION: Final = "calibration"


def composition_key(
    composition: Composition, base: BaseModel, show: Callable[[str], Version], reads: str = ""
) -> str:
    """Returns the key under which measurements of ``composition`` are cached.

    Args:
        composition: what answers.
        base: the model it answers on.
        show: gives a version's catalogue entry.
        reads: names how raw inputs become batches (tokenizer, length), where that may vary.
    """

    def content(ref: str) -> str:
        version = show(ref)
        return content_key(version.kind, version.config, version.fingerprint, version.head)

    return key_of(composition, base, content, reads)


def calibration_key(composition: Composition, base: BaseModel, show: Callable[[str], Version]) -> str:
    """Returns the key under which the calibration of ``composition`` is kept.

    It is known from the catalogue alone; each composition has its own.
    """
    return composition_key(composition, base, show, _CALIBRATION)


def key_of(composition: Composition, base: BaseModel, content: Callable[[str], str], reads: str) -> str:
    """Returns the key of a composition.

    Args:
        composition: what answers.
        base: the model it answers on.
        content: maps a reference to the digest of what that version is; see :func:`content_key`.
        reads: names how raw inputs become batches.
    """
    return json_digest([base.fingerprint, composition.digest(content), reads])


def content_key(kind: str, config: Mapping[str, Any], fingerprint: str, head: HeadSpec | None) -> str:
    """Returns the digest of what an adapter is, whatever it is called.

    Args:
        kind: of the version.
        config: its full configuration.
        fingerprint: digest of its tensors.
        head: what its head is; None if it has none.
    """
    return json_digest([kind, dict(config), fingerprint, head.to_json() if head else None])
