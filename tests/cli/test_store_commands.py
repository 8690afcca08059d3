"""``contpeft store``: what each command prints, for people and for programs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from cli_helpers import lines, printed, undated
from typer.testing import Result

from contpeft.store import AdapterStore

Call = Callable[..., Result]


ALL = ["mail@1", "both@1", "billing@2", "billing@1"]


def test_list(call: Call, filled: AdapterStore) -> None:
    filled.aliases.set("billing@2", "b")
    filled.aliases.set("billing@2", "a")
    assert lines(undated(printed(call("store", "list")))) == [
        r"ref        aliases  kind  task                 run   base       parameters      bytes  created_at",
        r"mail@1     -        lora  [red]\x1b[31m\nmail  -     tiny-bert          16  280 bytes  <date>",
        r"both@1     -        lora  -                    -     tiny-bert          16  280 bytes  <date>",
        r"billing@2  a b      lora  tickets              demo  tiny-bert          16  384 bytes  <date>",
        r"billing@1  -        lora  -                    -     tiny-bert          16  280 bytes  <date>",
    ]


@pytest.mark.parametrize(
    ("options", "refs"),
    [
        ([], ["mail@1", "both@1", "billing@2", "billing@1"]),
        (["--name", "billing"], ["billing@2", "billing@1"]),
        (["--run", "demo"], ["billing@2"]),
        (["--task", "tickets", "--kind", "lora"], ["billing@2"]),
        (["--kind", "ia3"], []),
        (["--before", "both", "--limit", "2"], ["billing@2", "billing@1"]),
        (["--base", "tiny-bert", "--tag", "owner=ada"], ["mail@1"]),
        (["--tag", "owner", "--tag", "keep"], ["mail@1"]),
        (["--alias", "champion"], ["billing@1"]),
        (["--where", "origin=fused"], ["both@1"]),
        (["--where", "task=tickets", "--where", "config.r=2"], ["billing@2"]),
        (["--where", "config.layers=null"], ["mail@1", "both@1", "billing@2", "billing@1"]),
        (["--where", "config.peft_type=IA3"], []),
        (["--metric", "accuracy>=0.92"], ["billing@2"]),
        (["--metric", "accuracy@tickets>0.93"], []),
        (["--metric", "accuracy", "--protocol", "all_classes"], []),
        (["--metric", "accuracy", "--sort", "metric"], ["billing@2"]),
        (["--since", "1h", "--older", "0s"], ["mail@1", "both@1", "billing@2", "billing@1"]),
        (["--older", "2020-01-01"], []),
        (["--since", "2020-01-01T10:00", "--sort", "created", "--reverse", "--limit", "4"], ALL[::-1]),
        (["--sort", "name"], ["billing@1", "billing@2", "both@1", "mail@1"]),
        (["--sort", "bytes"], ["billing@2", "mail@1", "both@1", "billing@1"]),
    ],
)
def test_list_filters_the_same_in_every_format(
    call: Call, filled: AdapterStore, options: list[str], refs: list[str]
) -> None:
    filled.tags.set("mail@1", {"owner": "ada", "keep": ""})
    filled.aliases.set("billing@1", "champion")

    def rows(*format_: str) -> str:
        return printed(call("store", "list", *options, *format_))

    assert rows("-q").splitlines() == refs
    assert rows("--quiet") == rows("-q")
    assert [version["ref"] for version in json.loads(rows("--json"))] == refs
    assert [json.loads(line)["ref"] for line in rows("--nl").splitlines()] == refs
    assert [row["ref"] for row in csv.DictReader(rows("--csv").splitlines())] == refs
    assert [line.split()[0] for line in rows().splitlines()[1:]] == refs


def test_list_of_nothing(call: Call) -> None:
    assert printed(call("store", "list", "--name", "x", "--json")) == "[]\n"
    assert printed(call("store", "list", "--name", "x", "-q")) == ""
    assert printed(call("store", "list", "--name", "x")).split()[0] == "ref"


def test_list_as_json_is_the_whole_entry(call: Call, filled: AdapterStore) -> None:
    found = json.loads(printed(call("store", "list", "--json")))
    plain = [{**version.to_json(), "aliases": [], "tags": {}} for version in filled.versions()]
    assert found == json.loads(json.dumps(plain))
    assert found[2]["config"]["r"] == 2


def test_list_as_csv(call: Call, filled: AdapterStore) -> None:
    created = filled.show("billing@2").created_at
    assert printed(call("store", "list", "--run", "demo", "--csv")) == (
        "ref,aliases,kind,task,run,base,parameters,bytes,created_at\n"
        f"billing@2,,lora,tickets,demo,tiny-bert,16,384,{created}\n"
    )


def test_list_says_how_to_go_on(call: Call) -> None:
    first = call("store", "list", "-q", "--limit", "3")
    assert (first.stdout, first.stderr) == (
        "mail@1\nboth@1\nbilling@2\n",
        "3 shown; older ones: --before billing@2\n",
    )
    assert printed(call("store", "list", "-q", "--limit", "3", "--before", "billing@2")) == "billing@1\n"


def test_show(call: Call) -> None:
    shown = undated(printed(call("store", "show", "billing")))
    head, _, environment = shown.partition("\nenvironment\n")
    assert lines(head) == [
        r"billing@2",
        r"  kind        lora",
        r"  origin      trained",
        r"  base        tiny-bert (1,234 parameters)",
        r"  task        tickets",
        r"  run         demo",
        r"  data        da7a",
        r"  parents     billing@1 (continued)",
        r"  children    both@1",
        r"  head        cosine, 2 classes",
        r"  parameters  16",
        r"  size        384 bytes",
        r"  seconds     61.3",
        r"  sha256      <sha256>",
        r"  created     <time>",
        r"",
        r"config",
        r"  peft_type       LORA",
        r"  r               2",
        r"  target_modules  ['q']",
        r"",
        r"scores",
        r"  answer  task                 protocol    metric     value      n",
        r"  main    tickets              task_aware  accuracy  0.9251  1,200",
        r"  main    [red]\x1b[31m\nmail  task_aware  accuracy  0.5000  1,200",
    ]
    assert [line.split()[0] for line in environment.splitlines()] == [
        *("contpeft", "lightning", "peft", "platform", "python", "torch", "transformers")
    ]


def test_show_as_json(call: Call, filled: AdapterStore) -> None:
    filled.aliases.set("billing@2", "champion")
    filled.tags.set("billing@2", {"keep": ""})
    value = json.loads(printed(call("store", "show", "billing@2", "--json")))
    assert (value.pop("aliases"), value.pop("tags")) == (["champion"], {"keep": ""})
    assert value.pop("children") == ["both@1"]
    assert value.pop("scores")[0] == {
        **{"answer": "main", "task": "tickets", "protocol": "task_aware"},
        **{"metric": "accuracy", "value": 0.9251, "n": 1200},
    }
    assert value.pop("calibration") == []
    assert value == json.loads(json.dumps(filled.show("billing@2").to_json()))


def test_show_of_a_fusion_tells_its_recipe(call: Call) -> None:
    shown = lines(printed(call("store", "show", "both")))
    assert "  parents     billing@1 (fused 0.25), billing@2 (fused 0.75)" in shown
    assert shown[shown.index("recipe") + 1] == "  rule  sum"
    assert not any(line.startswith(("scores", "  run", "  task", "  head")) for line in shown)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("cosine", "cos(x, k_i), x the mean token embedding"),
        (
            "independent",
            "|2 sigmoid(4 cos(q_i(x), k_i)) - 1|, x the mean token embedding and q two layers of 64",
        ),
    ],
)
def test_show_of_an_adapter_with_a_gate_tells_how_it_weighs(
    call: Call, filled: AdapterStore, rule: str, said: str
) -> None:
    config = {"peft_type": "GATED", "gate": {"rule": rule, "hidden": 64}, "lora": {}}
    stored = replace(filled.load("billing"), kind="gated", config=config)
    filled.register("shut", stored, base=filled.show("billing").base)
    assert f"  gate        {said}" in lines(printed(call("store", "show", "shut")))


def test_show_of_a_fit_without_steps_has_the_scores_of_its_run(call: Call, filled: AdapterStore) -> None:
    filled.start_run("fit-1", config={}, seed=0, tasks=[], scenario="one task")
    base = filled.show("billing").base
    filled.register("alone", filled.load("billing"), base=base, run="fit-1")
    measured = next(score for score in filled.scores(run="demo") if score.task == "tickets")
    filled.add_scores([replace(measured, run="fit-1"), replace(measured, run="fit-1", kind="start")])
    value = json.loads(printed(call("store", "show", "alone", "--json")))
    assert [(cell["task"], cell["value"]) for cell in value["scores"]] == [("tickets", 0.9251)]


def test_log(call: Call) -> None:
    assert lines(undated(printed(call("store", "log", "billing")))) == [
        "ref        created_at        origin    task     run   parents",
        "billing@2  <date>            trained   tickets  demo  billing@1 (continued)",
        "billing@1  <date>            imported  -        -     -",
    ]
    earlier = lines(printed(call("store", "log", "billing@1")))
    assert [line.split()[0] for line in earlier] == ["ref", "billing@1"]
    as_json = json.loads(printed(call("store", "log", "billing", "--json")))
    assert [version["ref"] for version in as_json] == ["billing@2", "billing@1"]


def test_path(call: Call, filled: AdapterStore) -> None:
    assert printed(call("store", "path")) == f"{filled.path}/store.db\n"


def test_the_store_is_named_by_an_option_too(call: Call, filled: AdapterStore) -> None:
    result = call("store", "list", "-q", "--store", str(filled.path), CONTPEFT_STORE="nowhere")
    assert len(printed(result).splitlines()) == 4


def test_a_terminal_gets_a_ruled_table_that_fits(call: Call) -> None:
    shown = printed(call("store", "list", FORCE_COLOR="1", COLUMNS="60", TERM="xterm"))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "\x1b[1m" in shown
    assert "───" in plain
    assert max(len(line) for line in plain.splitlines()) <= 60
    assert [line.split()[0] for line in plain.splitlines() if "@" in line] == [
        *("mail@1", "both@1", "billing@2", "billing@1")
    ]


def test_no_color_sends_no_escapes_at_all(call: Call) -> None:
    shown = printed(call("store", "list", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm"))
    assert "\x1b" not in shown
    assert "───" in shown
