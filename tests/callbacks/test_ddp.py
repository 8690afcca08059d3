"""Two processes train one adapter together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from contpeft import AdapterStore
from contpeft.adapters import tensor_items
from contpeft.digest import tensors_digest

SCRIPT = Path(__file__).with_name("ddp_script.py")
SECONDS = 240


def run_script(commands: Path, folder: Path) -> None:
    process = subprocess.Popen(
        [commands / "python", SCRIPT, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # both ranks
        output, _ = process.communicate()
        pytest.fail(f"the ranks hung:\n{output}")
    assert process.returncode == 0, output


@pytest.mark.ddp
def test_two_ranks_train_one_adapter_and_fail_together(commands: Path, tmp_path: Path) -> None:
    run_script(commands, tmp_path)
    zero, one = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    # Each rank began with other random numbers, and both hold what rank zero registered.
    assert zero["random"] != one["random"]
    assert zero["digests"] == one["digests"]
    assert zero["registered"] == one["registered"] == ["refunds@1", "billing@1"]
    store = AdapterStore(tmp_path / "store")
    assert [version.ref for version in store.versions()] == ["billing@1", "refunds@1"]
    stored = [tensors_digest(tensor_items(dict(store.load(ref).tensors))) for ref in zero["registered"]]
    assert stored == zero["digests"]
    # The monitor measured every row once, on rank zero, and told both.
    (score,) = store.scores()
    assert score.n == 32
    assert zero["logged"] == one["logged"] == score.value
    checkpoint: dict[str, Any] = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(checkpoint["state_dict"]) == 10
    # The store failed on rank zero: nobody hangs, and everybody knows why.
    assert zero["error"] == "OSError: no space left on device"
    assert one["error"] == (
        "TrainingError: rank 1: registering task 'orders' failed on rank 0 (OSError: no space left on device)"
    )
    assert zero["failed"] == one["failed"] == 0
    store.close()
