"""What is to be merged and how, and the recipe by which it is made again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from contpeft.errors import BaseMismatchError, IntegrityError, UsageError
from contpeft.spec import AdapterRef, Version

if TYPE_CHECKING:
    from contpeft.merging import Fusion, Heads, Merged

__all__ = ["Request", "check_versions", "follow", "recipe"]

Precision = Literal["float64", "float32"]


@dataclass(frozen=True)
class Request:
    """What is to be merged, and how.

    Attributes:
        refs: the versions.
        weights: one a version; all 1 without them.
        rule: name of the rule.
        parameters: of the rule, those that differ from its own.
        rank: how large the result may get: ``full``, ``same``, ``16``, ``energy:0.95``, ``total:384``,
            ``bytes:2MB``.
        seed: of whatever the rule draws.
        heads: what becomes of the heads: each stays with its version, or the result gets the first one's,
            or their mean.
        precision: what is computed in.
    """

    refs: Sequence[str | AdapterRef]
    weights: Sequence[float] | None = None
    rule: str = "sum"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rank: str = "full"
    seed: int = 0
    heads: Heads = "keep"
    precision: Precision = "float64"

    def fusion(self) -> Fusion:
        """Returns what the merging room makes of it.

        Raises:
            UsageError: if rule, parameter or rank is unknown or refused.
        """
        import torch

        from contpeft.merging import Fusion, Rank, make_rule

        dtype = torch.float64 if self.precision == "float64" else torch.float32
        return Fusion(make_rule(self.rule, self.parameters), Rank.parse(self.rank), self.seed, dtype)

    def all_weights(self) -> list[float]:
        """Returns one weight for each version.

        Raises:
            UsageError: if there are more or fewer weights than versions, or one is not finite.
        """
        if self.weights is None:
            return [1.0] * len(self.refs)
        if len(self.weights) != len(self.refs):
            raise UsageError(
                f"there are {len(self.weights)} weights for {len(self.refs)} versions; give one for each"
            )
        bad = next((weight for weight in self.weights if not math.isfinite(weight)), None)
        if bad is not None:
            raise UsageError(f"weight {bad} is no number that counts; give a finite one")
        return list(map(float, self.weights))


def check_versions(found: Sequence[Version]) -> None:
    """Checks that there are versions to merge, each named once, all on one base.

    Raises:
        UsageError: if there is none, or one is named twice.
        BaseMismatchError: if they are on different bases.
    """
    if not found:
        raise UsageError("there is no version to merge; name one at least")
    refs = [version.ref for version in found]
    twice = next((ref for ref in refs if refs.count(ref) > 1), None)
    if twice:
        raise UsageError(f"{twice} is named twice; name it once, with the sum of its weights")
    first = found[0]
    for version in found[1:]:
        if version.base.fingerprint != first.base.fingerprint:
            raise BaseMismatchError(
                f"{first.ref} is on {first.base.name!r} and {version.ref} on {version.base.name!r}, "
                "which are different models; adapters are merged on one base alone"
            )


def follow(version: Version, parents: Sequence[Version]) -> Request:
    """Returns what the recipe of a fused version asks for.

    Args:
        version: the fused version.
        parents: its parents.

    Raises:
        UsageError: if it has no recipe that can be followed.
        IntegrityError: if it was made of tensors that no parent has.
    """
    told = version.recipe or {}
    if version.origin != "fused" or told.get("operation") != "fuse":
        raise UsageError(f"{version.ref} was not made by 'fuse', so that there is no recipe to follow")
    refs = {parent.fingerprint: parent.ref for parent in parents}
    lacking = next((each for each in told["inputs"] if each["fingerprint"] not in refs), None)
    if lacking:
        raise IntegrityError(
            f"{version.ref} was made of tensors {lacking['fingerprint'][:12]}, which no parent has here"
        )
    return Request(
        refs=[refs[each["fingerprint"]] for each in told["inputs"]],
        weights=[each["weight"] for each in told["inputs"]],
        **{key: told[key] for key in ("rule", "parameters", "rank", "seed", "heads", "precision")},
    )


def recipe(
    request: Request, fusion: Fusion, pairs: Sequence[tuple[Version, float]], merged: Merged
) -> dict[str, Any]:
    """Returns how to make it again, and what was lost; versions are named by content, which lasts."""
    import torch

    rule = fusion.rule
    return {
        "operation": "fuse",
        "rule": rule.spec.name,
        "parameters": rule.parameters(),
        "variant": rule.spec.variant,
        "rank": str(fusion.rank),
        "seed": fusion.seed,
        "heads": request.heads,
        "precision": request.precision,
        "inputs": [{"fingerprint": version.fingerprint, "weight": weight} for version, weight in pairs],
        "norm": merged.norm,
        "error": merged.error,
        "energy_lost": merged.lost,
        "learned": dict(merged.learned),
        "torch": torch.__version__,
    }
