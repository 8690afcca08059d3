"""Processes that register at once: who fails, and who waits longest."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from _harness import Comparison, compare

from contpeft import AdapterStore
from contpeft.errors import StoreBusyError
from contpeft.spec import AdapterState, BaseModel

__all__ = ["writing_at_once"]

WRITERS, EACH = 8, 200
BASE = BaseModel("base", "ba5e" * 16, 1)


def writing_at_once(folder: Path) -> Comparison:
    """The longest of 8 x 200 registrations of 4 KB beside the longest of 200 in a process alone."""
    at_once, errors = _longest(folder / "at-once", WRITERS)
    alone, _ = _longest(folder / "alone", 1)
    name = f"longest of {EACH} registrations each ({errors} errors)"
    return compare(name, (f"{WRITERS} processes at once", "one alone"), [(at_once, alone)], "s")


def _longest(path: Path, writers: int) -> tuple[float, int]:
    """Returns the longest registration of all processes in seconds, and how many failed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "safetensors.torch", "sqlite_utils"])
    start, told = context.Barrier(writers), context.Queue()
    started = [context.Process(target=_write, args=(path, start, told, seed)) for seed in range(writers)]
    for process in started:
        process.start()
    answers = [told.get() for _ in started]
    for process in started:
        process.join()
    return max(longest for longest, _ in answers), sum(errors for _, errors in answers)


def _write(path: Path, start: Barrier, told: Queue[tuple[float, int]], seed: int) -> None:
    """Registers states under five names; tells the longest time it took, and how often it failed."""
    torch.set_num_threads(1)
    store, longest, errors = AdapterStore(path), 0.0, 0
    start.wait()
    for number in range(EACH):
        state = AdapterState("lora", {"r": 1}, {"a": torch.full((1024,), float(EACH * seed + number))})
        began = time.perf_counter()
        try:
            store.register(f"line-{number % 5}", state, base=BASE)
        except StoreBusyError:
            errors += 1
        longest = max(longest, time.perf_counter() - began)
    told.put((longest, errors))
