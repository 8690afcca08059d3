"""Classifier heads: their scores, what rebuilds them, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from contpeft.adapters import ClassHead, ClassStatistics, CosineHead, LinearHead, StatisticsHead, build_head
from contpeft.adapters.heads import head_spec
from contpeft.errors import SpecError
from contpeft.spec import HeadSpec

LABELS = ("a", "b", "c")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(st.integers(0, 1000), st.integers(1, 5), st.floats(0.5, 50))
def test_cosine_scores(seed: int, size: int, scale: float) -> None:
    features, weight = draw(4, size, seed=seed), draw(3, size, seed=seed + 1)
    scores = CosineHead(LABELS, weight, scale)(features)
    expected = scale * unit(features.double().numpy()) @ unit(weight.double().numpy()).T
    np.testing.assert_allclose(scores.detach(), expected, rtol=0, atol=1e-5 * scale)
    assert scores.abs().max() <= scale * (1 + 1e-6)


def test_linear_scores() -> None:
    features, weight, bias = draw(4, 6), draw(3, 6, seed=1), draw(3, seed=2)
    expected = features.double().numpy() @ weight.double().numpy().T
    np.testing.assert_allclose(LinearHead(LABELS, weight)(features).detach(), expected, atol=1e-5)
    np.testing.assert_allclose(
        LinearHead(LABELS, weight, bias)(features).detach(), expected + bias.numpy(), atol=1e-5
    )
    assert LinearHead(LABELS, weight.double())(features.double()).dtype == torch.float64


def test_a_cosine_head_started_at_class_means_is_the_nearest_class_mean_classifier() -> None:
    rows, labels = draw(60, 8) + draw(3, 8, seed=5).repeat(20, 1), np.tile(LABELS, 20)
    means = np.stack([unit(rows.double().numpy())[labels == each].mean(0) for each in LABELS])
    asked = draw(50, 8, seed=7)
    nearest = (unit(asked.double().numpy()) @ unit(means).T).argmax(1)
    head = CosineHead(LABELS, torch.from_numpy(means).float())
    assert head(asked).argmax(1).tolist() == nearest.tolist()


def test_a_head_has_rows_of_its_own() -> None:
    weight = torch.ones(3, 2)
    for head in (CosineHead(LABELS, weight), LinearHead(LABELS, weight, weight[:, 0])):
        assert isinstance(head.weight, nn.Parameter)
        weight.fill_(9)
        assert head.weight.max() == 1
        weight.fill_(1)


@pytest.mark.parametrize("make", [CosineHead, LinearHead])
def test_a_head_is_rebuilt_from_its_spec(make: type[CosineHead | LinearHead]) -> None:
    head = make(LABELS, draw(3, 4))
    spec = HeadSpec.from_json(head.spec().to_json())
    assert isinstance(head, ClassHead)
    assert head_spec(head, ("ignored",)) == spec
    again = build_head(spec, head.state_dict())
    assert type(again) is make
    assert torch.equal(again(draw(5, 4, seed=3)), head(draw(5, 4, seed=3)))
    if make is CosineHead:
        assert build_head(HeadSpec("cosine", LABELS, {"scale": 3.0}), head.state_dict()).scale == 3.0


def test_a_statistics_head_is_rebuilt_from_its_spec() -> None:
    statistics = ClassStatistics()
    statistics.update(draw(30, 4), LABELS * 10, group=0)
    head = build_head(statistics.spec("lda"), statistics.tensors())
    assert isinstance(head, StatisticsHead)
    assert isinstance(head, ClassHead)
    assert head_spec(head) == statistics.spec("lda") == head.spec()


def test_somebodys_head_is_kept_as_it_is() -> None:
    assert head_spec(nn.Linear(4, 3), LABELS) == HeadSpec("own", LABELS, {"module": "Linear"})
    assert head_spec(nn.Linear(4, 3)).classes == ()


def test_what_is_no_head_is_refused() -> None:
    with pytest.raises(SpecError, match="a head of 3 classes needs as many rows, got \\(2, 4\\)"):
        CosineHead(LABELS, draw(2, 4))
    with pytest.raises(SpecError, match="a head of 3 classes needs as many rows, got \\(3,\\)"):
        LinearHead(LABELS, draw(3))
    with pytest.raises(SpecError, match="a head names a class twice: a, b, a"):
        LinearHead(("a", "b", "a"), draw(3, 4))
    with pytest.raises(SpecError, match=r"cannot build a head of kind 'cosin'; did you mean 'cosine'\?"):
        build_head(HeadSpec("cosin", LABELS), {"weight": draw(3, 4)})
    with pytest.raises(SpecError, match=r"a head of kind .own.; there are: cosine, linear, mlp, stat"):
        build_head(HeadSpec("own", LABELS), {"weight": draw(3, 4)})
