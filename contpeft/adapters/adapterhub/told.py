"""What a configuration file of AdapterHub's says about what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from contpeft.adapters.adapterhub.names import Family, check_name, family_of
from contpeft.errors import SpecError

__all__ = ["VERSION", "Told", "identified"]

VERSION: Final = "adapters.1.3.0"
"""What exported folders say they were written by: the release whose format they have."""


@dataclass(frozen=True)
class Told:
    """A configuration file, its frame checked.

    Attributes:
        name: of the adapter, the fusion or the head.
        config: what it is made of.
        model_type: kind of the base.
        hidden_size: width of the base.
        version: what wrote it; None in files of before.
        file: all of it.
    """

    name: str
    config: Mapping[str, Any]
    model_type: str
    hidden_size: int
    version: str | None
    file: Mapping[str, Any]

    @classmethod
    def of(cls, value: Mapping[str, Any], what: str, *, fused: bool = False) -> Told:
        """Returns the content of a file.

        Args:
            value: its JSON.
            what: names the file in errors.
            fused: whether commas may stand in the name.

        Raises:
            SpecError: if something is missing or of another type.
            UnsupportedError: if the base is of a kind that is not known here.
        """
        name, config, width = value.get("name"), value.get("config"), value.get("hidden_size")
        for part in str(name).split(",") if fused else [name]:
            check_name(part, what)
        if not isinstance(config, Mapping):
            raise SpecError(f"{what} has no object 'config', so what it is made of is not known")
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise SpecError(f"{what} has hidden_size {width!r}, which is no width")
        family_of(value.get("model_type"))
        version = value.get("version")
        if version is not None and not isinstance(version, str):
            raise SpecError(f"{what} has version {version!r}, which is no text")
        return cls(str(name), config, str(value["model_type"]), width, version, value)

    @property
    def family(self) -> Family:
        """How AdapterHub names things in such a base."""
        return family_of(self.model_type)


def identified(
    name: str,
    config: Mapping[str, Any],
    model_type: str,
    hidden_size: int,
    model_name: str,
    kept: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Returns the content of a configuration file.

    Args:
        name: of the adapter, the fusion or the head.
        config: what it is made of.
        model_type: kind of the base.
        hidden_size: width of the base.
        model_name: what the base is called.
        kept: the file it once came from, whose other keys are kept.
    """
    own = {
        "model_class": family_of(model_type).model_class,
        "model_name": model_name,
        "model_type": model_type,
        "version": VERSION,
    }
    return {**own, **(kept or {}), "name": name, "config": dict(config), "hidden_size": hidden_size}
