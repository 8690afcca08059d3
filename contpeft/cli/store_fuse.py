"""``contpeft store fuse``, ``verify-recipe`` and ``rules``: versions made of versions."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import typer
from rich.filesize import decimal

from contpeft.cli.evaluating import Heads, Rows, parse_heads
from contpeft.cli.options import DEFAULT_STORE, AsJson, Ref, StorePath, complete, open_store
from contpeft.cli.output import Column, examples, hint, print_details, print_json, print_lines, print_table
from contpeft.cli.store_search import AUTO, Asked, Preset, Trials, find_merge
from contpeft.errors import ContpeftError, UsageError
from contpeft.store import AdapterStore, Plan, Request

__all__ = ["FUSE_EXAMPLES", "RULES_EXAMPLES", "VERIFY_EXAMPLES", "fuse", "rules", "verify_recipe"]

FUSE_EXAMPLES: Final = examples(
    "contpeft store fuse billing@3 refunds --weights 1,0.5 --rule ties --set density=0.3 --name s --dry-run",
    "contpeft store fuse invoices --into support",
    "contpeft store fuse billing refunds --rule auto --weights auto --eval eval.yaml --name support",
)
VERIFY_EXAMPLES: Final = examples(
    "contpeft store verify-recipe support", "contpeft store verify-recipe support@2 --json"
)
RULES_EXAMPLES: Final = examples("contpeft store rules", "contpeft store rules ties --json")

Refs = Annotated[
    list[str], typer.Argument(metavar="REF...", help="The versions to merge.", autocompletion=complete)
]


class _Pair(NamedTuple):
    """Two adapters that meet in a merge."""

    one: str
    other: str
    cosine: float
    outputs: float
    inputs: float


class _Part(NamedTuple):
    """One adapter in a merge."""

    ref: str
    weight: float
    norm: float
    share: float
    residual: float | None


class _Share(NamedTuple):
    """How many singular values a share of the energy takes."""

    energy: float
    rank: int


PARTS: Final[tuple[Column[_Part], ...]] = (
    Column("version", lambda p: p.ref),
    Column("weight", lambda p: p.weight, "{:g}".format, right=True),
    Column("norm", lambda p: p.norm, "{:.4g}".format, right=True),
    Column("share", lambda p: p.share, "{:.1%}".format, right=True),
    Column("residual", lambda p: p.residual, "{:.3f}".format, right=True),
)
PAIRS: Final[tuple[Column[_Pair], ...]] = (
    Column("version", lambda p: p.one),
    Column("and", lambda p: p.other),
    Column("cosine", lambda p: p.cosine, "{:+.3f}".format, right=True),
    Column("same outputs", lambda p: p.outputs, "{:.1%}".format, right=True),
    Column("same inputs", lambda p: p.inputs, "{:.1%}".format, right=True),
)
SHARES: Final[tuple[Column[_Share], ...]] = (
    Column("energy", lambda s: s.energy, "{:.1%}".format, right=True),
    Column("rank", lambda s: s.rank, "{:,}".format, right=True),
)
RULES: Final[tuple[Column[dict[str, Any]], ...]] = (
    Column("rule", lambda r: r["name"]),
    Column("what it does", lambda r: r["summary"]),
    Column("parameters", lambda r: ", ".join(f"{k}={v}" for k, v in r["parameters"].items()) or None),
    Column("paper", lambda r: r["paper"]),
)


def fuse(
    refs: Refs,
    store: StorePath = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="The adapter of which the result is a version.")] = None,
    into: Annotated[
        str | None, typer.Option(metavar="NAME", help="Take the versions into this running merge instead.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="How (contpeft store rules); sum, with --into null-space; or auto.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the rule.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,...", help="One a version; 1 each; or auto.")
    ] = None,
    rank: Annotated[
        str, typer.Option(help="full, same, 16, energy:0.95, total:384, bytes:2MB or auto.")
    ] = "full",
    seed: Annotated[int, typer.Option(help="Of rules that draw.")] = 0,
    heads: Annotated[
        Literal["keep", "first", "average"],
        typer.Option(help="Each stays with its version, or one for the result."),
    ] = "keep",
    precision: Annotated[Literal["float64", "float32"], typer.Option(help="Computed in.")] = "float64",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would come to.")] = False,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", metavar="FILE", help="Find what is auto by measuring on this (YAML)."),
    ] = None,
    trials: Trials = 40,
    preset: Preset = None,
    rows: Rows = None,
    lent: Heads = None,
    as_json: AsJson = False,
) -> None:
    """Merge versions into a new one, straight from their files.

    The result keeps its parents, weights, rule and what was cut off, and can be made again bit for bit. Its
    rank is the sum of all unless --rank says less. Residual is the share of what an adapter does to its own
    inputs that the merge loses. With --eval merges are measured on the tasks of a file, the promising ones
    first, and the best is stored; a search that was stopped goes on when it is called again.
    """
    if (name is None) == (into is None):
        raise UsageError("say where the result goes: --name NAME, or --into NAME for a running merge")
    parameters = dict(map(_parameter, options or ()))
    numbers = None if weights in (None, AUTO) else tuple(_numbers(weights))
    if evaluation is not None and name is not None:
        kept = {"seed": seed, "heads": heads, "precision": precision}
        lending, found = parse_heads(lent), weights == AUTO
        asked = Asked(
            tuple(refs),
            evaluation,
            rule,
            parameters,
            numbers,
            found,
            rank,
            preset,
            trials,
            rows,
            lending,
            kept,
        )
        with open_store(store) as opened:
            find_merge(opened, asked, name, dry_run=dry_run, as_json=as_json)
        return
    _check_no_search(into, evaluation, AUTO in (rule, weights, rank) or preset or rows or lent)
    request = Request(
        refs=refs,
        weights=numbers,
        rule=rule or ("null-space" if into else "sum"),
        parameters=parameters,
        rank=rank,
        seed=seed,
        heads=heads,
        precision=precision,
    )
    with open_store(store) as opened:
        if into is not None:
            _take_in(opened, into, request, dry_run=dry_run, as_json=as_json)
        elif dry_run:
            _print_plan(opened.fusion.plan(request), as_json=as_json)
        else:
            version = opened.fusion.fuse(request, str(name))
            _print_made(version.to_json(), as_json=as_json)


def verify_recipe(ref: Ref, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Make a fused version again and compare every bit."""
    with open_store(store) as opened:
        verdict = opened.fusion.verify(ref)
    if as_json:
        print_json(asdict(verdict))
    if not verdict.equal:
        apart = "in shape" if verdict.difference is None else f"by up to {verdict.difference:.3g}"
        raise ContpeftError(
            f"{verdict.ref} comes out otherwise, {apart}; its recipe names the torch it was made with"
        )
    if not as_json:
        print_lines([f"{verdict.ref} comes out the same, bit for bit"])


