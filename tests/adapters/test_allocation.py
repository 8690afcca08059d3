"""AdaLoRA allocates ranks as PEFT's training loop does, and stores what is left of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_tiny import IDS, LABELS, bert, logits, same
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from contpeft.adapters import AdaptedModel
from contpeft.adapters.allocation import RankAllocation
from contpeft.digest import canonical_json
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec, AdapterState

EXACT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SCHEDULE: dict[str, Any] = {"init_r": 5, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2}
STEPS = 14


def attached(**options: Any) -> AdaptedModel:
    adapted = AdaptedModel.of(bert(**EXACT))
    torch.manual_seed(0)
    adapted.attach(AdapterSpec("adalora", **(SCHEDULE | options)))
    return adapted


def factors(model: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}


def train(adapted: AdaptedModel, steps: int = STEPS, planned: int | None = None) -> list[dict[str, Any]]:
    """Trains as the callback does; returns the adapter's parameters after each step."""
    dynamics = adapted.attachment.dynamics
    dynamics.prepare(planned)
    optimizer = torch.optim.AdamW(adapted.train_only(), lr=0.03)
    seen = []
    for step in range(steps):
        loss = adapted.module(IDS, labels=LABELS).loss + dynamics.loss()
        loss.backward()
        dynamics.before_step()
        optimizer.step()
        dynamics.after_step(step)
        optimizer.zero_grad()
        seen.append(factors(adapted.module))
    dynamics.finish(steps)
    return seen


def pefts_loop(steps: int = STEPS) -> list[dict[str, Any]]:
    """Trains as PEFT's documentation tells; returns the adapter's parameters after each step."""
    model = bert(**EXACT)
    torch.manual_seed(0)
    config = AdaLoraConfig(target_modules=["query", "value"], total_step=steps, **SCHEDULE)
    peft = get_peft_model(model, config, adapter_name="current").eval()
    model.classifier.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=0.03)
    seen = []
    for step in range(steps):
        peft.base_model(input_ids=IDS, labels=LABELS).loss.backward()  # a PeftModel for a task calls this
        optimizer.step()
        peft.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        seen.append(factors(model))
    return seen


