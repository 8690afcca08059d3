"""What the strategies' tests share: one thread, a store, and the helpers beside this file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from contpeft.store import AdapterStore

sys.path.append(str(Path(__file__).parent))  # the tests import strategies_tiny by name
torch.set_num_threads(1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()
