"""Bases whose weights are quantised: which methods train adapters on them, and what of them cannot train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from contpeft.errors import SpecError, UnsupportedError

__all__ = ["check_quantised", "check_trainable"]

# Trained, stored and read back bit for bit on 4-bit weights in tests/adapters/test_quantised.py. All others
# read weights as numbers they are not, at the latest in the first pass.
_METHODS: Final = frozenset(
    {
        *("adalora", "adamix", "beft", "bitfit", "boft", "compacter", "fourierft"),
        *("hira", "houlsby", "ia3", "lily", "ln_tuning", "lora", "miss"),
        *("oft", "parallel", "pfeiffer", "pvera", "randlora", "road", "shira"),
        *("trainable_tokens", "vblora", "vera", "waveft"),
    }
)


def check_quantised(method: str, model: nn.Module) -> None:
    """Checks that a method works on the weights of a model, if these are quantised.

    Raises:
        UnsupportedError: if not, or if that is not known.
    """
    found = None if method in _METHODS else next(_quantised(model), None)
    if found is not None:
        name, module = found
        raise UnsupportedError(
            f"method {method!r} does not train on quantised weights ({type(module).__name__} at {name}); "
            f"load the base unquantised, or use one of: {', '.join(sorted(_METHODS))}"
        )


def check_trainable(head: nn.Module) -> None:
    """Checks that a head can be trained.

    Raises:
        SpecError: if its weights are quantised.
    """
    found = next(_quantised(head), None)
    if found is not None:
        raise SpecError(
            f"the head is quantised ({type(found[1]).__name__}) and cannot be trained; leave it out in the "
            "quantization config (llm_int8_skip_modules or modules_to_not_convert)"
        )


def _quantised(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules whose weight is quantised, with their names."""
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and _is_quantised(weight):
            yield name, module


def _is_quantised(weight: Any) -> bool:
    return is_traceable_wrapper_subclass(weight) or not weight.is_floating_point()
