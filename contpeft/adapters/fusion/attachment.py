"""Fusion over adapters in a model: wherever they change it, attention over what they add.

The adapters are frozen and without dropout, and only the fusion trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from contpeft.adapters.attached import check_shapes, cpu_copy
from contpeft.adapters.fusion.bottleneck import BOTTLENECKS, FusedBottleneck, bottleneck_sites
from contpeft.adapters.fusion.layer import FusionOptions
from contpeft.adapters.fusion.linear import FusedLinear, linear_sites
from contpeft.adapters.fusion.members import Kept
from contpeft.adapters.places import Place, Places, fill, set_mode
from contpeft.errors import IntegrityError, SpecError, UnsupportedError
from contpeft.spec import AdapterState, Version
from contpeft.spec.lora import ROOT
from contpeft.spec.methods import FUSION

__all__ = ["FUSION", "FusionAttachment", "Member", "members_of"]

# A stored adapter that is fused.
Member = tuple[Version, AdapterState]

_Fused = Mapping[str, FusedLinear] | Mapping[str, FusedBottleneck]


class FusionAttachment(Places):
    """A fusion of adapters made for one model; made installed.

    Args:
        model: the transformers model, with no adapter installed.
        members: the adapters: LoRA of linear layers, or bottleneck adapters of one method.
        options: what the fusion layers are made of.
        kept: of a fusion that was pruned, which of the members each site mixes, by its path; see
            :mod:`contpeft.adapters.fusion.pruning`.

    Attributes:
        members: references of the adapters.
        options: as given.
        kept: as given.

    Raises:
        SpecError: if there are fewer than two adapters, or they do not fit the model or each other.
        UnsupportedError: if adapters of their methods are not fused, or not with these options.
    """

    def __init__(
        self,
        model: nn.Module,
        members: Sequence[Member],
        options: FusionOptions | None = None,
        kept: Kept | None = None,
    ) -> None:
        if len(members) < 2 and kept is None:
            raise SpecError(f"a fusion needs two adapters at least, there are {len(members)}")
        self.options = options or FusionOptions()
        self.kept = kept
        self.members = tuple(version.ref for version, _ in members)
        self._fingerprints = [version.fingerprint for version, _ in members]
        states = [state for _, state in members]
        base, layers, self._fused = _sites(model, states, self.options, kept)
        super().__init__(base, layers)
        device = next(model.parameters()).device
        for own, place in self.places():
            place.module.to(device)
            set_mode([place], self._base, training=own.module.training)
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
            f"{ROOT}{path}.fusion.{name}": cpu_copy(value)
            for path, layer in self._fused.items()
            for name, value in layer.fusion.state_dict().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the fusion's tensors.

        Raises:
            SpecError: if a tensor is missing, foreign or of another shape; nothing is loaded then.
        """
        check_shapes(self.tensors(), tensors, "a stored fusion does")
        for path, layer in self._fused.items():
            prefix = f"{ROOT}{path}.fusion."
            inside = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
            layer.fusion.load_state_dict(inside)

    def config_json(self) -> dict[str, Any]:
        """Returns what the fusion is made of and over which versions, as JSON."""
        over = [
            {"ref": ref, "fingerprint": fingerprint}
            for ref, fingerprint in zip(self.members, self._fingerprints, strict=True)
        ]
        pruned = {} if self.kept is None else {"kept": {path: list(own) for path, own in self.kept.items()}}
        return {"peft_type": FUSION.upper(), "options": asdict(self.options), "over": over, **pruned}

    def penalty(self) -> Tensor:
        """Returns what keeps the value matrices near the identity, a scalar to add to the loss."""
        return torch.stack([layer.fusion.penalty() for layer in self._fused.values()]).sum()

    def watch(self) -> None:
        """Lets every site keep its last mixture weights, from now on."""
        for layer in self._fused.values():
            layer.fusion.watch = True

    def attention(self) -> dict[str, Tensor]:
        """Returns the last mixture weights ``(B, T, N)`` of every site that is watched.

        Where the fusion was pruned, a site has a column for each member that it keeps.
        """
        found = {path: layer.fusion.attention for path, layer in self._fused.items()}
        return {path: weights for path, weights in found.items() if weights is not None}

    @classmethod
    def from_state(cls, model: nn.Module, state: AdapterState, members: Sequence[Member]) -> FusionAttachment:
        """Returns a stored fusion, installed in ``model``, with its weights.

        Args:
            model: the transformers model, with no adapter installed.
            state: the fusion.
            members: the versions it is over, in its order.

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
            attachment = cls(
                model, members, FusionOptions(**state.config["options"]), state.config.get("kept")
            )
        return attachment.filled(state.adapter_tensors())


def members_of(state: AdapterState) -> list[str]:
    """Returns the references of the versions that a stored fusion is over."""
    return [str(entry["ref"]) for entry in state.config["over"]]


def _sites(
    model: nn.Module, states: Sequence[AdapterState], options: FusionOptions, kept: Kept | None
) -> tuple[list[Place], list[Place], _Fused]:
    kinds = sorted({state.kind for state in states})
    if kinds == ["lora"]:
        return linear_sites(model, states, options, kept)
    if len(kinds) == 1 and kinds[0] in BOTTLENECKS:
        return bottleneck_sites(model, states, options, kept)
    raise UnsupportedError(
        f"adapters of method {', '.join(map(repr, kinds))} are not fused; give several of one of these: "
        f"lora, {', '.join(BOTTLENECKS)}"
    )
