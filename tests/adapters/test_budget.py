"""Automatic adapters: within the budget, and no smaller than they could be."""

from __future__ import annotations

from typing import Any

import pytest
from adapters_tiny import bert, gpt2, t5, vit

from contpeft.adapters import AdaptedModel, check_spec
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec

MODELS = (bert, gpt2, vit, t5)


def trained_by(make: Any, spec: AdapterSpec) -> tuple[int, dict[str, Any], int]:
    """Returns what an adapter trains, its configuration, and the size of the base."""
    adapted = AdaptedModel.of(make())
    base = adapted.base.parameters
    state_of = adapted.attach(spec)
    return sum(p.numel() for p in state_of.parameters()), state_of.config_json(), base


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("share", [5, 20, 60])
def test_a_share_of_the_base_is_held_and_used_up(make: Any, share: int) -> None:
    count, config, base = trained_by(make, AdapterSpec.auto(f"{share}%"))
    assert config["lora_alpha"] == 2 * config["r"]
    assert count <= share / 100 * base
    more = (config["r"] + 1) * count // config["r"]
    assert more > share / 100 * base or config["r"] == 16


@pytest.mark.parametrize("make", MODELS)
def test_room_goes_to_layers_first_and_then_to_rank(make: Any) -> None:
    _, large, _ = trained_by(make, AdapterSpec.auto(100_000))
    _, small, _ = trained_by(make, AdapterSpec.auto(700))
    assert len(large["target_modules"]) > len(small["target_modules"])
    assert large["r"] >= 4
    assert small["r"] >= 1


def test_what_is_no_budget_is_refused() -> None:
    with pytest.raises(SpecError, match="a budget of 10 parameters holds no adapter; rank 1 takes"):
        trained_by(bert, AdapterSpec.auto(10))
    for wrong in ("much", "0%", "101%", 0, -1):
        with pytest.raises(SpecError, match=r"cannot be meant; write '0\.5%'"):
            check_spec(AdapterSpec.auto(wrong))
    with pytest.raises(SpecError, match="'auto' chooses 'r' itself"):
        check_spec(AdapterSpec("auto", r=8))
    check_spec(AdapterSpec.auto())
