"""What each adapter method changes in the modules it is applied to, and where it was published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["NOTES", "Note"]

_ARXIV: Final = "https://arxiv.org/abs/"
_OPENREVIEW: Final = "https://openreview.net/forum?id="


class Note(NamedTuple):
    """What is told of a method.

    Attributes:
        changes: what it does to a module, ``W`` its weight.
        paper: authors or title, and year; None where there is no paper.
        link: address of the paper.
    """

    changes: str
    paper: str | None
    link: str | None


def _note(changes: str, paper: str | None = None, link: str | None = None) -> Note:
    number = link is not None and link[0].isdigit()
    return Note(changes, paper, f"{_ARXIV}{link}" if number else link)


NOTES: Final[Mapping[str, Note]] = {
    "adalora": _note("adds a product P E Q to W, E diagonal", "Zhang et al. 2023", "2303.10512"),
    "adamix": _note(
        "adds one of several networks after the FFN, their mean in the end", "Wang et al. 2022", "2205.12410"
    ),
    "adamss": _note(
        "adds low-rank updates to W in clusters of its subspace", "AdaMSS 2025", f"{_OPENREVIEW}8ZdWmpYxT0"
    ),
    "beft": _note("adds a vector to the output", "BEFT 2025", "2509.15974"),
    "bitfit": _note("adds a vector to the bias", "Ben Zaken et al. 2022", "2106.10199"),
    "boft": _note("rotates W by butterfly factors", "Liu et al. 2024", "2311.06243"),
    "c3a": _note("adds a block-circular convolution to W", "C3A 2024", "2407.19342"),
    "compacter": _note(
        "adds networks of Kronecker products after attention and FFN", "Mahabadi et al. 2021", "2106.04647"
    ),
    "deft": _note(
        "takes a subspace out of W and adds a low-rank update in it",
        "DEFT 2025",
        "https://proceedings.neurips.cc/paper_files/paper/2025/hash/"
        "93a34a7138bdad95e874018d5f491cc6-Abstract-Conference.html",
    ),
    "delora": _note(
        "adds a normalised low-rank product to W, its length trained apart", "DeLoRA 2025", "2503.18225"
    ),
    "dora": _note(
        "a variant of lora: the lengths of W's rows trained apart", "Liu et al. 2024", "2402.09353"
    ),
    "fourierft": _note(
        "adds the inverse Fourier transform of few coefficients to W", "Gao et al. 2024", "2405.03003"
    ),
    "frod": _note(
        "adds a sparse core between projections that layers share to W",
        "FRoD 2026",
        "https://doi.org/10.1609/aaai.v40i31.39813",
    ),
    "glora": _note(
        "scales and shifts W and the bias by trained supports", "Chavan et al. 2023", "2306.07967"
    ),
    "gralora": _note("adds a low-rank product to each block of W", "GraLoRA 2025", "2505.20355"),
    "hira": _note(
        "multiplies W entry by entry by a low-rank product", "HiRA 2025", f"{_OPENREVIEW}TwJrTz9cRS"
    ),
    "houlsby": _note("adds a network after attention and FFN", "Houlsby et al. 2019", "1902.00751"),
    "hra": _note("reflects W by Householder factors", "HRA 2024", "2405.17484"),
    "ia3": _note("scales the output entry by entry", "Liu et al. 2022", "2205.05638"),
    "lily": _note(
        "adds a low-rank product with factors shared across layers to W", "Lily 2024", "2407.09946"
    ),
    "ln_tuning": _note("trains a copy of normalisation layers", "Zhao et al. 2023", "2312.11420"),
    "loha": _note(
        "adds the entry-wise product of two low-rank products to W", "Hyeon-Woo et al. 2022", "2108.06098"
    ),
    "lokr": _note("adds a Kronecker product to W", "Yeh et al. 2024", "2309.14859"),
    "lora": _note("adds a low-rank product to W", "Hu et al. 2022", "2106.09685"),
    "mam": _note(
        "a network beside the FFN and a prefix (`parallel` + `prefix_tuning`)", "He et al. 2022", "2110.04366"
    ),
    "lora+": _note("a variant of lora: B learns faster than A", "Hayou et al. 2024", "2402.12354"),
    "lora-fa": _note("a variant of lora: A stays at its random start", "Zhang et al. 2023", "2308.03303"),
    "miss": _note("adds one small matrix, repeated over shards, to W", "MiSS 2024", "2409.15371"),
    "oft": _note("rotates W block by block", "Qiu et al. 2023", "2306.07280"),
    "olora": _note(
        "a variant of lora: starts at the QR factors of W, a frozen half takes them out",
        "Büyükakyüz 2024",
        "2406.01775",
    ),
    "osf": _note("trains W outside its leading singular directions", "Nayak et al. 2025", "2504.07097"),
    "p_tuning": _note("puts vectors that a network makes before the tokens", "Liu et al. 2021", "2103.10385"),
    "p_tuning_v2": _note(
        "puts keys and values before those of the tokens (`prefix_tuning`)", "Liu et al. 2022", "2110.07602"
    ),
    "parallel": _note("adds a scaled network beside the FFN", "He et al. 2022", "2110.04366"),
    "peanut": _note("adds a network applied to W itself", "PEANuT 2024", "2410.01870"),
    "pfeiffer": _note("adds a network after the FFN", "Pfeiffer et al. 2021", "2005.00247"),
    "prefix_tuning": _note(
        "puts keys and values before those of the tokens, in every layer", "Li and Liang 2021", "2101.00190"
    ),
    "prompt_tuning": _note(
        "puts vectors before the tokens, or behind the patches of a picture",
        "Lester et al. 2021",
        "2104.08691",
    ),
    "pissa": _note(
        "a variant of lora: starts at the principal directions of W, a frozen half takes them out",
        "Meng et al. 2024",
        "2404.02948",
    ),
    "psoft": _note("rotates W in its principal subspace", "PSOFT 2026", f"{_OPENREVIEW}FSHrinMArK"),
    "pvera": _note("VeRA with a distribution over its vectors", "PVeRA 2025", "2512.07703"),
    "randlora": _note(
        "adds scaled sums of random products to W, of full rank", "RandLoRA 2025", "2502.00987"
    ),
    "road": _note("rotates the output in planes", "RoAd 2024", "2409.00119"),
    "rslora": _note("a variant of lora: scaled by the root of the rank", "Kalajdzievski 2023", "2312.03732"),
    "shira": _note("adds to few entries of W", "SHiRA 2024", "2406.13175"),
    "supertuning": _note("adds to the largest entries of W", "Super-Tuning 2026", "2607.09287"),
    "tinylora": _note("adds a few numbers, through W's singular vectors", "TinyLoRA 2026", "2602.04118"),
    "trainable_tokens": _note("trains chosen rows of the embedding"),
    "unilora": _note("adds low-rank products made of one vector to all W", "Uni-LoRA 2025", "2506.00799"),
    "unipelt": _note(
        "`lora`, `pfeiffer` and `prefix_tuning`, each with a gate per layer", "Mao et al. 2022", "2110.07577"
    ),
    "vblora": _note(
        "adds low-rank products put together from a bank of vectors", "VB-LoRA 2024", "2405.15179"
    ),
    "vera": _note(
        "adds a random low-rank product to W, scaled by trained vectors", "Kopiczko et al. 2024", "2310.11454"
    ),
    "waveft": _note(
        "adds the inverse wavelet transform of few coefficients to W", "WaveFT 2025", "2505.12532"
    ),
}
