"""Writes tasks of the text continual-learning benchmark as the JSON lines that experiments read.

usage: python experiments/prepare_cl_benchmark.py FOLDER OUT [--train 1000] [--test 250]

FOLDER holds ``TASK.train.jsonl`` and ``TASK.test.jsonl`` with rows ``{"text", "label"}``: the benchmark of
O-LoRA (Wang et al. 2023, github.com/cmnfriend/O-LoRA) in that form. OUT gets ``train`` and ``test``, each row
with its text, its task, and its label with the task before it: labels of two tasks are two labels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

TASKS = ("dbpedia", "amazon", "agnews", "yelp", "sst2", "qqp")


def main(folder: Path, out: Path, rows: dict[str, int]) -> None:
    """Writes one file per split, with the first rows of each task."""
    out.mkdir(parents=True, exist_ok=True)
    for split, count in rows.items():
        lines: list[str] = []
        for task in TASKS:
            given = (folder / f"{task}.{split}.jsonl").read_text().splitlines()[:count]
            for row in map(json.loads, given):
                label = f"{task}: {row['label']}"
                lines.append(json.dumps({"text": row["text"], "label": label, "task": task}))
        (out / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=1000, help="rows a task")
    parser.add_argument("--test", type=int, default=250, help="rows a task")
    told = parser.parse_args()
    main(told.folder, told.out, {"train": told.train, "test": told.test})
