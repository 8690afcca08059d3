"""What merging adapters costs beside PEFT, mergekit, a matrix product, and reading and writing alone.

    make bench-merging

CPU time on one thread. PEFT's dense way takes half a minute a merge, so each of its sides is measured once;
ours is the median of several.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from _harness import Comparison, compare, cpu_seconds, in_turn, peak_mebibytes, run_alone, save
from _lora_shapes import BASE, BERT, LLAMA, fusion, lora, sources
from _mergekit import against_mergekit
from _peft_merge import PeftModelOf
from torch import Tensor

from contpeft import AdapterStore
from contpeft.merging import combine, fuse, truncated
from contpeft.spec.lora import ROOT
from contpeft.store import Request

ADAPTERS, RANK, REPEATS = 8, 8, 5
LLAMA_RANK, LLAMA_OUT = 16, "16"


def against_peft() -> list[Comparison]:
    """PEFT's merges through dense matrices beside ours; the sum's deltas must be equal."""
    states = [lora(BERT, RANK, seed) for seed in range(ADAPTERS)]
    few = dict(list(BERT.items())[:12])
    small = [lora(few, RANK, seed) for seed in range(ADAPTERS)]
    theirs = PeftModelOf(states)
    ours = median(cpu_seconds(lambda: fuse(sources(states), fusion("sum", "8"))) for _ in range(REPEATS))
    found = []
    for label, options in ((", reduced", {"svd_full_matrices": False}), (", as by default", {})):
        dense = cpu_seconds(partial(theirs.merge, "svd", svd_rank=RANK, **options))
        found.append(
            compare(
                f"sum to rank 8, 48 modules, PEFT svd{label}",
                ("contpeft", "PEFT"),
                [(ours, dense)],
                "CPU s",
                None if options else 0.01,
            )
        )
    apart = largest_difference(fuse(sources(states), fusion("sum", "8")).tensors, theirs.deltas())
    print(f"sum to rank 8: deltas of PEFT and contpeft differ by {apart:.1e} of the largest entry")
    if not apart < 1e-4:
        raise SystemExit("the deltas are not equal to 1e-4")
    ties = median(cpu_seconds(lambda: fuse(sources(small), fusion("ties", "8"))) for _ in range(REPEATS))
    dense = cpu_seconds(
        partial(PeftModelOf(small).merge, "ties_svd", svd_rank=RANK, density=0.2, svd_full_matrices=False)
    )
    found.append(
        compare(
            "TIES to rank 8, 12 modules: in core space, PEFT ties_svd",
            ("contpeft", "PEFT"),
            [(ties, dense)],
            "CPU s",
        )
    )
    return found


def largest_difference(tensors: dict[str, Tensor], deltas: dict[str, Tensor]) -> float:
    """Returns the largest difference of two updates of any module, as a share of its largest entry."""
    shares = []
    for module, delta in deltas.items():
        b, a = (tensors[f"{ROOT}{module}.lora_{factor}.weight"] for factor in "BA")
        shares.append(float((b @ a - delta).abs().max() / delta.abs().max()))
    return max(shares)


def make_llama(folder: Path) -> None:
    """Registers eight adapters of Llama-3-8B's attention, rank 16, bfloat16: 208 MB."""
    store = AdapterStore(folder / "llama")
    for seed in range(ADAPTERS):
        store.register(f"a{seed}", lora(LLAMA, LLAMA_RANK, seed, torch.bfloat16), base=BASE)
    store.close()


def one_llama(what: str, rule: str, folder: Path) -> float:
    """Returns CPU seconds or peak mebibytes of one merge out of the store and into it."""
    torch.set_num_threads(1)
    store = AdapterStore(folder / "llama")
    refs = [f"a{seed}" for seed in range(ADAPTERS)]
    weights = [1 / (place + 1) for place in range(ADAPTERS)]
    load = [store.load(ref) for ref in refs] if what == "inputs" else None
    started = time.process_time()
    if load is None:
        request = Request(refs, weights=weights, rule=rule, rank=LLAMA_OUT)
        store.fusion.fuse(request, f"merged-{what}-{rule}")
    return time.process_time() - started if what == "seconds" else peak_mebibytes()


