"""A model and its adapters: attach, train only that, take the weights out, let one answer.

The only room that imports PEFT.
"""

from contpeft.adapters.attachment import Attachment
from contpeft.adapters.find import find_head, find_model
from contpeft.adapters.fingerprint import tensor_items
from contpeft.adapters.heads import ClassHead, CosineHead, LinearHead, build_head
from contpeft.adapters.methods import check_spec, method_names
from contpeft.adapters.model import AdaptedModel, AnySpec, Load
from contpeft.adapters.statistics import RULES, ClassStatistics, Rule, StatisticsHead

__all__ = [
    "RULES",
    "AdaptedModel",
    "AnySpec",
    "Attachment",
    "ClassHead",
    "ClassStatistics",
    "CosineHead",
    "LinearHead",
    "Load",
    "Rule",
    "StatisticsHead",
    "build_head",
    "check_spec",
    "find_head",
    "find_model",
    "method_names",
    "tensor_items",
]
