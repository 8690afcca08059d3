"""What a fusion attends to: its means and its maps against attention watched by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_files import BILLING
from fusion_files import OVER, add_fusion

from contpeft.adapters import AdaptedModel
from contpeft.adapters.fusion import FusionAttachment, pruned
from contpeft.errors import UsageError
from contpeft.experiments import TextClassifier
from contpeft.experiments.attention import Attention, TaskAttention, mean_attention, token_maps
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.report import attention_picture
from contpeft.spec import Single
from contpeft.store import AdapterStore

VALUE = "encoder.layer.0.attention.self.value"


@pytest.fixture
def evaluation(support: AdapterStore) -> Evaluation:
    add_fusion(support)
    return Evaluation(load_evaluation(Path(support.path).parent / "eval.yaml"), support)


def alone(store: AdapterStore, text: str) -> dict[str, Any]:
    """Returns the attention of the tokens of one text, read without padding."""
    module = TextClassifier(max_length=16, num_layers=1).eval()
    adapted = AdaptedModel.of(module)
    with adapted.applied(Single("all@1"), lambda ref: (store.show(ref), store.load(ref))), torch.no_grad():
        assert isinstance(adapted.attachment, FusionAttachment)
        adapted.attachment.watch()
        module.encode(module.collate([text]))
        return {
            path: np.asarray(each[0], dtype=np.float64)
            for path, each in adapted.attachment.attention().items()
        }


def test_maps_and_means_are_those_of_each_text_alone(support: AdapterStore, evaluation: Evaluation) -> None:
    rows = {task.name: task.rows for task in evaluation.tasks}
    found = mean_attention(evaluation, "all", rows)
    assert (found.ref, found.members) == ("all@1", OVER)
    assert [task.task for task in found.tasks] == list(rows)
    for name, task in zip(rows, found.tasks, strict=True):
        texts = [alone(support, text) for text in rows[name].inputs]
        maps = token_maps(evaluation, "all@1", rows[name])
        assert set(maps) == set(found.sites)
        for site, means in zip(found.sites, task.means, strict=True):
            tokens = np.concatenate([text[site] for text in texts])
            np.testing.assert_allclose(means, tokens.mean(0), atol=1e-5)
            assert len({len(text[site]) for text in texts}) > 1  # there is padding
            for own, text in zip(maps[site], texts, strict=True):
                assert not own[: len(text[site])].isnan().any()
                assert own[len(text[site]) :].isnan().all()
                np.testing.assert_allclose(own[: len(text[site])], text[site], atol=1e-4)
    assert max(found.by_site()[VALUE]) > 0.34  # the members are told apart


def test_members_that_a_site_does_not_keep_get_none(support: AdapterStore, evaluation: Evaluation) -> None:
    rows = {task.name: task.rows for task in evaluation.tasks}
    sites = mean_attention(evaluation, "all", rows).sites
    small = pruned(support.load("all"), {site: (0, 2) if site == VALUE else (1,) for site in sites})
    support.register("small", small, base=evaluation.base)
    found = mean_attention(evaluation, "small", rows)
    assert found.members == OVER
    for site, means in found.by_site().items():
        assert sum(means) == pytest.approx(1)
        assert [mean > 0 for mean in means] == (
            [True, False, True] if site == VALUE else [False, True, False]
        )
    assert token_maps(evaluation, "small", next(iter(rows.values())))[VALUE].shape[-1] == 3


def test_only_fusions_attend(evaluation: Evaluation) -> None:
    with pytest.raises(UsageError, match=f"{BILLING} is of kind 'lora'; only fusions attend to members"):
        mean_attention(evaluation, BILLING, {task.name: task.rows for task in evaluation.tasks})


def test_tasks_count_alike() -> None:
    tasks = (
        TaskAttention("a", 10, "d1", ((0.25, 0.75), (0.5, 0.5))),
        TaskAttention("b", 990, "d2", ((0.75, 0.25), (1.0, 0.0))),
    )
    found = Attention("all@1", ("x@1", "y@1"), ("q", "v"), tasks)
    assert found.by_site() == {"q": (0.5, 0.5), "v": (0.75, 0.25)}
    assert found.to_json()["means"] == ((0.5, 0.5), (0.75, 0.25))
    drawn = attention_picture(found)
    assert drawn.startswith(b"\x89PNG")
    assert drawn == attention_picture(found)
    assert attention_picture(Attention("all@1", ("x@1", "y@1"), ("q", "v"), tasks[:1])) != drawn
