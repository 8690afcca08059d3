"""Handwritten digits (Alpaydin and Kaynak, 1998), the small image set inside scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from contpeft.experiments.optional import import_optional
from contpeft.experiments.sources.base import LabelledData, Row

__all__ = ["Digits"]


@dataclass(frozen=True)
class Digits:
    """1,797 pictures of the classes ``"0"`` to ``"9"``.

    Inputs are ``uint8`` arrays of shape ``[8, 8, 3]``, from 0 (paper) to 255 (ink): grey written to
    the three channels that image models expect.

    Attributes:
        test_fraction: share of every class to test on.
        seed: another seed holds out other rows.
        classes: digits to use; None for all ten.
    """

    test_fraction: float = 0.25
    seed: int = 0
    classes: list[str] | None = None

    def load(self) -> LabelledData:
        """Returns the pictures.

        Raises:
            NotFoundError: if scikit-learn is not installed.
            ConfigError: if the fraction is not between 0 and 1, or a class does not exist.
        """
        bunch = import_optional("sklearn.datasets", "this source", "scikit-learn").load_digits()
        data = LabelledData.from_pool(_rows(bunch), test_fraction=self.test_fraction, seed=self.seed)
        return data.only(self.classes)


def _rows(bunch: Any) -> Iterator[Row]:
    for grey, target in zip(bunch.images, bunch.target, strict=True):
        ink = np.rint(grey * (255 / 16)).astype(np.uint8)
        yield Row(np.repeat(ink[:, :, None], 3, axis=2), str(target))
