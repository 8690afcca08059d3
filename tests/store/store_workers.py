"""What other processes do to a store in its tests, and stores that are broken on purpose."""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from contpeft.digest import bytes_digest
from contpeft.errors import StoreBusyError
from contpeft.spec import AdapterState, BaseModel, HeadSpec, Version
from contpeft.store import AdapterStore, drafts, registration
from contpeft.store.blobs import Blobs
from contpeft.store.database import Database
from contpeft.store.drafts import Draft
from contpeft.store.tensors import Payload, describe, serialize

# What broken stores wait in their weak moment, so that a kill finds it within a few attempts.
SLOW_DISK = 0.01

BASE = BaseModel("tiny-bert", "ba5e" * 16, 1000)


def make_state(seed: int = 0, *, rows: int = 4, r: int = 2, head: bool = False) -> AdapterState:
    """Returns a LoRA state whose tensors are those of ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "layer.0.query.lora_A.weight": torch.randn(r, rows, generator=generator),
        "layer.0.query.lora_B.weight": torch.randn(rows, r, generator=generator),
    }
    if head:
        tensors["head.weight"] = torch.randn(2, rows, generator=generator)
    config = {"peft_type": "LORA", "r": r, "target_modules": ["query"]}
    spec = HeadSpec("linear", ("no", "yes"), {"scale": 1.0}) if head else None
    return AdapterState("lora", config, tensors, spec)


def acknowledge(path: Path, line: str) -> None:
    """Appends one line; it survives the death of this process."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def acknowledged(path: Path) -> dict[str, str]:
    """Returns the digest of every version acknowledged in ``path``."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {ref: sha256 for ref, _, sha256 in (line.partition(" ") for line in lines)}


def register_for_ever(path: Path, told: Path, seed: int, rows: int, twin: str | None) -> None:
    """Registers one state after another until someone kills this process."""
    store = AdapterStore(path)
    if twin:
        TWINS[twin](store)
    numbers = random.Random(seed)
    store.names()
    acknowledge(told, "ready")
    while True:
        state = make_state(numbers.randrange(1 << 60), rows=rows)
        version = store.register(f"line-{numbers.randrange(3)}", state, base=BASE)
        acknowledge(told, f"{version.ref} {version.sha256}")


def create_for_ever(folder: Path) -> None:
    """Makes one new store after another until someone kills this process."""
    for number in itertools.count():
        AdapterStore(folder / str(number)).names()


def register_many(
    path: Path, told: Path, start: Barrier, rows: int, twin: str | None, seed: int, count: int
) -> None:
    """Registers ``count`` states under three names, all processes starting at once."""
    store = AdapterStore(path)
    if twin:
        TWINS[twin](store)
    start.wait()
    for i in range(count):
        state = make_state(1000 * seed + i, rows=rows)
        version = store.register(f"line-{(seed + i) % 3}", state, base=BASE)
        acknowledge(told, f"{version.ref} {version.sha256}")


def register_same(path: Path, told: Path, start: Barrier) -> None:
    """Registers the one state that every process registers."""
    store, state = AdapterStore(path), make_state(0, head=True)
    start.wait()
    version = store.register("same", state, base=BASE)
    acknowledge(told, f"{version.ref} {version.sha256}")


def open_new(folder: Path, told: Path, start: Barrier, count: int) -> None:
    """Opens ``count`` stores that nobody has opened before, all processes at once."""
    for number in range(count):
        start.wait()
        names = AdapterStore(folder / str(number)).names()
        acknowledge(told, f"{number} {names}")


def register_and_remove(path: Path, told: Path, seed: int, seconds: float) -> None:
    """Registers and removes four contents again and again: what others collect is what this one needs."""
    store, numbers = AdapterStore(path), random.Random(seed)
    states = [make_state(content) for content in range(4)]
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        ref = store.register(f"line-{seed}", numbers.choice(states), base=BASE).ref
        store.load(ref)
        store.upkeep.remove([ref])
        count += 1
    store.register(f"line-{seed}", states[seed % 4], base=BASE)
    acknowledge(told, f"{count} registered")


def collect_for_ever(path: Path, told: Path, naive: bool) -> None:
    """Collects garbage without any grace until someone kills this process."""
    store, count = AdapterStore(path), 0
    while True:
        count += collect_without_lock(store) if naive else len(store.upkeep.gc(timedelta(0)).blobs)
        acknowledge(told, f"{count} collected")


def open_and_tell(path: Path, told: Path, start: Barrier) -> None:
    """Opens one store, all processes at once, and tells the names it holds."""
    start.wait()
    acknowledge(told, " ".join(AdapterStore(path).names()))


def payload_of(tensors: Mapping[str, torch.Tensor]) -> Payload:
    data = serialize(tensors, "line")
    return Payload(data, bytes_digest(data), *describe(data))


def pack_and_tell(told: Path, backwards: bool) -> None:
    """Tells the digests of one state's file, its tensors given in either order."""
    tensors = make_state(7, head=True).tensors
    payload = payload_of(dict(reversed(tensors.items())) if backwards else tensors)
    acknowledge(told, f"{payload.sha256} {payload.fingerprint}")


