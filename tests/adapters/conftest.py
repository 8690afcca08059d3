"""What the adapters' tests share: one thread, a real encoder, and the helpers beside this file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertModel

from contpeft.experiments.packages import packaged_model

# The tests and the script of another process import the helpers (adapters_tiny) by name.
sys.path.append(str(Path(__file__).parent))
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return packaged_model("minilm")


@pytest.fixture
def minilm(minilm_folder: Path) -> BertModel:
    """The first two layers of a trained sentence encoder."""
    return AutoModel.from_pretrained(minilm_folder, num_hidden_layers=2)
