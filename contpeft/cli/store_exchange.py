"""``contpeft store export`` and ``import``: folders of PEFT and AdapterHub, out and in."""

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
from contpeft.store import AdapterStore, Exported, Profile

__all__ = ["EXPORT_EXAMPLES", "IMPORT_EXAMPLES", "export", "import_folder"]

EXPORT_EXAMPLES: Final = examples(
    "contpeft store export billing@3 out/billing",
    "contpeft store export billing out/billing --profile serving --base models/llama",
    "contpeft store export support-fusion out/support --profile adapterhub",
)
IMPORT_EXAMPLES: Final = examples(
    "contpeft store import out/billing --name billing",
    "contpeft store import their/adapter --name mail --task mail --base models/llama",
    "contpeft store import their/fusion --name support --over billing@3,mail@1",
)

Base = Annotated[
    Path | None, typer.Option("--base", metavar="FOLDER", help="The base, a transformers model folder.")
]


def export(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    store: StorePath = DEFAULT_STORE,
    profile: Annotated[Profile, typer.Option(help="As PEFT, engines or AdapterHub read it.")] = "faithful",
    base: Base = None,
    base_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the folder calls the base.")
    ] = None,
    no_head: Annotated[
        bool, typer.Option("--no-head", help="Leave out a head that AdapterHub has none like.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a version to a folder that PEFT or AdapterHub loads.

    The profile serving folds a LoRA adapter to one rank and no scaling, with factors for every layer of a
    type, which all engines read alike. The profile adapterhub is for the library adapters: a bottleneck
    adapter or LoRA and its head, or a fusion with its members. Both need --base where the version does not
    tell enough.
    """
    with open_store(store) as opened:
        made = opened.exchange.export_folder(
            ref, folder, profile=profile, base=base, base_name=base_name, head=not no_head
        )
        version = opened.show(made.ref)
    if as_json:
        print_json({**asdict(made), "path": str(made.path)})
    else:
        print_lines([str(made.path)])
    hint(f"{made.ref}, {made.profile}: {', '.join(made.files)}, {decimal(made.bytes)}")
    hint(f"load: {'; '.join(_loading(made, version))}")


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
    over: Annotated[
        str | None,
        typer.Option(metavar="REFS", help="The stored members of a fusion of AdapterHub's, in its order."),
    ] = None,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="Take in the form of older releases of AdapterHub.")
    ] = False,
    pickle: Annotated[
        bool, typer.Option("--pickle", help="Read AdapterHub's .bin files where there are no others.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Store an adapter of PEFT's or AdapterHub's as a version.

    A folder that contpeft exported says which base it needs; for others --base or --like does. Whatever is
    not wholly understood is refused, and no pickle is read unless asked for. The adapters of a setup of
    AdapterHub's become versions, too: NAME.theirs.
    """
    if base is not None and like is not None:
        raise UsageError("--base and --like both say which base it is; give one")
    with closing(AdapterStore(store, create=like is None)) as opened:
        given = base if like is None else opened.show(like).base
        version = opened.exchange.import_folder(
            folder, name, task=task, base=given, over=_refs(over), legacy=legacy, pickle=pickle
        )
    if as_json:
        print_json(version.to_json())
    else:
        print_lines([version.ref])
    parents = ", ".join(parent.ref for parent in version.parents) or "none here"
    hint(f"{version.kind} on {version.base.name!r}, parents: {parents}")
    hint(f"look: contpeft store show {shlex.quote(version.ref)}")


def _loading(made: Exported, version: Version) -> list[str]:
    """Returns the lines of Python that load a folder, the parts of a union one after another."""
    if made.profile == "adapterhub":
        method = "load_adapter_setup" if version.kind == "fusion" else "load_adapter"
        return [f"model.{method}({str(made.path)!r}, use_safetensors=True)"]
    union = version.kind == UNION
    told = version.config["parts"] if union else [version.config]
    methods = [str(config["peft_type"]).lower() for config in told]
    folders = [made.path / f"{n}-{method}" for n, method in enumerate(methods)] if union else [made.path]
    first = ["import contpeft.adapters"] if ADDED_METHODS.intersection(methods) else []
    return [*first, *(f"PeftModel.from_pretrained(base, {str(each)!r})" for each in folders)]


def _refs(text: str | None) -> list[str]:
    return [] if text is None else [each.strip() for each in text.split(",")]
