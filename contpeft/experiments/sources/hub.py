"""Texts or images through Hugging Face ``datasets``: from a hub, or from a folder on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from contpeft.errors import ConfigError, NotFoundError, suggest
from contpeft.experiments.optional import import_optional
from contpeft.experiments.sources.base import LabelledData, Row

__all__ = ["HubDataset"]


@dataclass(frozen=True)
class HubDataset:
    """A data set of the ``datasets`` library.

    Attributes:
        path: a folder written by ``save_to_disk``, or whatever ``datasets.load_dataset`` takes: a
            name on a hub, a folder of data files.
        name: configuration of the data set, or None.
        revision: commit or tag of a data set on a hub, so that it stays the same; None for the newest.
        train: split to train on.
        test: split to test on.
        input: column of the texts or images. Images are decoded into memory.
        label: column of the classes; a ``ClassLabel`` gives its names, anything else its text.
        task: column of the task names, or None.
        classes: classes to use; None for all.
        columns: further columns to keep, by which scores are broken down (``contpeft store gate``).
    """

    path: str
    name: str | None = None
    revision: str | None = None
    train: str = "train"
    test: str = "test"
    input: str = "text"
    label: str = "label"
    task: str | None = None
    classes: list[str] | None = None
    columns: list[str] | None = None

    def load(self) -> LabelledData:
        """Returns the rows.

        Raises:
            NotFoundError: if ``datasets`` is not installed, or the data set cannot be reached.
            ConfigError: if a split or column is missing, a row has no label or a class does not exist.
        """
        splits = self._splits(import_optional("datasets", "this source"))
        return LabelledData.from_rows(self._rows(splits, self.train), self._rows(splits, self.test)).only(
            self.classes
        )

    def _splits(self, datasets: ModuleType) -> Any:
        folder = Path(self.path).expanduser()
        if (folder / "state.json").is_file():
            raise ConfigError(
                f"{folder} holds a single split; save a DatasetDict of {self.train} and {self.test}"
            )
        if (folder / "dataset_dict.json").is_file():
            if self.name or self.revision:
                raise ConfigError(
                    f"{folder} was written by save_to_disk: it has no name or revision to choose"
                )
            return datasets.load_from_disk(str(folder))
        path = str(folder) if folder.exists() else self.path
        try:
            return datasets.load_dataset(path, self.name, revision=self.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise NotFoundError(
                f"cannot load data set {self.path!r} ({reason}); check name and network, "
                "or give the folder of a data set saved with save_to_disk"
            ) from error

    def _rows(self, splits: Any, split: str) -> Iterator[Row]:
        if split not in splits:
            raise ConfigError(f"data set {self.path!r} has no split {split!r}{suggest(split, splits)}")
        table = splits[split]
        where = f"split {split!r} of data set {self.path!r}"
        kept = self.columns or []
        told = [self.label] if self.task is None else [self.label, self.task]
        for column in (self.input, *told, *kept):
            if column not in table.column_names:
                raise ConfigError(f"{where} has no column {column!r}{suggest(column, table.column_names)}")
        namers = {
            column: _namer(table.features[column], f"{column!r} in {where}") for column in (*told, *kept)
        }
        for row in table.select_columns(list(dict.fromkeys((self.input, *told, *kept)))):
            names = {column: namer(row[column]) for column, namer in namers.items()}
            task = None if self.task is None else names[self.task]
            yield Row(row[self.input], names[self.label], task, {column: names[column] for column in kept})


def _namer(feature: Any, where: str) -> Callable[[Any], str]:
    """Returns what turns a value of a column into a name: by its ``ClassLabel``, or as text."""
    names = getattr(feature, "names", None)

    def name(value: Any) -> str:
        # ClassLabel writes -1 for "no label".
        if value is None or (names and value < 0):
            raise ConfigError(f"a row has no {where}; drop such rows")
        return str(names[value] if names else value)

    return name
