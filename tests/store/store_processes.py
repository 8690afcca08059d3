"""Starts, waits for and kills the other processes of the store's tests."""

from __future__ import annotations

import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PROCESSES = 8


def run_all(
    context: ForkServerContext, target: Any, *args: Any, count: int | None = None, processes: int = PROCESSES
) -> None:
    """Runs ``target`` in processes that start together; fails if one does.

    With ``count`` each is told its own number and the count.
    """
    codes = exit_codes(context, target, *args, count=count, processes=processes)
    assert codes == [0] * processes


def exit_codes(
    context: ForkServerContext, target: Any, *args: Any, count: int | None = None, processes: int = PROCESSES
) -> list[int | None]:
    """Runs ``target`` in processes that start together and returns how each ended."""
    own = [() if count is None else (seed, count) for seed in range(processes)]
    started = [context.Process(target=target, args=(*args, *each)) for each in own]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=300)
    return [process.exitcode for process in started]


def kill_after(process: BaseProcess, seconds: float) -> None:
    time.sleep(seconds)
    process.kill()
    process.join(timeout=30)
    assert process.exitcode == -9, "it died of something else before it was killed"


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline, f"nothing came to {path}"
        time.sleep(0.002)
