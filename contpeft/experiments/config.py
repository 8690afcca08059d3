"""An experiment as a YAML file: every key typed, a typo refused by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as L
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from contpeft.adapters import check_spec
from contpeft.digest import json_digest
from contpeft.errors import ConfigError, NotFoundError, suggest
from contpeft.experiments import modules, sources
from contpeft.experiments.sources import Source
from contpeft.experiments.streams import split_by_class, split_by_column, validating
from contpeft.experiments.tasks import TaskStream
from contpeft.spec import AdapterSpec, Protocol, Scenario, check_name
from contpeft.spec.sizes import parse_bytes
from contpeft.strategies import Recipe
from contpeft.strategies.reading import read_recipes

__all__ = [
    "Experiment",
    "StreamConfig",
    "load_evaluation",
    "load_experiment",
    "parse_experiment",
    "read_document",
]

_HOMES = {"module": modules, "source": sources}
# What an experiment must say and an evaluation need not.
_FOR_TRAINING = {"name": "evaluation", "strategies": ["frozen"]}
_FREE = ("name", "seed", "strategies", "store", "report")
_TRAINER = {
    "max_epochs": 3,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "deterministic": True,
    "accelerator": "cpu",
    "devices": 1,
    "num_sanity_val_steps": 0,
}


@dataclass
class StreamConfig:
    """Which tasks, in which order.

    Attributes:
        source: where the rows come from.
        by: ``"class"``: classes are dealt out to tasks; ``"task"``: each value of the source's task
            column is a task.
        scenario: what may be known about a row's task.
        classes_per_task: for ``by: class``.
        order: classes (or task names) in the order they are learnt; None for one the seed draws.
        train_per_class: rows to train on per class; None for all.
        test_per_class: rows to test on per class; None for all.
        seed: draws the rows, and the order when none is given; None for the experiment's seed.
        validation: this share of the training rows is held out and measured on in place of the test rows,
            to choose by; None for the test rows.
    """

    source: Source
    by: Literal["class", "task"] = "class"
    scenario: Scenario = "class-incremental"
    classes_per_task: int = 2
    order: list[str] | None = None
    train_per_class: int | None = None
    test_per_class: int | None = None
    seed: int | None = None
    validation: float | None = None

    def build(self, seed: int) -> TaskStream:
        """Returns the stream.

        Raises:
            ConfigError: if a class is unknown or has too few rows.
        """
        drawn = seed if self.seed is None else self.seed
        stream = self._split(drawn)
        return stream if self.validation is None else validating(stream, self.validation, seed=drawn)

    def _split(self, drawn: int) -> TaskStream:
        rows = {"train_per_class": self.train_per_class, "test_per_class": self.test_per_class}
        data = self.source.load()
        if self.by == "task":
            return split_by_column(data, order=self.order, seed=drawn, scenario=self.scenario, **rows)
        return split_by_class(
            data,
            classes_per_task=self.classes_per_task,
            order=self.order,
            seed=drawn,
            scenario=self.scenario,
            **rows,
        )


@dataclass(frozen=True)
class Experiment:
    """A checked experiment.

    Attributes:
        name: the run's name; what its adapters are named after.
        seed: draws rows, initial weights and the order of batches.
        stream: the tasks.
        recipes: the ways to run, by name.
        adapter: how a fresh adapter is made.
        protocols: which accuracies to measure.
        batch_size: rows per training step.
        eval_batch_size: rows at a time when measuring.
        threads: of torch; part of the result, since sums are cut differently.
        prefix_cache: bytes of hidden states below the adapter to keep in memory; None for no such cache.
        store: folder of the adapter store.
        report: folder of reports; the run's own is made inside it.
    """

    name: str
    seed: int
    stream: StreamConfig
    recipes: Mapping[str, Recipe]
    adapter: AdapterSpec
    protocols: tuple[Protocol, ...]
    batch_size: int
    eval_batch_size: int
    threads: int
    prefix_cache: int | None
    store: Path
    report: Path
    _parsed: Namespace
    _parser: ArgumentParser

    @property
    def strategies(self) -> tuple[str, ...]:
        """Names of the ways to run."""
        return tuple(self.recipes)

    @property
    def max_epochs(self) -> int:
        """Passes over each task's training rows."""
        return int(self._parsed.trainer.max_epochs)

    @property
    def learning_rate(self) -> float | None:
        """What the module is told as ``learning_rate``; None if it has no such option or ignores it."""
        told = self._parsed.module.get("init_args") or {}
        rate = None if told.get("optimizer") is not None else told.get("learning_rate")
        return None if rate is None else float(rate)

    def only(self, *ways: str) -> Experiment:
        """Returns the same with some of its ways alone.

        Raises:
            NotFoundError: if it has no way of one of the names.
        """
        for way in ways:
            if way not in self.recipes:
                raise NotFoundError(
                    f"experiment {self.name!r} has no way {way!r}{suggest(way, self.recipes)}"
                )
        return replace(self, recipes={way: self.recipes[way] for way in ways})

    def identity(self) -> dict[str, Any]:
        """Returns the settings every session of this run must share, defaults left out.

        Not among them: folders, the list of strategies, to which one may be added later, and how large the
        prefix cache is.
        """
        told = yaml.safe_load(self._parser.dump(self._parsed, skip_default=True))
        cached = {} if self.prefix_cache is None else {"prefix_cache": True}
        return {key: value for key, value in told.items() if key not in _FREE} | cached

    def reads(self) -> str:
        """Returns a name for how rows are read when they are measured, part of the key of every score.

        It is the module's arguments, and whether there is a prefix cache, of whatever size: rows that are
        read one by one are rounded otherwise than in batches.
        """
        module = json_digest(self.identity().get("module"))
        return module if self.prefix_cache is None else f"{module} row by row"

    def make(self, callbacks: list[L.Callback]) -> tuple[L.LightningModule, L.Trainer]:
        """Returns a fresh module, and a fresh trainer with fresh callbacks and loggers.

        Args:
            callbacks: put before those of the configuration.

        Raises:
            ConfigError: if the module, a callback or a logger refuses its arguments.
        """
        made = self._instantiate(self._parsed)
        options = dict(cast(Mapping[str, Any], made.trainer))
        own = options.pop("callbacks", None) or []
        own = own if isinstance(own, list) else [own]
        return made.module, L.Trainer(**options, callbacks=[*callbacks, *own])

    def make_module(self) -> L.LightningModule:
        """Returns a fresh module, built with the random generators set as in a run.

        Raises:
            ConfigError: if the module refuses its arguments.
        """
        L.seed_everything(self.seed, workers=True, verbose=False)
        told = {key: self._parsed[key] for key in ("stream", "module")}  # no trainer, callbacks or loggers
        return cast(L.LightningModule, self._instantiate(Namespace(**told)).module)  # type: ignore[no-untyped-call]

    def _instantiate(self, parsed: Namespace) -> Namespace:
        try:
            return cast(Namespace, self._parser.instantiate(parsed))
        except ValueError as error:
            raise ConfigError(f"experiment {self.name!r} cannot be built: {_reason(str(error))}") from error


