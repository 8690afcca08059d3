"""Reading JSON lines and CSV, every problem named by file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from contpeft.errors import ConfigError, NotFoundError, suggest

__all__ = ["Record", "find_table", "read_table"]

_SUFFIXES = (".jsonl", ".csv")


class Record(NamedTuple):
    """One row of a table, its values by column, and where it stands."""

    values: dict[str, Any]
    where: str

    def text(self, column: str) -> str:
        """Returns the text in ``column``.

        Raises:
            ConfigError: if there is no such column, or no text in it.
        """
        value = self._value(column)
        if not isinstance(value, str):
            raise ConfigError(f"{self.where}: {column!r} is {value!r}; it must be text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{self.where}: {column!r} has half a character pair; clean the text") from None
        return value

    def name(self, column: str) -> str:
        """Returns the label or task in ``column``, a whole number as its digits.

        Raises:
            ConfigError: if there is no such column, or neither text nor a whole number in it.
        """
        value = self._value(column)
        if isinstance(value, int):
            return str(value)
        if value == "":
            raise ConfigError(f"{self.where}: {column!r} is empty; name it or leave the row out")
        return self.text(column)

    def _value(self, column: str) -> Any:
        if column not in self.values:
            raise ConfigError(f"{self.where} has no column {column!r}{suggest(column, self.values)}")
        return self.values[column]


def find_table(folder: Path, name: str) -> Path:
    """Returns ``<name>.jsonl`` or ``<name>.csv`` in ``folder``.

    Raises:
        NotFoundError: if the folder or both files are missing.
        ConfigError: if both files are there.
    """
    if not folder.is_dir():
        raise NotFoundError(f"no folder {str(folder)!r}; 'path' must name one that holds the data")
    found = [path for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    if len(found) > 1:
        raise ConfigError(f"{folder} has both {found[0].name} and {found[1].name}; keep one")
    if not found:
        there = [path.name for path in folder.iterdir() if path.suffix in _SUFFIXES]
        raise NotFoundError(f"no {name}.jsonl or {name}.csv in {folder}{suggest(name, there)}")
    return found[0]


def read_table(path: Path) -> Iterator[Record]:
    """Yields the rows of a ``.jsonl`` file (one object a line) or a ``.csv`` file with a header.

    Raises:
        ConfigError: if the file is not UTF-8, or a line is malformed.
    """
    read = _read_csv if path.suffix == ".csv" else _read_jsonl
    # Spreadsheets start a UTF-8 file with a byte order mark; without one this is plain UTF-8.
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from read(file, str(path))
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it"
            ) from None


def _read_jsonl(file: TextIO, name: str) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{where}: not JSON ({error.msg} at column {error.colno}); mend the line"
            ) from None
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: {type(values).__name__} where an object such as {{...}} must be")
        yield Record(values, where)


def _read_csv(file: TextIO, name: str) -> Iterator[Record]:
    reader = csv.reader(file, strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            where = f"{name}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise ConfigError(
                    f"{where}: {len(cells)} cells under a header of {len(header)}; quote the commas"
                )
            yield Record(dict(zip(header, cells, strict=True)), where)
    except csv.Error as error:
        raise ConfigError(
            f"{name}, line {reader.line_num}: not CSV ({error}); mend the line or use .jsonl"
        ) from None
