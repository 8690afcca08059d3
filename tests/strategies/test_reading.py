"""Recipes as plain data."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import pytest

from contpeft.adapters.fusion import FusionOptions
from contpeft.adapters.gated import GateOptions
from contpeft.adapters.pools import BankOptions
from contpeft.errors import ConfigError, NotFoundError, SpecError
from contpeft.strategies import (
    RECIPES,
    Anchored,
    Cosine,
    Each,
    FromLast,
    GatherStatistics,
    MergeOn,
    OrthogonalSubspace,
    Recipe,
    RepairMerge,
    Slow,
    SumPath,
    Then,
    find_recipe,
    recipe_digest,
)
from contpeft.strategies.drift import LostOnRows
from contpeft.strategies.init import FuseAll
from contpeft.strategies.penalty import NearIdentityValues
from contpeft.strategies.reading import PARTS, read_recipes


def test_a_name_is_a_named_recipe() -> None:
    assert read_recipes("isolated") == {"isolated": find_recipe("isolated")}


def test_parts_of_a_named_recipe_are_changed_field_by_field() -> None:
    told = {"mine": {"recipe": "sequential", "head": {"scale": 10.0}}}
    expected = replace(find_recipe("sequential"), head=Cosine(grow=True, scale=10.0))
    assert read_recipes(told) == {"mine": expected}


def test_a_recipe_is_put_together_of_parts() -> None:
    told = {
        "mine": {
            "init": "FromLast",
            "head": {"part": "Cosine", "grow": True, "local": True},
            "projection": {"part": "Each", "parts": [{"part": "Slow", "factor": 0.5}, {"part": "Slow"}]},
            "consolidate": {"part": "GatherStatistics", "rules": ["lda", "class-means"]},
        }
    }
    assert read_recipes(told)["mine"] == Recipe(
        init=FromLast(),
        head=Cosine(grow=True, local=True),
        projection=Each((Slow(0.5), Slow())),
        consolidate=GatherStatistics(rules=("lda", "class-means")),
    )


def test_a_sweep_is_a_way_for_each_value() -> None:
    told = {
        "slow": {
            "recipe": "sequential",
            "projection": {"part": "Slow", "factor": {"each": [0.1, 0.01]}},
            "head": {"scale": {"each": [10, 20]}},
        }
    }
    found = read_recipes(told)
    assert list(found) == ["slow-0.1-10", "slow-0.1-20", "slow-0.01-10", "slow-0.01-20"]
    assert found["slow-0.01-10"].projection == Slow(0.01)
    assert found["slow-0.01-10"].head == Cosine(grow=True, scale=10.0)


def test_a_part_is_taken_away() -> None:
    assert read_recipes({"mine": {"recipe": "sequential", "projection": None}})["mine"].projection is None


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ({"x": {"recipe": "isolatd"}}, NotFoundError, "no strategy 'isolatd'; did you mean 'isolated'?"),
        ({"x": {"init": "FromLst"}}, NotFoundError, "no init part 'FromLst'; did you mean 'FromLast'?"),
        ({"x": {"hed": {}}}, ConfigError, "strategy 'x' has no part 'hed'; did you mean 'head'?"),
        (
            {"x": {"head": {"part": "Cosine", "skale": 1}}},
            ConfigError,
            "strategy 'x': Cosine has no field 'skale'; did you mean 'scale'?",
        ),
        (
            {"x": {"recipe": "sequential", "penalty": {"weight": 2}}},
            ConfigError,
            "strategy 'x' has no penalty to change; say which: penalty: {part: NAME, ...}",
        ),
        (
            {"x": {"head": {"part": "Cosine", "scale": "much"}}},
            ConfigError,
            "strategy 'x': Cosine.scale refuses 'much': Input should be a valid number, "
            "unable to parse string as a number",
        ),
        ({"x": {"head": 3}}, ConfigError, "strategy 'x': head is 3; name a part, or give its fields"),
        ({"a": {}, "b": {}}, ConfigError, "strategies: {'a': {}, 'b': {}} is neither a name nor one"),
        (
            {"x": {"consolidate": "Then"}},
            ConfigError,
            "strategy 'x': Then needs parts; say it: consolidate: {part: Then, parts: ...}",
        ),
        (
            {"x": {"penalty": {"part": "Plus", "parts": ["Replay"]}}},
            ConfigError,
            "strategy 'x': Plus.parts holds parts, not ['Replay']; give each as {part: NAME}",
        ),
        (
            {"x": {"recipe": "o-lora", "penalty": {"weight": {"each": 3}}}},
            ConfigError,
            "strategy 'x': each is 3; give a list of values",
        ),
        (
            {"x": {"recipe": "o-lora", "penalty": {"weight": {"each": []}}}},
            ConfigError,
            "strategy 'x': each is []; give a list of values",
        ),
        (
            {"x": {"recipe": "o-lora", "penalty": {"weight": {"each": [1, 1]}}}},
            ConfigError,
            "strategy 'x': two ways are called 'x-1'; give each value once",
        ),
        ({"x": {"recipe": ["ewc"]}}, ConfigError, "strategy 'x': recipe is ['ewc']; give one name"),
        ({"x": {"init": {"part": ["a"]}}}, ConfigError, "strategy 'x': part is ['a']; give one name"),
        (
            {"x": {"consolidate": {"part": "RepairMerge", "drift": {"part": "Slow"}}}},
            NotFoundError,
            "no drift part 'Slow'",
        ),
        (
            {"x": {"consolidate": {"part": "RepairMerge", "drift": "LostOnRows"}}},
            ConfigError,
            "strategy 'x': RepairMerge.drift holds parts, not 'LostOnRows'; give each as {part: NAME}",
        ),
        (
            {"x": {"penalty": {"part": "Plus", "parts": [{"part": "Slow"}]}}},
            NotFoundError,
            "no penalty part 'Slow'",
        ),
        (
            {"x": {"recipe": "si", "projection": {"penalty": {"part": "Slow"}}}},
            NotFoundError,
            "no penalty part 'Slow'",
        ),
        ({"x": {"after": 3}}, ConfigError, "strategy 'x': after is 3; name a recipe, or give its parts"),
        ({"x": {"after": "sequentil"}}, NotFoundError, "no strategy 'sequentil'; did you mean 'sequential'?"),
        ({"x": {"after": {"hed": {}}}}, ConfigError, "strategy 'x' has no part 'hed'; did you mean 'head'?"),
        ({"x": {"after": "joint"}}, ConfigError, "strategy 'x': after learns all tasks at once; a second st"),
        ({"x": {"init": None}}, ConfigError, "strategy 'x': init is None; a recipe can do without "),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(told: dict, error: type, message: str) -> None:
    with pytest.raises(error) as caught:
        read_recipes(told)
    assert str(caught.value).startswith(message)


def test_a_part_within_a_part_may_be_of_another_kind() -> None:
    told = {"x": {"recipe": "si", "projection": {"part": "SumPath", "penalty": {"part": "Anchored"}}}}
    assert read_recipes(told)["x"].projection == SumPath(Anchored())


def test_a_part_within_a_part_is_changed_field_by_field() -> None:
    told = {"x": {"recipe": "si", "projection": {"penalty": {"weight": 3.0}}}}
    assert read_recipes(told)["x"].projection == SumPath(Anchored("path", 3.0))


def test_what_measures_drift_is_named_and_taken() -> None:
    """A part of no kind of its own: what another one asks."""
    parts = [{"part": "MergeOn"}, {"part": "RepairMerge", "tolerance": 0.1, "drift": {"part": "LostOnRows"}}]
    told = {"x": {"recipe": "merge-repaired", "consolidate": {"parts": parts}}}
    assert read_recipes(told)["x"].consolidate == Then((MergeOn(), RepairMerge(0.1, LostOnRows())))
    told = {"x": {"consolidate": {"part": "RepairMerge", "drift": {"part": "MovedAnswers"}}}}
    assert read_recipes(told)["x"].consolidate == RepairMerge()


def test_one_that_is_init_and_projection_is_named_as_either() -> None:
    told = {"x": {"init": "OrthogonalSubspace", "projection": {"part": "OrthogonalSubspace", "growth": 0.1}}}
    expected = Recipe(init=OrthogonalSubspace(), projection=OrthogonalSubspace(growth=0.1))
    assert read_recipes(told)["x"] == expected
    inner = {"part": "Each", "parts": [{"part": "Slow"}, {"part": "OrthogonalSubspace"}]}
    read = read_recipes({"x": {"recipe": "osf", "projection": inner}})["x"]
    assert read == replace(find_recipe("osf"), projection=Each((Slow(), OrthogonalSubspace())))


def test_a_second_stage_is_a_recipe_again() -> None:
    fusion, plain = find_recipe("fusion-per-task"), find_recipe("sequential")
    read = read_recipes({"x": {"recipe": "fusion-per-task", "after": {"penalty": None}}})["x"]
    assert read == replace(fusion, after=replace(fusion.after, penalty=None))
    assert read_recipes({"x": {"recipe": "fusion-per-task", "after": None}})["x"].after is None
    assert read_recipes({"x": {"after": "sequential"}})["x"] == Recipe(after=plain)
    told = {"init": {"part": "FuseAll", "one": True}, "penalty": "NearIdentityValues"}
    read = read_recipes({"x": {"recipe": "isolated", "after": told}})["x"]
    stage = Recipe(init=FuseAll(one=True), penalty=NearIdentityValues())
    assert read == replace(find_recipe("isolated"), after=stage)
    assert recipe_digest(read) != recipe_digest(find_recipe("isolated"))
    slow = {"recipe": "sequential", "projection": {"part": "Slow", "factor": {"each": [0.1, 0.2]}}}
    assert [each.after.projection for each in read_recipes({"x": {"after": slow}}).values()] == [
        Slow(0.1),
        Slow(0.2),
    ]


def test_every_recipe_can_be_written_in_full() -> None:
    """But for what is told of it, and whom it serves."""
    for name, recipe in RECIPES.items():
        whole = replace(recipe, joint=False, serves=Recipe().serves)
        assert read_recipes({"x": _written(whole)})["x"] == whole, name


def _written(recipe: Recipe) -> dict[str, object]:
    kinds = {kind: getattr(recipe, kind) for kind in PARTS}
    told = {kind: _plain(part) for kind, part in kinds.items() if part is not None}
    return told | ({} if recipe.after is None else {"after": _written(recipe.after)})


def _plain(value: object) -> object:
    if is_dataclass(value):
        told = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        named = not isinstance(value, BankOptions | FusionOptions | GateOptions)  # options are no parts
        return {"part": type(value).__name__, **told} if named else told
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def test_names_of_ways_are_names() -> None:
    with pytest.raises(SpecError, match="strategy name 'a b' is not usable"):
        read_recipes({"a b": {}})


def test_the_digest_is_of_the_parts_alone() -> None:
    plain = find_recipe("sequential")
    assert recipe_digest(plain) == recipe_digest(replace(plain, what="other words", paper="other"))
    assert recipe_digest(plain) != recipe_digest(replace(plain, head=Cosine(grow=True, scale=10.0)))
    named = {recipe_digest(find_recipe(name)) for name in ("sequential", "isolated", "joint", "frozen")}
    assert len(named) == 4


def test_every_part_can_be_named() -> None:
    assert {"Fresh", "FromLast", "OnTop"} <= set(PARTS["init"])
    assert {"Cosine", "Linear", "Own"} <= set(PARTS["head"])
    assert "Slow" in PARTS["projection"]
    assert "Plus" in PARTS["penalty"]


def test_a_value_that_parts_got_later_leaves_earlier_digests_as_they_were() -> None:
    recipe = find_recipe("ncm")
    assert isinstance(recipe.consolidate, GatherStatistics)
    # As runs have recorded it before features could be lifted.
    assert recipe_digest(recipe).startswith("3d53f312")
    lifted = replace(recipe, consolidate=replace(recipe.consolidate, width=100))
    assert recipe_digest(lifted) != recipe_digest(recipe)