def load_experiment(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Returns the experiment a YAML file describes.

    Args:
        path: the file.
        overrides: top-level keys that replace the file's.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: if it is no YAML mapping, or a key or value is refused.
    """
    return parse_experiment({**read_document(path), **(overrides or {})}, str(path))


def load_evaluation(path: str | Path) -> Experiment:
    """Returns what an evaluation file describes: tasks and a module to measure adapters with.

    It has the keys of an experiment, of which ``stream``, ``module``, ``seed``, ``eval_batch_size`` and
    ``threads`` count, and only ``stream`` is needed: an experiment file is an evaluation file.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: if it is no YAML mapping, or a key or value is refused.
    """
    return parse_experiment({**_FOR_TRAINING, **read_document(path)}, str(path))


def read_document(path: str | Path) -> dict[str, Any]:
    """Returns the keys of a YAML file as they are written.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: if it is no YAML mapping.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = [str(each) for each in Path(path).parent.glob("*.y*ml")]
        raise NotFoundError(f"no experiment file {str(path)!r}{suggest(str(path), near)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {_one_line(str(error))}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds {type(document).__name__}, not the keys of an experiment")
    return document


def parse_experiment(document: Mapping[str, Any], where: str = "experiment") -> Experiment:
    """Returns the experiment a mapping describes.

    Args:
        document: the keys of the YAML file.
        where: names the document in errors.

    Raises:
        ConfigError: if a key or value is refused, naming it and what exists.
        NotFoundError: if a strategy does not exist.
        SpecError: if the adapter's method or an option of it does not exist.
    """
    parser = _parser()
    full = _with_paths(document)
    try:
        parsed = parser.parse_object(full)
    except ArgumentError as error:
        raise ConfigError(f"{where}: {_explain(str(error), parser, full)}") from error
    check_name(parsed.name, "run")
    recipes = {way: recipe for each in parsed.strategies for way, recipe in read_recipes(each).items()}
    adapter = AdapterSpec.from_json(parsed.adapter)
    check_spec(adapter)
    made = parser.instantiate(Namespace(stream=parsed.stream))  # type: ignore[no-untyped-call]
    plain = ("name", "seed", "batch_size", "eval_batch_size", "threads")
    return Experiment(
        **{key: parsed[key] for key in plain},
        stream=made.stream,
        recipes=recipes,
        adapter=adapter,
        protocols=tuple(parsed.protocols),
        prefix_cache=None if parsed.prefix_cache is None else parse_bytes(parsed.prefix_cache),
        store=Path(parsed.store),
        report=Path(parsed.report),
        _parsed=parsed,
        _parser=parser,
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--name", type=str, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stream", type=StreamConfig, required=True)
    parser.add_argument("--strategies", type=list[str | dict[str, Any]], required=True)
    parser.add_argument("--adapter", type=dict[str, Any], default={"method": "lora", "r": 8, "alpha": 16})
    parser.add_argument("--protocols", type=list[Protocol], default=["task_aware", "all_classes"])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--eval_batch_size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefix_cache", type=str | None, default=None)
    parser.add_argument("--store", type=str, default="adapters")
    parser.add_argument("--report", type=str, default="reports")
    parser.add_subclass_arguments(L.LightningModule, "module", required=True)
    parser.add_class_arguments(L.Trainer, "trainer", instantiate=False)
    parser.set_defaults({f"trainer.{key}": value for key, value in _TRAINER.items()})
    return parser


def _with_paths(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the document with short class names spelled out and the default module filled in."""
    full = dict(document)
    module = full.get("module") or {}
    if isinstance(module, Mapping):
        full["module"] = _class_path({"class_path": "TextClassifier", **module}, "module")
    stream = full.get("stream")
    if isinstance(stream, Mapping) and isinstance(stream.get("source"), Mapping):
        full["stream"] = {**stream, "source": _class_path(stream["source"], "source")}
    return full


def _class_path(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    path = str(value.get("class_path", ""))
    home = _HOMES[what]
    if "." in path:
        return dict(value)
    known = [name for name in home.__all__ if inspect.isclass(getattr(home, name))]
    if path not in known:
        raise ConfigError(f"no {what} {path!r}{suggest(path, known)}")
    return {**value, "class_path": f"{home.__name__}.{path}"}


def _explain(message: str, parser: ArgumentParser, document: Mapping[str, Any]) -> str:
    told = _reason(message)
    wrong = re.search(r"[Oo]ption '([^']+)'", message)
    if wrong is None:
        return told
    return told + suggest(wrong.group(1), _known_keys(message, parser, document))


def _known_keys(message: str, parser: ArgumentParser, document: Mapping[str, Any]) -> set[str]:
    inside = re.search(r"class_path '([^']+)'", message)
    if inside:
        home, _, name = inside.group(1).rpartition(".")
        return set(inspect.signature(getattr(import_module(home), name)).parameters)
    if "Group 'trainer'" in message:
        return set(inspect.signature(L.Trainer).parameters)
    if "stream" in message:
        return set(inspect.signature(StreamConfig).parameters)
    return {action.dest.partition(".")[0] for action in parser._actions} - {"help", "print_shtab"}


def _reason(message: str) -> str:
    # An optional value is reported as a union; of the reasons only the first says something.
    union = re.search(r"Errors:\s+- (.*?)\s+- Expected a <class 'NoneType'>", message, re.DOTALL)
    key = re.match(r"Parser key \S+", message)
    return _one_line(f"{key[0] + ' ' if key else ''}{union[1]}" if union else message)


def _one_line(message: str) -> str:
    return " ".join(message.split())
