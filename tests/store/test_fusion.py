"""Versions made of versions, and made again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from store_fusion import MODULES, learn_three, lora_state, update_of
from store_workers import BASE

from contpeft.errors import BaseMismatchError, IntegrityError, NotFoundError, UnsupportedError, UsageError
from contpeft.spec import AdapterState, BaseModel, Parent
from contpeft.spec.lora import ROOT
from contpeft.store import AdapterStore, Request


@pytest.fixture
def three(store: AdapterStore) -> AdapterStore:
    learn_three(store)
    return store


def count(store: AdapterStore) -> int:
    return len(store.versions())


def test_a_fused_version_is_the_weighted_sum_and_tells_how_it_was_made(three: AdapterStore) -> None:
    made = three.fusion.fuse(Request(["a", "b@1", "c"], weights=[1, 0.5, -1]), "abc")
    state = three.load("abc@1")
    for module in MODULES:
        parts = [update_of(three.load(name), module) for name in "abc"]
        torch.testing.assert_close(
            update_of(state, module), parts[0] + 0.5 * parts[1] - parts[2], rtol=1e-5, atol=1e-5
        )
    assert (made.ref, made.origin, made.base, made.head) == ("abc@1", "fused", BASE, None)
    assert made.parents == tuple(
        Parent(f"{n}@1", "fused", w) for n, w in (("a", 1.0), ("b", 0.5), ("c", -1.0))
    )
    assert made.recipe is not None
    told = dict(made.recipe)
    fingerprints = [three.show(name).fingerprint for name in "abc"]
    pairs = zip(fingerprints, (1.0, 0.5, -1.0), strict=True)
    assert told.pop("inputs") == [{"fingerprint": each, "weight": weight} for each, weight in pairs]
    norm = float(torch.cat([update_of(state, module).flatten() for module in MODULES]).norm())
    assert told.pop("norm") == pytest.approx(norm, rel=1e-6)
    assert told == {
        "operation": "fuse",
        "rule": "sum",
        "parameters": {},
        "variant": "",
        "rank": "full",
        "seed": 0,
        "heads": "keep",
        "precision": "float64",
        "error": 0.0,
        "energy_lost": 0.0,
        "learned": {},
        "torch": torch.__version__,
    }


def test_what_is_cut_off_is_told_and_true(three: AdapterStore) -> None:
    whole = three.fusion.candidate(Request(["a", "b", "c"]))
    cut = three.fusion.fuse(Request(["a", "b", "c"], rank="2"), "cut")
    apart = [update_of(whole.state, m) - update_of(three.load("cut"), m) for m in MODULES]
    assert cut.recipe is not None
    assert cut.recipe["error"] == pytest.approx(
        float(torch.cat([a.flatten() for a in apart]).norm()), rel=1e-5
    )
    assert cut.recipe["energy_lost"] == pytest.approx((cut.recipe["error"] / cut.recipe["norm"]) ** 2)
    assert (cut.config["r"], cut.config["lora_alpha"]) == (2, 2)


@pytest.mark.parametrize("rule", ["sum", "tsv", "dare", "opcm", "knots", "lego"])
def test_a_recipe_made_again_gives_every_bit(three: AdapterStore, rule: str) -> None:
    request = Request(["c", "a", "b"], weights=[1, 2, 0.5], rule=rule, rank="energy:0.9", seed=7)
    three.fusion.fuse(request, "made")
    verdict = three.fusion.verify("made")
    assert (verdict.ref, verdict.equal, verdict.difference) == ("made@1", True, 0.0)


def test_a_recipe_is_followed_in_another_process_with_other_threads(
    three: AdapterStore, commands: Path
) -> None:
    three.fusion.fuse(Request(["a", "b", "c"], rule="dare-ties", seed=3, rank="energy:0.9"), "made")
    code = (
        "import sys, torch; torch.set_num_threads(2)\n"
        "from contpeft.store import AdapterStore\n"
        "print(AdapterStore(sys.argv[1]).fusion.verify('made').equal)\n"
    )
    command = [commands / "python", "-c", code, three.path]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.stdout == "True\n", told.stderr


def test_a_version_that_is_not_what_its_recipe_gives_is_found(three: AdapterStore) -> None:
    made = three.fusion.candidate(Request(["a", "b"]))
    key = f"{ROOT}{MODULES[0]}.lora_A.weight"
    tensors = dict(made.state.tensors) | {key: made.state.tensors[key] + 0.25}
    three.fusion.keep(replace(made, state=replace(made.state, tensors=tensors)), "wrong")
    verdict = three.fusion.verify("wrong")
    assert not verdict.equal
    assert verdict.difference == pytest.approx(0.25, rel=1e-5)


def test_a_recipe_needs_its_parents(three: AdapterStore) -> None:
    with pytest.raises(UsageError, match="a@1 was not made by 'fuse'"):
        three.fusion.verify("a")
    made = three.fusion.candidate(Request(["a", "b"]))
    three.fusion.keep(replace(made, parents=made.parents[:1]), "orphan")
    with pytest.raises(IntegrityError, match=r"orphan@1 was made of tensors .* which no parent has here"):
        three.fusion.verify("orphan")


def test_a_bundle_carries_what_a_recipe_needs(three: AdapterStore, tmp_path: Path) -> None:
    three.fusion.fuse(Request(["a", "b"], rule="tsv"), "ab")
    three.transfer.bundle(tmp_path / "all.tar")
    other = AdapterStore(tmp_path / "other")
    other.register("a", lora_state(50), base=BASE)  # takes the name
    other.transfer.unbundle(tmp_path / "all.tar")
    assert other.fusion.verify("ab").equal
    other.close()


def test_heads_stay_with_their_versions_unless_asked_for(three: AdapterStore) -> None:
    assert three.fusion.candidate(Request(["a", "b"])).state.head is None
    first = three.fusion.candidate(Request(["b", "a"], heads="first")).state
    assert torch.equal(first.tensors["head.weight"], three.load("b").tensors["head.weight"])
    mean = three.fusion.candidate(Request(["a", "b"], heads="average", weights=[3, 1])).state
    expected = 0.75 * three.load("a").tensors["head.weight"] + 0.25 * three.load("b").tensors["head.weight"]
    torch.testing.assert_close(mean.tensors["head.weight"], expected)
    three.register("d", lora_state(9, classes=("x", "y")), base=BASE)
    with pytest.raises(UnsupportedError, match="heads of other classes have no mean"):
        three.fusion.candidate(Request(["a", "d"], heads="average"))


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (Request([]), "there is no version to merge"),
        (Request(["a", "a@1"]), "a@1 is named twice"),
        (Request(["a", "b"], weights=[1]), "there are 1 weights for 2 versions"),
        (Request(["a", "b"], weights=[1, float("inf")]), "weight inf is no number that counts"),
        (Request(["a", "b"], weights=[0, 0]), "all weights are 0"),
        (Request(["a", "b"], rank="most"), "rank 'most' cannot be meant"),
        (Request(["a", "b"], rule="ties", parameters={"space": "delta"}), "gives matrices of full rank"),
    ],
)
def test_a_failed_fuse_says_why_and_leaves_the_store_as_it_was(
    three: AdapterStore, request_: Request, told: str
) -> None:
    before, files = count(three), list(three._blobs.digests())
    with pytest.raises(UsageError, match=told):
        three.fusion.fuse(request_, "x")
    assert (count(three), list(three._blobs.digests())) == (before, files)


def test_other_bases_and_missing_things_are_named(three: AdapterStore) -> None:
    three.register("far", lora_state(4), base=BaseModel("other", "07he5" * 10, 1))
    with pytest.raises(BaseMismatchError, match="a@1 is on 'tiny-bert' and far@1 on 'other'"):
        three.fusion.fuse(Request(["a", "far"]), "x")
    with pytest.raises(NotFoundError, match="no moments of a@1 are stored"):
        three.fusion.fuse(Request(["a", "b"], rule="regmean"), "x")


def test_a_damaged_file_is_found_before_anything_is_made_of_it(three: AdapterStore) -> None:
    path = three._blobs.path(three.show("b").sha256)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="version 'b@1'"):
        three.fusion.fuse(Request(["a", "b"]), "x")
    assert count(three) == 3


def test_stored_moments_are_used(three: AdapterStore) -> None:
    inputs = {name: torch.randn(30, 7, dtype=torch.float64) for name in "ab"}
    for name, x in inputs.items():
        tensors = {f"{module}.gram": x.T @ x for module in MODULES}
        moments = AdapterState("moments", {}, tensors)
        three.register(f"{name}.moments", moments, base=BASE, parents=[Parent(f"{name}@1", "frozen")])
    made = three.fusion.candidate(Request(["a", "b"], rule="regmean", parameters={"shrink": 1.0}))
    for module in MODULES:
        grams = {name: x.T @ x / torch.trace(x.T @ x) for name, x in inputs.items()}
        above = sum(update_of(three.load(name), module) @ grams[name] for name in "ab")
        expected = above @ torch.linalg.inv(grams["a"] + grams["b"])
        torch.testing.assert_close(update_of(made.state, module), expected, rtol=1e-4, atol=1e-5)


def test_a_running_merge_takes_adapters_in_one_by_one(three: AdapterStore) -> None:
    request = Request([], rule="null-space")
    refs = [three.fusion.take_in("run", name, request).ref for name in "abc"]
    assert refs == ["run@1", "run@2", "run@3"]
    together = three.fusion.candidate(Request(["a", "b", "c"], rule="null-space"))
    for module in MODULES:
        torch.testing.assert_close(
            update_of(three.load("run"), module), update_of(together.state, module), rtol=1e-4, atol=1e-4
        )
    last = three.show("run")
    assert [parent.ref for parent in last.parents] == ["run@2", "c@1"]
    assert last.recipe is not None
    assert last.recipe["seen"] == 3
    assert all(three.fusion.verify(ref).equal for ref in refs)


@pytest.mark.parametrize("rule", ["opcm", "average"])
def test_a_running_merge_of_a_rule_with_a_memory_is_that_of_all_at_once(
    three: AdapterStore, rule: str
) -> None:
    for name in "abc":
        three.fusion.take_in("run", name, Request([], rule=rule))
    together = three.fusion.candidate(Request(["a", "b", "c"], rule=rule))
    for module in MODULES:
        torch.testing.assert_close(
            update_of(three.load("run"), module), update_of(together.state, module), rtol=1e-4, atol=1e-4
        )
    assert three.fusion.verify("run").equal


def test_a_running_merge_holds_its_rank(three: AdapterStore) -> None:
    for name in "abc":
        made = three.fusion.take_in("run", name, Request([], rule="null-space", rank="3"))
        assert made.config["r"] <= 3


def test_what_is_in_a_running_merge_is_not_taken_in_again(three: AdapterStore) -> None:
    three.fusion.take_in("run", "a", Request([]))
    three.fusion.take_in("run", "b", Request([]))
    with pytest.raises(UsageError, match="a@1 is in the running merge 'run' already"):
        three.fusion.take_in("run", "a", Request([]))
    with pytest.raises(UsageError, match="goes by rule 'sum'; go on with it"):
        three.fusion.take_in("run", "c", Request([], rule="opcm"))
    with pytest.raises(UsageError, match="a@1 is no running merge"):
        three.fusion.take_in("a", "c", Request([]))


def test_a_plan_tells_what_a_merge_would_come_to_and_writes_nothing(three: AdapterStore) -> None:
    before = count(three)
    plan = three.fusion.plan(Request(["c", "a", "b"], weights=[1, 0, 2], rule="tsv", rank="energy:0.9"))
    assert count(three) == before
    one, other = (three.load(name) for name in "cb")
    gram = [
        [sum(float((update_of(x, m) * update_of(y, m)).sum()) for m in MODULES) for y in (one, other)]
        for x in (one, other)
    ]
    assert plan.interference.norms == pytest.approx([gram[0][0] ** 0.5, gram[1][1] ** 0.5])
    assert plan.interference.cosines[0][1] == pytest.approx(gram[0][1] / (gram[0][0] * gram[1][1]) ** 0.5)
    assert [parent.ref for parent in plan.candidate.parents] == ["c@1", "b@1"]
    assert list(plan.ranks.values()) == sorted(plan.ranks.values())
    assert plan.bytes == sum(t.nbytes for t in plan.candidate.state.tensors.values())


def test_merging_imports_neither_peft_nor_transformers(three: AdapterStore) -> None:
    code = (
        "import sys\n"
        "from contpeft.store import AdapterStore, Request\n"
        "AdapterStore(sys.argv[1]).fusion.fuse(Request(['a', 'b'], rule='tsv'), 'ab')\n"
        "print([name for name in ('peft', 'transformers', 'lightning') if name in sys.modules])\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(three.path)], capture_output=True, text=True)
    assert told.stdout == "[]\n", told.stderr