def rules(
    rule: Annotated[str | None, typer.Argument(help="One rule; all without it.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the rules by which versions are merged."""
    from contpeft.merging import RULES as known
    from contpeft.merging import make_rule

    told = [
        {**asdict(each.spec), "parameters": each.parameters()}
        for each in map(make_rule, [rule] if rule else known)
    ]
    if as_json:
        print_json(told)
    elif rule is None:
        print_table(told, RULES)
    else:
        print_lines([rule])
        print_details(
            {key: value if value != () else None for key, value in told[0].items() if key != "name"}
        )


def _check_no_search(into: str | None, evaluation: Path | None, told: object) -> None:
    if into is not None and (evaluation or told):
        raise UsageError("--into takes versions in one by one; a merge is searched with --name")
    if told:
        raise UsageError(
            "auto, --preset, --rows and --head are of a search; say what is measured: --eval FILE"
        )


def _take_in(opened: AdapterStore, into: str, request: Request, *, dry_run: bool, as_json: bool) -> None:
    if dry_run or request.weights is not None:
        wrong = "--dry-run" if dry_run else "--weights"
        raise UsageError(f"{wrong} has no meaning with --into, which takes versions in one by one")
    for ref in request.refs:
        _print_made(opened.fusion.take_in(into, ref, request).to_json(), as_json=as_json)


def _print_made(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(made)
    else:
        print_lines([made["ref"]])
    recipe = made["recipe"]
    hint(f"{recipe['rule']} of {len(made['parents'])}, {recipe['energy_lost']:.2%} of the energy cut off")
    hint(f"look: contpeft store show {shlex.quote(made['ref'])}")


def _print_plan(plan: Plan, *, as_json: bool) -> None:
    recipe, meeting = plan.candidate.recipe, plan.interference
    if as_json:
        print_json(
            {
                "recipe": dict(recipe),
                "parents": [asdict(parent) for parent in plan.candidate.parents],
                "bytes": plan.bytes,
                "modules": [asdict(module) for module in plan.candidate.merged.modules],
                "interference": meeting.to_json(),
                "rank_for_energy": {str(share): rank for share, rank in plan.ranks.items()},
            }
        )
        return
    print_details({**_summary(plan), "size": decimal(plan.bytes)}, indent=0)
    print_lines([""])
    print_table(_parts(plan), PARTS)
    print_lines([""])
    print_table(_pairs(plan), PAIRS)
    print_lines(["", "rank for a share of the energy, over all modules"])
    print_table([_Share(*item) for item in plan.ranks.items()], SHARES, indent=2)
    hint("these numbers describe, they do not predict: measure before you trust a merge")


def _summary(plan: Plan) -> dict[str, Any]:
    recipe, modules = plan.candidate.recipe, plan.candidate.merged.modules
    parameters = ", ".join(f"{key}={value}" for key, value in recipe["parameters"].items())
    lowest, highest, total = (choose(module.rank for module in modules) for choose in (min, max, sum))
    return {
        "rule": f"{recipe['rule']}({parameters})",
        "variant": recipe["variant"] or None,
        "rank": f"{recipe['rank']}: {lowest} to {highest}, {total:,} over all",
        "cut off": f"{recipe['energy_lost']:.2%} of the energy, norm {recipe['error']:.4g} of "
        f"{recipe['norm']:.4g}",
        "interference": f"{plan.interference.sti_share:.3f} of all singular values (STI)",
    }


def _parts(plan: Plan) -> Iterator[_Part]:
    meeting = plan.interference
    columns = (plan.candidate.parents, meeting.norms, meeting.norm_share, meeting.residual)
    for parent, norm, share, residual in zip(*columns, strict=True):
        yield _Part(parent.ref, parent.weight or 0.0, norm, share, residual)


def _pairs(plan: Plan) -> Iterator[_Pair]:
    refs, meeting = [parent.ref for parent in plan.candidate.parents], plan.interference
    for i, one in enumerate(refs):
        for j in range(i + 1, len(refs)):
            cells = (meeting.cosines, meeting.output_overlap, meeting.input_overlap)
            yield _Pair(one, refs[j], *(cell[i][j] for cell in cells))


def _numbers(text: str | None) -> list[float]:
    try:
        return [float(each) for each in str(text).split(",")]
    except ValueError:
        raise UsageError(f"weights {text!r} are no numbers; write 1,0.5,-1") from None


def _parameter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is no KEY=VALUE; write density=0.3")
    return key, value
