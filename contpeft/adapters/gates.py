"""Gates of a union: how much each part does in a layer, told by what the layer reads.

UniPELT (Mao et al. 2022, section 3.2): a linear map of the layer's input and a sigmoid for each part. LoRA's
update, a bottleneck adapter's output, and a prefix's keys and values are multiplied by it. A gate is one
number a row: the mean over its tokens, those that are masked left out, so that padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from contpeft.adapters.attached import Attached, check_shapes, cpu_copy
from contpeft.adapters.places import Places
from contpeft.adapters.prompts.attachment import PromptAttachment
from contpeft.adapters.prompts.backbone import backbone_of, is_causal
from contpeft.adapters.prompts.calls import named, refuse_checkpointing
from contpeft.adapters.prompts.prefix import PrefixPort
from contpeft.adapters.tuners.bottleneck import BottleneckLayer, ResidualTap
from contpeft.errors import UnsupportedError

__all__ = ["Gates", "layer_gates"]

_CHILD: Final = "union_gates"  # their name in the model while they are in


class Gates(Attached):
    """A gate for each part in each layer; made removed.

    Args:
        model: the transformers model, with no adapter installed.
        parts: what they scale, removed.

    Raises:
        UnsupportedError: if tokens of the model do not see those after them, or a part has nothing in its
            layers that a gate could scale.
    """

    def __init__(self, model: nn.Module, parts: Sequence[Attached]) -> None:
        self._backbone = backbone_of(model)
        if is_causal(self._backbone):
            raise UnsupportedError(
                f"gates read the whole input, and tokens of {type(self._backbone).__name__} see only those "
                "before them; leave gated=True out"
            )
        self._layers = _layers(self._backbone)
        self._scaled = [_scaled(model, number, part, self._layers) for number, part in enumerate(parts)]
        self._prefixes = [(number, port) for number, part in enumerate(parts) if (port := _prefix(part))]
        self._modules = _fresh(len(self._layers), len(parts), self._backbone)
        self._hooks: list[RemovableHandle] = []
        self._mask: Tensor | None = None
        self._now: Tensor | None = None
        self.installed = False

    def install(self) -> None:
        """Puts the gates in; nothing happens if they are."""
        if self.installed:
            return
        self._backbone.add_module(_CHILD, self._modules)
        self._hooks = [
            self._backbone.register_forward_pre_hook(self._see, with_kwargs=True),
            self._backbone.register_forward_hook(self._forget),
        ]
        for number, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_pre_hook(partial(self._open, number), with_kwargs=True))
        for part, modules in enumerate(self._scaled):
            self._hooks.extend(each.register_forward_hook(partial(self._scale, part)) for each in modules)
        self.installed = True

    def remove(self) -> None:
        """Takes the gates out; nothing happens if they are."""
        if self.installed:
            for hook in self._hooks:
                hook.remove()
            delattr(self._backbone, _CHILD)
            self._mask = self._now = None
            self.installed = False

    def parameters(self) -> list[nn.Parameter]:
        """Returns the gates' parameters."""
        return list(self._modules.parameters())

    def trainable(self) -> list[nn.Parameter]:
        """Returns the same: all are trained."""
        return self.parameters()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns ``<layer>.weight`` of shape ``(parts, width)`` and ``<layer>.bias``."""
        return dict(self._modules.named_parameters())

    def train(self, mode: bool = True) -> None:
        """Does nothing: gates compute the same in both modes."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns them on the CPU."""
        return {name: cpu_copy(value) for name, value in self.named_parameters().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets them.

        Raises:
            SpecError: if one is missing, foreign or of another shape; nothing is loaded then.
        """
        check_shapes(self.named_parameters(), tensors, "stored gates do")
        with torch.inference_mode(False):
            self._modules.load_state_dict(dict(tensors))

    def config_json(self) -> dict[str, Any]:
        """Returns nothing: the union tells that there are gates."""
        return {}

    def _see(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_checkpointing(backbone, "a union with gates")
        self._mask = named(backbone, args, kwargs).get("attention_mask")

    def _open(self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        gate = cast(nn.Linear, self._modules[number])
        self._now = layer_gates(hidden, gate.weight, gate.bias, self._mask)
        for part, port in self._prefixes:
            _scale_prefix(port, number, self._now[:, part])

    def _forget(self, backbone: nn.Module, args: Any, output: Any) -> None:
        self._mask = self._now = None

    def _scale(self, part: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if self._now is None:
            raise RuntimeError("a part of the union was called outside of the model's layers")
        return output * self._now[:, part].to(output).view(-1, *[1] * (output.ndim - 1))


def layer_gates(hidden: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the gates of a layer, ``(B, parts)``, each within 0 and 1.

    Args:
        hidden: what the layer reads, ``(B, T, d)``.
        weight: ``(parts, d)``.
        bias: ``(parts,)``.
        mask: ``(B, T)``, 1 where a token is not padding; None where none is.

    Raises:
        UnsupportedError: if the mask has other dimensions.
    """
    each = torch.sigmoid(hidden.to(weight.dtype) @ weight.T + bias)
    if mask is None:
        return each.mean(1)
    if mask.ndim != 2:
        raise UnsupportedError(
            f"an attention mask of shape {tuple(mask.shape)} does not tell gates what is padding; give "
            "one of shape (rows, tokens)"
        )
    seen = mask.to(each).unsqueeze(-1)
    return (each * seen).sum(1) / seen.sum(1).clamp(min=1)


def _layers(backbone: nn.Module) -> list[nn.Module]:
    count = cast(Any, backbone).config.num_hidden_layers
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise UnsupportedError(
        f"no list of {count} layers found in {type(backbone).__name__}, where gates would be; leave "
        "gated=True out"
    )


def _fresh(layers: int, parts: int, backbone: nn.Module) -> nn.ModuleList:
    width: int = cast(Any, backbone).config.hidden_size
    device = next(backbone.parameters()).device
    with torch.inference_mode(False):
        made = (nn.Linear(width, parts, device=device) for _ in range(layers))
        return nn.ModuleList(made)


def _prefix(part: Attached) -> PrefixPort | None:
    return part.port if isinstance(part, PromptAttachment) and isinstance(part.port, PrefixPort) else None


def _scale_prefix(port: PrefixPort, layer: int, gate: Tensor) -> None:
    if port.cache is None:
        raise RuntimeError("the model's layers were called without the model around them")
    own: Any = port.cache.layers[layer]
    factor = gate.to(own.keys).view(-1, 1, 1, 1)
    own.keys, own.values = own.keys * factor, own.values * factor


def _scaled(model: nn.Module, number: int, part: Attached, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Returns the modules of a part whose output is all that it adds."""
    if _prefix(part) is not None:
        return []
    inside = {id(module) for layer in layers for module in layer.modules()}
    found: list[nn.Module] = []
    for base, layer in part.places() if isinstance(part, Places) else ():
        if isinstance(layer.module, ResidualTap):
            continue
        adding = _adding(layer.module)
        if adding is None or id(base.parent) not in inside:
            raise _no_gate(number, part.kind)
        found.append(adding)
    if not found:
        raise _no_gate(number, part.kind)
    return found


def _adding(layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, LoraLinear) and not layer.lora_variant:
        return next(iter(layer.lora_B.values()))
    if type(layer) is BottleneckLayer:
        return next(iter(layer.bottleneck_up.values()))
    return None


def _no_gate(number: int, method: str) -> UnsupportedError:
    return UnsupportedError(
        f"part {number} of the union ({method}) has nothing in the layers that a gate could scale; gates are "
        "for lora on linear layers, houlsby, parallel, pfeiffer and prefix_tuning: leave gated=True out"
    )
