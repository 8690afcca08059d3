"""Fashion-MNIST (Xiao et al., 2017), pictures of clothes."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from contpeft.experiments.archives import fetched
from contpeft.experiments.sources.base import LabelledData, Row

__all__ = ["FashionMnist"]

_CLASSES: Final = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip


@dataclass(frozen=True)
class FashionMnist:
    """60,000 pictures to train on and 10,000 to test on; ``contpeft data fetch fashion-mnist`` brings them.

    Inputs are ``uint8`` arrays of shape ``[28, 28]``, from 0 (background) to 255.

    Attributes:
        classes: kinds of clothes to use, such as ``sandal``; None for all ten.
        train_rows: pictures to train on, the first of the file; None for all.
        test_rows: pictures to test on, the first of the file; None for all.
    """

    classes: list[str] | None = None
    train_rows: int | None = None
    test_rows: int | None = None

    def load(self) -> LabelledData:
        """Returns the pictures.

        Raises:
            NotFoundError: if they were not fetched.
            ConfigError: if a class does not exist.
        """
        folder = fetched("fashion-mnist", "data")
        train = _rows(folder, "train", self.train_rows)
        return LabelledData.from_rows(train, _rows(folder, "t10k", self.test_rows)).only(self.classes)


def _rows(folder: Path, split: str, count: int | None) -> Iterator[Row]:
    pictures = _read(folder / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:count]
    labels = _read(folder / f"{split}-labels-idx1-ubyte.gz", 8)[:count]
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        yield Row(picture, _CLASSES[label])


def _read(path: Path, header: int) -> Any:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
