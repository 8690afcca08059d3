"""``contpeft store show``, ``log``, ``tree``, ``diff``, ``du`` and ``path``: what a store tells."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final

import typer
from rich.filesize import decimal

from contpeft.cli.options import DEFAULT_STORE, AsJson, Ref, StorePath, complete, open_store
from contpeft.cli.output import (
    Column,
    examples,
    print_details,
    print_json,
    print_lines,
    print_table,
    print_tree,
    show_tags,
    show_time,
)
from contpeft.spec import HeadSpec, Parent, Score, Single, Version
from contpeft.spec.identity import calibration_key
from contpeft.spec.methods import GATE_RULES, GATED
from contpeft.store import AdapterStore, Branch, Change, LineUsage, ScoreChange, TensorChange

__all__ = [
    "DIFF_EXAMPLES",
    "DU_EXAMPLES",
    "LOG_EXAMPLES",
    "PATH_EXAMPLES",
    "SHOW_EXAMPLES",
    "TREE_EXAMPLES",
    "diff",
    "du",
    "log",
    "path",
    "show",
    "tree",
]

SHOW_EXAMPLES: Final = examples(
    "contpeft store show billing",
    "contpeft store show billing@3 --json",
    "contpeft store show sha256:ab12cd34",
)
LOG_EXAMPLES: Final = examples(
    "contpeft store log billing",
    "contpeft store log billing@3 --json",
)
TREE_EXAMPLES: Final = examples(
    "contpeft store tree",
    "contpeft store tree billing@1",
    "contpeft store tree billing@champion --parents",
)
DIFF_EXAMPLES: Final = examples(
    "contpeft store diff billing@2 billing@3",
    "contpeft store diff billing@champion billing --json",
)
DU_EXAMPLES: Final = examples("contpeft store du", "contpeft store du --json")
PATH_EXAMPLES: Final = examples(
    "contpeft store path",
    "sqlite3 -readonly $(contpeft store path) 'SELECT ref, task FROM version_list'",
)


def _parents(parents: tuple[Parent, ...]) -> str:
    return ", ".join(f"{parent.ref} ({_role(parent.role, parent.weight)})" for parent in parents)


def _role(role: str, weight: float | None) -> str:
    return role if weight is None else f"{role} {weight:g}"


LOG: Final[tuple[Column[Version], ...]] = (
    Column("ref", lambda v: v.ref),
    Column("created_at", lambda v: v.created_at, show_time),
    Column("origin", lambda v: v.origin),
    Column("task", lambda v: v.task),
    Column("run", lambda v: v.run),
    Column("parents", lambda v: _parents(v.parents) or None),
)
SCORES: Final[tuple[Column[Score], ...]] = (
    Column("answer", lambda s: s.answer),
    Column("task", lambda s: s.task),
    Column("protocol", lambda s: s.protocol),
    Column("metric", lambda s: s.metric),
    Column("value", lambda s: s.value, "{:.4f}".format, right=True),
    Column("n", lambda s: s.n, "{:,}".format, right=True),
)
FIELDS: Final[tuple[Column[Change], ...]] = (
    Column("key", lambda c: c.key),
    Column("before", lambda c: c.before),
    Column("after", lambda c: c.after),
)
TENSORS: Final[tuple[Column[TensorChange], ...]] = (
    Column("tensor", lambda t: t.name),
    Column("before", lambda t: t.shapes[0]),
    Column("after", lambda t: t.shapes[1]),
    Column("moved by", lambda t: t.norm, "{:.4g}".format, right=True),
    Column("relative", lambda t: t.relative, "{:.2%}".format, right=True),
)
SCORE_CHANGES: Final[tuple[Column[ScoreChange], ...]] = (
    Column("answer", lambda s: s.answer),
    Column("task", lambda s: s.task),
    Column("protocol", lambda s: s.protocol),
    Column("metric", lambda s: s.metric),
    Column("before", lambda s: s.before, "{:.4f}".format, right=True),
    Column("after", lambda s: s.after, "{:.4f}".format, right=True),
)
USAGE: Final[tuple[Column[LineUsage], ...]] = (
    Column("name", lambda u: u.name),
    Column("versions", lambda u: u.versions, "{:,}".format, right=True),
    Column("bytes", lambda u: u.bytes, decimal, right=True),
    Column("shared", lambda u: u.shared, decimal, right=True),
)


def show(ref: Ref, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show one version: its origin, what it is, how it scored."""
    with open_store(store) as opened:
        version = opened.show(ref)
        aliases = opened.aliases.of(version.ref).get(version.ref, ())
        tags = opened.tags.of(version.ref).get(version.ref, {})
        children = opened.children(version.ref)
        scores = opened.inspect.scores(version.ref)
        calibration = _calibration(opened, version)
    if as_json:
        measured = {"scores": _cells(scores), "calibration": _cells(calibration)}
        called = {"aliases": list(aliases), "tags": tags}
        print_json({**version.to_json(), **called, "children": children, **measured})
        return
    print_lines([version.ref])
    print_details(_called(aliases, tags) | _summary(version, children))
    print_lines(["", "config"])
    print_details(version.config)
    if version.recipe is not None:
        print_lines(["", "recipe"])
        print_details(version.recipe)
    if scores:
        print_lines(["", "scores"])
        print_table(scores, SCORES, indent=2)
    if calibration:
        print_lines(["", "calibration"])
        print_table(calibration, SCORES, indent=2)
    print_lines(["", "environment"])
    print_details(version.environment)


