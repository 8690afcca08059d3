"""``contpeft store inspect``: what is inside adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from contpeft.cli.files import check_suffix, write_file
from contpeft.cli.options import DEFAULT_STORE, AsJson, StorePath, complete, open_store
from contpeft.cli.output import Column, examples, hint, print_details, print_json, print_lines, print_table
from contpeft.store import AdapterReport, Family, Inspection, ModuleReport, TensorNorm
from contpeft.store.examine import BEYOND, ENOUGH

__all__ = ["INSPECT_EXAMPLES", "inspect"]

INSPECT_EXAMPLES: Final = examples(
    "contpeft store inspect billing",
    "contpeft store inspect billing@3 --family refunds --family mail --json",
    "contpeft store inspect billing refunds mail@champion --picture likeness.png",
)

# More columns than that no terminal shows.
_WIDEST: Final = 12

MODULES: Final[tuple[Column[ModuleReport], ...]] = (
    Column("module", lambda m: m.module),
    Column("shape", lambda m: m.spectrum.shape, lambda s: f"{s[0]} x {s[1]}", right=True),
    Column("rank", lambda m: m.spectrum.rank, right=True),
    Column("effective", lambda m: m.spectrum.effective_rank, "{:.2f}".format, right=True),
    Column("stable", lambda m: m.spectrum.stable_rank, "{:.2f}".format, right=True),
    Column("90/95/99 %", lambda m: "/".join(map(str, m.spectrum.energy_ranks)), right=True),
    Column("norm", lambda m: m.spectrum.frobenius, "{:.4g}".format, right=True),
    Column("singular values", lambda m: _leading(m.spectrum.values)),
    *(
        Column[ModuleReport](
            f"z {title}",
            lambda m, name=name: m.scores.get(name),  # type: ignore[misc]
            lambda score: _signed(score, 1),
            right=True,
        )
        for title, name in (("norm", "log_norm"), ("effective", "effective_rank"), ("top", "top_share"))
    ),
)
TENSORS: Final[tuple[Column[TensorNorm], ...]] = (
    Column("tensor", lambda t: t.name),
    Column("shape", lambda t: t.shape, lambda s: " x ".join(map(str, s)), right=True),
    Column("norm", lambda t: t.norm, "{:.4g}".format, right=True),
)
ADAPTERS: Final[tuple[Column[AdapterReport], ...]] = (
    Column("ref", lambda a: a.ref),
    Column("kind", lambda a: a.kind),
    Column("modules", lambda a: len(a.modules) or None, right=True),
    Column("rank", lambda a: a.rank or None, right=True),
    Column("effective", lambda a: a.effective_rank or None, "{:.1f}".format, right=True),
    Column("norm", lambda a: a.norm, "{:.4g}".format, right=True),
)


def inspect(
    refs: Annotated[list[str], typer.Argument(metavar="REF...", help="Versions.", autocompletion=complete)],
    store: StorePath = DEFAULT_STORE,
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Compare one with this adapter's versions only; again for more."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Compare one with at most so many, the newest.")] = 50,
    cut: Annotated[
        float, typer.Option(min=-1, max=1, help="The mean cosine that still joins two clusters of several.")
    ] = 0.5,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look inside adapters: spectra, outliers, how alike they are.

    One adapter is compared with other versions of its kind on its base, several with each other. These
    numbers describe; whether an adapter is good, an evaluation tells.
    """
    check_suffix(picture, ".png", "a picture")
    with open_store(store) as opened:
        found = opened.inspect.adapters(refs, family=family or (), limit=limit, cut=cut)
    if picture is not None:
        _draw(found, picture)
    if as_json:
        print_json(found.to_json())
    elif len(found.adapters) == 1:
        _print_one(found.adapters[0], found.family)
    else:
        _print_several(found)


def _leading(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}" for value in values[:4]) + (" ..." if len(values) > 4 else "")


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # adding 0 makes -0 be 0


def _print_one(adapter: AdapterReport, family: Family | None) -> None:
    print_lines([adapter.ref])
    totals = {"rank": adapter.rank, "effective rank": f"{adapter.effective_rank:.1f}"}
    print_details({"kind": adapter.kind, "norm": f"{adapter.norm:.4g}"} | (totals if adapter.modules else {}))
    print_lines([""])
    if adapter.remark is not None:
        print_lines([f"norms only: {adapter.remark}"])
        print_table(adapter.tensors, TENSORS, indent=2)
    else:
        print_table(adapter.modules, MODULES if family and family.compared else MODULES[:-3])
    if family is not None:
        print_lines(["", *_verdict(adapter, family)])


def _verdict(adapter: AdapterReport, family: Family) -> list[str]:
    """Returns what the comparison with the family says, one sentence a line."""
    others = f"{len(family.refs)} other versions"
    told = [
        f"lacks {module}, which {count} of {others} have" for module, count in sorted(family.absent.items())
    ]
    if not family.compared:
        return [*told, f"no verdict: {others} to compare with, and a module needs {ENOUGH}"]
    if not adapter.outliers:
        return [*told, f"no module is unlike those of {others} (all |z| <= {BEYOND})"]
    told.append(f"{len(adapter.outliers)} of {family.compared} modules unlike those of {others}:")
    for module in adapter.outliers:
        scores = ", ".join(f"{name} {score:+.1f}" for name, score in module.beyond.items())
        told.append(f"  {module.module}: {scores}")
    return told


def _print_several(found: Inspection) -> None:
    print_table(found.adapters, ADAPTERS)
    print_lines(f"{each.ref}, norms only: {each.remark}" for each in found.adapters if each.remark)
    likeness = found.similarity
    if likeness is None:
        return
    if len(likeness.order) <= _WIDEST:
        print_lines(["", "cosines"])
        _print_cosines(likeness.names, likeness.order, likeness.cosines)
    else:
        hint(f"{len(likeness.order)} adapters: --json or --picture shows their cosines")
    print_lines(["", "clusters", *(f"  {' '.join(group)}" for group in likeness.clusters)])
    if likeness.twins:
        told = (f"  {' '.join(each.names)} (apart by {each.distance:.2%})" for each in likeness.twins)
        print_lines(["", "nearly the same", *told])


def _print_cosines(
    names: tuple[str, ...], order: tuple[str, ...], cosines: tuple[tuple[float, ...], ...]
) -> None:
    places = [names.index(name) for name in order]
    columns = [Column[int]("", lambda place: names[place])]
    for other in places:
        value: Any = lambda place, other=other: cosines[place][other]  # noqa: E731
        columns.append(Column[int](names[other], value, lambda cosine: _signed(cosine, 2), right=True))
    print_table(places, columns, indent=2)


def _draw(found: Inspection, path: Path) -> None:
    from contpeft.experiments.report import inspection_picture

    write_file(path, inspection_picture(found))
