"""Rules over class statistics and kept features, each against an oracle of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from contpeft.adapters import ClassStatistics, KeptFeatures, StatisticsHead, check_head
from contpeft.errors import SpecError
from contpeft.spec import HeadSpec

WIDTH = 5


def sample(seed: int, n: int, labels: str) -> tuple[Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(26, WIDTH, generator=torch.Generator().manual_seed(7))
    drawn = [labels[i % len(labels)] for i in range(n)]
    at = centres[[ord(each) - ord("a") for each in drawn]]
    return at + 0.5 * torch.randn(n, WIDTH, generator=generator), drawn


def unit(features: Tensor) -> np.ndarray:
    rows = features.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def moments(*tasks: tuple[Tensor, list[str]]) -> ClassStatistics:
    statistics = ClassStatistics()
    for group, (features, labels) in enumerate(tasks):
        statistics.update(features, labels, group)
    return statistics


def kept(*tasks: tuple[Tensor, list[str]], each: int = 4) -> KeptFeatures:
    features = KeptFeatures(each)
    for group, (rows, labels) in enumerate(tasks):
        features.update(rows, labels, group)
    return features


def centred(features: Tensor, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class means in the order of their labels, and all rows less their own mean."""
    rows, known = unit(features), sorted(set(labels))
    means = np.stack([rows[np.array(labels) == each].mean(0) for each in known])
    return means, rows - means[[known.index(each) for each in labels]]


class TestDistances:
    @pytest.mark.parametrize("ridge", [0.01, 1.0])
    def test_they_are_minus_the_squared_mahalanobis_distances(self, ridge: float) -> None:
        features, labels = sample(0, 40, "abc")
        means, rows = centred(features, labels)
        covariance = rows.T @ rows / len(rows)
        inverse = np.linalg.inv(covariance + ridge * np.trace(covariance) / WIDTH * np.eye(WIDTH))
        asked, _ = sample(1, 20, "abc")
        gaps = unit(asked)[:, None] - means
        expected = -np.einsum("ncd,de,nce->nc", gaps, inverse, gaps)
        statistics = moments((features, labels))
        head = StatisticsHead(statistics.spec("mahalanobis", ridge=ridge), statistics.tensors())
        np.testing.assert_allclose(head(asked).numpy(), expected, rtol=1e-8, atol=1e-10)

    def test_the_nearest_is_the_class_of_lda_at_the_same_shrinkage(self) -> None:
        statistics, (asked, _) = moments(sample(0, 40, "abcd")), sample(1, 60, "abcd")
        nearest = StatisticsHead(statistics.spec("mahalanobis", ridge=0.01), statistics.tensors())
        lda = StatisticsHead(statistics.spec("lda", shrinkage=0.01 / 1.01), statistics.tensors())
        assert torch.equal(nearest(asked).argmax(1), lda(asked).argmax(1))

    def test_the_covariance_is_shrunk_as_scikit_learn_does(self) -> None:
        features, labels = sample(0, 24, "abc")
        means, rows = centred(features, labels)
        oracle = OAS(assume_centered=True).fit(rows)
        assert 0 < oracle.shrinkage_ < 1
        asked, _ = sample(1, 20, "abc")
        gaps = unit(asked)[:, None] - means
        expected = -np.einsum("ncd,de,nce->nc", gaps, np.linalg.inv(oracle.covariance_), gaps)
        statistics = moments((features, labels))
        head = StatisticsHead(statistics.spec("oas"), statistics.tensors())
        np.testing.assert_allclose(head(asked).numpy(), expected, rtol=1e-8, atol=1e-10)

    def test_features_that_do_not_vary_are_refused(self) -> None:
        statistics = moments((torch.eye(WIDTH)[:2], ["a", "b"]))
        for rule in ("mahalanobis", "oas"):
            with pytest.raises(SpecError, match=r"^distances need a covariance that can be inverted"):
                StatisticsHead(statistics.spec(rule), statistics.tensors())
        with pytest.raises(
            SpecError, match=r"^a ridge of 0 keeps no covariance regular; give a positive one$"
        ):
            statistics.spec("mahalanobis", ridge=0)


class TestTasks:
    @settings(max_examples=20)
    @given(st.integers(0, 1000), st.sampled_from(["class-means", "lda", "mahalanobis", "oas"]))
    def test_a_task_scores_as_its_best_class(self, seed: int, rule: str) -> None:
        statistics = moments(sample(seed, 30, "ab"), sample(seed + 1, 30, "cb"))
        head = StatisticsHead(statistics.spec(rule), statistics.tensors())
        asked, _ = sample(seed + 2, 10, "abc")
        scores = head(asked)
        expected = torch.stack([scores[:, :2].amax(1), scores[:, 2:].amax(1)], 1)
        assert torch.equal(head.of_groups(asked), expected)
        assert torch.equal(head.of_groups(asked).argmax(1), head.route(asked))

    def test_a_task_nothing_was_seen_of_is_never_the_best(self) -> None:
        statistics = ClassStatistics()
        statistics.update(*sample(0, 20, "ab"), group=1)
        head = StatisticsHead(statistics.spec("lda"), statistics.tensors())
        assert head.of_groups(sample(1, 5, "ab")[0])[:, 0].tolist() == [-torch.inf] * 5


