"""``contpeft store``: commands that tell lineage and bytes, and those that change a store."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_helpers import BASE, completed, lines, printed, state, told, undated
from typer.testing import CliRunner, Result

from contpeft.cli import app, options
from contpeft.errors import UsageError
from contpeft.store import AdapterStore

Call = Callable[..., Result]


def test_tree(call: Call) -> None:
    assert lines(printed(call("store", "tree", "billing@1"))) == [
        "billing@1",
        "  billing@2 (continued)",
        "    both@1 (fused 0.75)",
        "  both@1 (fused 0.25)",
    ]
    assert lines(printed(call("store", "tree", "both", "--parents"))) == [
        "both@1",
        "  billing@1 (fused 0.25)",
        "  billing@2 (fused 0.75)",
        "    billing@1 (continued)",
    ]
    assert lines(printed(call("store", "tree")))[-1] == "mail@1"
    found = json.loads(printed(call("store", "tree", "billing@2", "--json")))
    assert found[1] == {"ref": "both@1", "depth": 1, "role": "fused", "weight": 0.75, "repeated": False}


def test_tree_on_a_terminal_has_branches(call: Call) -> None:
    shown = printed(call("store", "tree", "billing@1", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm"))
    assert lines(shown) == [
        "billing@1",
        "├── billing@2 (continued)",
        "│   └── both@1 (fused 0.75)",
        "└── both@1 (fused 0.25)",
    ]


def test_diff(call: Call) -> None:
    assert lines(printed(call("store", "diff", "billing@1", "billing@2"))) == [
        "billing@1 -> billing@2",
        "",
        "values",
        "  key     before    after",
        "  data    -         da7a",
        "  head    -         {'kind': 'cosine', 'classes': ['no', 'yes'], 'options': {'scale': 10.0}}",
        "  origin  imported  trained",
        "  task    -         tickets",
        "",
        "weights",
        "  tensor           before  after   moved by  relative",
        "  head.weight      -       (2, 4)         -         -",
        "  q.lora_A.weight  (2, 4)  (2, 4)     2.828   100.00%",
        "",
        "scores",
        "  answer  task                 protocol    metric    before   after",
        "  main    tickets              task_aware  accuracy       -  0.9251",
        r"  main    [red]\x1b[31m\nmail  task_aware  accuracy       -  0.5000",
    ]
    same = lines(printed(call("store", "diff", "mail", "mail@1")))
    assert same == ["mail@1 -> mail@1", "", "equal in configuration, head, data and weights"]
    found = json.loads(printed(call("store", "diff", "billing@1", "billing@2", "--json")))
    assert found["tensors"][1]["shapes"] == [[2, 4], [2, 4]]


def test_du(call: Call, filled: AdapterStore) -> None:
    filled.register("copy", state(1), base=BASE)
    shown = lines(printed(call("store", "du")))
    assert shown[:5] == [
        "name     versions      bytes     shared",
        "billing         2  664 bytes  280 bytes",
        "both            1  280 bytes    0 bytes",
        "copy            1  280 bytes  280 bytes",
        "mail            1  280 bytes    0 bytes",
    ]
    assert shown[6:9] == ["needed      1.2 kB", "orphans     0 bytes", "quarantine  0 bytes"]
    assert json.loads(printed(call("store", "du", "--json")))["bytes"] == 664 + 280 + 280


def test_query(call: Call) -> None:
    sql = "SELECT ref, accuracy FROM version_list WHERE task IS NOT NULL ORDER BY ref"
    assert lines(printed(call("store", "query", sql))) == [
        "ref        accuracy",
        "billing@2  0.9251",
        "mail@1     -",
    ]
    rows = [{"ref": "billing@2", "accuracy": 0.9251}, {"ref": "mail@1", "accuracy": None}]
    assert json.loads(printed(call("store", "query", sql, "--json"))) == rows
    assert [json.loads(line) for line in printed(call("store", "query", sql, "--nl")).splitlines()] == rows
    assert list(csv.reader(printed(call("store", "query", sql, "--csv")).splitlines())) == [
        ["ref", "accuracy"],
        ["billing@2", "0.9251"],
        ["mail@1", ""],
    ]
    refused = call("store", "query", "DELETE FROM tag")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "error: cannot run this query: attempt to write a readonly database\n"


def test_tags(call: Call) -> None:
    out, err = told(call("store", "tag", "billing", "owner=ada", "keep"))
    assert out == "keep\nowner=ada\n"
    undo = "contpeft store tag billing@2 --remove keep --remove owner"
    assert err == f"tagged billing@2; undo: {undo}\n"
    assert told(call("store", "tag", "billing")) == ("keep\nowner=ada\n", "")
    assert told(call("store", "tag", "billing", "keep"))[1] == ""
    out, err = told(call("store", "tag", "billing@2", "owner=bob b", "to=x", "--remove", "keep", "--json"))
    assert json.loads(out) == {"ref": "billing@2", "tags": {"owner": "bob b", "to": "x"}}
    assert err == "tagged billing@2; undo: contpeft store tag billing@2 keep owner=ada --remove to\n"
    told(call(*shlex.split(err.partition("undo: contpeft ")[2])))
    assert printed(call("store", "tag", "billing")) == "keep\nowner=ada\n"
    assert "  tags        keep, owner=ada" in lines(printed(call("store", "show", "billing")))


def test_aliases(call: Call) -> None:
    out, err = told(call("store", "alias", "set", "billing@1", "champion"))
    assert out == ""
    assert err == (
        "billing@champion stands for billing@1; undo: contpeft store alias undo billing champion\n"
    )
    _, err = told(call("store", "alias", "set", "billing@2", "champion"))
    assert err.startswith("billing@champion stands for billing@2 (was billing@1); undo: ")
    assert told(call("store", "alias", "set", "billing@2", "champion"))[1] == (
        "billing@champion stands for billing@2 already\n"
    )
    assert printed(call("store", "show", "billing@champion")).startswith(
        "billing@2\n  aliases     champion\n"
    )
    _, err = told(call("store", "alias", "undo", "billing", "champion"))
    assert err == "billing@champion stands for billing@1 (was billing@2)\n"
    _, err = told(call("store", "alias", "rm", "billing", "champion"))
    assert err.startswith("billing@champion is gone (was billing@1); undo: ")
    shown = re.sub(
        r"<date> +\S+", "<date> <actor>", undated(printed(call("store", "alias", "log", "billing")))
    )
    assert [line.split() for line in lines(shown)] == [
        ["alias", "at", "actor", "before", "after", "undo"],
        ["billing@champion", "<date>", "<actor>", "billing@1", "-", "-"],
        ["billing@champion", "<date>", "<actor>", "billing@2", "billing@1", "undo"],
        ["billing@champion", "<date>", "<actor>", "billing@1", "billing@2", "-"],
        ["billing@champion", "<date>", "<actor>", "-", "billing@1", "-"],
    ]


def test_aliases_as_json(call: Call) -> None:
    keys = {"name", "alias", "before", "after", "at", "actor", "undo"}
    for command in (
        ["set", "billing@1", "x"],
        ["undo", "billing", "x"],
        ["set", "billing@2", "x"],
        ["rm", "billing", "x"],
    ):
        out, _ = told(call("store", "alias", *command, "--json"))
        assert json.loads(out).keys() == keys
    found = json.loads(printed(call("store", "alias", "log", "billing", "x", "--json")))
    assert [(change["before"], change["after"]) for change in found] == [
        (2, None),
        (None, 2),
        (1, None),
        (None, 1),
    ]
    told(call("store", "alias", "set", "billing@1", "x"))
    assert told(call("store", "alias", "set", "billing@1", "x", "--json"))[0] == "null\n"


def test_rename(call: Call, filled: AdapterStore) -> None:
    assert told(call("store", "rename", "mail", "post")) == (
        "",
        "renamed mail to post; undo: contpeft store rename post mail\n",
    )
    assert filled.names() == ["billing", "both", "post"]
    refused = call("store", "rename", "billing", "x")
    assert (refused.exit_code, "step demo/ewc/0 names it" in refused.stderr) == (2, True)


def test_rm(call: Call, filled: AdapterStore) -> None:
    assert told(call("store", "rm", "mail", "both@1", "--dry-run")) == (
        "both@1\nmail@1\n",
        "would remove 2 versions, 560 bytes\n",
    )
    assert len(filled.versions()) == 4
    out, err = told(call("store", "rm", "mail", "both@1", "--yes"))
    assert out == "both@1\nmail@1\n"
    assert err.startswith("removed 2 versions, 560 bytes; undo: register them again")
    assert [version.ref for version in filled.versions()] == ["billing@2", "billing@1"]
    nothing = call("store", "rm", "--yes")
    assert (nothing.exit_code, nothing.stderr) == (
        2,
        "error: name the versions to remove, or a run by --run\n",
    )
    refused = call("store", "rm", "billing@1", "--yes")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "must stay: billing@2 was made from it" in refused.stderr


def test_rm_a_run(call: Call, filled: AdapterStore) -> None:
    out, err = told(call("store", "rm", "both", "--yes"))
    out, err = told(call("store", "rm", "--run", "demo", "--dry-run"))
    assert (out, err.split(",")[0]) == ("billing@2\n", "would remove 1 versions")
    out, _ = told(call("store", "rm", "--run", "demo", "--yes", "--json"))
    assert json.loads(out)["refs"] == ["billing@2"]
    assert (filled.runs(), filled.scores(), filled.steps("demo")) == ([], [], [])


@pytest.mark.parametrize("command", ["rm mail", "prune --keep-last 1 --everything", "gc --grace 0"])
def test_without_a_terminal_nothing_goes_unasked(call: Call, filled: AdapterStore, command: str) -> None:
    filled.register("junk", state(9), base=BASE)
    filled.register("junk", state(10), base=BASE)
    if command.startswith("gc"):
        filled.upkeep.remove(["junk@1", "junk@2"])
    before = (filled.versions(), sorted(filled.path.rglob("*.safetensors")))
    refused = call("store", *command.split())
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "Nobody is here to answer; give --yes, or --dry-run to see what goes" in refused.stderr
    assert (filled.versions(), sorted(filled.path.rglob("*.safetensors"))) == before


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 3), ("n\n", 1, 4)])
def test_on_a_terminal_it_is_asked(
    filled: AdapterStore, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    monkeypatch.setattr(options, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    asked = CliRunner().invoke(app, ["store", "rm", "mail", "--store", str(filled.path)], input=answer)
    assert (asked.exit_code, len(filled.versions())) == (code, left)
    assert asked.stderr.startswith("mail@1\nRemove 1 versions, 280 bytes? [y/N]:")


def test_prune(call: Call, filled: AdapterStore) -> None:
    for value in (5, 6, 7):
        filled.register("mail", state(value), base=BASE)
    filled.tags.set("mail@1", {"keep": ""})
    arguments = ["store", "prune", "--keep-last", "1", "--name", "mail"]
    out, err = told(call(*arguments, "--dry-run", "--json"))
    found = json.loads(out)
    assert (found["refs"], found["bytes"], found["dry_run"]) == (["mail@2", "mail@3"], 560, True)
    assert found["kept"]["mail@1"] == "has the tag keep"
    assert err == "would remove 2 versions, 560 bytes\n"
    assert told(call(*arguments, "--yes"))[0] == "mail@2\nmail@3\n"
    assert told(call(*arguments))[1].startswith("removed 0 versions")
    assert [version.ref for version in filled.versions(name="mail")] == ["mail@4", "mail@1"]


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        (["--keep-best", "accuracy", "--n", "2"], None),
        (["--keep-within", "1h"], []),
        (["--max-bytes", "1MB"], []),
        (["--max-bytes", "1.3kB"], ["both@1", "mail@1"]),
        ([], None),
    ],
)
def test_prune_rules(call: Call, filled: AdapterStore, rules: list[str], gone: list[str] | None) -> None:
    filled.register("mail", state(5), base=BASE)
    filled.register("both", state(6), base=BASE)
    result = call("store", "prune", *rules, "--dry-run", "--json")
    assert (result.exit_code == 0) == (gone is not None)
    if gone is not None:
        assert json.loads(result.stdout)["refs"] == gone


def test_gc(call: Call, filled: AdapterStore) -> None:
    sha256 = filled.show("mail").sha256
    filled.upkeep.remove(["mail"])
    assert told(call("store", "gc")) == ("", "deleted 0 files, 0 bytes\n")
    assert told(call("store", "gc", "--grace", "0", "--dry-run")) == (
        f"{sha256}\n",
        "would delete 1 files, 280 bytes\n",
    )
    out, err = told(call("store", "gc", "--grace", "0s", "--yes", "--json"))
    assert json.loads(out) == {"blobs": [sha256], "temporary": [], "bytes": 280, "dry_run": False}
    assert err == "deleted 1 files, 280 bytes\n"
    assert not filled._blobs.path(sha256).exists()


def test_fsck(call: Call, filled: AdapterStore) -> None:
    assert lines(printed(call("store", "fsck"))) == [
        "versions  4",
        "files     4",
        "read      4",
        "orphans   0",
        "seconds   0.0",
    ]
    path = filled._blobs.path(filled.show("mail").sha256)
    path.unlink()
    result = call("store", "fsck", "--quick", "--json")
    assert result.exit_code == 4
    assert [finding["subject"] for finding in json.loads(result.stdout)["findings"]] == ["mail@1"]
    assert result.stderr == (
        f"error: 1 problems in {filled.path} (mail@1); register the same content again or restore a backup\n"
    )
    result = call("store", "fsck", "--sample", "50%", "--max-seconds", "60", "--repair")
    assert (result.exit_code, lines(result.stdout)[1].split()[:2]) == (4, ["missing", "mail@1"])


def test_backup(call: Call, filled: AdapterStore, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    out, err = told(call("store", "backup", str(target)))
    assert (out, lines(err)) == (
        f"{target}\n",
        ["4 versions, 4 files, 1.2 kB, 4 hard links", f"restore: contpeft store list --store {target}"],
    )
    assert printed(call("store", "list", "-q", "--store", str(target))) == printed(
        call("store", "list", "-q")
    )
    again = call("store", "backup", str(target), "--json")
    assert (again.exit_code, again.stdout) == (2, "")
    filled._blobs.path(filled.show("mail").sha256).unlink()
    damaged = call("store", "backup", str(tmp_path / "other"), "--json")
    assert damaged.exit_code == 4
    assert json.loads(damaged.stdout)["findings"][0]["subject"] == "mail@1"


def test_names_and_aliases_are_completed(filled: AdapterStore, tmp_path: Path) -> None:
    filled.aliases.set("billing@1", "champion")
    assert completed(filled.path, "contpeft store show bi") == [
        "billing",
        "billing@1",
        "billing@2",
        "billing@champion",
    ]
    assert completed(filled.path, "contpeft store diff both billing@c") == ["billing@champion"]
    assert completed(filled.path, "contpeft store alias rm b") == ["billing", "both"]
    assert completed(filled.path, "contpeft store rm mail@1 bo") == ["both", "both@1"]
    assert completed(tmp_path / "nowhere", "contpeft store show b") == []
    assert not (tmp_path / "nowhere").exists()


def test_an_old_store_is_not_upgraded_to_complete(filled: AdapterStore) -> None:
    with filled._db.write() as connection:
        connection.execute("PRAGMA user_version = 1")
    assert completed(filled.path, "contpeft store show b") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("30d", 30 * 86400), ("1.5h", 5400), ("90 m", 5400), ("2w", 14 * 86400), ("0", 0), ("45s", 45)],
)
def test_durations(text: str, value: float) -> None:
    assert options.parse_duration(text) == timedelta(seconds=value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500MB", 500_000_000),
        ("2GiB", 2 * 1024**3),
        ("1000", 1000),
        ("1.5k", 1500),
        ("3 B", 3),
        ("1Ti", 1024**4),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert options.parse_bytes(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (options.parse_duration, "30"),
        (options.parse_duration, "d"),
        (options.parse_bytes, "MB"),
        (options.parse_bytes, "-1"),
        (options.parse_share, "5"),
        (options.parse_share, "0.05"),
        (options.parse_moment, "yesterday"),
        (options.parse_pair, "kind"),
    ],
)
def test_what_cannot_be_read(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(UsageError, match=f"'{text}' is no "):
        parse(text)


def test_help_has_panels() -> None:
    shown = CliRunner().invoke(app, ["store", "--help"]).stdout
    titles = [line for line in lines(shown) if line in ("Read:", "Write:", "Maintain:")]
    assert titles == ["Read:", "Write:", "Maintain:"]
    assert "..." not in shown.partition("Read:")[2]
