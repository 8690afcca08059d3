"""Adapter methods that PEFT lacks, made known to it: it builds, saves and loads them as its own.

Importing this registers them for the whole process, so that ``PeftModel.from_pretrained`` reads their
folders once :mod:`contpeft.adapters` is imported. Before 0.21 PEFT saves no method that is not in its own
enumeration; there they are not registered, and refused by name.
"""

from __future__ import annotations

from typing import Any, cast

from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner

from contpeft.adapters.tuners.adamix import AdaMixModel
from contpeft.adapters.tuners.bitfit import BitFitModel
from contpeft.adapters.tuners.configs import (
    AdaMixConfig,
    BitFitConfig,
    CompacterConfig,
    HoulsbyConfig,
    ParallelConfig,
    PfeifferConfig,
)
from contpeft.adapters.tuners.models import BottleneckModel, CompacterModel

__all__ = ["OWN_METHODS", "REGISTERED", "register"]

OWN_METHODS: dict[str, tuple[type[PeftConfig], type[BaseTuner]]] = {
    "adamix": (AdaMixConfig, AdaMixModel),
    "bitfit": (BitFitConfig, BitFitModel),
    "compacter": (CompacterConfig, CompacterModel),
    "houlsby": (HoulsbyConfig, BottleneckModel),
    "parallel": (ParallelConfig, BottleneckModel),
    "pfeiffer": (PfeifferConfig, BottleneckModel),
}
"""The methods registered here: each one's configuration and the class that builds its layers."""

REGISTERED: bool = hasattr(BaseTuner, "_get_adapter_state_dict")
"""Whether this release of PEFT lets a method say which tensors are its own, so that they are registered."""


def register() -> None:
    """Makes the methods known to PEFT, if it can save them; called again, it changes nothing."""
    for method, (config, tuner) in OWN_METHODS.items() if REGISTERED else ():
        kind = cast(Any, method.upper())  # PEFT looks methods up by any key, not only by its own enum
        PEFT_TYPE_TO_CONFIG_MAPPING[kind] = config
        PEFT_TYPE_TO_TUNER_MAPPING[kind] = tuner
        PEFT_TYPE_TO_PREFIX_MAPPING[kind] = tuner.prefix


register()
