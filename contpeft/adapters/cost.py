"""What an adapter costs in a model: numbers trained and stored, bytes, and arithmetic for a token more."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from contpeft.adapters.attaching import attach_fresh
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec

__all__ = ["Cost", "adapter_cost", "base_parameters", "flops_per_token"]

# Tokens of the pass that is counted; fewer where the model has few positions, of which prompts need some.
_TOKENS: Final = 128


@dataclass(frozen=True)
class Cost:
    """What an adapter costs.

    Attributes:
        trainable: how many numbers it trains.
        stored: how many numbers a version holds, head excluded.
        bytes: size of these.
        flops: floating-point operations a token takes more than through the bare base; None if not counted,
            or if the model has no position left for a token.
    """

    trainable: int
    stored: int
    bytes: int
    flops: int | None = None


def adapter_cost(
    spec: AdapterSpec, model: nn.Module, head: nn.Module | None, base_flops: float | None = None
) -> Cost:
    """Returns what a fresh adapter costs; it is attached and taken out again.

    Args:
        spec: the adapter.
        model: a transformers model with no adapter in it; it is as it was afterwards.
        head: the classifier head inside the model, which is left alone.
        base_flops: :func:`flops_per_token` of the bare model; None to count none.

    Raises:
        SpecError: if the spec does not fit the model.
        UnsupportedError: if it would change more than the modules it is applied to.
    """
    with _silent(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attached = attach_fresh(model, spec, head)
    try:
        trained = {id(p): p.numel() for p in attached.trainable()}
        tensors = attached.tensors().values()
        through = None if base_flops is None else _through(model)
    finally:
        attached.remove()
    return Cost(
        trainable=sum(trained.values()),
        stored=sum(tensor.numel() for tensor in tensors),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        flops=None if base_flops is None or through is None else round(through - base_flops),
    )


def _through(model: nn.Module) -> float | None:
    try:
        return flops_per_token(model)
    except SpecError:  # a prompt takes all positions
        return None


def base_parameters(model: nn.Module, head: nn.Module | None) -> int:
    """Returns the number of a model's parameters, those of the head left out."""
    own = {id(p) for p in head.parameters()} if head is not None else set()
    return sum(p.numel() for p in model.parameters() if id(p) not in own)


def flops_per_token(model: nn.Module) -> float | None:
    """Returns the floating-point operations of a forward pass as the model stands, by its tokens.

    Matrix products and convolutions are counted, at two operations for a multiplication and an addition; what
    works entry by entry is not. The model is in eval mode meanwhile.

    Args:
        model: a transformers model that reads token ids.

    Returns:
        Operations a token in one row of 128 tokens, or of half as many as the model has positions; None for
        a model that reads something else, such as images.
    """
    inputs = _inputs(model)
    if inputs is None:
        return None
    # The counter knows no fused attention of the CPU.
    plain = sdpa_kernel(SDPBackend.MATH)
    with _silent(), _resting(model), torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        model(**inputs)
    return float(counter.get_total_flops()) / inputs["input_ids"].numel()


def _inputs(model: Any) -> dict[str, Tensor] | None:
    if getattr(model, "main_input_name", None) != "input_ids":
        return None
    positions = getattr(model.config, "max_position_embeddings", None) or 2 * _TOKENS
    device = next(model.parameters()).device
    return {"input_ids": torch.ones(1, min(_TOKENS, positions // 2), dtype=torch.long, device=device)}


@contextlib.contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """Puts a model in eval mode and asks no gradients of it, which the counter would follow."""
    modes = [(each, each.training) for each in model.modules()]
    flags = [(each, each.requires_grad) for each in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps methods from telling how far they are; what counts here is what they refuse."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
