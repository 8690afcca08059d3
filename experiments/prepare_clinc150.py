"""Writes CLINC150 as the JSON lines that ``clinc150.yaml`` reads.

usage: python experiments/prepare_clinc150.py FOLDER OUT

FOLDER holds ``data_full.json`` and ``domains.json`` (github.com/clinc/oos-eval, CC BY 3.0). OUT gets
``train``, ``val`` and ``test``, each row with its text, intent and domain, and ``oos``, texts of no intent.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: Path, out: Path) -> None:
    """Writes one file per split."""
    splits = json.loads((folder / "data_full.json").read_text())
    domains = json.loads((folder / "domains.json").read_text())
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        rows = [
            {"text": text, "intent": intent, "domain": domain_of[intent]} for text, intent in splits[split]
        ]
        (out / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    rows = [{"text": text} for text, _ in splits["oos_test"]]
    (out / "oos.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
