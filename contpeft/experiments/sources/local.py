"""Your own texts, from JSON lines or CSV files in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contpeft.errors import ConfigError
from contpeft.experiments.sources.base import LabelledData, Row
from contpeft.experiments.sources.files import find_table, read_table

__all__ = ["LocalFolder"]


@dataclass(frozen=True)
class LocalFolder:
    """Texts from ``train`` and ``test`` files, or from one ``data`` file that is split here.

    Files end in ``.jsonl`` (one JSON object a line) or ``.csv`` (with a header), in UTF-8.

    Attributes:
        path: the folder.
        text: column of the inputs.
        label: column of the class names; whole numbers are names too.
        task: column of the task names, or None.
        train: name of the file to train on, without its ending.
        test: name of the file to test on, without its ending.
        test_fraction: share of every class (of every task) to test on, read from ``data.jsonl`` or
            ``data.csv`` in place of the two files; None to read the two files.
        seed: with ``test_fraction``, another seed holds out other rows.
        classes: classes to use; None for all.
        columns: further columns to keep, by which scores are broken down (``contpeft store gate``).
    """

    path: str
    text: str = "text"
    label: str = "label"
    task: str | None = None
    train: str = "train"
    test: str = "test"
    test_fraction: float | None = None
    seed: int = 0
    classes: list[str] | None = None
    columns: list[str] | None = None

    def load(self) -> LabelledData:
        """Returns the texts.

        Raises:
            NotFoundError: if the folder or a file is missing.
            ConfigError: if a column is missing, a line is malformed or a class does not exist.
        """
        if self.test_fraction is None:
            data = LabelledData.from_rows(self._rows(self.train), self._rows(self.test))
        else:
            data = LabelledData.from_pool(
                self._rows("data"), test_fraction=self.test_fraction, seed=self.seed
            )
        return data.only(self.classes)

    def _rows(self, name: str) -> Iterator[Row]:
        path = find_table(Path(self.path).expanduser(), name)
        record = None
        for record in read_table(path):
            task = None if self.task is None else record.name(self.task)
            columns = {name: record.name(name) for name in self.columns or ()}
            yield Row(record.text(self.text), record.name(self.label), task, columns)
        if record is None:
            raise ConfigError(f"{path} has no rows; fill it or name another file")
