"""``contpeft store export`` and ``import``: folders of PEFT, out and in."""

from __future__ import annotations

import shlex
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.filesize import decimal

from contpeft.cli.options import DEFAULT_STORE, AsJson, Ref, StorePath, complete, open_store
from contpeft.cli.output import examples, hint, print_json, print_lines
from contpeft.errors import UsageError
from contpeft.spec import Version
from contpeft.spec.methods import ADDED_METHODS, UNION
from contpeft.store import AdapterStore, Profile

__all__ = ["EXPORT_EXAMPLES", "IMPORT_EXAMPLES", "export", "import_folder"]

EXPORT_EXAMPLES: Final = examples(
    "contpeft store export billing@3 out/billing",
    "contpeft store export billing@champion out/billing --profile serving",
    "contpeft store export billing out/billing --profile serving --base models/llama",
)
IMPORT_EXAMPLES: Final = examples(
    "contpeft store import out/billing --name billing",
    "contpeft store import their/adapter --name mail --task mail --base models/llama",
    "contpeft store import their/adapter --name mail --like billing@3",
)

Base = Annotated[
    Path | None, typer.Option("--base", metavar="FOLDER", help="The base, a transformers model folder.")
]


def export(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    store: StorePath = DEFAULT_STORE,
    profile: Annotated[Profile, typer.Option(help="As it was trained, or as engines read it.")] = "faithful",
    base: Base = None,
    base_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the folder calls the base.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a version to a folder that PEFT loads.

    The profile serving folds a LoRA adapter to one rank and no scaling, with factors for every layer of a
    type, which all engines read alike. It needs --base where the targets are more than module types.
    """
    with open_store(store) as opened:
        made = opened.exchange.export_folder(ref, folder, profile=profile, base=base, base_name=base_name)
        version = opened.show(made.ref)
    if as_json:
        print_json({**asdict(made), "path": str(made.path)})
    else:
        print_lines([str(made.path)])
    hint(f"{made.ref}, {made.profile}: {', '.join(made.files)}, {decimal(made.bytes)}")
    hint(f"load: {'; '.join(_loading(version, made.path))}")


def _loading(version: Version, folder: Path) -> list[str]:
    """Returns the lines by which PEFT loads what was exported, the parts of a union one after another."""
    union = version.kind == UNION
    told = version.config["parts"] if union else [version.config]
    methods = [str(config["peft_type"]).lower() for config in told]
    folders = [folder / f"{n}-{method}" for n, method in enumerate(methods)] if union else [folder]
    first = ["import contpeft.adapters"] if ADDED_METHODS.intersection(methods) else []
    return [*first, *(f"PeftModel.from_pretrained(base, {str(each)!r})" for each in folders)]


def import_folder(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with adapter_config.json and its weights.")
    ],
    name: Annotated[str, typer.Option(help="The adapter of which it becomes a version.")],
    store: StorePath = DEFAULT_STORE,
    task: Annotated[str | None, typer.Option(help="The task after which this is the state.")] = None,
    base: Base = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="REF", help="A version on the same base.", autocompletion=complete),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Store the adapter in a folder of PEFT's as a version.

    A folder that contpeft exported says which base it needs; for others --base or --like does. Whatever is
    not wholly understood is refused, and pickles are never read.
    """
    if base is not None and like is not None:
        raise UsageError("--base and --like both say which base it is; give one")
    with closing(AdapterStore(store, create=like is None)) as opened:
        given = base if like is None else opened.show(like).base
        version = opened.exchange.import_folder(folder, name, task=task, base=given)
    if as_json:
        print_json(version.to_json())
    else:
        print_lines([version.ref])
    parents = ", ".join(parent.ref for parent in version.parents) or "none here"
    hint(f"{version.kind} on {version.base.name!r}, parents: {parents}")
    hint(f"look: contpeft store show {shlex.quote(version.ref)}")
