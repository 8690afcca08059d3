"""Classification heads of AdapterHub's as heads of versions, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from contpeft.adapters.adapterhub.names import activation_here
from contpeft.adapters.adapterhub.told import Told, identified
from contpeft.adapters.adapterhub.writing import Target
from contpeft.adapters.mlp_head import ACTIVATIONS, MLP
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState, HeadSpec

__all__ = ["head_from_hub", "head_to_hub"]

_TYPE: Final = "classification"
_KEYS: Final = {"activation_function", "head_type", "label2id", "layers", "num_labels", "use_pooler"}
_OPTIONAL: Final = {"bias", "dropout_prob"}
_APART: Final = "take head_config.json and the head's weights out of the folder to import the adapter alone"


def head_from_hub(told: Told, tensors: Mapping[str, Tensor]) -> tuple[HeadSpec, dict[str, Tensor]]:
    """Returns a classification head, its tensors named as in a version.

    Args:
        told: its configuration.
        tensors: those of its file.

    Raises:
        SpecError: naming a tensor that is missing, unexpected or of another shape, or labels that do not
            belong to the outputs.
        UnsupportedError: naming what contpeft's heads do not have.
    """
    config = told.config
    spec = _spec(config)
    names = _names(told.name, spec.options["layers"], _activation(config), bias=config.get("bias", True))
    wrong = sorted(set(names) ^ set(tensors))
    if wrong:
        raise SpecError(
            f"tensor {wrong[0]!r} of the head is {'missing' if wrong[0] in names else 'unexpected'}"
        )
    width = told.hidden_size
    for name, own in names.items():
        rows = width if own.startswith("hidden") else len(spec.classes)
        wanted = (rows, width) if own.endswith("weight") else (rows,)
        if tuple(tensors[name].shape) != wanted:
            raise SpecError(
                f"tensor {name!r} of the head has shape {tuple(tensors[name].shape)}; it has to be {wanted}"
            )
    return spec, {AdapterState.HEAD_PREFIX + own: tensors[name] for name, own in names.items()}


def head_to_hub(
    state: AdapterState, name: str, target: Target, kept: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the content of the configuration file and the tensors of a version's head.

    Args:
        state: the version.
        name: what its head is called there.
        target: the base, its kind known.
        kept: the configuration file it once came from, if it did.

    Raises:
        UnsupportedError: if AdapterHub has no such head.
    """
    spec, tensors = state.head, state.head_tensors()
    if spec is None or spec.kind != MLP:
        raise UnsupportedError(
            f"a head of kind {spec.kind if spec else None!r} is not in AdapterHub, whose heads read the "
            "first token or the pooler; leave the head out (--no-head)"
        )
    config = _config(spec, tensors)
    if kept is not None and _spec(kept["config"]) == spec:
        config = dict(kept["config"])
    names = _names(name, spec.options["layers"], spec.options["activation"], bias="bias" in tensors)
    width = tensors["weight"].shape[1]
    told = identified(name, config, str(target.model_type), width, target.model_name, kept)
    return told, {theirs: tensors[own] for theirs, own in names.items()}


def _spec(config: Mapping[str, Any]) -> HeadSpec:
    kind = config.get("head_type")
    if kind != _TYPE:
        raise UnsupportedError(f"head_type={kind!r} is not taken in, only {_TYPE!r}; {_APART}")
    unknown = sorted(set(config) - _KEYS - _OPTIONAL)
    missing = sorted(_KEYS - set(config))
    if unknown or missing:
        raise SpecError(
            f"the head's configuration has no {missing[0]!r}" if missing
            else f"key {unknown[0]!r} of the head's configuration is not known; {_APART}"
        )  # fmt: skip
    layers = config["layers"]
    if type(layers) is not int or layers not in (1, 2):
        raise UnsupportedError(f"a head of layers={layers!r} is not taken in, only of 1 or 2; {_APART}")
    for key in ("use_pooler", "bias"):
        if not isinstance(config.get(key, True), bool):
            raise SpecError(f"{key}={config[key]!r} of the head is neither true nor false")
    share = config.get("dropout_prob")
    if share is not None and (
        isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1
    ):
        raise SpecError(f"dropout_prob={share!r} of the head is no share")
    options = {
        "activation": _activation(config),
        "dropout": share or 0.0,  # None is the model's own share, and acts in training only
        "layers": layers,
        "reads": "pooler" if config["use_pooler"] else "first token",
    }
    return HeadSpec(MLP, _classes(config["label2id"], config["num_labels"]), options)


def _activation(config: Mapping[str, Any]) -> str | None:
    told = config["activation_function"]
    name = None if told is None else activation_here(told)
    if name is not None and name not in ACTIVATIONS:
        raise UnsupportedError(
            f"activation_function={told!r} of the head is not taken in; these are: {', '.join(ACTIVATIONS)}"
        )
    return name


def _classes(labels: object, count: object) -> tuple[str, ...]:
    """Returns the label of each output; without labels, its number."""
    if type(count) is not int or count < 2:
        raise UnsupportedError(f"a head with num_labels={count!r} tells no classes apart; {_APART}")
    if labels is None:
        return tuple(map(str, range(count)))
    if not isinstance(labels, Mapping) or any(type(each) is not int for each in labels.values()):
        raise SpecError(f"label2id={labels!r} of the head maps no labels to numbers")
    named = {number: str(label) for label, number in labels.items()}
    if set(named) != set(range(count)) or len(labels) != count:
        raise SpecError(
            f"label2id of the head does not name each of its {count} outputs once: {dict(labels)}"
        )
    return tuple(named[number] for number in range(count))


def _names(name: str, layers: int, activation: str | None, *, bias: bool) -> dict[str, str]:
    """Returns a head's tensors by their names there; modules are counted, dropout among them."""
    last = 1 if layers == 1 else 3 if activation is None else 4
    found = {f"heads.{name}.{last}.weight": "weight"}
    if bias:
        found[f"heads.{name}.{last}.bias"] = "bias"
    if layers == 2:
        found |= {f"heads.{name}.1.{end}": f"hidden.{end}" for end in ("weight", "bias")}
    return found


def _config(spec: HeadSpec, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "activation_function": spec.options["activation"],
        "bias": "bias" in tensors,
        "dropout_prob": spec.options["dropout"],
        "head_type": _TYPE,
        "label2id": {label: number for number, label in enumerate(spec.classes)},
        "layers": spec.options["layers"],
        "num_labels": len(spec.classes),
        "use_pooler": spec.options["reads"] == "pooler",
    }
