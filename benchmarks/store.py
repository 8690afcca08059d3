"""What the store costs beside files written by hand, MLflow's registry, and a smaller store.

    make bench-store

Registering, alone and by several processes, is measured in elapsed time, because most of it is waiting
for the disk; beside MLflow and in all else it is CPU time, on one thread.
"""

from __future__ import annotations

import hashlib
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path

import torch
from _harness import Comparison, compare, cpu_seconds, in_turn, peak_mebibytes, run_alone, save
from _mlflow import VERSIONS as REGISTERED
from _mlflow import against_mlflow
from _writers import writing_at_once
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from contpeft import AdapterStore
from contpeft.spec import AdapterState, BaseModel

PAIRS, FILES, REPEATS, PROCESSES = 15, 64, 20, 3
VERSIONS, FEW, LINE = 100_000, 1_000, 50
BASE = BaseModel("base", "ba5e" * 16, 1)


def state(seed: int) -> AdapterState:
    """Returns a LoRA state of 72 tensors, 3.5 MB."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"A": (16, 768), "B": (768, 16)}
    tensors = {
        f"layer.{layer}.lora_{side}.weight": torch.randn(shape, generator=generator)
        for layer in range(36)
        for side, shape in shapes.items()
    }
    return AdapterState("lora", {"r": 16}, tensors)


def elapsed(work: Callable[[], object]) -> float:
    """Returns how many seconds ``work`` took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write_by_hand(folder: Path, data: bytes) -> None:
    """Writes bytes under their digest and syncs the file: the least that durable storage takes."""
    digest = hashlib.sha256(data).hexdigest()
    with (folder / f"{digest}-{secrets.token_hex(4)}").open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def registering(folder: Path) -> Comparison:
    """Registering an adapter beside writing the same bytes by hand."""
    store, seeds = AdapterStore(folder / "registering"), count()
    for number in range(256):  # as in any store of a thousand versions
        (store.path / "blobs" / f"{number:02x}").mkdir(parents=True)
    by_hand = folder / "by-hand"
    by_hand.mkdir()

    def register() -> float:
        made = state(next(seeds))
        return elapsed(lambda: store.register("line", made, base=BASE))

    def write() -> float:
        data = to_bytes(dict(state(next(seeds)).tensors))
        return elapsed(lambda: write_by_hand(by_hand, data))

    pairs = in_turn(register, write, PAIRS)
    store.close()
    return compare("register 3.5 MB", ("store", "write, fsync and sha256"), pairs, "s", goal=1.5)


def loading(folder: Path) -> Comparison:
    """Loading adapters, every byte checked, beside loading the same files unchecked."""
    store = AdapterStore(folder / "loading")
    versions = [store.register("line", state(seed), base=BASE) for seed in range(FILES)]
    paths = sorted((store.path / "blobs").rglob("*.safetensors"))

    def verified() -> float:
        return cpu_seconds(lambda: [store.load(version.ref) for version in versions])

    def unchecked() -> float:
        return cpu_seconds(lambda: [load_file(path) for path in paths])

    pairs = in_turn(verified, unchecked, PAIRS)
    store.close()
    return compare(f"load {FILES} adapters", ("verified", "safetensors alone"), pairs, "s")


def peak_of_loading(side: str, folder: Path) -> float:
    """Returns the peak memory of holding all adapters of a store, every byte of them touched."""
    store = AdapterStore(folder, create=False)
    if side == "verified":
        held = [dict(store.load(version.ref).tensors) for version in store.versions()]
    else:
        held = [load_file(path) for path in (folder / "blobs").rglob("*.safetensors")]
    for tensors in held:
        torch.stack([tensor.sum() for tensor in tensors.values()])
    return peak_mebibytes()


def peak_memory(folder: Path) -> Comparison:
    """Peak memory of processes that load all adapters, checked or not."""
    verified, unchecked = (
        partial(run_alone, __file__, "--peak", side, str(folder / "loading"))
        for side in ("verified", "safetensors alone")
    )
    pairs = in_turn(verified, unchecked, PROCESSES)
    return compare(f"peak memory with {FILES} adapters", ("verified", "safetensors alone"), pairs, "MiB")


