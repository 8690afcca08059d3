"""What goes from store to store: versions, runs, aliases and tags as JSON that is checked on arrival.

Within a pack, versions are named by ``name@n`` as the sending store calls them, and ``refs`` tells
which version each of these names is: the receiving store may know it by another name.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from contpeft.digest import canonical_json, json_digest
from contpeft.errors import IntegrityError, SpecError
from contpeft.spec import AdapterRef, Protocol, check_name

__all__ = [
    "AliasMove",
    "AliasRecord",
    "BaseRecord",
    "Pack",
    "ParentRecord",
    "RunRecord",
    "ScoreRecord",
    "StepRecord",
    "TagsRecord",
    "TaskRecord",
    "VersionRecord",
]

MAX_NUMBER: Final = 1_000_000_000


def _exact(ref: str) -> str:
    number = AdapterRef.parse(ref).selector
    if not isinstance(number, int) or not 0 < number <= MAX_NUMBER:
        raise SpecError(f"reference {ref!r} in a pack does not name one version for good")
    return ref


Name = Annotated[str, AfterValidator(check_name)]
Ref = Annotated[str, AfterValidator(_exact)]
Text = Annotated[str, StringConstraints(max_length=1000)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Moment = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
Json = dict[str, Any]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class BaseRecord(_Record):
    """A base model."""

    name: Text
    fingerprint: Text
    parameters: NonNegativeInt


class ParentRecord(_Record):
    """One edge of the lineage."""

    uid: Text
    role: Literal["continued", "fused", "distilled", "frozen"]
    weight: float | None


class VersionRecord(_Record):
    """One version; see :class:`contpeft.spec.Version`.

    Attributes:
        uid: what it is called in every store, whatever its name there.
        run: uid of the run that made it.
        identity: digest of what makes two registrations the same one.
    """

    uid: Text
    ref: Ref
    kind: Text
    fingerprint: Digest
    sha256: Digest
    bytes: PositiveInt
    parameters: NonNegativeInt
    config: Json
    head: Json | None
    base: BaseRecord
    origin: Literal["trained", "fused", "imported"]
    parents: tuple[ParentRecord, ...]
    recipe: Json | None
    run: Text | None
    task: Text | None
    data: Text | None
    environment: Json
    seconds: NonNegativeFloat | None
    identity: Digest
    created_at: Moment


class TaskRecord(_Record):
    """One task of a run."""

    name: Text
    classes: tuple[str, ...]
    metric: Text
    lower_is_better: bool


class StepRecord(_Record):
    """One finished step of a run."""

    way: Text
    step: NonNegativeInt
    task: Text
    answers: dict[str, Json]
    versions: tuple[Ref, ...]
    detail: Json
    scores_digest: Digest
    seconds: NonNegativeFloat
    finished_at: Moment


class ScoreRecord(_Record):
    """One measured cell of a run."""

    way: Text
    answer: Text
    step: Annotated[int, Field(ge=-1)]
    task: Text
    protocol: Protocol
    metric: Text
    value: float
    n: PositiveInt
    composition: Text
    data: Text
    copied: bool
    kind: Literal["end", "start"]


class RunRecord(_Record):
    """A run, with as many of its steps and scores as the sender had or chose.

    Attributes:
        uid: what it is called in every store, whatever its name there.
    """

    uid: Text
    name: Name
    config: Json
    seed: int
    scenario: Text
    status: Literal["running", "finished", "failed", "interrupted"]
    started_at: Moment
    finished_at: Moment | None
    tasks: tuple[TaskRecord, ...]
    steps: tuple[StepRecord, ...]
    scores: tuple[ScoreRecord, ...]


class AliasMove(_Record):
    """One move of an alias: the version number it stood for from then on, or None."""

    at: Moment
    actor: Text
    after: Annotated[int, Field(gt=0, le=MAX_NUMBER)] | None


def _moving(history: tuple[AliasMove, ...]) -> tuple[AliasMove, ...]:
    numbers = [None, *(move.after for move in history)]
    if any(before == after for before, after in pairwise(numbers)):
        raise ValueError("a move leads nowhere else")
    return history


class AliasRecord(_Record):
    """An alias of an adapter and every move it made, oldest first."""

    adapter: Name
    alias: Annotated[str, AfterValidator(lambda name: check_name(name, "alias"))]
    history: Annotated[tuple[AliasMove, ...], Field(min_length=1), AfterValidator(_moving)]


class TagsRecord(_Record):
    """The tags of a version."""

    uid: Text
    tags: dict[Annotated[str, AfterValidator(lambda name: check_name(name, "tag"))], str]


class Pack(_Record):
    """Records that go together.

    Attributes:
        format: of this document.
        refs: uid of every version that is named in it, by the name it has in it.
        versions: parents before their children.
    """

    format: Literal["contpeft-pack-1"] = "contpeft-pack-1"
    refs: dict[Ref, Text]
    versions: tuple[VersionRecord, ...]
    runs: tuple[RunRecord, ...]
    aliases: tuple[AliasRecord, ...]
    tags: tuple[TagsRecord, ...]

    @classmethod
    def parse(cls, data: bytes, what: str) -> Pack:
        """Returns the pack :meth:`to_bytes` wrote.

        Raises:
            IntegrityError: if it is none, naming ``what`` and the first thing that is wrong.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise IntegrityError(f"{what} is no pack of versions: {place}: {first['msg']}") from error

    def to_bytes(self) -> bytes:
        """Returns the pack as canonical JSON: equal packs, equal bytes."""
        return canonical_json(self.model_dump()).encode()

    def records(self) -> dict[str, _Record]:
        """Returns every record by a name that is the same in every store for equal content."""
        return dict(self._named())

    def without(self, known: set[str]) -> Pack:
        """Returns the pack less the records that are named."""

        def new(kind: type[_Record]) -> tuple[Any, ...]:
            return tuple(r for name, r in self._named() if isinstance(r, kind) and name not in known)

        return self.model_copy(
            update={
                "versions": new(VersionRecord),
                "runs": new(RunRecord),
                "aliases": new(AliasRecord),
                "tags": new(TagsRecord),
            }
        )

    def is_empty(self) -> bool:
        """Returns whether it holds no record."""
        return not (self.versions or self.runs or self.aliases or self.tags)

    def _named(self) -> Iterator[tuple[str, _Record]]:
        # A version never changes; everything else is sent again when it has.
        yield from ((f"version {version.uid}", version) for version in self.versions)
        for record in (*self.runs, *self.aliases, *self.tags):
            yield json_digest([type(record).__name__, record.model_dump()]), record
