"""Recipes whose adapter is a pool of prompts inside the encoder, as prefixes of each row's own."""

from __future__ import annotations

from dataclasses import replace

from contpeft.adapters.pools import BankOptions
from contpeft.strategies.answers import ByTask, Latest
from contpeft.strategies.head import Cosine
from contpeft.strategies.init import Pooled
from contpeft.strategies.penalty import NearKeys, OrthogonalComponents
from contpeft.strategies.recipe import Recipe

__all__ = ["PROMPTS"]

_HEAD = Cosine(grow=True, local=True)

_CODA = Recipe(
    init=Pooled((BankOptions("attended", layers=(0, 5), length=4, components=5, apart=True),)),
    head=_HEAD,
    answers=Latest(),
    what="Prefixes are weighted sums of components; every task adds some, earlier ones are frozen.",
    paper="Smith et al. 2023, arXiv 2211.13218",
)
_L2P = Recipe(
    init=Pooled((BankOptions("top", layers=(0, 5), length=5, components=10, grows=False, top=5),)),
    head=_HEAD,
    penalty=NearKeys(0.5),
    answers=Latest(),
    what="One pool of prefixes for all tasks; each row takes those whose keys are nearest.",
    paper="Wang et al. 2022, arXiv 2112.08654",
)
_DUAL = Recipe(
    init=Pooled(
        (
            BankOptions("all", layers=(0, 2), length=6, components=1, grows=False),
            BankOptions("top", layers=(2, 5), length=20, components=1),
        )
    ),
    head=_HEAD,
    penalty=NearKeys(1.0),
    answers=Latest(),
    what="A prefix all tasks share in low layers, and one per task above, found by its key.",
    paper="Wang et al. 2022, arXiv 2204.04799",
)
_PROGRESSIVE = Recipe(
    init=Pooled((BankOptions("all", layers=(0, 12), length=10, components=1),)),
    head=_HEAD,
    answers=ByTask(),
    what="Each task trains a prefix before those of all earlier ones, which are frozen.",
    paper="Razdaibiedina et al. 2023, arXiv 2301.12314",
    serves=frozenset({"task-incremental"}),
)

PROMPTS: dict[str, Recipe] = {
    "coda-prompt": _CODA,
    "coda-prompt-orthogonal": replace(
        _CODA,
        penalty=OrthogonalComponents(0.1),
        what="As coda-prompt, and a penalty keeps components, keys and attention at right angles.",
    ),
    "dualprompt": _DUAL,
    "l2p": _L2P,
    "progressive-prompts": _PROGRESSIVE,
}