def filled(folder: Path, versions: int) -> AdapterStore:
    """Returns a store of so many versions in lines of 50, each with a step and two scores."""
    store = AdapterStore(folder / str(versions))
    store.start_run("run", config={}, seed=0, tasks=[], scenario="class-incremental")
    small = AdapterState("lora", {"r": 1}, {"a": torch.zeros(1)})
    store.register("line-0", small, base=BASE, run="run")
    with store._db.write() as connection:
        for statement in _FILL:
            connection.execute(statement, {"versions": versions, "line": LINE})
    return store


_K = "WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < :versions - 1) "
_COPIED = "kind, sha256, fingerprint, parameters, config, base_id, origin, run, environment"
_FILL = (
    f"{_K} INSERT INTO adapter (name, next_n) "
    "SELECT 'line-' || (i / :line), :line + 1 FROM k WHERE i % :line = 0",
    f"{_K} INSERT INTO version (adapter_id, n, identity, uid, {_COPIED}) "
    f"SELECT i / :line + 1, i % :line + 1, 'i' || i, 'u' || i, {_COPIED} FROM k, version WHERE id = 1",
    "INSERT INTO tag SELECT id, 'owner', 'ada' FROM version",
    "INSERT INTO parent SELECT id, 0, id - 1, 'continued', NULL FROM version WHERE n > 1",
    "INSERT INTO step "
    "(run, way, step, task, answers, versions, detail, scores_digest, seconds, finished_at) "
    "SELECT 'run', 'way', id, 'task', '{}', '[]', '{}', '', 1, created_at FROM version",
    "INSERT INTO step_version SELECT id, id, 1 FROM step",
    "INSERT INTO score "
    "(run, way, answer, step, task, protocol, metric, kind, value, n, composition, data, copied) "
    "SELECT 'run', 'way', 'main', step, seen, 'task_aware', 'accuracy', 'end', "
    "(step * 37 % 100) / 100.0, 1, '', '', 0 FROM step, (SELECT 'a' AS seen UNION ALL SELECT 'b')",
)


def asking(folder: Path) -> list[Comparison]:
    """Questions to a store of 100,000 versions beside the same ones to a store of 1,000."""
    many, few = filled(folder, VERSIONS), filled(folder, FEW)
    questions: dict[str, Callable[[AdapterStore], object]] = {
        "list a page of 50": lambda store: store.versions(limit=50),
        "tags of a page": lambda store: store.tags.of(*(f"line-1@{n}" for n in range(1, LINE + 1))),
        "page by accuracy>=0.9": lambda store: store.versions(metrics=["accuracy>=0.9"], limit=50),
        "lineage 50 deep": lambda store: store.inspect.tree(f"line-0@{LINE}", parents=True),
    }
    found = []
    for name, ask in questions.items():
        pairs = in_turn(partial(_milliseconds, ask, many), partial(_milliseconds, ask, few), PAIRS)
        found.append(compare(name, (f"{VERSIONS:,} versions", f"{FEW:,}"), pairs, "ms", goal=2.0))
    many.close()
    few.close()
    return found


def _milliseconds(ask: Callable[[AdapterStore], object], store: AdapterStore) -> float:
    return cpu_seconds(lambda: [ask(store) for _ in range(REPEATS)]) / REPEATS * 1000


def starting(folder: Path) -> Comparison:
    """One `contpeft store list` beside importing what it stands on."""
    store = str(folder / "loading")
    listing = [sys.executable, "-m", "contpeft", "store", "list", "--store", store]
    importing = [sys.executable, "-c", "import typer, sqlite_utils"]
    pairs = in_turn(partial(_child_seconds, listing), partial(_child_seconds, importing), PAIRS)
    return compare("contpeft store list", ("process", "import typer, sqlite_utils"), pairs, "s", goal=1.5)


def _child_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measures everything, prints it and writes it down."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        comparisons = [
            registering(folder),
            loading(folder),
            peak_memory(folder),
            writing_at_once(folder),
            *asking(folder),
            *against_mlflow(folder),
            starting(folder),
        ]
    print(*comparisons, sep="\n")
    sizes = {"files": FILES, "versions": VERSIONS, "few": FEW, "registered": REGISTERED, "pairs": PAIRS}
    facts = {**sizes, "mlflow-skinny": version("mlflow-skinny")}
    print(f"results in {save('store', comparisons, facts)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        torch.set_num_threads(1)
        print(peak_of_loading(sys.argv[2], Path(sys.argv[3])))
    else:
        main()
