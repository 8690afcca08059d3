"""Heads of which some rows stay: they neither learn nor compete, and are stored with the others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from contpeft.adapters import CosineHead, LinearHead, build_head, competing
from contpeft.adapters.heads import head_state
from contpeft.errors import SpecError

LABELS = ("a", "b", "c", "d", "e")


def heads(others: tuple[int, ...]) -> tuple[CosineHead, LinearHead]:
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 4), torch.randn(5)
    return CosineHead(LABELS, weight, 10.0, others), LinearHead(LABELS, weight, bias, others)


@given(st.sets(st.integers(0, 4), max_size=4))
def test_rows_keep_their_places_whichever_stay(others: set[int]) -> None:
    features = torch.randn(3, 4)
    for whole, part in zip(heads(()), heads(tuple(sorted(others))), strict=True):
        assert torch.equal(part.eval()(features), whole.eval()(features))
        stored, expected = part.stored(), whole.stored()
        assert stored.keys() == expected.keys()
        assert all(torch.equal(stored[name], expected[name]) for name in stored)


def test_in_training_only_the_others_do_not_compete() -> None:
    features, labels = torch.randn(6, 4), torch.tensor([2, 3, 4, 2, 3, 4])
    for head in heads((0, 1)):
        scores = head.train()(features)
        assert torch.isinf(scores[:, :2]).all()
        assert torch.isfinite(scores[:, 2:]).all()
        own = scores[:, 2:]
        torch.testing.assert_close(F.cross_entropy(scores, labels), F.cross_entropy(own, labels - 2))
        with competing(head):
            assert torch.isfinite(head(features)).all()
        assert torch.isinf(head(features)[:, 0]).all()


def test_weight_decay_and_momentum_leave_the_others_alone() -> None:
    for head in heads((1, 3)):
        before = {name: tensor.clone() for name, tensor in head.stored().items()}
        optimizer = torch.optim.AdamW(head.train().parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(head(torch.randn(8, 4)), torch.tensor([0, 2, 4, 0, 2, 4, 0, 2])).backward()
            optimizer.step()
        for name, after in head.stored().items():
            assert torch.equal(after[[1, 3]], before[name][[1, 3]])
            assert not torch.isclose(after[[0, 2, 4]], before[name][[0, 2, 4]]).any()


def test_what_is_stored_is_the_whole_head() -> None:
    features = torch.randn(3, 4)
    for head in heads((0, 4)):
        state = head_state(head)
        assert state.kind == "head"
        assert state.head is not None
        assert state.head.classes == LABELS
        again = build_head(state.head, state.head_tensors())
        assert torch.equal(again(features), head.eval()(features))
        assert {tensor.shape[0] for tensor in state.tensors.values()} == {5}


def test_a_head_without_others_is_as_it_always_was() -> None:
    cosine, linear = heads(())
    assert set(cosine.state_dict()) == {"weight"}
    assert set(linear.state_dict()) == {"weight", "bias"}
    assert torch.isfinite(cosine.train()(torch.randn(2, 4))).all()


def test_rows_and_classes_must_agree() -> None:
    with pytest.raises(SpecError, match=r"^a head of 5 classes needs as many rows, got \(4, 4\)$"):
        CosineHead(LABELS, torch.randn(4, 4), 10.0, (0,))
    with pytest.raises(SpecError, match=r"^a head of 5 classes needs as many rows, got \(3,\)$"):
        LinearHead(LABELS, torch.randn(5, 4), torch.zeros(3), (0,))
