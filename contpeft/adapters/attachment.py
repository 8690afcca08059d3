"""One adapter in a model: its layers can be put into the module tree and taken out again.

PEFT builds the layers; from then on the adapter is the list of places where they sit. Taking them
out puts the very same base modules back, so the base is restored exactly, whatever the method,
and the cost depends on the number of places only, never on how many adapters were there before.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from contpeft.adapters.attached import cpu_copy
from contpeft.adapters.methods import config_from_json, config_to_json
from contpeft.adapters.places import Place, Places, fill, set_mode
from contpeft.adapters.principal import paired_weights
from contpeft.errors import SpecError
from contpeft.spec import AdapterState

__all__ = ["Attachment", "refuse_adapted"]

_SLOT = "current"
_REFUSALS = (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError)


class Attachment(Places):
    """An adapter made for one model.

    Made installed: the model computes with it at once. Use :meth:`removed` and :meth:`install` /
    :meth:`remove` to change that.

    Args:
        model: the transformers model, with no other adapter installed.
        config: PEFT's configuration.

    Raises:
        SpecError: if the method refuses the model; the model is as it was then.
    """

    def __init__(self, model: nn.Module, config: PeftConfig) -> None:
        places = [Place(parent, *child) for parent in model.modules() for child in parent.named_children()]
        with ExitStack() as undo:
            undo.callback(fill, places)
            self._peft = _build(model, config)
            undo.pop_all()
        changed = [place for place in places if place.now().module is not place.module]
        super().__init__(changed, [place.now() for place in changed])
        self._model = model
        self.config: Any = config
        self._made = config_to_json(config)
        self.settle_trainable()
        for layer, base in zip(self._layers, self._base, strict=True):
            set_mode([layer], self._base, training=base.module.training)

    @classmethod
    def from_state(cls, model: nn.Module, state: AdapterState) -> Attachment:
        """Returns the stored adapter, installed in ``model``, with its weights.

        The random generators are left as they were.

        Raises:
            SpecError: if there is none, or it does not fit the model, which is as it was then.
        """
        if not state.adapter_tensors():
            raise SpecError(f"a version of kind {state.kind!r} holds no adapter to attach")
        with torch.random.fork_rng(devices=[]):
            attachment = cls(model, config_from_json(state.config)).filled(state.adapter_tensors())
        attachment.settle_trainable()  # loading makes new parameters where stored ranks differ
        return attachment

    @property
    def tuner(self) -> Any:
        """PEFT's tuner, which knows what its method does between steps."""
        return self._peft.base_model

    def settle_trainable(self) -> None:
        """Takes those of its parameters that require a gradient now as those that are trained."""
        self._trainable = [p for p in self.parameters() if p.requires_grad]

    def trainable(self) -> list[nn.Parameter]:
        """Returns those of the adapter's parameters that its method trains."""
        return list(self._trainable)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the parameters in use under their names in :meth:`tensors` and in stored versions.

        A tensor of which only a part is a parameter is left out.
        """
        live = self._live().items()
        return {_portable(name): value for name, value in live if isinstance(value, nn.Parameter)}

    def tensors(self) -> dict[str, Tensor]:
        """Returns the adapter's tensors on the CPU, under PEFT's names on disk."""
        return {_portable(name): cpu_copy(value) for name, value in self._live().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the adapter's tensors.

        Raises:
            SpecError: if a tensor is missing, foreign or of another shape; nothing is loaded then.
        """
        own = {_portable(name): (name, value) for name, value in self._live().items()}
        missing, foreign = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
        if missing or foreign:
            raise SpecError(
                f"stored adapter does not fit {type(self._model).__name__}: {len(missing)} tensors missing"
                f"{_first(missing)}, {len(foreign)} foreign{_first(foreign)}"
            )
        for name, (_, value) in own.items():
            if value.shape != tensors[name].shape:
                raise SpecError(
                    f"stored tensor {name} has shape {tuple(tensors[name].shape)}, "
                    f"the model's place for it {tuple(value.shape)}"
                )
        with self._inside(), torch.inference_mode(False), torch.no_grad():
            if all(isinstance(value, nn.Parameter) for _, value in own.values()):
                # What is stored is what is trained: no need of PEFT's way through the whole model.
                for portable, (_, value) in own.items():
                    value.copy_(tensors[portable])
                return
            here = {name: tensors[portable] for portable, (name, _) in own.items()}
            for name, module in paired_weights(self._peft).items():
                weight = cast(Tensor, module.weight)
                module.weight = here.pop(_stored(name)).to(weight.device, weight.dtype)
            set_peft_model_state_dict(self._peft, here, adapter_name=_SLOT)

    def config_json(self) -> dict[str, Any]:
        """Returns the method's full configuration as plain JSON."""
        return config_to_json(self.config)

    def made_json(self) -> dict[str, Any]:
        """Returns the configuration it was made with, whatever training has settled since."""
        return self._made

    def allocate_ranks(self, step: int) -> None:
        """Lets a method that prunes its ranks do so after a step; the gradients are needed."""
        self.tuner.update_and_allocate(step)
        pattern = self.config.rank_pattern
        if pattern:
            self.config.rank_pattern = {_stored(name): kept for name, kept in pattern.items()}

    def cut_ranks(self) -> None:
        """Cuts the factors down to the ranks that the configuration's pattern leaves."""
        with self._inside(), torch.random.fork_rng(devices=[]), torch.no_grad():
            self.tuner.resize_modules_by_rank_pattern(self.config.rank_pattern, _SLOT)
        self.settle_trainable()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        was = self.installed
        self.install()
        try:
            yield
        finally:
            if not was:
                self.remove()

    def _live(self) -> dict[str, Tensor]:
        """Returns the adapter's tensors in place, under PEFT's names on disk."""
        with self._inside():
            found: dict[str, Tensor] = get_peft_model_state_dict(
                self._peft,
                self._whole(),
                adapter_name=_SLOT,
                save_embedding_layers=False,
            )
        return found

    def _whole(self) -> dict[str, Tensor]:
        """Returns PEFT's state dict, weights that are made of two halves as one."""
        state: dict[str, Tensor] = self._peft.state_dict(keep_vars=True)
        for name, module in paired_weights(self._peft).items():
            halves = f"{name.removesuffix('weight')}parametrizations."
            state = {key: value for key, value in state.items() if not key.startswith(halves)}
            state[name] = cast(Tensor, module.weight)
        return state


