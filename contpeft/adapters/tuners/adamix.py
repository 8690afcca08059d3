"""AdaMix: several bottleneck adapters a site, one drawn at random per pass in training, then their mean.

In training every pass draws, site by site, one ``down`` and one ``up`` of the experts, each with the same
probability (Wang et al., 2022, section 3.1). In eval mode the mean of the weights answers (section 3.3), and
the mean is what is stored: a stored adapter is one adapter, as large and as fast as one. Trained on, all
experts start from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters.tuners.bottleneck import BottleneckLayer, ResidualTap
from contpeft.adapters.tuners.configs import AdaMixConfig, BottleneckConfig
from contpeft.adapters.tuners.models import BottleneckModel
from contpeft.adapters.tuners.sites import Flow

__all__ = ["AdaMixLayer", "AdaMixModel", "Experts", "adamix_consistency", "symmetric_divergence"]


class Experts(nn.Module):
    """Linear layers of which one is drawn per pass in training; in eval mode their mean.

    Args:
        layers: the linear layers, all of one shape.
    """

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, z: Tensor) -> Tensor:
        """Returns what a layer does with ``z``, of shape ``(..., inputs)``."""
        if self.training:
            drawn = int(torch.randint(len(self.weight), ()))
            return F.linear(z, self.weight[drawn], self.bias[drawn])
        return F.linear(z, _mean(self.weight), _mean(self.bias))


class AdaMixLayer(BottleneckLayer):
    """A module of the base with several bottleneck adapters around it."""

    def _linears(self, config: BottleneckConfig, hidden: int, like: Tensor) -> tuple[nn.Module, nn.Module]:
        one = super()._linears
        pairs = [one(config, hidden, like) for _ in range(cast(AdaMixConfig, config).experts)]
        down, up = (Experts(cast(list[nn.Linear], list(each))) for each in zip(*pairs, strict=True))
        return down, up


class AdaMixModel(BottleneckModel):
    """A model with AdaMix's adapters."""

    def _layer(self, target: nn.Module, flow: Flow, tap: ResidualTap | None) -> BottleneckLayer:
        return AdaMixLayer(target, flow, tap)

    @classmethod
    def _get_adapter_state_dict(cls, *arguments: Any, **options: Any) -> dict[str, Tensor]:
        """Returns the mean adapter's tensors; those that are no expert's as they are."""
        found: dict[str, Tensor] = super()._get_adapter_state_dict(*arguments, **options)
        return {name: _mean(t.detach()) if _is_experts(name) else t for name, t in found.items()}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Returns the tensors by the model's names, the mean adapter's once per expert."""
        found: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict
        )
        count = config.experts
        return {
            name: t.expand(count, *t.shape).clone() if _is_experts(name) else t for name, t in found.items()
        }


def adamix_consistency(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the logits of one pass, and how far those of a second pass are from them.

    In training the two passes draw other experts; added to the loss, the distance keeps these close enough
    for their mean (Wang et al., 2022, section 3.2).

    Args:
        forward: runs the model on a batch and returns its logits, ``(..., classes)``.

    Returns:
        The first pass' logits, and the mean over the batch of the symmetric Kullback-Leibler divergence
        ``(KL(p, q) + KL(q, p)) / 2`` in nats.
    """
    first, second = forward(), forward()
    return first, symmetric_divergence(first, second)


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Returns the mean over rows of ``(KL(p, q) + KL(q, p)) / 2`` in nats, of logits ``(..., classes)``."""
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    divergence = ((p.exp() - q.exp()) * (p - q)).sum(-1)
    return divergence.mean() / 2


def _mean(experts: Tensor) -> Tensor:
    """Returns the mean over the first dimension, such that equal experts have themselves as mean."""
    return experts[0] + (experts - experts[0]).mean(0)


def _is_experts(name: str) -> bool:
    return ".bottleneck_down." in name or ".bottleneck_up." in name
