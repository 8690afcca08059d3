"""Which adapters are tried: sizes, places and budgets."""

from __future__ import annotations

import re
from typing import Any

import pytest
from search_files import TinyClassifier

from contpeft.adapters import AdaptedModel
from contpeft.errors import SpecError, UsageError
from contpeft.experiments.method_search.space import Candidate, MethodSpace
from contpeft.spec import AdapterSpec


def candidates(own: AdapterSpec | None = None, **options: Any) -> dict[str, tuple[Candidate, ...]]:
    adapted = AdaptedModel.of(TinyClassifier())
    return MethodSpace(**options).candidates(own or AdapterSpec("lora"), adapted.model, adapted.head)


def test_sizes_of_each_method_from_the_smallest() -> None:
    found = candidates(methods=("lora", "pfeiffer", "ia3", "bitfit"), targets=("usual",))
    assert [each.spec.options for each in found["lora"]] == [{"r": r} for r in (2, 4, 8, 16, 32)]
    # Two layers, query and value, factors of rank r between 16 and 16.
    assert [each.trained for each in found["lora"]] == [2 * 2 * r * 32 for r in (2, 4, 8, 16, 32)]
    assert [each.spec.options for each in found["pfeiffer"]][-1] == {"reduction_factor": 4}
    assert (len(found["ia3"]), len(found["bitfit"])) == (1, 1)


def test_prompts_have_their_number_of_vectors() -> None:
    found = candidates(methods=("prompt_tuning",), targets=("usual",))["prompt_tuning"]
    assert [(each.spec.options["num_virtual_tokens"], each.trained) for each in found] == [
        (count, count * 16) for count in (5, 10, 20, 50)
    ]


def test_all_linear_is_for_methods_that_can_be_put_there() -> None:
    found = candidates(methods=("lora", "pfeiffer"), targets=("usual", "all-linear"))
    placed = {name: {each.spec.options.get("targets") for each in row} for name, row in found.items()}
    assert placed == {"lora": {None, "all-linear"}, "pfeiffer": {None}}
    trained = [each.trained for each in found["lora"]]
    assert trained == sorted(trained)


def test_options_of_the_experiments_adapter_are_kept_for_its_method() -> None:
    own = AdapterSpec("lora", r=8, alpha=4, dropout=0.1, targets=["query"])
    found = candidates(own, methods=("lora", "ia3"))
    assert found["lora"][0].spec == AdapterSpec("lora", r=2, alpha=1, dropout=0.1, targets=["query"])
    assert {each.spec.options["alpha"] / each.spec.options["r"] for each in found["lora"]} == {0.5}
    assert all("dropout" not in each.spec.options for each in found["ia3"])


@pytest.mark.parametrize(("budget", "limit"), [("5%", None), (600, 600), ("100%", None)])
def test_what_is_over_the_budget_is_left_out(budget: str | int, limit: int | None) -> None:
    adapted = AdaptedModel.of(TinyClassifier())
    base = sum(p.numel() for p in adapted.model.parameters())
    limit = limit or int(float(str(budget).rstrip("%")) / 100 * base)
    within = candidates(methods=("lora", "bitfit"), budget=budget)
    everything = candidates(methods=("lora", "bitfit"))
    for method, row in everything.items():
        assert within[method] == tuple(each for each in row if each.trained <= limit)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"methods": ()}, UsageError, "nothing is to be tried"),
        ({"methods": ("auto",)}, UsageError, "'auto' is no method to be tried"),
        ({"methods": ("pfeifer",)}, SpecError, "no adapter method 'pfeifer'; did you mean 'pfeiffer'?"),
        ({"rates": (1e-2, 1e-3)}, UsageError, "learning rates from 0.01 to 0.001 are none"),
        ({"rates": (0.0, 1e-3)}, UsageError, "learning rates from 0 to 0.001 are none"),
        ({"budget": "lots"}, SpecError, "budget 'lots' cannot be meant"),
        (
            {"methods": ("lora",), "budget": 100},
            UsageError,
            "a budget of 100 parameters holds no 'lora', the",
        ),
        ({"methods": ("c3a",)}, UsageError, "method 'c3a' cannot be tried: "),
    ],
)
def test_spaces_that_cannot_be(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        candidates(**options)