def refuse_adapted(model: nn.Module) -> None:
    """Refuses a model that something else has put adapters into.

    Raises:
        SpecError: naming the first place of one.
    """
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            raise SpecError(
                f"{type(model).__name__} holds an adapter that was not attached here, at {name}; "
                "give the plain model (PEFT's unload() returns it)"
            )


def _build(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Returns PEFT's model around ``model``; the flags of the base's parameters stay as they are."""
    flags = {p: p.requires_grad for p in model.parameters()}
    # Parameters made under inference mode could never be trained or written in place later.
    with torch.inference_mode(False), warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers has deprecated; nothing a user can mend.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        # It does not know how wide a normalisation layer is, nor need it.
        warnings.filterwarnings("ignore", message="Unsupported layer type", category=UserWarning)
        # AdaLoRA's pattern names parameters; PEFT reads it as such only when it loads weights.
        warnings.filterwarnings("ignore", message=r".*rank_pattern keys.*\.lora_E'", category=RuntimeWarning)
        try:
            return cast(PeftModel, get_peft_model(cast(Any, model), config, adapter_name=_SLOT))
        except _REFUSALS as error:
            method = config_to_json(config)["peft_type"].lower()
            raise SpecError(f"method {method!r} refuses {type(model).__name__}: {error}") from error
        finally:
            vars(model).pop("peft_config", None)  # PEFT's own note on the model; nothing reads it
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)


def _portable(name: str) -> str:
    return name.replace("._orig_mod", "")  # a compiled part answers to the names of what it compiled


def _stored(name: str) -> str:
    return name.replace(f".{_SLOT}", "")  # as PEFT names it on disk


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""