def fill_the_disk(path: Path, told: Path) -> None:
    """Registers under a limit on file sizes that first the blob meets, then the catalogue."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = AdapterStore(path)
    store.register("line", make_state(0), base=BASE)
    for limit, state in ((1 << 19, make_state(1, rows=100_000)), (1024, make_state(2))):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            store.register("line", state, base=BASE)
        except StoreBusyError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            acknowledge(told, str(error))


def collect_without_lock(store: AdapterStore) -> int:
    """Collects garbage the wrong way: what it found unneeded is deleted a moment later."""
    unneeded = store.upkeep.gc(timedelta(0), dry_run=True).blobs
    time.sleep(SLOW_DISK)
    store._blobs.delete(store._blobs.path(sha256) for sha256 in unneeded)
    return len(unneeded)


def _rows_before_file(store: AdapterStore) -> None:
    """Breaks a store: the catalogue names a file that is not there yet."""

    def register_rows_first(database: Database, blobs: Blobs, draft: Draft, folder: str) -> Version:
        payload = payload_of(draft.state.tensors)
        with database.write() as connection:
            drafts.insert(connection, draft, payload, folder)
        time.sleep(SLOW_DISK)
        blobs.put(payload.data, payload.sha256)
        return store.show(draft.name)

    registration.register = register_rows_first


def _write_in_place(store: AdapterStore) -> None:
    """Breaks a store: a file grows under its final name."""

    def write_in_place(data: bytes, path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            time.sleep(SLOW_DISK)
            file.write(data[len(data) // 2 :])
            os.fsync(file.fileno())

    store._blobs._write = write_in_place  # type: ignore[method-assign]


def _lock_late(store: AdapterStore) -> None:
    """Breaks a store: a write reads first and asks for the lock when it comes to writing."""
    store._db.write = store._db.read  # type: ignore[method-assign,assignment]


TWINS: dict[str, Callable[[AdapterStore], None]] = {
    "rows-before-file": _rows_before_file,
    "write-in-place": _write_in_place,
    "lock-late": _lock_late,
}


def push_many(folder: Path, hub: str, told: Path, start: Barrier, seed: int, count: int) -> None:
    """Pushes ``count`` versions one by one from a store of its own, all processes starting at once."""
    store = AdapterStore(folder / f"store-{seed}")
    store.transfer.add_remote("hub", hub)
    start.wait()
    for i in range(count):
        version = store.register("line", make_state(1000 * seed + i), base=BASE)
        store.transfer.push("hub")
        acknowledge(told, f"{seed}/{version.ref} {version.sha256}")


def push_for_ever(path: Path, told: Path, seed: int) -> None:
    """Registers and pushes one version after another until someone kills this process."""
    store = AdapterStore(path)
    for i in itertools.count(1000 * seed):
        version = store.register("line", make_state(i), base=BASE)
        store.transfer.push("hub")
        acknowledge(told, f"{version.ref} {version.sha256}")
