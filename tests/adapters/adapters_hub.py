"""Folders that AdapterHub's library wrote, models and stores around them, and ways to spoil them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_tiny import logits
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertModel

from contpeft.adapters import AdaptedModel
from contpeft.errors import ContpeftError
from contpeft.spec import AdapterState, Single, Version
from contpeft.store import AdapterStore

FROZEN = Path(__file__).parent / "frozen" / "adapterhub"
BASE = FROZEN / "base"
# By method: the folder of an adapter of it.
ADAPTERS = {
    "pfeiffer": FROZEN / "setup" / "sst",
    "houlsby": FROZEN / "houl",
    "parallel": FROZEN / "par",
    "lora": FROZEN / "low",
}
FUSED = FROZEN / "setup" / "sst,mnli"
ANSWERS = load_file(FROZEN / "answers.safetensors")

Spoil = Callable[[dict[str, Any], dict[str, Tensor]], Any]


def base() -> BertModel:
    """Returns the plain base."""
    config = json.loads((BASE / "config.json").read_text())
    model = BertModel(BertModel.config_class(**config))
    model.load_state_dict(load_file(BASE / "model.safetensors"))
    return model.eval()


class Reading(nn.Module):
    """A base whose head is given the first token's state, or what the pooler makes of it."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.model = base()
        self.head = nn.Identity()
        self.reads = reads
        self.eval()

    def collate(self, inputs: list[Any]) -> Tensor:
        return torch.tensor(inputs)

    def encode(self, ids: Tensor) -> Tensor:
        output = self.model(ids)
        return output.pooler_output if self.reads == "pooler" else output.last_hidden_state[:, 0]

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encode(ids))


def loader(store: AdapterStore) -> Callable[[str], tuple[Version, AdapterState]]:
    return lambda ref: (store.show(ref), store.load(ref))


@contextmanager
def answering(store: AdapterStore, ref: str, reads: str = "first token") -> Iterator[Reading]:
    """Yields a module with a stored version and its head in it."""
    module = Reading(reads)
    with AdaptedModel.of(module).applied(Single(ref), loader(store)):
        yield module


def hidden(store: AdapterStore, ref: str) -> Tensor:
    """Returns the base's last states with a stored version in it."""
    with answering(store, ref) as module, torch.no_grad():
        return module.model(ANSWERS["ids"]).last_hidden_state


def scores(store: AdapterStore, ref: str, reads: str) -> Tensor:
    with answering(store, ref, reads) as module:
        return logits(module, ANSWERS["ids"])


def taken(folder: Path) -> dict[str, Any]:
    """Returns every file of a folder by its path: JSON as values, tensors as type, shape and bytes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json" and not name.startswith("contpeft/"):
            found[name] = json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            found[name] = {
                key: (tensor.dtype, tuple(tensor.shape), tensor.numpy().tobytes())
                for key, tensor in load_file(path).items()
            }
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoilt(source: Path, folder: Path, spoil: Spoil) -> Path:
    """Copies the folder of an adapter or a fusion and changes its configuration file and tensors."""
    shutil.copytree(source, folder)
    config, weights = (
        ("adapter_config.json", "adapter.safetensors")
        if (source / "adapter_config.json").exists()
        else ("adapter_fusion_config.json", "model_adapter_fusion.safetensors")
    )
    return changed(folder, config, weights, spoil)


def changed(folder: Path, config: str, weights: str, spoil: Spoil) -> Path:
    told, tensors = json.loads((folder / config).read_text()), load_file(folder / weights)
    spoil(told, tensors)
    (folder / config).write_text(json.dumps(told))
    save_file(tensors, folder / weights)
    return folder


def pickled(folder: Path) -> Path:
    """Turns every safetensors file of a folder into the pickle that the library writes by default."""
    for path in list(folder.glob("*.safetensors")):
        torch.save(load_file(path), folder / f"pytorch_{path.stem}.bin")
        path.unlink()
    return folder


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> None:
    """Puts another text into the place of one in all names."""
    for name in list(tensors):
        tensors[name.replace(old, new)] = tensors.pop(name)


def options(told: Mapping[str, Any], **values: Any) -> None:
    """Sets options of a configuration file."""
    told["config"].update(values)


def refused(store: AdapterStore, folder: Path, error: type[ContpeftError], match: str, **told: Any) -> None:
    """Imports a folder, sees it refused in one line, and the store as it was."""
    store.names()
    before = _lasting(store)
    with pytest.raises(error, match=match) as caught:
        store.exchange.import_folder(folder, "new", **{"base": BASE, **told})
    assert "\n" not in str(caught.value)
    assert _lasting(store) == before


def _lasting(store: AdapterStore) -> dict[str, bytes]:
    return {name: data for name, data in files(store.path).items() if not name.endswith("-shm")}
