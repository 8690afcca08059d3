"""``contpeft store fuse``, ``rules`` and ``verify-recipe``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_helpers import BASE, lines, printed, told
from typer.testing import Result

from contpeft.spec import AdapterState
from contpeft.spec.lora import ROOT
from contpeft.store import AdapterStore

Call = Callable[..., Result]


@pytest.fixture
def learnt(filled: AdapterStore) -> AdapterStore:
    """Beside the others: a@1, b@1 and c@1 on orthogonal inputs, of norms 2, 4 and 8."""
    for place, name in enumerate("abc"):
        a, b = torch.zeros(1, 4), torch.zeros(3, 1)
        a[0, place], b[0, 0] = 1.0, 2.0**place
        tensors = {f"{ROOT}layer.0.q.lora_A.weight": a, f"{ROOT}layer.0.q.lora_B.weight": b}
        config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q"]}
        filled.register(name, AdapterState("lora", config, tensors), base=BASE)
    return filled


def test_fuse(call: Call, learnt: AdapterStore) -> None:
    out, said = told(call("store", "fuse", "a", "b", "--weights", "1,0.5", "--name", "ab"))
    assert out == "ab@1\n"
    assert lines(said) == ["sum of 2, 0.00% of the energy cut off", "look: contpeft store show ab@1"]
    state = learnt.load("ab")
    b, a = (state.tensors[f"{ROOT}layer.0.q.lora_{factor}.weight"] for factor in "BA")
    torch.testing.assert_close((b @ a)[0], torch.tensor([2.0, 2.0, 0.0, 0.0]))


def test_what_a_merge_would_come_to(call: Call, learnt: AdapterStore) -> None:
    arguments = (
        "--rule",
        "tsv",
        "--rank",
        "energy:0.9",
        "--weights",
        "1,1,0.5",
        "--name",
        "abc",
        "--dry-run",
    )
    out, said = told(call("store", "fuse", "a", "b", "c", *arguments))
    assert lines(out) == PLAN
    assert said == "these numbers describe, they do not predict: measure before you trust a merge\n"
    assert "abc" not in learnt.names()


PLAN = [
    "rule          tsv(keep=1.0, scale=1.0)",
    "variant       all true triples of each update; dependent directions share their place",
    "rank          energy:0.9: 1 to 1, 1 over all",
    "cut off       0.00% of the energy, norm 0 of 3.464",
    "interference  0.000 of all singular values (STI)",
    "size          28 bytes",
    "",
    "version  weight  norm  share  residual",
    "a@1           1     2  14.3%     0.423",
    "b@1           1     4  28.6%     0.423",
    "c@1         0.5     8  57.1%     0.711",
    "",
    "version  and  cosine  same outputs  same inputs",
    "a@1      b@1  +0.000        100.0%         0.0%",
    "a@1      c@1  +0.000        100.0%         0.0%",
    "b@1      c@1  +0.000        100.0%         0.0%",
    "",
    "rank for a share of the energy, over all modules",
    "  energy  rank",
    "   50.0%     1",
    "   80.0%     1",
    "   90.0%     1",
    "   95.0%     1",
    "   99.0%     1",
    "   99.9%     1",
]


def test_a_plan_as_json(call: Call, learnt: AdapterStore) -> None:
    plan = json.loads(printed_json(call("store", "fuse", "a", "b", "--name", "ab", "--dry-run", "--json")))
    assert sorted(plan) == ["bytes", "interference", "modules", "parents", "rank_for_energy", "recipe"]
    assert plan["modules"] == [
        {
            "module": "layer.0.q",
            "inputs": 2,
            "rank": 1,
            "full": 1,
            "norm": pytest.approx(20**0.5),
            "error": 0.0,
        }
    ]
    assert plan["interference"]["residual"] == [pytest.approx(0.0, abs=1e-12)] * 2
    assert plan["parents"][1] == {"ref": "b@1", "role": "fused", "weight": 1.0}


def printed_json(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_into_a_running_merge(call: Call, learnt: AdapterStore) -> None:
    out, _ = told(call("store", "fuse", "a", "b", "--into", "run", "--rank", "4"))
    assert out == "run@1\nrun@2\n"
    out, _ = told(call("store", "fuse", "c", "--into", "run", "--rank", "4"))
    assert out == "run@3\n"
    assert [parent.ref for parent in learnt.show("run").parents] == ["run@2", "c@1"]
    assert learnt.show("run").recipe["rule"] == "null-space"  # type: ignore[index]


def test_a_recipe_is_made_again(call: Call, learnt: AdapterStore) -> None:
    told(call("store", "fuse", "a", "b", "--rule", "dare", "--set", "density=0.9", "--name", "ab"))
    assert printed(call("store", "verify-recipe", "ab")) == "ab@1 comes out the same, bit for bit\n"
    assert json.loads(printed(call("store", "verify-recipe", "ab", "--json"))) == {
        "ref": "ab@1",
        "equal": True,
        "difference": 0.0,
    }


def test_a_recipe_that_gives_something_else_fails(call: Call, learnt: AdapterStore) -> None:
    told(call("store", "fuse", "a", "b", "--name", "ab"))
    made = learnt.show("ab")
    spoiled = {name: tensor + 1 for name, tensor in learnt.load("ab").tensors.items()}
    state = AdapterState("lora", made.config, spoiled)
    learnt.register("ab", state, base=BASE, origin="fused", recipe=made.recipe, parents=made.parents)
    result = call("store", "verify-recipe", "ab@2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.match(r"error: ab@2 comes out otherwise, by up to 1; its recipe names the torch", result.stderr)


def test_show_tells_the_recipe_line_by_line(call: Call, learnt: AdapterStore) -> None:
    told(call("store", "fuse", "a", "b", "--rule", "ties", "--set", "density=0.5", "--name", "ab"))
    shown = printed(call("store", "show", "ab"))
    assert "  parents     a@1 (fused 1), b@1 (fused 1)\n" in shown
    assert "\nrecipe\n" in shown
    assert re.search(r"^  rule +ties$", shown, re.M)


def test_rules(call: Call) -> None:
    listed = lines(printed(call("store", "rules")))
    assert listed[0].split() == ["rule", "what", "it", "does", "parameters", "paper"]
    assert len(listed) == 25
    assert [line.split()[0] for line in listed[1:4]] == ["sum", "average", "task-arithmetic"]
    [one] = json.loads(printed(call("store", "rules", "dare", "--json")))
    assert (one["seeded"], one["parameters"]) == (True, {"density": 0.5, "space": "core"})
    assert lines(printed(call("store", "rules", "slerp")))[:2] == [
        "slerp",
        "  summary     point on the arc between two",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("a", "b"), 2, "say where the result goes: --name NAME, or --into NAME for a running merge"),
        (("a", "--name", "x", "--into", "y"), 2, "say where the result goes"),
        (("a", "b", "--weights", "1,x", "--name", "x"), 2, "weights '1,x' are no numbers; write 1,0.5,-1"),
        (("a", "b", "--set", "density", "--name", "x"), 2, "'density' is no KEY=VALUE; write density=0.3"),
        (("a", "b", "--rule", "tvs", "--name", "x"), 3, "no merging rule 'tvs'; did you mean 'tsv'?"),
        (("a", "bb", "--name", "x"), 3, "no adapter 'bb' in"),
        (("a", "b", "--into", "x", "--dry-run"), 2, "--dry-run has no meaning with --into"),
        (("a", "mail", "--name", "x"), 2, "mail@1: tensor 'q.lora_A.weight' is no factor"),
    ],
)
def test_bad_input_is_one_line(
    call: Call, learnt: AdapterStore, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = call("store", "fuse", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_the_folder_of_the_store_is_told_apart(call: Call, tmp_path: Path) -> None:
    result = call("store", "fuse", "a", "--name", "x", "--store", str(tmp_path / "none"))
    assert result.exit_code == 3
