"""Moments against plain sums over the vectors that pass, and what they leave untouched."""

from __future__ import annotations

import pytest
import torch
from adapters_tiny import IDS, LABELS, QUERY, Module, bert, logits, look, same, values
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel, measure_moments
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec


def attached(**options: object) -> AdaptedModel:
    adapted = AdaptedModel.of(bert())
    adapted.attach(AdapterSpec("lora", r=2, targets=["query"], **options))
    return adapted


def loss_of(adapted: AdaptedModel, rows: Tensor) -> Tensor:
    return F.cross_entropy(adapted.module(IDS[rows]).logits, LABELS[rows])


def test_moments_are_sums_over_all_rows_and_positions() -> None:
    adapted = attached()
    inputs, gradients = [], []
    layer = adapted.model.get_submodule(QUERY)

    def watch(module: object, given: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(given[0].detach())
        output.register_hook(lambda gradient: gradients.append(gradient))

    hook = layer.register_forward_hook(watch)
    for row in range(3):  # one row at a time: a mean over one row is that row's own loss
        loss_of(adapted, torch.tensor([row])).backward()
    hook.remove()
    adapted.module.zero_grad(set_to_none=True)
    x, g = torch.cat(inputs).flatten(0, 1).double(), torch.cat(gradients).flatten(0, 1).double()
    batches = [torch.tensor([0, 1]), torch.tensor([2])]
    found = measure_moments(adapted, batches, lambda rows: loss_of(adapted, rows))
    assert (found.kind, found.config) == ("moments", {"vectors": 24})
    torch.testing.assert_close(found.tensors[f"{QUERY}.gram"], (x.T @ x).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.tensors[f"{QUERY}.fisher_in"], x.square().mean(0).float(), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        found.tensors[f"{QUERY}.fisher_out"], g.square().mean(0).float(), rtol=1e-3, atol=0
    )


def test_nothing_of_the_model_changes() -> None:
    adapted = attached()
    adapted.module.train()
    before, scores, held = look(adapted.module), logits(adapted.module.eval()), values(adapted.module)
    adapted.module.train()
    before = look(adapted.module)
    measure_moments(adapted, [torch.tensor([0, 1, 2])], lambda rows: loss_of(adapted, rows))
    assert look(adapted.module) == before
    assert same(values(adapted.module), held)
    assert all(parameter.grad is None for parameter in adapted.module.parameters())
    assert torch.equal(logits(adapted.module.eval()), scores)


def test_a_frozen_model_has_moments_too() -> None:
    adapted = attached()
    expected = measure_moments(adapted, [torch.tensor([0, 1])], lambda rows: loss_of(adapted, rows)).tensors
    for parameter in adapted.module.parameters():
        parameter.requires_grad_(False)
    found = measure_moments(adapted, [torch.tensor([0, 1])], lambda rows: loss_of(adapted, rows)).tensors
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(SpecError, match="no adapter is attached to BertForSequenceClassification"):
        measure_moments(AdaptedModel.of(bert()), [], lambda rows: rows)
    adapted = attached()
    with pytest.raises(SpecError, match="there is no batch to measure moments on"):
        measure_moments(adapted, [], lambda rows: loss_of(adapted, rows))
    words = AdaptedModel.of(Module())
    words.attach(AdapterSpec("lora", r=2, targets=["word_embeddings"]))
    with pytest.raises(UnsupportedError, match="word_embeddings' takes no vectors"):
        measure_moments(words, [IDS], lambda ids: words.module(ids).sum())
