"""What the tests of sequences share: one small real run, made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The helper sequence_files is imported by name.
sys.path.append(str(Path(__file__).parent))

from sequence_files import run_to_end, write_experiment


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Returns the folder of a run that was never stopped, and what its command printed."""
    experiment = write_experiment(tmp_path_factory.mktemp("finished"))
    return experiment.parent, run_to_end(experiment)
