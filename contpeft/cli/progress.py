"""Shows where a run is: a bar on a terminal, a line per task elsewhere; always on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from contpeft.experiments.progress import Observer
    from contpeft.experiments.progress import Progress as At

__all__ = ["watching"]

_PHASES = {
    "start": "getting ready",
    "train": "training",
    "evaluate": "measuring",
    "finished": "done",
    "kept": "done before, kept",
}


@contextmanager
def watching() -> Iterator[Observer]:
    """Yields an observer that shows a run's progress until the block ends."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(at: At) -> None:
            bar.update(task, description=_describe(at), completed=at.done, total=at.total)
            if at.phase in ("finished", "kept"):
                bar.console.print(f"{at.way}: {at.task} ({at.step + 1} of {at.steps}) {_PHASES[at.phase]}")

        yield show


def _lines(console: Console) -> Callable[[At], None]:
    seen: set[tuple[str, int, str, int]] = set()
    began: tuple[float, int] | None = None  # when the first step was seen, and how many were done then

    def show(at: At) -> None:
        nonlocal began
        if at.phase == "train" and began is None:
            began = time.monotonic(), at.done
        key = (at.way, at.step, at.phase, at.epoch)
        if key not in seen:
            seen.add(key)
            console.print(_describe(at) + (_left(at, *began) if began else ""), soft_wrap=True)

    return show


def _describe(at: At) -> str:
    text = f"{at.way}: {at.task} ({at.step + 1} of {at.steps}), {_PHASES[at.phase]}"
    if at.phase == "train":
        text += f", epoch {at.epoch} of {at.epochs}"
        text += "" if at.loss is None else f", loss {at.loss:.3f}"
    return text


def _left(at: At, began: float, done_then: int) -> str:
    """Returns how far the run is, and the time left at the pace of this session so far."""
    text = f" [{at.done} of {at.total} steps"
    done_now = at.done - done_then
    if done_now > 0:
        seconds = (time.monotonic() - began) / done_now * (at.total - at.done)
        text += f", about {timedelta(seconds=round(seconds))} left"
    return text + "]"
