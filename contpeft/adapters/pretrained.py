"""A base model in a folder: its module tree without weights, or the model itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from contpeft.adapters.find import find_head
from contpeft.errors import BaseMismatchError, IntegrityError, NotFoundError

__all__ = ["load_base", "module_tree"]

_Make = Callable[[PretrainedConfig], PreTrainedModel]

_OF_TASK: Mapping[str, Any] = {
    "CAUSAL_LM": AutoModelForCausalLM,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
}


def module_tree(
    folder: Path, modules: Collection[str], told: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Returns the model of a folder on the meta device: names and shapes, read from its configuration.

    One folder can be loaded by several classes, whose modules have different names. The first that
    has the modules an adapter changes is taken: the one the adapter's configuration tells of, the
    plain model, the one the folder's configuration tells of.

    Args:
        folder: as transformers saves a model.
        modules: dotted paths the model must have.
        told: the adapter's configuration; ``task_type`` and ``auto_mapping`` tell of a class.

    Raises:
        NotFoundError: if the folder has no model's configuration.
        BaseMismatchError: if no class has these modules.
    """
    config = _read(folder)
    lacking: list[list[str]] = []
    for make in _makers(config, told or {}):
        with torch.device("meta"), _quiet():
            try:
                model = make(config)
            except ValueError:  # this kind of model has no such class
                continue
        lacking.append(sorted(set(modules) - {name for name, _ in model.named_modules()}))
        if not lacking[-1]:
            return model
    if not lacking:
        raise NotFoundError(f"no model in {folder}: transformers has no class for a {type(config).__name__}")
    missing = min(lacking, key=len)  # of the plain model, or of a class nearer to the adapter
    raise BaseMismatchError(
        f"the model in {folder} has no module {missing[0]!r}, which the adapter changes; "
        "give the base it was trained on"
    )


def load_base(
    folder: Path, modules: Collection[str], told: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """Returns the model of a folder with its weights; see :func:`module_tree`.

    Raises:
        NotFoundError: if the folder has no model's configuration or weights.
        BaseMismatchError: if no class has these modules.
        IntegrityError: if the weights are damaged, or some are missing, the head's aside.
    """
    kind = type(module_tree(folder, modules, told))
    with _quiet():
        try:
            loaded: Any = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
        except SafetensorError as error:
            raise IntegrityError(f"the model in {folder} is damaged: {error}") from error
        except OSError as error:
            raise NotFoundError(f"no model in {folder}: {str(error).splitlines()[0]}") from error
    found, report = loaded
    head = find_head(found, found, "")
    missing = sorted(each for each in report["missing_keys"] if not (head and each.startswith(f"{head}.")))
    if missing:
        raise IntegrityError(
            f"the model in {folder} lacks {missing[0]!r} as a {kind.__name__}, so it has no identity; "
            "give the folder of the whole base"
        )
    return cast(PreTrainedModel, found)


def _read(folder: Path) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        raise NotFoundError(f"no model in {folder} (it has no config.json); name a transformers model folder")
    try:
        return cast(PretrainedConfig, AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise NotFoundError(f"no model in {folder}: {str(error).splitlines()[0]}") from error


def _makers(config: PretrainedConfig, told: Mapping[str, Any]) -> Iterator[_Make]:
    mapping = told.get("auto_mapping")
    named = mapping.get("base_model_class") if isinstance(mapping, Mapping) else None
    task = str(told.get("task_type"))
    if task in _OF_TASK:
        yield _OF_TASK[task].from_config
    yield from _class(named)
    yield AutoModel.from_config
    for name in config.architectures or ():
        yield from _class(name)


def _class(name: object) -> Iterator[_Make]:
    found = getattr(transformers, str(name), None)
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        yield found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from reporting on a head that is new, and on its progress."""
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
