"""``contpeft store attention`` and ``prune-fusion``: which of its members a fusion needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Final

import typer

from contpeft.cli.evaluating import EvaluationFile, Heads, Rows, open_evaluation, parse_heads
from contpeft.cli.files import check_suffix, write_file
from contpeft.cli.options import DEFAULT_STORE, AsJson, Ref, StorePath, open_store
from contpeft.cli.output import Column, examples, hint, print_details, print_json, print_lines, print_table
from contpeft.errors import ContpeftError

if TYPE_CHECKING:
    from contpeft.experiments.attention import Attention
    from contpeft.experiments.evaluation import Evaluation
    from contpeft.experiments.pruning import PrunedFusion

__all__ = ["ATTENTION_EXAMPLES", "PRUNE_FUSION_EXAMPLES", "attention", "prune_fusion"]

ATTENTION_EXAMPLES: Final = examples(
    "contpeft store attention support-fusion --eval eval.yaml",
    "contpeft store attention support-fusion@2 --eval eval.yaml --rows 200 --plot attention.png",
    "contpeft store attention support-fusion --eval eval.yaml --tokens maps.safetensors --json",
)
PRUNE_FUSION_EXAMPLES: Final = examples(
    "contpeft store prune-fusion support-fusion --keep 2 --eval eval.yaml --dry-run",
    "contpeft store prune-fusion support-fusion --keep 2 --eval eval.yaml --name support-small",
    "contpeft store prune-fusion support-fusion --keep 1 --eval eval.yaml --max-forgetting 0.01",
)

Row = tuple[str, Sequence[float]]


def attention(
    ref: Ref,
    evaluation: EvaluationFile,
    store: StorePath = DEFAULT_STORE,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it into this file.")] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.safetensors", help="Write the attention of every token, (B, T, N), a task and site."
        ),
    ] = None,
    rows: Rows = None,
    as_json: AsJson = False,
) -> None:
    """Show which of its members a fusion attends to.

    The mean attention over the tokens of the test rows of every task of the file: site by site, and task by
    task if there are several. How much is attended to is not how much is needed; pruning tells that.
    """
    check_suffix(plot, ".png", "what is written there")
    check_suffix(tokens, ".safetensors", "what is written there")
    from contpeft.experiments.attention import mean_attention

    with open_store(store) as opened:
        asked = open_evaluation(opened, evaluation, rows)
        found = mean_attention(asked, ref, {each.name: each.rows for each in asked.tasks})
        if tokens is not None:
            _write_tokens(asked, found, tokens)
    if plot is not None:
        from contpeft.experiments.report import attention_picture

        write_file(plot, attention_picture(found))
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)


def prune_fusion(
    ref: Ref,
    keep: Annotated[int, typer.Option(min=1, help="How many members each site keeps.")],
    evaluation: EvaluationFile,
    store: StorePath = DEFAULT_STORE,
    name: Annotated[
        str | None, typer.Option(help="Of which adapter it becomes a version; the fusion's own otherwise.")
    ] = None,
    max_forgetting: Annotated[
        float | None, typer.Option(min=0, max=1, help="Store nothing if more accuracy is lost.")
    ] = None,
    rows: Rows = None,
    heads: Heads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would come to.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let a fusion keep the members that it attends to most.

    What it attends to is measured on the training rows of the tasks that it answers, what that costs on their
    test rows. Nothing is trained; members that no site keeps are not loaded any more. It becomes a version of
    its own, the fusion stays.
    """
    from contpeft.experiments.pruning import prune_fusion as prune
    from contpeft.experiments.pruning import store_pruned

    with open_store(store) as opened:
        found = prune(open_evaluation(opened, evaluation, rows, parse_heads(heads)), opened, ref, keep)
        if not as_json:
            _print_pruned(found)
        _check(found, max_forgetting)
        stored = None if dry_run else store_pruned(opened, found, name).ref
    if as_json:
        print_json(found.to_json() | {"stored": stored})
    if stored is not None:
        hint(f"stored {stored}; undo: contpeft store rm {stored}")


def _check(found: PrunedFusion, max_forgetting: float | None) -> None:
    """Raises a :class:`ContpeftError` if more accuracy is lost than may be."""
    measured = found.measured
    if max_forgetting is not None and not measured.within(max_forgetting):
        raise ContpeftError(
            f"{found.version.ref} with {found.keep} members a site has {measured.after:.1%} instead of "
            f"{measured.before:.1%}, and {max_forgetting:.1%} may be lost; nothing is stored: keep more"
        )


def _print(found: Attention) -> None:
    print_table(list(zip(found.sites, found.means, strict=True)), _columns("site", found.members))
    if len(found.tasks) > 1:
        means = [
            (each.task, [fmean(cells) for cells in zip(*each.means, strict=True)]) for each in found.tasks
        ]
        print_lines([""])
        print_table(means, _columns("task", found.members))


def _columns(title: str, members: Sequence[str]) -> list[Column[Row]]:
    columns = [Column[Row](title, lambda row: row[0])]
    for place, member in enumerate(members):
        columns.append(
            Column[Row](member, lambda row, place=place: row[1][place], "{:.1%}".format, right=True)  # type: ignore[misc]
        )
    return columns


def _print_pruned(found: PrunedFusion) -> None:
    members = found.attention.members
    count = [sum(ref in own for own in found.kept.values()) for ref in members]
    mean = [fmean(cells) for cells in zip(*found.attention.means, strict=True)]
    table: list[Column[int]] = [
        Column("member", lambda place: members[place]),
        Column("attention", lambda place: mean[place], "{:.1%}".format, right=True),
        Column("kept at", lambda place: f"{count[place]} of {len(found.kept)} sites", right=True),
    ]
    print_table(range(len(members)), table)
    print_lines([""])
    print_details(
        {
            "accuracy": f"{found.measured.before:.1%} before, {found.measured.after:.1%} after",
            "tasks": found.measured.tasks,
            "not loaded": ", ".join(found.dropped) or None,
        },
        indent=0,
    )


def _write_tokens(asked: Evaluation, found: Attention, path: Path) -> None:
    from safetensors.torch import save

    from contpeft.experiments.attention import token_maps

    tensors = {
        f"{task.name}/{site}": weights.float().contiguous()
        for task in asked.tasks
        for site, weights in token_maps(asked, found.ref, task.rows).items()
    }
    write_file(path, save(tensors, metadata={"members": " ".join(found.members)}))
