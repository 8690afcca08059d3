"""LoRA adapters with gates: each row is computed by a sum of them that gates weigh by what the row is."""

from contpeft.adapters.gated.attachment import GatedAttachment
from contpeft.adapters.gated.feature import reading_rows
from contpeft.adapters.gated.gate import Gate, GateOptions, GateRule, weigh
from contpeft.adapters.gated.states import gate_of, gates_of, lora_of

__all__ = [
    "Gate",
    "GateOptions",
    "GateRule",
    "GatedAttachment",
    "gate_of",
    "gates_of",
    "lora_of",
    "reading_rows",
    "weigh",
]
