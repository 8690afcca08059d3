"""Starts, waits for and kills the other processes of the store's tests."""

from __future__ import annotations

import time
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PROCESSES = 8


def run_all(context: ForkServerContext, target: Any, *args: Any, count: int | None = None) -> None:
    """Runs ``target`` in eight processes that start together; fails if one does.

    With ``count`` each is told its own number and the count.
    """
    own = [() if count is None else (seed, count) for seed in range(PROCESSES)]
    started = [context.Process(target=target, args=(*args, *each)) for each in own]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
    assert [process.exitcode for process in started] == [0] * PROCESSES


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