def test_every_step_is_that_of_pefts_loop() -> None:
    ours, theirs = train(attached(), planned=STEPS), pefts_loop()
    for step, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        assert own.keys() == other.keys()
        for name, parameter in own.items():
            torch.testing.assert_close(parameter, other[name], rtol=0, atol=1e-6, msg=f"{name}, step {step}")
    kept = [sum(int(p.count_nonzero()) for n, p in each.items() if "lora_E" in n) for each in ours]
    assert kept[2] == 4 * 5
    assert kept[-1] == 4 * 2
    allocated = kept[4 : STEPS - 3 : 2]  # in between, what was pruned may come back
    assert sorted(allocated, reverse=True) == allocated


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning")
def test_what_is_left_of_the_ranks_is_stored_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    adapted = attached()
    whole = logits(adapted.module)
    last = train(adapted, planned=STEPS)[-1]
    state = adapted.state()
    ranks = {name: len(t) for name, t in state.adapter_tensors().items() if "lora_E" in name}
    assert sum(ranks.values()) == 4 * 2
    pattern = state.config["rank_pattern"]
    assert {f"base_model.model.{name}": sum(kept) for name, kept in pattern.items()} == ranks
    assert state.config["total_step"] == STEPS
    for name, kept in pattern.items():
        assert torch.equal(
            state.tensors[f"base_model.model.{name}"], last[f"{name}.current"][torch.tensor(kept)]
        )
    assert {id(p) for p in adapted.attachment.trainable()} <= {id(p) for p in adapted.module.parameters()}
    answered = logits(adapted.module)
    assert (answered - whole).abs().max() > 1e-3
    stored = AdapterState(
        state.kind, json.loads(canonical_json(dict(state.config))), dict(state.tensors), state.head
    )
    fresh = AdaptedModel.of(bert(**EXACT))
    fresh.attach_state(stored)
    fresh.load_head(stored)
    assert torch.equal(logits(fresh.module), answered)
    assert same(fresh.state().tensors, state.tensors)
    assert fresh.state().config == state.config
    # PEFT reads the same folder.
    save_file(state.adapter_tensors(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(dict(state.config)))
    other = bert(**EXACT)
    read = PeftModel.from_pretrained(other, tmp_path).eval()
    other.classifier.load_state_dict(state.head_tensors())
    torch.testing.assert_close(logits(read), answered, rtol=0, atol=1e-6)


def test_a_stored_adapter_keeps_its_ranks_when_it_is_trained_on() -> None:
    adapted = attached()
    train(adapted, planned=STEPS)
    state = adapted.state()
    again = AdaptedModel.of(bert(**EXACT))
    again.attach_state(state, AdapterSpec("adalora", **SCHEDULE))
    assert isinstance(again.attachment.dynamics, RankAllocation)
    assert not again.attachment.dynamics.plans
    train(again, steps=3)
    after = again.state()
    assert {n: t.shape for n, t in after.tensors.items()} == {n: t.shape for n, t in state.tensors.items()}
    assert not same(after.adapter_tensors(), state.adapter_tensors())
    assert len({id(p) for p in again.attachment.trainable()}) == 12


def test_the_regulariser_is_the_mean_distance_from_orthogonal_factors() -> None:
    adapted = attached(orth_reg_weight=0.25)
    distances = [
        (t @ t.T if "lora_A" in name else t.T @ t).double().sub(torch.eye(5)).norm()
        for name, t in adapted.attachment.tensors().items()
        if "lora_E" not in name
    ]
    expected = 0.25 * sum(distances) / 8
    torch.testing.assert_close(adapted.attachment.dynamics.loss().double(), expected, rtol=1e-5, atol=0)


def test_a_loop_that_tells_nothing_allocates_nothing() -> None:
    adapted = attached()
    dynamics = adapted.attachment.dynamics
    dynamics.after_step(0)
    dynamics.finish(1)
    assert adapted.state().config["rank_pattern"] is None


def test_a_fit_that_ends_early_keeps_the_ranks_it_had_then() -> None:
    adapted = attached()
    train(adapted, steps=8, planned=STEPS)
    state = adapted.state()
    kept = sum(len(t) for name, t in state.adapter_tensors().items() if "lora_E" in name)
    assert 4 * 2 < kept < 4 * 5
    fresh = AdaptedModel.of(bert(**EXACT))
    fresh.attach_state(state)
    fresh.load_head(state)
    assert torch.equal(logits(fresh.module), logits(adapted.module))


def test_a_budget_that_falls_to_the_last_step_reaches_its_end() -> None:
    adapted = attached(tfinal=0, deltaT=5)
    train(adapted, planned=STEPS)
    assert sum(len(t) for name, t in adapted.attachment.tensors().items() if "lora_E" in name) == 4 * 2


def test_steps_behind_the_planned_ones_keep_the_ranks() -> None:
    adapted = attached(total_step=9)
    train(adapted)
    assert sum(len(t) for name, t in adapted.attachment.tensors().items() if "lora_E" in name) == 4 * 2


@pytest.mark.parametrize(
    ("options", "planned", "message"),
    [
        ({"target_r": 5}, 20, "prunes rank init_r=5 down to target_r=5, which is no less"),
        ({}, None, "adalora plans over all steps, and this fit has no planned end"),
        ({}, 5, "no step to prune in: the fit has 5, tinit=2 and tfinal=3 are kept free"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(options: Any, planned: int | None, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        attached(**options).attachment.dynamics.prepare(planned)


def test_a_step_without_finite_gradients_is_no_step() -> None:
    adapted = attached()
    dynamics = adapted.attachment.dynamics
    dynamics.prepare(STEPS)
    (adapted.module(IDS, labels=LABELS).loss * float("inf")).backward()
    dynamics.after_step(0)
    assert dynamics.state()["ipt"] == {}


def test_scores_and_ranks_are_taken_up_again() -> None:
    first, second = attached(), attached()
    first.attachment.dynamics.prepare(STEPS)
    second.attachment.dynamics.prepare(STEPS)

    def step(adapted: AdaptedModel, number: int) -> None:
        optimizer = torch.optim.SGD(adapted.train_only(), lr=0.5)
        (adapted.module(IDS, labels=LABELS).loss + adapted.attachment.dynamics.loss()).backward()
        optimizer.step()
        adapted.attachment.dynamics.after_step(number)
        optimizer.zero_grad()

    for number in range(5):
        step(first, number)
    second.module.load_state_dict(first.module.state_dict())
    kept = first.attachment.dynamics.state()
    second.attachment.dynamics.resume(kept)
    assert second.attachment.dynamics.state() == kept  # before a step is taken, too
    for number in (5, 6):
        step(first, number)
        step(second, number)
    one, two = (each.attachment.dynamics.state() for each in (first, second))
    assert one["rank_pattern"] == two["rank_pattern"] is not None
    for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
        assert len(one[name]) == 12
        assert same(one[name], two[name])
