"""What the callbacks' tests share: a store, and the helpers beside this file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contpeft.store import AdapterStore

# The tests and the script of the two-process test import the helpers (callbacks_tiny) by name.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()
