"""What the tests of sequences and of evaluations share: small real runs, made once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The helpers are imported by name.
sys.path.append(str(Path(__file__).parent))

from evaluation_files import copy_support
from sequence_files import run_to_end, write_experiment

from contpeft.store import AdapterStore


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, commands: Path) -> tuple[Path, str]:
    """Returns the folder of a run that was never stopped, and what its command printed."""
    experiment = write_experiment(tmp_path_factory.mktemp("finished"))
    return experiment.parent, run_to_end(commands, experiment)


@pytest.fixture
def support(learnt_support: Path, tmp_path: Path) -> Iterator[AdapterStore]:
    """A copy of that store; the evaluation file is ``eval.yaml`` beside it."""
    copy_support(learnt_support, tmp_path)
    store = AdapterStore(tmp_path / "adapters", create=False)
    yield store
    store.close()
