"""What goes out to a folder: the bytes that were stored, whole or not at all, readable by others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from store_folders import factors, snapshot, told
from store_workers import BASE

from contpeft.digest import bytes_digest
from contpeft.errors import IntegrityError, NotFoundError, StoreBusyError, UnsupportedError, UsageError
from contpeft.spec import AdapterState, HeadSpec, Score, Single, Task
from contpeft.store import AdapterStore, Exported
from contpeft.store.tensors import entries, join, serialize

HEAD = HeadSpec("linear", ("no", "yes"))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def line(store: AdapterStore) -> AdapterStore:
    """mail@1 after a task of a run, with a head and a score."""
    tensors = {**factors(), "head.weight": torch.ones(2, 6), "head.bias": torch.zeros(2)}
    store.start_run("demo", config={}, seed=0, tasks=[Task("mail", ("no", "yes"))], scenario="class")
    state = AdapterState("lora", told(), tensors, HEAD)
    store.register("mail", state, base=BASE, run="demo", task="mail", data="da7a", seconds=2.5)
    score = Score("demo", "ewc", "main", 0, "mail", "task_aware", "accuracy", 0.75, 40, "c0", "da7a")
    answers = {"main": Single("mail@1")}
    store.finish_step(
        "demo", "ewc", 0, task="mail", answers=answers, versions=["mail@1"], scores=[score], seconds=3.0
    )
    return store


def test_a_folder_holds_what_was_stored(line: AdapterStore, tmp_path: Path) -> None:
    made = line.exchange.export_folder("mail@latest", tmp_path / "new" / "out")
    folder = tmp_path / "new" / "out"
    names = (
        "adapter_config.json",
        "adapter_model.safetensors",
        "contpeft/head.safetensors",
        "contpeft/version.json",
    )
    assert made == Exported(
        "mail@1", folder, "faithful", names, sum(p.stat().st_size for p in files_in(folder))
    )
    assert sorted(str(path.relative_to(folder)) for path in files_in(folder)) == list(names)
    assert (folder / names[1]).read_bytes() == save(factors(), metadata={"format": "pt"})
    head = load_file(folder / names[2])
    assert {name: tensor.tolist() for name, tensor in head.items()} == {
        "weight": [[1.0] * 6] * 2, "bias": [0.0, 0.0],
    }  # fmt: skip
    version = line.show("mail")
    assert json.loads((folder / names[0]).read_text()) == {
        **told(), "base_model_name_or_path": "tiny-bert", "inference_mode": True,
        "peft_version": version.environment["peft"],
    }  # fmt: skip
    side = json.loads((folder / names[3]).read_text())
    assert side["base"] == {"name": "tiny-bert", "fingerprint": BASE.fingerprint, "parameters": 1000}
    assert (side["task"], side["data"], side["seconds"], side["profile"]) == ("mail", "da7a", 2.5, "faithful")
    assert side["head"] == HEAD.to_json()
    assert {key: side["facts"][key] for key in ("ref", "fingerprint", "sha256", "run")} == {
        "ref": "mail@1", "fingerprint": version.fingerprint, "sha256": version.sha256, "run": "demo",
    }  # fmt: skip
    assert [(s["task"], s["metric"], s["value"]) for s in side["facts"]["scores"]] == [
        ("mail", "accuracy", 0.75)
    ]
    assert side["files"] == {
        name: bytes_digest((folder / name).read_bytes()) for name in names if name != names[3]
    }


def test_the_base_is_called_what_was_asked_for(line: AdapterStore, tmp_path: Path) -> None:
    line.exchange.export_folder("mail", tmp_path / "out", base_name="org/tiny-bert")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/tiny-bert"


def test_files_made_without_torch_are_those_of_safetensors() -> None:
    tensors = {
        "b": torch.arange(3, dtype=torch.int64),
        "a": torch.ones(2, 3),
        "c": torch.tensor([True, False, True]),
        "d": torch.ones(5, dtype=torch.bfloat16),
        "e": torch.tensor(1.5, dtype=torch.float64),
        "f": torch.ones(0, 4),
    }
    data = serialize(tensors, "any")
    assert join(entries(data)) == data
    odd = {name: tensor for name, tensor in tensors.items() if name != "d"}
    assert join(each for each in entries(data) if each[0] != "d") == serialize(odd, "any")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_others_may_read_as_the_umask_says(
    mask: int, mode: int, line: AdapterStore, tmp_path: Path, umask: Callable[[int], int]
) -> None:
    umask(mask)
    line.exchange.export_folder("mail", tmp_path / "out")
    assert {path.stat().st_mode & 0o777 for path in files_in(tmp_path / "out")} == {mode}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask


def test_what_is_in_the_way_stays(line: AdapterStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert line.exchange.export_folder("mail", tmp_path / "empty").path == tmp_path / "empty"
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    for name in ("empty", "file"):
        with pytest.raises(UsageError, match=f"{name} exists and is not empty; name a folder that is new"):
            line.exchange.export_folder("mail", tmp_path / name)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["fdopen", "fsync", "rename"])
def test_a_failed_export_leaves_nothing(
    name: str, line: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(StoreBusyError, match="No space left on device; free some space"):
            line.exchange.export_folder("mail", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_files_are_durable_before_the_folder_has_its_name(
    line: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        done.append(f"named {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    made = line.exchange.export_folder("mail", tmp_path / "out")
    place = done.index("named out")
    assert {Path(name).name for name in made.files} | {"contpeft"} < set(done[:place])
    assert done[place - 1].startswith(".out-")
    assert done[place + 1 :] == [tmp_path.name]


def test_what_cannot_go_out(line: AdapterStore, tmp_path: Path) -> None:
    statistics = {"head.means": torch.ones(2, 4), "head.counts": torch.ones(2), "head.scatter": torch.eye(4)}
    line.register("means", AdapterState("statistics", {}, statistics), base=BASE)
    for options in ({}, {"profile": "serving", "base": tmp_path}):
        with pytest.raises(UnsupportedError, match="means@1 is of kind 'statistics' and holds no adapter"):
            line.exchange.export_folder("means", tmp_path / "out", **options)
    with pytest.raises(UsageError, match="the profile 'faithful' needs no base; leave it out"):
        line.exchange.export_folder("mail", tmp_path / "out", base=tmp_path)
    with pytest.raises(NotFoundError, match="no adapter 'mial'"):
        line.exchange.export_folder("mial", tmp_path / "out")
    with pytest.raises(UsageError, match="no profile 'serve'; did you mean 'serving'"):
        line.exchange.export_folder("mail", tmp_path / "out", profile="serve")  # type: ignore[arg-type]
    line._blobs.path(line.show("mail").sha256).unlink()
    with pytest.raises(IntegrityError, match=r"version 'mail@1' in .* cannot be read"):
        line.exchange.export_folder("mail", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_fusion_goes_out_to_adapterhub_alone(line: AdapterStore, tmp_path: Path) -> None:
    config = {"peft_type": "FUSION", "options": {}, "over": [{"ref": "mail@1", "fingerprint": "f"}]}
    line.register("both", AdapterState("fusion", config, {"0.query.weight": torch.eye(4)}), base=BASE)
    for options in ({}, {"profile": "serving", "base": tmp_path}):
        with pytest.raises(UnsupportedError, match=r"^both@1 is a fusion.*profile 'adapterhub'$"):
            line.exchange.export_folder("both", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_going_out_as_it_is_needs_no_torch(line: AdapterStore, tmp_path: Path) -> None:
    code = (
        "import sys; from contpeft import AdapterStore; "
        f"AdapterStore({str(line.path)!r}).exchange.export_folder('mail', {str(tmp_path / 'out')!r}); "
        "print({'torch', 'peft', 'transformers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
