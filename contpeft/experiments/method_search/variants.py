"""One experiment with other adapters and learning rates, measured on held-out training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from contpeft.errors import ConfigError, UsageError
from contpeft.experiments.config import Experiment, parse_experiment
from contpeft.spec import AdapterSpec, Protocol
from contpeft.strategies import RECIPES, find_recipe

__all__ = ["VALIDATION", "Settled", "Variants"]

VALIDATION: Final = 0.25
"""The share of the training rows that is held out, unless the experiment says another."""


@dataclass(frozen=True)
class Variants:
    """An experiment that is run one way, with other adapters and learning rates.

    Attributes:
        document: the keys of its YAML file.
        where: names the document in errors.
        strategy: the way; the first of the experiment that trains if None.
        protocol: which classes may be answered; the first of the experiment if None.
        validation: the share of the training rows that is held out to measure on; None for that of the
            experiment, or a quarter.
    """

    document: Mapping[str, Any]
    where: str = "experiment"
    strategy: str | None = None
    protocol: Protocol | None = None
    validation: float | None = None

    def settled(self) -> Settled:
        """Returns the same with all that was left open decided.

        Raises:
            ConfigError: if the document is no experiment.
            NotFoundError: if there is no such strategy.
            UsageError: if the strategy trains nothing.
        """
        plain = parse_experiment(self.document, self.where)
        named = [way for way, recipe in plain.recipes.items() if RECIPES.get(way) == recipe]
        trained = [way for way in named if find_recipe(way).init.trains(0)]
        strategy = self.strategy or next(iter(trained), plain.strategies[0])
        if not find_recipe(strategy).init.trains(0):
            raise UsageError(f"strategy {strategy!r} trains no adapter; give --strategy another one")
        share = plain.stream.validation if self.validation is None else self.validation
        protocol = self.protocol or plain.protocols[0]
        return Settled(self.document, self.where, strategy, protocol, VALIDATION if share is None else share)


@dataclass(frozen=True)
class Settled:
    """The same with all that was left open decided.

    Attributes:
        document: the keys of the YAML file.
        where: names the document in errors.
        strategy: the way.
        protocol: which classes may be answered.
        validation: the share of the training rows that is held out to measure on.
    """

    document: Mapping[str, Any]
    where: str
    strategy: str
    protocol: Protocol
    validation: float

    def experiment(self, adapter: AdapterSpec | None = None, rate: float | None = None) -> Experiment:
        """Returns the experiment of one trial.

        Args:
            adapter: in place of its own; None for its own.
            rate: the module's learning rate; None for its own.

        Raises:
            ConfigError: if a value is refused.
        """
        told = dict(self.document)
        told["strategies"], told["protocols"] = [self.strategy], [self.protocol]
        told["stream"] = {**told["stream"], "validation": self.validation}
        if adapter is not None:
            told["adapter"] = adapter.to_json()
        if rate is not None:
            module = told.get("module") or {}
            options = {**(module.get("init_args") or {}), "learning_rate": rate}
            told["module"] = {**module, "init_args": options}
        return parse_experiment(told, self.where)

    def check_rates(self) -> None:
        """Checks that the learning rate can be searched.

        Raises:
            ConfigError: if the module has no option ``learning_rate``, or an optimizer of its own.
        """
        if self.experiment().learning_rate is None:
            raise ConfigError(
                f"{self.where}: the module has no learning_rate to search, or an optimizer of its own; "
                "keep it with --rates keep"
            )
