"""The page of the documentation that lists the adapter methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import peft

from contpeft.adapters.catalogue import MethodRow

__all__ = ["methods_page"]

_HEADER: Final = """\
# Adapter methods

<!-- Written by `make docs`; do not edit. -->

What `AdapterSpec(method, ...)` can attach, with PEFT {release}. Each method is listed with its usual options
on a BERT of MiniLM's shape (6 layers of width 384, 22.7 million parameters); what it is in a model of yours,
`contpeft methods --model FOLDER` tells. How to attach them: [adapters.md](adapters.md).

- **trains**: how many numbers are trained, and what share of the base's parameters that is.
- **stores**: how many numbers a version holds, with those that are needed and not trained, and their bytes. A
  network that makes a prompt is not stored, only what it makes.
- **FLOPs**: floating-point operations a token takes more than through the bare base (22.4 million), in a row
  of 128 tokens, not merged into the weights. Matrix products are counted, work entry by entry is not.
- **merge**: by which rules `contpeft store fuse` makes several adapters one. *All rules* work on low-rank
  updates; *entry by entry* are those that work on each number alone (`sum`, `average`, `ties`, ...);
  `average` is the mean of the parameters, of adapters of one shape.
- **composes**: the [compositions](compositions.md) that versions of it can be in, beside those that
  take any (alone, in a route, in parallel, lowest of a stack): over others in a *stack*, in a *sum* or an
  average, in a *fuse*, as *rows* of one batch; *drop*: layers can be left out.
- **read by**: who loads what `contpeft store export` writes. *PEFT + contpeft*: PEFT, once
  `contpeft.adapters` is imported. *Engines*: with `--profile serving`. *contpeft*: nobody else.

`W` is the weight of a module the method is applied to.

| method | changes | trains | share | stores | bytes | FLOPs | merge | composes | read by | paper |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- | --- | --- |
"""


def methods_page(rows: Sequence[MethodRow]) -> str:
    """Returns the page in Markdown.

    Args:
        rows: of :func:`~contpeft.adapters.catalogue.catalogue` for the reference model.
    """
    lines = [_line(row) for row in rows]
    needed = ", ".join(
        f"`{row.method}` with `{name}={value!r}`" for row in rows for name, value in row.options.items()
    )
    footer = f"\nOptions without a usual value, or whose usual one does not fit this width: {needed}.\n"
    return _HEADER.format(release=peft.__version__) + "\n".join(lines) + "\n" + footer


def _line(row: MethodRow) -> str:
    paper = "" if row.paper is None else f"[{row.paper}]({row.link})"
    counts = map(_count, (row.stored, row.bytes, row.flops))
    numbers = ("-",) * 5 if row.trainable is None else (_count(row.trainable), _share(row), *counts)
    cells = (
        f"`{row.method}`",
        row.changes or "",
        *numbers,
        row.merged_by or "no",
        ", ".join(row.composes),
        row.read_by,
        paper,
    )
    return f"| {' | '.join(cells)} |"


def _count(number: int | None) -> str:
    return f"{number or 0:,}"


def _share(row: MethodRow) -> str:
    return f"{row.share or 0:.3%}"