def _calibration(opened: AdapterStore, version: Version) -> list[Score]:
    """Returns what is known of a version's calibration, with each head that answers for it."""
    from contpeft.experiments.lending import heads_of

    lenders = {head.ref: head for head in heads_of(version, opened.show)}
    parts = [Single(version.ref, None if ref == version.ref else ref) for ref in lenders]
    keys = (calibration_key(part, version.base, opened.show) for part in parts)
    return [score for key in keys for score in opened.inspect.measured(key)[::-1]]


def _cells(scores: list[Score]) -> list[dict[str, Any]]:
    return [{column.name: column.value(score) for column in SCORES} for score in scores]


def log(ref: Ref, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Tell the history of an adapter up to a version, newest first."""
    with open_store(store) as opened:
        last = opened.show(ref)
        line = [last, *opened.versions(name=last.name, before=last.ref)]
    if as_json:
        print_json([version.to_json() for version in line])
    else:
        print_table(line, LOG)


def tree(
    ref: Annotated[
        str | None, typer.Argument(help="The version at the top; all without it.", autocompletion=complete)
    ] = None,
    store: StorePath = DEFAULT_STORE,
    parents: Annotated[bool, typer.Option("--parents", help="Show what it was made from instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw the lineage: what was made from a version."""
    with open_store(store) as opened:
        branches = opened.inspect.tree(ref, parents=parents)
    if as_json:
        print_json([asdict(branch) for branch in branches])
    else:
        print_tree((branch.depth, _branch(branch)) for branch in branches)


def diff(
    before: Ref,
    after: Ref,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Tell how two versions differ: values, weights, scores."""
    with open_store(store) as opened:
        found = opened.inspect.diff(before, after)
    if as_json:
        print_json(asdict(found))
        return
    print_lines([f"{found.before} -> {found.after}"])
    if not (found.fields or found.tensors):
        print_lines(["", "equal in configuration, head, data and weights"])
    if found.fields:
        print_lines(["", "values"])
        print_table(found.fields, FIELDS, indent=2)
    if found.tensors:
        print_lines(["", "weights"])
        print_table(found.tensors, TENSORS, indent=2)
    if found.scores:
        print_lines(["", "scores"])
        print_table(found.scores, SCORE_CHANGES, indent=2)


def du(store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Tell what the store holds in bytes, adapter by adapter."""
    with open_store(store) as opened:
        usage = opened.inspect.usage()
    if as_json:
        print_json(asdict(usage))
        return
    print_table(usage.lines, USAGE)
    told = {"needed": usage.bytes, "orphans": usage.orphans, "quarantine": usage.quarantine}
    print_lines([""])
    sizes = {name: decimal(size) for name, size in {**told, "catalogue": usage.catalogue}.items()}
    print_details(sizes, indent=0)


def path(store: StorePath = DEFAULT_STORE) -> None:
    """Print where the catalogue is, a SQLite file."""
    with open_store(store) as opened:
        print_lines([str(opened.path / "store.db")])


def _branch(branch: Branch) -> str:
    role = "" if branch.role is None else f" ({_role(branch.role, branch.weight)})"
    return f"{branch.ref}{role}{' ... see above' if branch.repeated else ''}"


def _called(aliases: tuple[str, ...], tags: dict[str, str]) -> dict[str, Any]:
    return {
        "aliases": " ".join(aliases) or None,
        "tags": ", ".join(show_tags(tags)) or None,
    }


def _summary(version: Version, children: list[str]) -> dict[str, Any]:
    return {
        "kind": version.kind,
        "origin": version.origin,
        "base": f"{version.base.name} ({version.base.parameters:,} parameters)",
        "task": version.task,
        "run": version.run,
        "data": version.data,
        "parents": _parents(version.parents) or None,
        "children": ", ".join(children) or None,
        "head": _head(version.head) if version.head else None,
        "gate": _gate(version) if version.kind == GATED else None,
        "parameters": f"{version.parameters:,}",
        "size": decimal(version.bytes),
        "seconds": None if version.seconds is None else f"{version.seconds:.1f}",
        "sha256": version.sha256,
        "created": version.created_at,
    }


def _gate(version: Version) -> str:
    rule, hidden = version.config["gate"]["rule"], version.config["gate"]["hidden"]
    query = "" if rule == "cosine" else f" and q two layers of {hidden}"
    return f"{GATE_RULES[rule]}, x the mean token embedding{query}"


def _head(head: HeadSpec) -> str:
    return f"{head.kind}, {len(head.classes)} classes" if head.classes else head.kind
