"""Which published orderings of methods hold in what ``compare.py`` measured.

usage: python experiments/orderings.py [--out build/results]

Every line compares two ways on one stream, seed by seed. An asserted one must hold by its margin in the mean
of the paired differences, or the exit code is 1; the others are told only: papers disagree on them. With the
mean comes half of its 95 % interval over seeds (Student's t), where there are several. ``margins.md`` in OUT
gets how far statistics that follow an adapter are above joint training and the frozen bounds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from records import Record, Results
from tables import interval, shown

TIL, CIL = "task_aware", "all_classes"


@dataclass(frozen=True)
class Ordering:
    """One expectation: ``better`` is above ``worse`` by a margin, or a number of one way in a range.

    Attributes:
        claim: in words.
        stream: where.
        protocol: under which protocol.
        better: the way that is to be above, ``way`` or ``way: answer``.
        worse: the way that is to be below; None to look at ``better`` alone.
        number: of the matrix.
        margin: in points; by how much at least. Without ``worse``: what the number must be at least.
        asserted: whether it must hold.
    """

    claim: str
    stream: str
    protocol: str
    better: str
    worse: str | None
    number: str = "acc"
    margin: float = 0.0
    asserted: bool = True


def without_task_ids(stream: str) -> tuple[Ordering, ...]:
    """Returns what is expected of a class-incremental stream whose tasks are not told."""
    merges = ("merge-average", "merge-average-sequential", "merge-magmax", "merge-opcm")
    frozen, surest, alike = "frozen: class-means", "isolated-confidence", stream == "clinc150"
    return (
        Ordering("a sequence forgets", stream, CIL, "sequential", None, "forgetting", margin=20),
        Ordering("frozen class means are above a sequence", stream, CIL, frozen, "sequential", margin=10),
        *(
            Ordering(f"{router} routes better than confidence", stream, CIL, router, surest, margin=3)
            for router in ("isolated", "isolated-prototype")
        ),
        *(
            Ordering(f"{merge} is above a sequence", stream, CIL, merge, "sequential", margin=5)
            for merge in merges
        ),
        *(
            Ordering(f"joint training is above {way}", stream, CIL, "joint", way)
            for way in ("sequential", "isolated", "slca", *merges)
        ),
        # Told of a sentence encoder on intents; glosses leave it more to learn.
        *(
            Ordering(f"frozen class means are above {way}", stream, CIL, frozen, way, asserted=alike)
            for way in (*merges, "slca")
        ),
    )


def task_known(stream: str) -> tuple[Ordering, ...]:
    """Returns what is expected of unlike tasks that are told, one after the other at a high rate."""
    sequence, summed, average = "sequential-local", "incremental-sum-local", "merge-average-sequential"
    return (
        Ordering("isolated adapters forget nothing", stream, TIL, "isolated", None, "bwt"),
        Ordering("heads on the frozen encoder forget nothing", stream, TIL, "frozen-heads", None, "bwt"),
        Ordering("a sequence forgets", stream, TIL, sequence, None, "forgetting", margin=3),
        Ordering("an incremental sum is above a sequence", stream, TIL, summed, sequence, margin=5),
        Ordering("O-LoRA is above the incremental sum", stream, TIL, "o-lora", summed, margin=1),
        Ordering("isolated adapters are above a sequence", stream, TIL, "isolated", sequence, margin=10),
        Ordering("EWC is above a sequence", stream, TIL, "ewc", sequence, margin=5),
        Ordering(
            "the average of a sequence's adapters is above it", stream, TIL, average, sequence, margin=5
        ),
        Ordering("isolated adapters are above O-LoRA", stream, TIL, "isolated", "o-lora", asserted=False),
        Ordering("InfLoRA (0.99) is at least O-LoRA", stream, TIL, "inflora", "o-lora", asserted=False),
    )


# Of each stream without task ids, what follows an adapter, and the pool of statistics without one.
_TEXTS = (("drift-layers", "drift-tokens"), "frozen-tokens")
UNTOLD = {
    "clinc150": _TEXTS,
    "newsgroups": _TEXTS,
    "fashion-mnist": (("drift-layers", "drift-pool"), "frozen-pool"),
    "wordnet": _TEXTS,
}
POOL = "frozen pool"
BOUNDS = {
    "joint training": "joint",
    "frozen class means": "frozen: class-means",
    "heads on frozen features": "frozen-heads",
    "frozen LDA": "frozen: lda",
    "frozen RanPAC": "ranpac-frozen",
    "LDA of four frozen layers": "frozen-layers: lda",
    "RanPAC of four frozen layers": "ranpac-layers",
}


def bounds(stream: str) -> dict[str, str]:
    """Returns what the ways that follow an adapter are held against, by name."""
    return BOUNDS | {POOL: UNTOLD[stream][1]}


_MAIN = "cl-benchmark"
ORDERINGS: tuple[Ordering, ...] = (
    *(each for stream in (_MAIN, f"{_MAIN}-order-2", f"{_MAIN}-order-3") for each in task_known(stream)),
    Ordering("LwF is above a sequence", _MAIN, TIL, "lwf", "sequential-local", asserted=False),
    Ordering(
        "a sequence with replay is above one without",
        _MAIN,
        TIL,
        "er-5-percent",
        "sequential-local",
        asserted=False,
    ),
    Ordering("LAE is above a sequence", _MAIN, TIL, "lae", "sequential-local", asserted=False),
    Ordering("joint training is above isolated adapters", _MAIN, TIL, "joint", "isolated", asserted=False),
    Ordering("OPCM is above averaging", _MAIN, TIL, "merge-opcm", "merge-average", asserted=False),
    *(each for stream in ("clinc150", "wordnet") for each in without_task_ids(stream)),
    *(
        Ordering(
            f"{way} is above {claim}, without rows and task ids", stream, CIL, way, bound, asserted=False
        )
        for stream, (following, _) in UNTOLD.items()
        for way in following
        for claim, bound in bounds(stream).items()
    ),
)


def main(out: Path) -> int:
    """Prints every ordering with what was measured and writes the page of margins; returns the exit code."""
    write_margins(out)
    failed = 0
    for each in ORDERINGS:
        differences = paired(Results(out / f"{each.stream}.json").records, each)
        if not differences:
            print(f"not measured  {each.claim} ({each.stream})")
            continue
        mean, half = interval(differences)
        spread = "" if half is None else f" ± {half:.1f}"
        holds = mean >= each.margin - 1e-9
        failed += each.asserted and not holds
        told = json.dumps([round(value, 1) for value in differences])
        verdict = "holds" if holds else "FAILS" if each.asserted else "does not hold"
        print(f"{verdict:12}  {each.claim} ({each.stream}): {mean:+.1f}{spread} points, by seed {told}")
    return 1 if failed else 0


def write_margins(out: Path) -> None:
    """Writes how far statistics that follow an adapter are above each bound, without task ids."""
    names = (*BOUNDS, POOL)
    lines = [f"| points above | {' | '.join(names)} | seeds |", f"|{' --- |' * (len(names) + 2)}"]
    for stream, (following, _) in UNTOLD.items():
        records = Results(out / f"{stream}.json").records
        for way in following:
            held = bounds(stream).values()
            margins = [paired(records, Ordering("", stream, CIL, way, bound)) for bound in held]
            if any(margins):
                seeds = len({each.seed for each in records if each.way == way})
                cells = [shown([value / 100 for value in each]) for each in margins]
                lines.append(f"| `{way}`, {stream} | {' | '.join(cells)} | {seeds} |")
    (out / "margins.md").write_text("\n".join(lines) + "\n")


def paired(records: Sequence[Record], each: Ordering) -> list[float]:
    """Returns the difference for every seed that has both, in points."""
    better, worse = (_by_seed(records, each, side) for side in (each.better, each.worse))
    if each.worse is None:
        return list(better.values())
    return [better[seed] - worse[seed] for seed in sorted(better.keys() & worse.keys())]


def _by_seed(records: Sequence[Record], each: Ordering, side: str | None) -> dict[int, float]:
    way, _, answer = (side or "").partition(": ")
    return {
        record.seed: 100 * value
        for record in records
        if (record.way, record.answer, record.protocol) == (way, answer or "main", each.protocol)
        and (value := record.numbers[each.number]) is not None
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("build/results"))
    sys.exit(main(parser.parse_args().out))
