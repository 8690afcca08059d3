"""What is proposed depends on the scores so far alone: not on how many calls a search took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from contpeft.experiments.method_search.outcome import MethodTrial
from contpeft.experiments.method_search.space import Candidate, MethodSpace
from contpeft.experiments.method_search.study import Pruner, Study
from contpeft.spec import AdapterSpec

METHODS = ("lora", "houlsby", "bitfit")
CANDIDATES = {name: tuple(Candidate(AdapterSpec(name, r=n), 10 * n) for n in range(1, 6)) for name in METHODS}
Told = tuple[Mapping[str, Any], MethodTrial]


def study(pruner: Pruner, seed: int = 0) -> Study:
    return Study(MethodSpace(METHODS, rates=(1e-4, 1e-1), seed=seed), CANDIDATES, 1000, 1e-3, pruner)


def scored(trial: MethodTrial, step: int) -> float:
    """Returns a score that is best for lora, large, at a rate of 0.01."""
    distance = abs(float(trial.rate or 0) - 0.01) + 0.02 * (50 - trial.trained) / 50
    return 1 - distance - 0.1 * METHODS.index(trial.adapter.method) - 0.05 * step


def tried(on: Study, number: int) -> Told:
    """Returns a trial of three tasks, stopped where the pruner says so."""
    proposal = on.propose(number, None)
    trial = replace(proposal.trial, state="finished")
    for step in range(3):
        trial = replace(trial, scores=(*trial.scores, (scored(trial, step),)))
        proposal.asked.report(trial.mean, step + 1)
        if proposal.asked.should_prune() and step < 2:
            trial = replace(trial, state="stopped")
            break
    on.tell(proposal.asked, trial, measured_now=True)
    return proposal.asked.params, trial


@pytest.mark.parametrize("pruner", ["median", "halving", "none"])
def test_going_on_from_known_trials_is_as_if_never_stopped(pruner: Pruner) -> None:
    whole = study(pruner)
    straight = [tried(whole, number) for number in range(18)]
    for known in (1, 8, 13):
        resumed = study(pruner)
        for number, (proposed, trial) in enumerate(straight[:known]):
            proposal = resumed.propose(number, proposed)
            assert (proposal.trial.adapter, proposal.trial.rate) == (trial.adapter, trial.rate)
            resumed.tell(proposal.asked, trial, measured_now=False)
        assert [tried(resumed, number) for number in range(known, 18)] == straight[known:]
    states = {trial.state for _, trial in straight}
    assert states == ({"finished"} if pruner == "none" else {"finished", "stopped"})


def test_it_looks_where_it_is_good() -> None:
    on = study("none")
    trials = [tried(on, number)[1] for number in range(40)]
    late = trials[20:]
    assert sum(trial.adapter.method == "lora" for trial in late) > len(late) / 2
    assert max(trial.mean or 0 for trial in late) > max(trial.mean or 0 for trial in trials[:6])


def test_every_method_begins_and_the_seed_draws_the_rest() -> None:
    one, other = (
        [tried(study_, n)[1] for n in range(6)] for study_ in (study("none"), study("none", seed=1))
    )
    assert [trial.adapter for trial in one[:3]] == [AdapterSpec(name, r=3) for name in METHODS]
    assert {trial.rate for trial in one[:3]} == {1e-3}
    assert one[:3] == other[:3]
    assert one[3:] != other[3:]


def test_a_refused_trial_is_no_score() -> None:
    on = study("median")
    proposal = on.propose(0, None)
    on.tell(proposal.asked, replace(proposal.trial, state="refused", refused="no"), measured_now=False)
    assert tried(on, 1)[1].state == "finished"