def floor(folder: Path) -> float:
    """Returns CPU seconds of reading eight adapters, verified, and storing one of the size of the result."""
    store = AdapterStore(folder / "llama")
    result = lora(LLAMA, LLAMA_RANK, 99, torch.bfloat16)

    def read_and_write() -> None:
        for seed in range(ADAPTERS):
            for tensor in store.load(f"a{seed}").tensors.values():
                tensor.float().sum()
        store.register("floor", result, base=BASE)

    return cpu_seconds(read_and_write)


def whole_models(folder: Path) -> list[Comparison]:
    """Merging the adapters of a large model, beside limits and beside reading and writing alone."""
    make_llama(folder)
    size = (
        sum((folder / "llama" / "blobs").glob("*/*").__next__().stat().st_size for _ in range(ADAPTERS))
        / 2**20
    )
    alone = partial(run_alone, __file__)
    found = []
    for rule in ("sum", "tsv", "ties"):
        seconds = alone("--llama", "seconds", rule, str(folder))
        label = (
            f"8 adapters of Llama-3-8B's attention (128 modules, rank 16, {size:.0f} MiB), {rule} to rank 16"
        )
        found.append(compare(label, ("merge", "15 s"), [(seconds, 15.0)], "CPU s", 1.0))
    peak = alone("--llama", "peak", "sum", str(folder))
    idle = peak_of_imports()
    found.append(
        compare(
            "the same sum, memory above imports and inputs",
            ("merge", "300 MiB"),
            [(peak - idle - size, 300.0)],
            "MiB",
            1.0,
        )
    )
    seconds, least = alone("--llama", "seconds", "sum", str(folder)), floor(folder)
    found.append(
        compare(
            "the same sum, reading and writing alone",
            ("merge", "read and write"),
            [(seconds, least)],
            "CPU s",
        )
    )
    return found


def peak_of_imports() -> float:
    """Returns the peak memory of a process that imports what a merge needs and merges next to nothing."""
    return run_alone(__file__, "--imports")


def imports() -> float:
    """Merges one tiny adapter and returns the peak memory."""
    small = {"layers.0.self_attn.q_proj": (64, 64)}
    with tempfile.TemporaryDirectory() as name:
        store = AdapterStore(Path(name) / "store")
        store.register("a", lora(small, 2, 0), base=BASE)
        store.fusion.fuse(Request(["a"]), "b")
    return peak_mebibytes()


def flops(d: int, k: int, r: int) -> float:
    """Returns the floating-point operations of a sum cut to rank r: two reductions, one SVD, two lifts."""
    total = k * r
    return 2 * 2 * d * total**2 + 24 * total**3 + 2 * 4 * d * total * r


def cost_against_size() -> list[Comparison]:
    """Speed of one module's sum beside that of a plain matrix product, over k, r and d."""
    found = []
    for d, k, r in (
        (4096, 2, 16),
        (4096, 8, 16),
        (4096, 16, 16),
        (4096, 64, 16),
        (4096, 8, 4),
        (4096, 8, 64),
        (1024, 8, 16),
    ):
        terms = [
            (torch.randn(d, r, dtype=torch.float64), torch.randn(r, d, dtype=torch.float64), 1.0)
            for _ in range(k)
        ]
        m = torch.randn(1024, 1024, dtype=torch.float64)

        def ours(
            terms: Sequence[tuple[Tensor, Tensor, float]] = terms, d: int = d, k: int = k, r: int = r
        ) -> float:
            return flops(d, k, r) / 1e9 / cpu_seconds(lambda: truncated(combine(terms), r))

        def product(m: Tensor = m) -> float:
            return 2 * 1024**3 / 1e9 / cpu_seconds(lambda: m @ m)

        pairs = in_turn(ours, product, 5)
        found.append(compare(f"one sum, d={d}, k={k}, r={r}", ("sum", "matrix product"), pairs, "GFLOP/s"))
    return found


def main() -> None:
    """Measures everything, prints it and writes it down."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: list[Callable[[], list[Comparison]]] = [
            against_peft,
            partial(against_mergekit, folder),
            partial(whole_models, folder),
            cost_against_size,
        ]
        comparisons = []
        for part in parts:
            for each in part():
                print(each, flush=True)
                comparisons.append(each)
    print(f"results in {save('merging', comparisons, {'adapters': ADAPTERS, 'rank': RANK})}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--llama"]:
        print(one_llama(sys.argv[2], sys.argv[3], Path(sys.argv[4])))
    elif sys.argv[1:2] == ["--imports"]:
        print(imports())
    else:
        main()
