"""What an adapter is: how it is made, its head, its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from contpeft.digest import canonical_json
from contpeft.errors import SpecError

__all__ = ["AdapterSpec", "AdapterState", "HeadSpec"]


@dataclass(frozen=True, init=False)
class AdapterSpec:
    """How a fresh adapter is made: a method and its options.

    Options are checked against the method's own configuration when a model is at hand; the short
    names ``alpha``, ``dropout`` and ``targets`` stand for what the method calls them.

    Example::

        AdapterSpec("lora", r=8, alpha=16, targets=("query", "value"))
    """

    method: str
    options: Mapping[str, Any]

    def __init__(self, method: str = "lora", **options: Any) -> None:
        """Makes a spec.

        Raises:
            SpecError: if an option has no JSON form.
        """
        frozen = {key: _plain(value, f"option {key!r} of {method!r}") for key, value in options.items()}
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "options", MappingProxyType(frozen))

    @classmethod
    def auto(cls, budget: str | int = "0.5%") -> AdapterSpec:
        """Returns a LoRA whose rank and targets are chosen for the model it is attached to.

        Args:
            budget: how much it may train: a share of the base (``"0.5%"``), or a number of parameters.
        """
        return cls("auto", budget=budget)

    @classmethod
    def union(cls, *parts: AdapterSpec, gated: bool = False) -> AdapterSpec:
        """Returns several adapters that are attached, trained and stored as one.

        Args:
            parts: two or more, which change different places of the model.
            gated: whether a trained gate in each layer scales what each part does (Mao et al. 2022).
        """
        return cls("union", parts=[part.to_json() for part in parts], gated=gated)

    def to_json(self) -> dict[str, Any]:
        """Returns the spec as one JSON object."""
        return {"method": self.method, **self.options}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AdapterSpec:
        """Returns the spec :meth:`to_json` wrote."""
        return cls(**value)

    def __hash__(self) -> int:
        return hash(canonical_json(self.to_json()))

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.method}({inner})"


@dataclass(frozen=True)
class HeadSpec:
    """A classifier head as stored with a version.

    Attributes:
        kind: ``"cosine"``, ``"linear"`` (ours), ``"mlp"`` (one or two layers, AdapterHub's),
            ``"statistics"`` (class means and a shared covariance), or ``"own"`` (the user's module,
            kept as it is).
        classes: label names in the order of the head's outputs; empty when unknown (``"own"``).
        options: what else rebuilds it (``scale``, ``layers``, ``rule``, ``shrinkage``, ``path``).
    """

    kind: str
    classes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the head as JSON."""
        return {"kind": self.kind, "classes": list(self.classes), "options": dict(self.options)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> HeadSpec:
        """Returns the head :meth:`to_json` wrote."""
        return cls(value["kind"], tuple(value["classes"]), dict(value["options"]))


@dataclass(frozen=True)
class AdapterState:
    """What an adapter is, apart from any model: the thing that is stored.

    Attributes:
        kind: the method (``"lora"``); ``"head"`` for a head over the bare base, ``"statistics"`` for
            class statistics, ``"memory"`` for what else a strategy remembers between tasks.
        config: the method's full configuration as plain JSON (PEFT's ``adapter_config``).
        tensors: name to tensor, on the CPU. Names starting ``head.`` are the head's; all others
            are the adapter's, spelled as PEFT spells them on disk, adapter name left out.
        head: the head these tensors belong to, or None.
    """

    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Any]
    head: HeadSpec | None = None

    HEAD_PREFIX: ClassVar[str] = "head."

    def adapter_tensors(self) -> dict[str, Any]:
        """Returns the adapter's tensors."""
        return {k: v for k, v in self.tensors.items() if not k.startswith(self.HEAD_PREFIX)}

    def head_tensors(self) -> dict[str, Any]:
        """Returns the head's tensors, under their names inside the head."""
        cut = len(self.HEAD_PREFIX)
        return {k[cut:]: v for k, v in self.tensors.items() if k.startswith(self.HEAD_PREFIX)}


def _plain(value: Any, what: str) -> Any:
    """Returns ``value`` with sets sorted and tuples as lists, so that it has one JSON form."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_plain(item, what) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, what) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise SpecError(f"{what} is a {type(value).__name__}, which has no JSON form")
