"""What an adapter method is called, whoever registered it with PEFT."""

from __future__ import annotations

from enum import Enum
from typing import Any

from peft import PeftConfig

__all__ = ["method_name", "method_of"]


def method_name(kind: Any) -> str:
    """Returns the name of a method: ``"lora"`` of PEFT's member of an enumeration, or of a plain string."""
    return str(kind.value if isinstance(kind, Enum) else kind).lower()


def method_of(config: PeftConfig) -> str:
    """Returns the name of the method a configuration is of."""
    return method_name(config.peft_type)
