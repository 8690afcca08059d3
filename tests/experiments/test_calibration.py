"""Calibrating stored versions: against numbers by hand, on halves apart, once, each composition by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluation_files import BILLING, BOTH, TRAVEL, headless, noisy, register
from numpy.typing import NDArray
from scipy.special import softmax

from contpeft.errors import ConfigError, UsageError
from contpeft.experiments.calibration import WAY, calibrate, calibrate_part
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.measure import Measure
from contpeft.experiments.sampling import hold_out
from contpeft.metrics.calibration import best_temperature, calibration_error, cross_entropy
from contpeft.spec import AdapterSpec, Composition, Parallel, Part, Single, Sum
from contpeft.spec.identity import calibration_key
from contpeft.store import AdapterStore
from contpeft.strategies import Answerer, Context
from contpeft.strategies.calibrated import temperature_of

NOISY = "noisy@1"


def evaluation(store: AdapterStore, **options: Any) -> Evaluation:
    return Evaluation(load_evaluation(store.path.parent / "eval.yaml"), store, **options)


@pytest.fixture
def unsure(support: AdapterStore) -> AdapterStore:
    """The store with a version that is wrong now and then."""
    register(support, "noisy", noisy(support.load(BOTH), 0.4), BOTH)
    return support


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every part that gives scores."""
    asked: list[str] = []
    scores = Answerer.scores

    def noting(self: Answerer, part: Any, *arguments: Any) -> Any:
        asked.append(str(part))
        return scores(self, part, *arguments)

    monkeypatch.setattr(Answerer, "scores", noting)
    return asked


def halves(asked: Evaluation, part: Part) -> list[tuple[NDArray[np.float64], list[int]]]:
    """Returns scores and right columns of both halves of all tasks."""
    both: list[tuple[list[Any], list[int]]] = [([], []), ([], [])]
    for task in asked.tasks:
        split = hold_out(task.rows, task.rows.labels, 0.5, seed=0)
        assert not set(split[0].ids) & set(split[1].ids)
        for (logits, right), rows in zip(both, split, strict=True):
            scores, classes = asked.scores(part, rows)
            logits.append(scores.double().numpy())
            right += [classes.index(label) for label in rows.labels]
    return [(np.concatenate(logits), right) for logits, right in both]


def test_one_half_fits_and_the_other_measures(unsure: AdapterStore) -> None:
    asked = evaluation(unsure)
    (found,) = calibrate(asked, unsure, "noisy")
    fit, (logits, right) = halves(asked, Single(NOISY))
    assert found.temperature == pytest.approx(best_temperature(*fit))
    assert found.ece == pytest.approx(calibration_error(logits, right))
    assert found.ece_scaled == pytest.approx(calibration_error(logits / found.temperature, right))
    likely = softmax(logits / found.temperature, axis=1)[range(len(right)), right]
    assert found.nll_scaled == pytest.approx(-np.log(likely).mean())
    assert found.nll == pytest.approx(cross_entropy(logits, right))
    assert (found.answers, found.tasks) == (NOISY, ("billing", "travel"))
    assert (found.fitted, found.measured) == (16, 16)
    assert found.temperature > 0
    assert cross_entropy(*fit, found.temperature) <= cross_entropy(*fit)
    assert not np.array_equal(logits.argmax(1), right)  # it errs, so that there is something to fit


def test_it_is_measured_once_and_kept(unsure: AdapterStore, counted: list[str]) -> None:
    (found,) = calibrate(evaluation(unsure), unsure, NOISY)
    assert counted == [NOISY] * 4
    assert calibrate(evaluation(unsure), unsure, NOISY) == (found,)
    assert len(counted) == 4
    kept = {s.metric: (s.value, s.n) for s in unsure.scores(way=WAY)}
    assert kept == {
        "temperature": (found.temperature, 16),
        **{name: (getattr(found, name), 16) for name in ("ece", "ece_scaled", "nll", "nll_scaled")},
    }
    base = unsure.show(NOISY).base
    assert temperature_of(Single(NOISY), base, unsure) == found.temperature
    measured = unsure.inspect.measured(calibration_key(Single(NOISY), base, unsure.show))
    assert [score.metric for score in measured] == [*reversed(kept)]


def test_the_newest_rows_count(unsure: AdapterStore) -> None:
    base = unsure.show(NOISY).base
    first, second = (calibrate(evaluation(unsure, rows=n), unsure, NOISY)[0] for n in (8, 12))
    assert first.temperature != second.temperature
    assert temperature_of(Single(NOISY), base, unsure) == second.temperature
    calibrate(evaluation(unsure, rows=8), unsure, NOISY)  # known: it is not written again
    assert temperature_of(Single(NOISY), base, unsure) == second.temperature


def test_each_composition_has_its_own(unsure: AdapterStore) -> None:
    asked, base = evaluation(unsure), unsure.show(NOISY).base
    both = Sum(((NOISY, 0.5), (BOTH, 0.5)))
    alone, together = (calibrate_part(asked, unsure, part, asked.tasks) for part in (Single(NOISY), both))
    assert together.answers == str(both)
    fit, _ = halves(asked, both)
    assert together.temperature == pytest.approx(best_temperature(*fit))
    assert together.temperature != alone.temperature
    assert temperature_of(both, base, unsure) == together.temperature
    assert temperature_of(Single(BOTH), base, unsure) is None


def test_a_merged_version_is_asked_with_every_head_that_answers_for_it(unsure: AdapterStore) -> None:
    state = headless(unsure.load(BILLING))
    register(unsure, "fused", state, BILLING, TRAVEL, fused=True)
    found = calibrate(evaluation(unsure), unsure, "fused")
    assert [(each.answers, each.tasks) for each in found] == [
        (f"fused@1 (head {BILLING})", ("billing",)),
        (f"fused@1 (head {TRAVEL})", ("travel",)),
    ]


def test_a_version_is_asked_about_the_tasks_it_answers(unsure: AdapterStore) -> None:
    (found,) = calibrate(evaluation(unsure), unsure, BILLING)
    assert found.tasks == ("billing",)
    unsure.register("bare", headless(unsure.load(BILLING)), base=unsure.show(BILLING).base)
    with pytest.raises(UsageError, match="bare@1 answers none of the tasks: "):
        calibrate(evaluation(unsure), unsure, "bare")


def test_two_rows_of_each_class_are_needed(unsure: AdapterStore) -> None:
    with pytest.raises(ConfigError, match="has a single row; a split for testing needs at least 2"):
        calibrate(evaluation(unsure, rows=2), unsure, BILLING)


def test_what_answers_in_parallel_is_measured_anew_at_a_new_temperature(unsure: AdapterStore) -> None:
    asked = evaluation(unsure)
    stream = load_evaluation(unsure.path.parent / "eval.yaml").stream.build(0)
    context = Context(asked._adapted, unsure, AdapterSpec(), "way", stream[0].task)
    measure = Measure(context, stream, "run", "way", ["all_classes"], asked.reads)
    answers: dict[str, Composition] = {
        "alone": Single(BILLING),
        "together": Parallel((Single(BILLING), Single(TRAVEL))),
    }

    def keys() -> dict[tuple[str, str], str]:
        return {(score.answer, score.task): score.composition for score in measure.after(0, answers)}

    before = keys()
    calibrate(asked, unsure, BILLING)
    after = keys()
    assert {cell for cell in before if before[cell] != after[cell]} == {("together", "billing")}
