"""Which adapters a search tries, within a budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import nn

from contpeft.adapters import check_spec
from contpeft.adapters.budget import AUTO, check_budget
from contpeft.adapters.cost import adapter_cost, base_parameters
from contpeft.errors import SpecError, UnsupportedError, UsageError
from contpeft.spec import AdapterSpec

__all__ = ["METHODS_TRIED", "RATES", "Candidate", "MethodSpace", "Targets"]

METHODS_TRIED: Final = ("lora", "pfeiffer", "ia3", "bitfit")
"""Methods of different kinds that every model of :mod:`contpeft.adapters.tuners.sites` can have."""
RATES: Final = (3e-4, 1e-2)
"""Between which learning rates are searched."""

Targets = Literal["usual", "all-linear"]

# What decides the size of a method, and the sizes that are tried; the first option a method has counts.
_SIZES: Final[dict[str, tuple[int, ...]]] = {
    "r": (2, 4, 8, 16, 32),
    "reduction_factor": (64, 32, 16, 8, 4),
    "num_virtual_tokens": (5, 10, 20, 50),
}
# A rank of VeRA is a vector, not two: its ranks are those of the paper.
_OWN_SIZES: Final[dict[str, tuple[int, ...]]] = {"vera": (64, 128, 256, 512), "pvera": (64, 128, 256, 512)}


@dataclass(frozen=True)
class Candidate:
    """One adapter that may be tried.

    Attributes:
        spec: the adapter.
        trained: how many numbers it trains, head excluded.
    """

    spec: AdapterSpec
    trained: int


@dataclass(frozen=True)
class MethodSpace:
    """Which adapters are tried, and with which learning rates.

    Attributes:
        methods: the methods to choose from.
        targets: where methods that can be put anywhere are put: ``"usual"`` as the experiment or the method
            says, ``"all-linear"`` at every linear layer.
        rates: the smallest and the largest learning rate; None for the experiment's own.
        budget: how much an adapter may train: a share of the base (``"1%"``), or a number of parameters;
            None for as much as it likes.
        seed: of the search.
    """

    methods: tuple[str, ...] = METHODS_TRIED
    targets: tuple[Targets, ...] = ("usual", "all-linear")
    rates: tuple[float, float] | None = RATES
    budget: str | int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises :class:`UsageError` for a space with nothing in it, :class:`SpecError` for unknown names."""
        if not self.methods or not self.targets:
            raise UsageError("nothing is to be tried; name one method and one kind of targets at least")
        if AUTO in self.methods:
            raise UsageError(f"{AUTO!r} is no method to be tried, it chooses itself; name methods")
        for method in self.methods:
            check_spec(AdapterSpec(method))
        if self.rates is not None and not 0 < self.rates[0] <= self.rates[1]:
            low, high = self.rates
            raise UsageError(f"learning rates from {low:g} to {high:g} are none; write them as 1e-4:1e-2")
        if self.budget is not None:
            self._limit(1)

    def candidates(
        self, own: AdapterSpec, model: nn.Module, head: nn.Module | None
    ) -> dict[str, tuple[Candidate, ...]]:
        """Returns the adapters of every method that fit the model and the budget, the smallest first.

        Args:
            own: the experiment's adapter; its options are kept in trials of its method.
            model: the transformers model, with no adapter in it.
            head: the head inside the model.

        Raises:
            UsageError: if a method has none, with the reason.
        """
        limit = self._limit(base_parameters(model, head))
        return {method: self._of(method, own, model, head, limit) for method in self.methods}

    def _of(
        self, method: str, own: AdapterSpec, model: nn.Module, head: nn.Module | None, limit: int | None
    ) -> tuple[Candidate, ...]:
        found, refused = [], ""
        for spec in dict.fromkeys(self._specs(method, own)):
            try:
                found.append(Candidate(spec, adapter_cost(spec, model, head).trainable))
            except (SpecError, UnsupportedError) as error:
                refused = str(error)
        if not found:
            raise UsageError(f"method {method!r} cannot be tried: {refused}; leave it out of the methods")
        within = [each for each in found if limit is None or each.trained <= limit]
        if not within:
            least = min(each.trained for each in found)
            raise UsageError(
                f"a budget of {limit:,} parameters holds no {method!r}, the smallest that is tried trains "
                f"{least:,}; raise it, or leave the method out"
            )
        return tuple(sorted(within, key=lambda each: each.trained))

    def _specs(self, method: str, own: AdapterSpec) -> Iterator[AdapterSpec]:
        options = dict(own.options) if own.method == method else {}
        size = next((name for name in _SIZES if _has(method, name, _SIZES[name][0])), None)
        movable = size != "reduction_factor" and _has(method, "targets", "all-linear")
        for targets in self.targets:
            placed = options | ({"targets": targets} if targets != "usual" and movable else {})
            if size is None:
                yield AdapterSpec(method, **placed)
                continue
            for value in _OWN_SIZES.get(method, _SIZES[size]):
                yield AdapterSpec(method, **_resized(placed, size, value))

    def _limit(self, parameters: int) -> int | None:
        if self.budget is None:
            return None
        told = check_budget(AdapterSpec(AUTO, budget=self.budget))
        return int(told * parameters) if isinstance(told, float) else told


def _has(method: str, option: str, value: Any) -> bool:
    try:
        check_spec(AdapterSpec(method, **{option: value}))
    except SpecError:
        return False
    return True


def _resized(options: dict[str, Any], size: str, value: int) -> dict[str, Any]:
    """Returns options of another size; a rank takes its ``alpha`` along, so that the scale stays."""
    resized = {size: value, **{name: told for name, told in options.items() if name != size}}
    if size == "r" and "alpha" in options and "r" in options:
        alpha = options["alpha"] * value / options["r"]
        resized["alpha"] = int(alpha) if alpha == int(alpha) else alpha
    return resized
