"""Repairing: as much of a candidate as passes, interpolated exactly, and nothing written by looking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from evaluation_files import BILLING, BOTH, TRAVEL, headless, noisy, register, without_class

from contpeft.experiments import repair as module
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.gate import gate, passes
from contpeft.experiments.gate_report import Terms
from contpeft.experiments.repair import Repair, repair
from contpeft.spec import AdapterState
from contpeft.store import AdapterStore


def evaluation(store: AdapterStore, **options: Any) -> Evaluation:
    return Evaluation(load_evaluation(store.path.parent / "eval.yaml"), store, **options)


def updates(state: AdapterState) -> dict[str, torch.Tensor]:
    """Returns the dense update of every module in float64."""
    config, found = state.config, {}
    for name, b in state.tensors.items():
        if name.endswith("lora_B.weight"):
            a = state.tensors[name.replace("lora_B", "lora_A")]
            found[name] = b.double() @ a.double() * (config["lora_alpha"] / config["r"])
    return found


def test_the_largest_share_that_passes_is_found_and_its_neighbour_fails(support: AdapterStore) -> None:
    register(support, "noisy", noisy(support.load(BOTH), 0.4), BOTH)
    asked, terms, before = evaluation(support), Terms(max_forgetting=0.05), support.versions()
    found = repair(asked, support, "noisy", BOTH, terms)
    assert found is not None
    assert 0.1 <= found.share < 1
    assert found.share * 80 == pytest.approx(round(found.share * 80))  # tenths, halved three times
    line = module._Line(asked, support, support.show("noisy"), support.show(BOTH), terms)
    assert line.passes(found.share)
    assert not line.passes(found.share + 0.0125)
    assert support.versions() == before


def test_it_is_the_champion_and_a_share_of_the_difference(support: AdapterStore) -> None:
    register(support, "noisy", noisy(support.load(BOTH), 0.4), BOTH)
    found = repair(evaluation(support), support, "noisy", BOTH, Terms(max_forgetting=0.05))
    assert found is not None
    champion, candidate = updates(support.load(BOTH)), updates(support.load("noisy"))
    for name, update in updates(found.candidate.state).items():
        expected = champion[name] + found.share * (candidate[name] - champion[name])
        torch.testing.assert_close(update, expected, rtol=1e-5, atol=1e-6)
    assert {parent.ref: parent.weight for parent in found.candidate.parents} == {
        "noisy@1": pytest.approx(found.share),
        BOTH: pytest.approx(1 - found.share),
    }


def test_equal_heads_are_interpolated_too(support: AdapterStore) -> None:
    """Only the head is spoiled: with the champion's adapter on both ends, the head alone decides."""
    register(support, "deaf", without_class(support.load(BOTH), "refund"), BOTH)
    found = repair(evaluation(support), support, "deaf", BOTH, Terms(per_task=True))
    assert found is not None
    one, other = (support.load(ref).tensors["head.weight"] for ref in (BOTH, "deaf"))
    torch.testing.assert_close(
        found.candidate.state.tensors["head.weight"], one + found.share * (other - one)
    )


def test_merged_versions_are_repaired_with_their_parents_heads(support: AdapterStore) -> None:
    for name, state in {"good": support.load(BILLING), "bad": noisy(support.load(BILLING), 0.4)}.items():
        register(support, name, headless(state), BILLING, TRAVEL, fused=True)
    asked = evaluation(support)
    found = repair(asked, support, "bad", "good", Terms(max_forgetting=0.05))
    assert found is not None
    kept = support.fusion.keep(found.candidate, "mended")
    assert kept.head is None
    assert passes(asked, kept.ref, "good", Terms(max_forgetting=0.05))


def test_what_is_stored_is_what_was_measured_and_can_be_made_again(support: AdapterStore) -> None:
    register(support, "noisy", noisy(support.load(BOTH), 0.4), BOTH)
    asked, terms = evaluation(support), Terms(max_forgetting=0.05)
    found = repair(asked, support, "noisy", BOTH, terms)
    assert found is not None
    kept = support.fusion.keep(found.candidate, "noisy")
    assert kept.ref == "noisy@2"
    scores = support.scores()
    assert gate(asked, kept.ref, BOTH, terms).passed
    assert support.scores() == scores
    assert support.fusion.verify(kept.ref).equal


def test_a_second_look_measures_nothing(support: AdapterStore) -> None:
    register(support, "noisy", noisy(support.load(BOTH), 0.4), BOTH)
    first = repair(evaluation(support), support, "noisy", BOTH, Terms(max_forgetting=0.05))
    scores = support.scores()
    second = repair(evaluation(support), support, "noisy", BOTH, Terms(max_forgetting=0.05))
    assert isinstance(first, Repair)
    assert isinstance(second, Repair)
    assert (second.share, support.scores()) == (first.share, scores)


def test_none_is_none(support: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    register(support, "noisy", noisy(support.load(BOTH), 0.4), BOTH)
    tried: list[str] = []

    def never(_asked: Any, ref: str, *_: Any) -> bool:
        tried.append(ref)
        return False

    monkeypatch.setattr(module, "passes", never)
    assert repair(evaluation(support), support, "noisy", BOTH) is None
    assert len(set(tried)) == 9
