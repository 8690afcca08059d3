"""A prompt in a model: hooks that give it virtual tokens, and the network that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from contpeft.adapters.attached import Attached, cpu_copy
from contpeft.adapters.methods import config_from_json, config_to_json
from contpeft.adapters.prompts.backbone import backbone_of, is_vision
from contpeft.adapters.prompts.configs import completed, is_prefix, tokens_of
from contpeft.adapters.prompts.encoders import Folded, fresh_encoder, is_folded, stored_encoder, vectors
from contpeft.adapters.prompts.folder import STORED
from contpeft.adapters.prompts.ports import PatchPort, Port, TokenPort
from contpeft.adapters.prompts.prefix import PrefixPort
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState

__all__ = ["PromptAttachment"]

_CHILD: Final = "prompt_encoder"  # its name in the model while it is in


class PromptAttachment(Attached):
    """A prompt or a prefix made for one model; made installed.

    The model is called as without it, and answers in the same shapes. A version holds the vectors alone, as
    PEFT does: a network that makes them is left behind, and training goes on with the vectors themselves.

    Attributes:
        config: PEFT's configuration.
        encoder: what makes the vectors.
        port: how they go into the model's calls.

    Args:
        model: the transformers model, with no adapter installed.
        config: PEFT's configuration, with the sizes of the model.
        encoder: what makes the vectors; PEFT's own network, fresh, when None.

    Raises:
        SpecError: if the method refuses its options.
    """

    def __init__(self, model: nn.Module, config: PeftConfig, encoder: nn.Module | None = None) -> None:
        self._model = model
        self._backbone = backbone_of(model)
        self.config = config
        made = fresh_encoder(config, self._backbone) if encoder is None else encoder
        self.encoder = made.to(next(model.parameters()).device).train(self._backbone.training)
        self.port = self._port()
        self._hooks: list[RemovableHandle] = []
        self.installed = False
        self.install()

    @classmethod
    def from_state(cls, model: nn.Module, state: AdapterState) -> PromptAttachment:
        """Returns a stored prompt, installed in ``model``, with its vectors.

        Args:
            model: the transformers model, with no adapter installed.
            state: the prompt: its configuration, and the vectors ``(P, width)`` under PEFT's name on disk.

        Raises:
            SpecError: if it does not fit the model, which is as it was then.
            UnsupportedError: if the method has no place in the model.
        """
        config = completed(config_from_json(state.config), model)
        return cls(model, config, stored_encoder(config)).filled(state.adapter_tensors())

    def install(self) -> None:
        """Lets the model compute with the prompt; nothing happens if it does.

        Raises:
            UnsupportedError: if another prompt is in the model.
        """
        if not self.installed:
            if hasattr(self._backbone, _CHILD):
                raise UnsupportedError(
                    f"{type(self._backbone).__name__} has a prompt in it already; one is all it takes"
                )
            self._backbone.add_module(_CHILD, self.encoder)
            self._hooks = self.port.open()
            self.installed = True

    def remove(self) -> None:
        """Takes the hooks and the network out; nothing happens if they are."""
        if self.installed:
            for hook in self._hooks:
                hook.remove()
            delattr(self._backbone, _CHILD)
            self.installed = False

    def parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of the network, or the vectors."""
        return list(self.encoder.parameters())

    def trainable(self) -> list[nn.Parameter]:
        """Returns the same: all are trained."""
        return self.parameters()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the vectors; nothing while a network makes them, as that is not stored."""
        return dict.fromkeys([STORED], self.parameters()[0]) if is_folded(self.encoder) else {}

    def train(self, mode: bool = True) -> None:
        """Puts the network in train mode, or in eval mode."""
        self.encoder.train(mode)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the vectors ``(P, width)`` on the CPU, under PEFT's name on disk."""
        training = self.encoder.training
        self.encoder.eval()  # without dropout
        try:
            with torch.no_grad():
                return {STORED: cpu_copy(self._vectors())}
        finally:
            self.encoder.train(training)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the vectors; a network that made others is gone then.

        Raises:
            SpecError: if the tensor is missing, another is there, or it has another shape.
        """
        if set(tensors) != {STORED}:
            raise SpecError(
                f"stored adapter does not fit {type(self._model).__name__}: a prompt is one tensor, "
                f"{STORED}; there are: {', '.join(sorted(tensors)) or 'none'}"
            )
        shape, given = tuple(self.tensors()[STORED].shape), tuple(tensors[STORED].shape)
        if shape != given:
            raise SpecError(f"stored tensor {STORED} has shape {given}, the model's place for it {shape}")
        if not is_folded(self.encoder):
            self._fold()
        with torch.inference_mode(False), torch.no_grad():
            self.parameters()[0].copy_(tensors[STORED])

    def config_json(self) -> dict[str, Any]:
        """Returns the method's full configuration as plain JSON."""
        return config_to_json(self.config)

    def _fold(self) -> None:
        """Puts plain vectors in the place of the network."""
        was = self.installed
        self.remove()
        with torch.inference_mode(False):
            self.encoder = Folded(self._vectors()).train(self.encoder.training)
        if was:
            self.install()

    def _vectors(self) -> Tensor:
        return vectors(self.encoder, tokens_of(self.config))

    def _port(self) -> Port:
        told: Any = self.config
        count = tokens_of(self.config)
        if is_prefix(self.config):
            return PrefixPort(self._backbone, self._vectors, count, told.num_layers, told.num_attention_heads)
        kind = PatchPort if is_vision(self._backbone) else TokenPort
        return kind(self._backbone, self._vectors, count)
