"""What compressing versions comes to, as values with a JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from contpeft.errors import UsageError

__all__ = ["Compressed", "Compression", "Stored"]


@dataclass(frozen=True)
class Compressed:
    """What becomes of one version.

    Attributes:
        ref: ``name@n`` of what is compressed.
        error: norm of what is lost over the norm of its update, as it will be loaded.
        rank: sum of the ranks of its modules, afterwards.
        before: bytes of its adapter tensors.
        after: bytes of its coordinates in the basis, which it alone needs.
    """

    ref: str
    error: float
    rank: int
    before: int
    after: int


@dataclass(frozen=True)
class Compression:
    """What compressing several versions together comes to.

    Heads stay as they are and are not counted.

    Attributes:
        versions: each of them.
        basis: bytes of the basis they share.
        budget: bytes that all may take together.
        modules: how many output and input directions each module's basis has; modules that are not here
            are lost.
        lost: modules that got no directions.
    """

    versions: tuple[Compressed, ...]
    basis: int
    budget: int
    modules: Mapping[str, tuple[int, int]]
    lost: tuple[str, ...]

    @property
    def before(self) -> int:
        """Bytes of all adapter tensors before."""
        return sum(version.before for version in self.versions)

    @property
    def after(self) -> int:
        """Bytes of basis and coordinates."""
        return self.basis + sum(version.after for version in self.versions)

    def check_errors(self, limit: float | None) -> None:
        """Raises for the version that loses most, if that is a larger share of its norm than ``limit``.

        Raises:
            UsageError: naming it.
        """
        worst = max(self.versions, key=lambda version: version.error)
        if limit is not None and worst.error > limit:
            raise UsageError(
                f"{worst.ref} would lose {worst.error:.1%} of its norm, more than {limit:.1%}; "
                "give a larger budget, or leave it out"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return {**asdict(self), "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Stored:
    """Versions that were compressed.

    Attributes:
        compression: what it came to.
        basis: ``name@n`` of the basis.
        refs: ``name@n`` of the new versions, in the order of ``compression.versions``.
    """

    compression: Compression
    basis: str
    refs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return {**self.compression.to_json(), "stored": {"basis": self.basis, "refs": list(self.refs)}}
