"""The report of one run as files: a page that stands alone, its pictures, and all numbers."""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from contpeft.errors import UsageError
from contpeft.experiments.report.curves import accuracy_bars, task_curves
from contpeft.experiments.report.gates import GATES_NOTE, gate_table
from contpeft.experiments.report.heatmaps import heat_map, heat_map_grid
from contpeft.experiments.report.lineage import lineage_picture
from contpeft.experiments.report.result import RunResult, WayResult
from contpeft.experiments.report.scale import UNDEFINED, scale_of
from contpeft.experiments.report.stages import stage_table
from contpeft.experiments.report.tables import (
    COPIED,
    PROTOCOL_MEANINGS,
    PROTOCOL_TITLES,
    best_cells,
    comparison_table,
    lineage_table,
    matrix_table,
)
from contpeft.experiments.report.theme import DPI
from contpeft.metrics import DEFINITIONS

__all__ = ["write_report"]


def write_report(result: RunResult, folder: Path) -> Path:
    """Writes ``report.html``, its pictures as PNG files and ``summary.json`` into a folder.

    The page needs no other file and asks the network for nothing. Each file is replaced as a
    whole, and an equal result gives equal bytes.

    Args:
        result: what the run measured.
        folder: where to write; made if it is missing.

    Returns:
        The path of ``report.html``.

    Raises:
        UsageError: if ``folder`` is a file.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file; name a folder for the report")
    pictures = _pictures(result)
    summary = json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n"
    files = {f"{name}.png": data for name, data in pictures.items()}
    files |= {"summary.json": summary.encode(), "report.html": _page(result, pictures).encode()}
    folder.mkdir(parents=True, exist_ok=True)
    # Nothing is replaced before everything is written.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".report-") as staging:
        for name, data in files.items():
            (Path(staging) / name).write_bytes(data)
        for name in files:
            os.replace(Path(staging) / name, folder / name)
    return folder / "report.html"


def _pictures(result: RunResult) -> dict[str, bytes]:
    """Returns file name without its ending to PNG."""
    pictures = {"accuracy": accuracy_bars(result)} if result.protocols else {}
    for protocol in result.protocols:
        pictures[f"matrices-{protocol}"] = heat_map_grid(result, protocol)
        pictures[f"curves-{protocol}"] = task_curves(result, protocol)
        for k, way in enumerate(result.scored(protocol), start=1):
            pictures[f"matrix-{protocol}-{k}-{_slug(way.label)}"] = heat_map(result, way, protocol)
    if result.lineage:
        pictures["lineage"] = lineage_picture(result)
    return pictures


def _page(result: RunResult, pictures: dict[str, bytes]) -> str:
    environment = Environment(
        loader=PackageLoader("contpeft.experiments.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scale = scale_of(result)

    def tint(way: WayResult, protocol: Any, i: int, j: int) -> int | None:
        value = way.protocols[protocol].matrix.rows[i][j]
        return None if value is None else round(100 * scale.goodness(value))

    return environment.get_template("report.html.j2").render(
        result=result,
        scale=scale,
        titles=PROTOCOL_TITLES,
        meanings=PROTOCOL_MEANINGS,
        best={protocol: best_cells(result, protocol) for protocol in result.protocols},
        definitions=DEFINITIONS,
        comparisons={protocol: comparison_table(result, protocol) for protocol in result.protocols},
        stages={protocol: stage_table(result, protocol) for protocol in result.protocols},
        gates=gate_table(result),
        gates_note=GATES_NOTE,
        matrix=lambda way, protocol: matrix_table(result, way, protocol),
        tint=tint,
        lineage=lineage_table(result),
        config=yaml.safe_dump(dict(result.config), sort_keys=False, allow_unicode=True),
        images={name: _data_uri(data) for name, data in pictures.items()},
        widths={name: _width(data) for name, data in pictures.items()},
        copied=COPIED,
        undefined=UNDEFINED,
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _width(png: bytes) -> int:
    """Returns the width that shows the picture at its true size, in CSS pixels (96 to the inch)."""
    return int.from_bytes(png[16:20], "big") * 96 // DPI


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
