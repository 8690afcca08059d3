"""What the benchmarks share: pairs measured in turn, ratios, and results written down.

Machines differ and others use them too, so what counts is the ratio of two things measured on one
machine at nearly one time: both sides run in turn, the one that goes first changes every time, and
the median is taken over the ratios of the pairs.
"""

from __future__ import annotations

import json
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Comparison", "compare", "cpu_seconds", "in_turn", "peak_mebibytes", "run_alone", "save"]

RESULTS = Path(__file__).parent / "results"
_STATUS = Path("/proc/self/status")
_PACKAGES = ("contpeft", "lightning", "peft", "torch", "transformers")

Pair = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Two sides of one measurement.

    Attributes:
        name: what was measured.
        sides: what is compared, ours (or the later one) first.
        values: median of each side.
        unit: of the values.
        ratio: median over the pairs of first to second.
        spread: smallest and largest ratio of a pair.
        pairs: how many pairs were measured.
        goal: the largest ratio wanted, or None.
    """

    name: str
    sides: tuple[str, str]
    values: Pair
    unit: str
    ratio: float
    spread: Pair
    pairs: int
    goal: float | None = None

    @property
    def met(self) -> bool:
        """Whether the ratio is as wanted."""
        return self.goal is None or self.ratio <= self.goal

    def __str__(self) -> str:
        first, second = (
            f"{side} {value:.4g} {self.unit}" for side, value in zip(self.sides, self.values, strict=True)
        )
        line = f"{self.name}: {first}, {second}, ratio {self.ratio:.3f} x"
        if self.goal is None:
            return line
        return f"{line} (goal {self.goal:g}: {'met' if self.met else 'MISSED'})"


def in_turn(first: Callable[[], float], second: Callable[[], float], pairs: int) -> list[Pair]:
    """Measures both sides ``pairs`` times in turn.

    Args:
        first: measures one side once.
        second: measures the other side once.
        pairs: how many pairs; the side that goes first alternates.
    """
    measured = []
    for turn in range(pairs):
        if turn % 2 == 0:
            a, b = first(), second()
        else:
            b, a = second(), first()
        measured.append((a, b))
    return measured


def compare(
    name: str, sides: tuple[str, str], pairs: Iterable[Pair], unit: str, goal: float | None = None
) -> Comparison:
    """Returns the comparison of measured pairs."""
    pairs = list(pairs)
    ratios = [a / b for a, b in pairs]
    values = median(a for a, _ in pairs), median(b for _, b in pairs)
    return Comparison(name, sides, values, unit, median(ratios), (min(ratios), max(ratios)), len(pairs), goal)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Returns the CPU time ``work`` took in this process; waiting for others is not in it."""
    started = time.process_time()
    work()
    return time.process_time() - started


def peak_mebibytes() -> float:
    """Returns the largest amount of memory this process has held so far."""
    if _STATUS.exists():
        # What getrusage says is at least what the parent held when it started this process.
        return int(re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())[1]) / 1024  # type: ignore[index]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1024 * 1024 if sys.platform == "darwin" else 1024)


def run_alone(script: str, *arguments: str) -> float:
    """Returns the number that ``script`` prints last, run in a process of its own."""
    command = [sys.executable, script, *arguments]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(ran.stdout.split()[-1])


def save(name: str, comparisons: Iterable[Comparison], facts: Mapping[str, Any]) -> Path:
    """Writes the results of a benchmark with its date, versions and facts; returns the file.

    Args:
        name: of the benchmark.
        comparisons: what it measured.
        facts: what does not depend on the machine: sizes, counts, settings.
    """
    content = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {each: version(each) for each in _PACKAGES},
        "facts": dict(facts),
        "comparisons": [asdict(each) | {"met": each.met} for each in comparisons],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