class TestKept:
    def test_they_are_herded(self) -> None:
        features, labels = sample(0, 30, "ab")
        rows = unit(features)[np.array(labels) == "b"]
        chosen: list[int] = []
        for n in range(1, 5):
            gaps = {
                i: np.linalg.norm(rows.mean(0) - rows[[*chosen, i]].sum(0) / n)
                for i in range(len(rows))
                if i not in chosen
            }
            chosen.append(min(gaps, key=gaps.__getitem__))
        found = kept((features, labels))
        np.testing.assert_allclose(found.features[found.entries == 1].numpy(), rows[chosen], rtol=1e-12)
        few = kept((features[:2], labels[:2]))
        assert few.entries.tolist() == [0, 1]

    def test_later_tasks_leave_them_bit_for_bit(self) -> None:
        first, second = sample(0, 20, "ab"), sample(1, 20, "bc")
        alone, both = kept(first), kept(first, second)
        assert torch.equal(both.features[:8], alone.features)
        assert both.groups == [0, 0, 1, 1]
        resumed = KeptFeatures.from_stored(
            HeadSpec.from_json(alone.spec("gate").to_json()), alone.tensors("gate")
        )
        resumed.update(*second, group=1)
        for name, tensor in both.tensors("gate").items():
            assert torch.equal(tensor, resumed.tensors("gate")[name])

    def test_the_gate_is_softmax_regression(self) -> None:
        features = kept(sample(0, 40, "ab"), sample(1, 40, "cd"), each=8)
        tensors = features.tensors("gate", decay=0.01)
        oracle = LogisticRegression(C=1 / (0.01 * 32), tol=1e-10, max_iter=10_000)
        oracle.fit(features.features.numpy(), features.entries.numpy())
        np.testing.assert_allclose(tensors["weight"].numpy(), oracle.coef_, atol=1e-4)
        asked, _ = sample(2, 20, "abcd")
        scores = StatisticsHead(features.spec("gate"), tensors)(asked).softmax(1)
        np.testing.assert_allclose(scores.numpy(), oracle.predict_proba(unit(asked)), atol=1e-4)

    def test_the_nearest_count(self) -> None:
        features = kept(sample(0, 40, "ab"), sample(1, 2, "c"))
        asked, _ = sample(2, 20, "abc")
        head = StatisticsHead(features.spec("nearest", neighbours=3), features.tensors("nearest"))
        cosines = unit(asked) @ features.features.numpy().T
        for entry, count in ((0, 3), (1, 3), (2, 2)):
            own = np.sort(cosines[:, features.entries.numpy() == entry], axis=1)[:, -count:].mean(1)
            np.testing.assert_allclose(head(asked)[:, entry].numpy(), own, rtol=1e-10)
        assert set(features.tensors("nearest")) == {"features", "entries"}

    def test_none_are_refused(self) -> None:
        with pytest.raises(SpecError, match=r"^0 features of a class are none; keep 1 or more$"):
            KeptFeatures(0)
        with pytest.raises(SpecError, match=r"^0 neighbours say nothing; let 1 or more count$"):
            kept(sample(0, 4, "a")).spec("nearest", neighbours=0)


def test_tensors_of_another_rule_are_refused() -> None:
    features = kept(sample(0, 20, "ab"))
    check_head(features.spec("gate"), features.tensors("gate"))
    check_head(features.spec("nearest"), features.tensors("nearest"))
    with pytest.raises(
        SpecError, match=r"^a head of kind 'statistics' has other tensors than these: entries, f"
    ):
        check_head(features.spec("gate"), features.tensors("nearest"))
    with pytest.raises(SpecError, match=r"^no rule 'gat' over class statistics; did you mean 'gate'\?$"):
        check_head(HeadSpec("statistics", ("a",), {"rule": "gat", "groups": [0]}), features.tensors("gate"))


def test_a_head_says_whose_features_it_reads() -> None:
    over = [{"type": "single", "ref": "a@1"}]
    statistics, features = moments(sample(0, 20, "ab")), kept(sample(0, 20, "ab"))
    heads = [
        StatisticsHead(statistics.spec("lda", over=over), statistics.tensors()),
        StatisticsHead(features.spec("nearest", over=over), features.tensors("nearest")),
    ]
    assert [head.over for head in heads] == [tuple(over)] * 2
    assert StatisticsHead(statistics.spec("lda"), statistics.tensors()).over == ()
    assert "over" not in statistics.spec("lda").options
