"""Two passes over each batch of a fit, kept close to each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from contpeft.adapters.tuners.adamix import symmetric_divergence
from contpeft.errors import UnsupportedError

__all__ = ["in_two_passes"]

Step = Callable[..., Any]


def in_two_passes(training_step: Step, head: nn.Module | None, weight: float) -> Step:
    """Returns a ``training_step`` that runs twice and keeps what the two answer close (AdaMix, section 3.2).

    Its loss is the mean of the two losses, and ``weight`` times the symmetric divergence between what the
    head says in one pass and in the other. All else it returns is the first pass'.

    Args:
        training_step: the module's own.
        head: the classifier head, whose outputs are logits ``(..., classes)``.
        weight: of the divergence.

    Raises:
        UnsupportedError: if there is no head; from the step, if the head is not asked or says no logits.
    """
    if head is None:
        raise UnsupportedError(
            "adamix with consistency compares the logits of two passes, and the module has no classifier "
            "head; name its place with head='...', or leave consistency at 0"
        )
    asked = head

    @functools.wraps(training_step)
    def step(*args: Any, **kwargs: Any) -> Any:
        with _logits_of(asked) as first:
            outputs = training_step(*args, **kwargs)
        if _loss(outputs) is None:
            return outputs  # Lightning skips the batch, or says what is missing
        with _logits_of(asked) as second:
            again = training_step(*args, **kwargs)
        loss = (_loss(outputs) + _loss(again)) / 2 + weight * _divergence(asked, first, second)
        return {**outputs, "loss": loss} if isinstance(outputs, Mapping) else loss

    return step


@contextmanager
def _logits_of(head: nn.Module) -> Iterator[list[Any]]:
    """Gathers what the head returns inside the block."""
    said: list[Any] = []
    hook = head.register_forward_hook(lambda module, inputs, output: said.append(output))
    try:
        yield said
    finally:
        hook.remove()


def _divergence(head: nn.Module, first: list[Any], second: list[Any]) -> Tensor:
    if not first or len(first) != len(second) or not all(map(_is_logits, [*first, *second])):
        raise UnsupportedError(
            f"adamix with consistency compares the logits of two passes, and in training_step the head "
            f"({type(head).__name__}) gave none; let training_step call it, or leave consistency at 0"
        )
    pairs = [symmetric_divergence(p, q) for p, q in zip(first, second, strict=True)]
    return sum(pairs[1:], start=pairs[0]) / len(pairs)


def _is_logits(output: Any) -> bool:
    return isinstance(output, Tensor) and output.ndim > 1 and output.is_floating_point()


def _loss(outputs: Any) -> Any:
    return outputs.get("loss") if isinstance(outputs, Mapping) else outputs
