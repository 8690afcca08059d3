"""AdaMix draws experts in training, answers with their mean, and stores it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from adapters_tiny import IDS, LABELS, bert, logits, same
from peft import PeftModel, get_peft_model
from scipy.special import rel_entr, softmax
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel, Attachment, adamix_consistency
from contpeft.adapters.methods import make_config
from contpeft.adapters.tuners import REGISTERED
from contpeft.adapters.tuners.adamix import Experts
from contpeft.adapters.tuners.configs import AdaMixConfig
from contpeft.errors import SpecError
from contpeft.spec import AdapterSpec

pytestmark = pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old")
SPEC = AdapterSpec("adamix", reduction_factor=4, experts=3)


def at_random(seed: int = 1) -> tuple[torch.nn.Module, Attachment]:
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(seed)
    attachment = Attachment(model, make_config(SPEC, model))
    with torch.no_grad():
        for parameter in attachment.parameters():
            parameter.normal_(std=0.4)
    return model, attachment


def test_the_mean_answers_and_is_what_one_adapter_would_be() -> None:
    model, attachment = at_random()
    tensors = attachment.tensors()
    other = bert()
    plain = Attachment(other, make_config(AdapterSpec("pfeiffer", reduction_factor=4), other))
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in plain.tensors().items()}
    plain.load(tensors)
    assert torch.equal(logits(model), logits(other))
    parameters = {id(p): p for p in attachment.parameters()}.values()
    assert {p.shape[0] for p in parameters} == {3}


def test_the_mean_of_equal_experts_is_one_of_them_to_the_last_bit() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(7, 5)
    experts = Experts([layer] * 3).eval()
    z = torch.randn(4, 7)
    assert torch.equal(experts(z), layer(z))


def test_in_training_each_pass_draws_and_the_seed_decides() -> None:
    model, attachment = at_random()
    attachment.train()
    answers = []
    for seed in (*range(8), 0):
        torch.manual_seed(seed)
        answers.append(logits(model))
    assert torch.equal(answers[0], answers[-1])
    assert any(not torch.equal(answers[0], each) for each in answers[1:-1])


def test_every_pass_trains_one_expert_of_each_layer() -> None:
    model, attachment = at_random()
    attachment.train()
    F.cross_entropy(model(IDS).logits, LABELS).backward()
    touched = [int(p.grad.flatten(1).any(1).sum()) for p in attachment.parameters() if p.grad is not None]
    assert touched == [1] * 8  # down and up of two layers, weight and bias


def test_a_stored_one_is_trained_on_from_its_mean() -> None:
    model, attachment = at_random()
    adapted = AdaptedModel.of(bert())
    adapted.attach(SPEC)
    assert adapted.attachment is not None
    adapted.attachment.load(attachment.tensors())
    assert torch.equal(logits(adapted.module), logits(model))
    weights = [p for p in adapted.attachment.parameters() if p.ndim == 3]
    assert all(torch.equal(p, p[:1].expand_as(p)) for p in weights)
    assert same(adapted.attachment.tensors(), attachment.tensors())


def test_peft_alone_saves_the_mean(tmp_path: Path) -> None:
    model = get_peft_model(bert(), AdaMixConfig(reduction_factor=4, init_weights="bert")).eval()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    again = PeftModel.from_pretrained(bert(), tmp_path).eval()
    assert torch.equal(logits(again), logits(model))


def test_the_consistency_is_the_symmetric_divergence_of_two_passes() -> None:
    generator = torch.Generator().manual_seed(0)
    passes = [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    given = iter(passes)
    first, distance = adamix_consistency(lambda: next(given))
    p, q = (softmax(each.numpy(), axis=-1) for each in passes)
    expected = (rel_entr(p, q).sum(-1) + rel_entr(q, p).sum(-1)).mean() / 2
    assert first is passes[0]
    np.testing.assert_allclose(distance.item(), expected, rtol=1e-12)


def test_the_consistency_is_0_where_nothing_is_drawn() -> None:
    model, attachment = at_random()
    assert adamix_consistency(lambda: model(IDS).logits)[1] == 0
    attachment.train()
    torch.manual_seed(0)
    assert adamix_consistency(lambda: model(IDS).logits)[1] > 0


def test_no_experts_are_refused() -> None:
    with pytest.raises(SpecError, match="experts=0 is no number of adapters"):
        AdaptedModel.of(bert()).attach(AdapterSpec("adamix", experts=0))
