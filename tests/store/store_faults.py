"""Lets calls to the operating system fail, one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest


class Faults:
    """Makes the ``at``-th call of functions of ``os`` fail, and every later one if ``lasting``."""

    def __init__(
        self, patch: pytest.MonkeyPatch, names: Iterable[str], code: int, at: int, *, lasting: bool
    ) -> None:
        self.code, self.at, self.lasting, self.calls = code, at, lasting, 0
        for name in names:
            patch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at or (self.lasting and self.calls > self.at):
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        return call
