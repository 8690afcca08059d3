"""Pruning a fusion: what is kept, what it costs, and what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_files import BILLING, TRAVEL
from fusion_files import OVER, add_fusion

from contpeft.errors import UsageError
from contpeft.experiments.attention import mean_attention
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.pruning import prune_fusion, store_pruned
from contpeft.store import AdapterStore


@pytest.fixture
def evaluation(support: AdapterStore) -> Evaluation:
    add_fusion(support)
    return Evaluation(load_evaluation(Path(support.path).parent / "eval.yaml"), support)


@pytest.mark.parametrize("keep", [1, 2])
def test_each_site_keeps_what_training_rows_attend_to(
    support: AdapterStore, evaluation: Evaluation, keep: int
) -> None:
    found = prune_fusion(evaluation, support, "all", keep)
    means = mean_attention(evaluation, "all", evaluation.lessons).by_site()
    assert found.attention.by_site() == means
    for site, row in means.items():
        largest = sorted(row, reverse=True)[:keep]
        assert found.kept[site] == tuple(ref for ref, mean in zip(OVER, row, strict=True) if mean in largest)
    assert set(found.members) | set(found.dropped) == set(OVER)


def test_what_is_measured_is_what_the_stored_ones_score(
    support: AdapterStore, evaluation: Evaluation
) -> None:
    found = prune_fusion(evaluation, support, "all", 1)
    stored = store_pruned(support, found, "small")
    assert (found.measured.ref, found.measured.tasks) == ("all@1", 2)
    for ref, mean in (("all@1", found.measured.before), (stored.ref, found.measured.after)):
        scores = [evaluation.score(ref, task) for task in evaluation.tasks]
        assert mean == pytest.approx(sum(scores) / 2)
    assert (stored.ref, stored.kind, stored.origin, stored.head) == (
        "small@1",
        "fusion",
        "fused",
        found.version.head,
    )
    assert [(parent.ref, parent.role) for parent in stored.parents] == [
        ("all@1", "fused"),
        *((ref, "frozen") for ref in found.members),
    ]
    assert stored.recipe is not None
    assert (stored.recipe["operation"], stored.recipe["keep"]) == ("prune-fusion", 1)
    assert stored.fingerprint == found.version.fingerprint  # nothing was trained
    with pytest.raises(UsageError, match="small@1 was not made by 'fuse'"):
        support.fusion.verify("small")
    assert store_pruned(support, found).ref == "all@2"


def test_of_equals_the_first_are_kept_and_what_prunes_nothing_is_refused(
    support: AdapterStore, evaluation: Evaluation
) -> None:
    state = support.load("all")
    for name, tensor in state.tensors.items():
        if ".fusion." in name:
            tensor.zero_()
    equal = support.register("equal", state, base=evaluation.base)
    found = prune_fusion(evaluation, support, equal.ref, 2)
    for means in found.attention.by_site().values():
        assert means == pytest.approx([1 / 3] * 3)
    assert found.members == (BILLING, TRAVEL)  # the first of equals
    assert found.dropped == OVER[2:]
    with pytest.raises(UsageError, match="keeping 3 of 3 members prunes nothing"):
        prune_fusion(evaluation, support, "all", 3)
    with pytest.raises(UsageError, match="only fusions attend"):
        prune_fusion(evaluation, support, BILLING, 1)
