"""``contpeft strategies`` lists, explains and recommends."""

from __future__ import annotations

import json
from collections.abc import Callable

from typer.testing import Result

from contpeft.strategies import RECIPES

Call = Callable[..., Result]


def test_strategies_and_parts_are_listed(call: Call) -> None:
    ran = call("strategies")
    assert ran.exit_code == 0, ran.output
    recipes, parts = ran.stdout.split("\n\n")
    titles = ["strategy", "serves", "keeps", "a", "task", "needs", "what", "paper"]
    assert recipes.splitlines()[0].split() == titles
    assert [line.split()[0] for line in recipes.splitlines()[1:]] == list(RECIPES)
    sequential = next(line for line in recipes.splitlines() if line.startswith("sequential "))
    assert " ".join(sequential.split()) == (
        "sequential c t d d a class examples, features "
        "One adapter trained on and on with one growing head: what forgets. -"
    )
    assert parts.splitlines()[0].split()[:2] == ["part", "kind"]
    assert any(line.startswith("Slow ") and "arXiv 2303.05118" in line for line in parts.splitlines())
    assert ran.stderr.startswith("contpeft strategies show NAME explains one;")


def test_the_listing_as_json_has_recipes_and_parts(call: Call) -> None:
    told = json.loads(call("strategies", "--json").stdout)
    assert [each["name"] for each in told["recipes"]] == list(RECIPES)
    joint = next(each for each in told["recipes"] if each["name"] == "joint")
    assert joint["joint"] is True
    cosine = next(each for each in told["parts"] if each["name"] == "Cosine")
    assert cosine["options"] == {"grow": "False", "local": "False", "scale": "20.0"}


def test_one_is_explained(call: Call) -> None:
    ran = call("strategies", "show", "sequential")
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert (
        ran.stdout
        == """\
sequential
  One adapter trained on and on with one growing head: what forgets.
  serves        class-incremental, task-incremental, domain-incremental
  keeps a task  d a class
  needs         examples, features
  learns        task after task

init: FromLast()
  The adapter of the task before is trained on: one name, a new version per task.

head: Cosine(grow=True, local=False, scale=20.0)
  A cosine head whose new rows start at the class means of the model as it stands.
  paper  Qi et al. 2018, arXiv 1712.07136, section 3.2

consolidate: Freeze()
  The version stands as it was registered; nothing else is kept.

answers: Latest()
  The version trained last answers everything.
"""
    )
    assert json.loads(call("strategies", "show", "sequential", "--json").stdout)["name"] == "sequential"


def test_an_unknown_one_is_refused_with_the_nearest(call: Call) -> None:
    ran = call("strategies", "show", "sequentail")
    assert ran.exit_code == 3
    assert ran.stderr == "error: no strategy 'sequentail'; did you mean 'sequential'?\n"


def test_some_are_recommended(call: Call) -> None:
    ran = call("strategies", "recommend", "--constant", "--top", "3")
    assert ran.exit_code == 0
    header, *rows = ran.stdout.splitlines()
    assert header.split() == ["strategy", "to", "joint", "measured", "on", "keeps", "a", "task", "what"]
    assert len(rows) == 3
    assert ran.stderr.startswith("class-incremental; 'to joint' in points of accuracy")
    told = json.loads(call("strategies", "recommend", "--task-id", "--top", "100", "--json").stdout)
    names = [each["name"] for each in told]
    assert "isolated" in names
    assert "joint" not in names
