"""Fusion over LoRA adapters in a model: at every layer they change, attention over what they add.

New beside Pfeiffer et al. (2021), who fuse bottleneck adapters: a LoRA adapter ``B A`` is a bottleneck
without an activation, so that the folded form of a fusion layer serves it as it is. The layer's own output
scores and is the residual; the adapters are frozen and without dropout, and only the fusion trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from contpeft.adapters.fusion.layer import Bottlenecks, FusionLayer, FusionOptions
from contpeft.adapters.places import Place, Places, fill
from contpeft.adapters.stacked import StackedLora
from contpeft.errors import IntegrityError, SpecError, UnsupportedError
from contpeft.spec import AdapterState, Version
from contpeft.spec.lora import ROOT

__all__ = ["FUSION", "FusedLinear", "FusionAttachment", "Member", "members_of"]

FUSION: Final = "fusion"
# A stored adapter that is fused.
Member = tuple[Version, AdapterState]


class FusedLinear(nn.Module):
    """A linear layer and several LoRA adapters of it, mixed by attention.

    Args:
        base_layer: the model's own layer.
        a: ``(N, r, d_in)``.
        b: ``(N, d_out, r)``, scaling included.
        options: what the fusion layer is made of.
    """

    a: Tensor
    b: Tensor

    def __init__(self, base_layer: nn.Module, a: Tensor, b: Tensor, options: FusionOptions) -> None:
        super().__init__()
        self.base_layer = base_layer
        # Not part of the fusion's state: they are the members', which are stored already.
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)
        self.fusion = FusionLayer(b.shape[1], options).to(b)

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the layer says and the mixture of what the adapters add, ``(B, ..., d_out)``."""
        said: Tensor = self.base_layer(x)
        count, rank = self.a.shape[:2]
        hidden = F.linear(x.to(self.a.dtype), self.a.flatten(0, 1))
        hidden = hidden.reshape(*hidden.shape[:-1], count, rank)
        adapters = Bottlenecks(_positions(hidden, 4), self.b, self.b.new_zeros(self.b.shape[:2]))
        residual = _positions(said, 3).to(self.b.dtype)
        if self.fusion.options.residual_before:
            mixed: Tensor = self.fusion(residual, adapters.outputs(), residual)
        else:
            mixed = self.fusion.folded(residual, adapters, residual)
        return mixed.reshape(said.shape).to(said.dtype)


class FusionAttachment(Places):
    """A fusion of LoRA adapters made for one model; made installed.

    Args:
        model: the transformers model, with no adapter installed.
        members: the adapters.
        options: what the fusion layers are made of.

    Raises:
        SpecError: if there are fewer than two adapters, or they do not fit the model.
        UnsupportedError: if one is no LoRA adapter of linear layers.
    """

    def __init__(
        self, model: nn.Module, members: Sequence[Member], options: FusionOptions | None = None
    ) -> None:
        if len(members) < 2:
            raise SpecError(f"a fusion needs two adapters at least, there are {len(members)}")
        self.options = options or FusionOptions()
        self._members = [(version.ref, version.fingerprint) for version, _ in members]
        stack = StackedLora([state for _, state in members])
        sites = {path: stack.factors(path) for path in stack.modules}
        base = {path: _place(model, path) for path in sites}
        self._fused = {
            path: FusedLinear(base[path].module, *factors, self.options) for path, factors in sites.items()
        }
        layers = [base[path]._replace(module=layer) for path, layer in self._fused.items()]
        super().__init__(list(base.values()), layers)
        for path, layer in self._fused.items():
            layer.to(next(base[path].module.parameters()).device).train(base[path].module.training)
        fill(layers)

    def trainable(self) -> list[nn.Parameter]:
        """Returns the parameters of the fusion layers."""
        return self.parameters()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the parameters under their names in :meth:`tensors`."""
        return {
            f"{ROOT}{path}.fusion.{name}": parameter
            for path, layer in self._fused.items()
            for name, parameter in layer.fusion.named_parameters()
        }

    def tensors(self) -> dict[str, Tensor]:
        """Returns the fusion's tensors on the CPU."""
        return {
            f"{ROOT}{path}.fusion.{name}": value.detach().to("cpu", copy=True).contiguous()
            for path, layer in self._fused.items()
            for name, value in layer.fusion.state_dict().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the fusion's tensors.

        Raises:
            SpecError: if a tensor is missing, foreign or of another shape; nothing is loaded then.
        """
        own = {name: tuple(value.shape) for name, value in self.tensors().items()}
        given = {name: tuple(value.shape) for name, value in tensors.items()}
        if own != given:
            wrong = sorted(name for name in {*own, *given} if own.get(name) != given.get(name))
            raise SpecError(f"a stored fusion does not fit: {len(wrong)} tensors differ (first: {wrong[0]})")
        for path, layer in self._fused.items():
            prefix = f"{ROOT}{path}.fusion."
            inside = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
            layer.fusion.load_state_dict(inside)

    def config_json(self) -> dict[str, Any]:
        """Returns what the fusion is made of and over which versions, as JSON."""
        over = [{"ref": ref, "fingerprint": fingerprint} for ref, fingerprint in self._members]
        return {"peft_type": FUSION.upper(), "options": asdict(self.options), "over": over}

    def penalty(self) -> Tensor:
        """Returns what keeps the value matrices near the identity, a scalar to add to the loss."""
        return torch.stack([layer.fusion.penalty() for layer in self._fused.values()]).sum()

    def watch(self, *, on: bool = True) -> None:
        """Lets every site keep its last mixture weights, or not."""
        for layer in self._fused.values():
            layer.fusion.watch = on

    def attention(self) -> dict[str, Tensor]:
        """Returns the last mixture weights ``(B, T, N)`` of every site that is watched."""
        found = {path: layer.fusion.attention for path, layer in self._fused.items()}
        return {path: weights for path, weights in found.items() if weights is not None}

    @classmethod
    def from_state(cls, model: nn.Module, state: AdapterState, members: Sequence[Member]) -> FusionAttachment:
        """Returns a stored fusion, installed in ``model``, with its weights.

        Raises:
            IntegrityError: if a member is not the version that was fused.
            SpecError: if it does not fit the model, which is as it was then.
        """
        told = state.config["over"]
        for entry, (version, _) in zip(told, members, strict=True):
            if entry["fingerprint"] != version.fingerprint:
                raise IntegrityError(
                    f"the fusion was made over {entry['ref']} of tensors {entry['fingerprint'][:12]}, "
                    f"{version.ref} has others; give the version it was made over"
                )
        with torch.random.fork_rng(devices=[]):
            attachment = cls(model, members, FusionOptions(**state.config["options"]))
        try:
            attachment.load(state.adapter_tensors())
        except SpecError:
            attachment.remove()
            raise
        return attachment


def members_of(state: AdapterState) -> list[str]:
    """Returns the references of the versions that a stored fusion is over."""
    return [str(entry["ref"]) for entry in state.config["over"]]


def _place(model: nn.Module, path: str) -> Place:
    parent, _, name = path.rpartition(".")
    try:
        place = Place(model.get_submodule(parent), name, model.get_submodule(path))
    except AttributeError as error:
        raise SpecError(
            f"the adapters change {path!r}, which {type(model).__name__} does not have"
        ) from error
    if not isinstance(place.module, nn.Linear | Conv1D):
        raise UnsupportedError(f"{path!r} is a {type(place.module).__name__}; fusion is over linear layers")
    return place


def _positions(values: Tensor, dimensions: int) -> Tensor:
    """Returns values with rows first and all positions in one dimension."""
    missing = dimensions - values.ndim
    if missing > 0:
        return values.unsqueeze(1)
    return values.flatten(1, 1 - missing) if missing < 0 else values
