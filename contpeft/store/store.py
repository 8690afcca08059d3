"""The store: adapters that keep learning, every version of them, and what was measured."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from contpeft.errors import NotFoundError, UsageError
from contpeft.spec import (
    AdapterRef,
    AdapterState,
    BaseModel,
    Composition,
    Parent,
    Protocol,
    Score,
    Task,
    Version,
    check_name,
)
from contpeft.store import events, find, registration, runs, steps, versions
from contpeft.store.aliases import Aliases
from contpeft.store.blobs import Blobs
from contpeft.store.compression.compressing import Compressing
from contpeft.store.database import Database
from contpeft.store.drafts import Draft
from contpeft.store.events import Event
from contpeft.store.exchange import Exchange
from contpeft.store.find import Filter, Metric, Sort
from contpeft.store.fusion import Fusing
from contpeft.store.inspect import Inspect
from contpeft.store.loading import load
from contpeft.store.rows import now, timestamp
from contpeft.store.runs import Run, Status
from contpeft.store.steps import Step
from contpeft.store.tags import Tags
from contpeft.store.transfer import Transfer
from contpeft.store.upkeep import Upkeep

__all__ = ["AdapterStore"]


class AdapterStore:
    """A folder of adapter versions that several processes may use at once.

    ``store.db`` is the catalogue (SQLite), ``blobs/`` holds one safetensors file per content. A
    version is visible only when its file is durable, and neither ever changes afterwards.

    Example::

        store = AdapterStore("adapters/")
        version = store.register("billing", state, base=base)
        state = store.load("billing@latest")

    Args:
        path: the folder.
        create: make the store on first use; otherwise it must be there.

    Attributes:
        aliases: names that move from version to version, with their history.
        tags: words and values on versions.
        inspect: lineage, differences, scores, bytes, and SQL.
        upkeep: removing, collecting garbage, checking, copying.
        transfer: bundles, and shared folders to push to and pull from.

    Raises:
        NotFoundError: if there is no store and ``create`` is False.
        UsageError: if ``path`` is a file.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True) -> None:
        """Checks the path; the catalogue is opened by the first use."""
        self.path = Path(path)
        catalogue = self.path / "store.db"
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; name a folder for the adapter store")
        if not create and not catalogue.exists():
            raise NotFoundError(
                f"no adapter store in {self.path} (it has no store.db); name another folder, "
                "or train into this one first"
            )
        self._blobs = Blobs(self.path)
        self._db = Database(catalogue, prepare=self._blobs.make_folders)
        self.aliases = Aliases(self._db, str(self.path))
        self.tags = Tags(self._db, str(self.path))
        self.inspect = Inspect(self._db, self._blobs, str(self.path))
        self.upkeep = Upkeep(self._db, self._blobs, self.path)
        self.transfer = Transfer(self._db, self._blobs, self.path)

    def __reduce__(self) -> tuple[type[AdapterStore], tuple[Path]]:
        # A copy in another process opens its own connections.
        return AdapterStore, (self.path,)

    # Made when asked for: kept, it and the store would keep each other alive.
    @property
    def exchange(self) -> Exchange:
        """Adapters out to the folders of PEFT, and in from them."""
        return Exchange(self._db, self._blobs, str(self.path), self.register)

    @property
    def fusion(self) -> Fusing:
        """Versions made of versions."""
        return Fusing(self._db, self._blobs, str(self.path), self.register)

    @property
    def compression(self) -> Compressing:
        """Versions stored on a basis that they share."""
        return Compressing(self._db, self._blobs, str(self.path), self.register)

    def close(self) -> None:
        """Closes the catalogue; the next use opens it again."""
        self._db.close()

    def register(
        self,
        name: str,
        state: AdapterState,
        *,
        base: BaseModel,
        origin: str = "trained",
        parents: Sequence[Parent] = (),
        recipe: Mapping[str, Any] | None = None,
        run: str | None = None,
        task: str | None = None,
        data: str | None = None,
        seconds: float | None = None,
    ) -> Version:
        """Stores a state as the next version of ``name``, for good.

        When it returns, the version survives a crash and a power loss. Registering the same tensors,
        config, head, base, parents, run and task again returns the version that is there.

        Args:
            name: the adapter.
            state: what it is now.
            base: the model it was trained on.
            origin: ``"trained"``, ``"fused"`` or ``"imported"``.
            parents: what it was made from.
            recipe: how it was made; needed when fused.
            run: the run that made it.
            task: the task after whose training this is the state.
            data: digest of the training data.
            seconds: training time.

        Returns:
            The catalogue entry.

        Raises:
            SpecError: if a name, a tensor or a value cannot be stored.
            TrainingError: if a tensor has NaN or infinite values.
            NotFoundError: if a parent or the run does not exist.
            StoreBusyError: if the store is locked, full or read-only.
        """
        draft = Draft(name, state, base, origin, tuple(parents), recipe, run, task, data, seconds)
        return registration.register(self._db, self._blobs, draft, str(self.path))

    def resolve(self, ref: str | AdapterRef) -> str:
        """Returns the ``name@n`` that a reference stands for now.

        Raises:
            SpecError: if ``ref`` is no reference, or a digest that several versions share.
            NotFoundError: if there is no such version.
        """
        with self._db.read() as connection:
            return versions.find(connection, ref, str(self.path))[1]

    def show(self, ref: str | AdapterRef) -> Version:
        """Returns the catalogue entry of a version; raises what :meth:`resolve` raises."""
        with self._db.read() as connection:
            return versions.get(connection, ref, str(self.path))

    def load(self, ref: str | AdapterRef, *, verify: bool = True) -> AdapterState:
        """Returns the state of a version, its tensors on the CPU.

        Args:
            ref: the version.
            verify: check every byte against the digest; without it the file is mapped into memory.

        Raises:
            NotFoundError: if there is no such version.
            IntegrityError: if the file is missing or does not hold what was stored.
        """
        return load(self._blobs, self.show(ref), str(self.path), verify=verify)

    def versions(
        self,
        *,
        name: str | None = None,
        run: str | None = None,
        task: str | None = None,
        kind: str | None = None,
        base: str | None = None,
        alias: str | None = None,
        tags: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        metrics: Sequence[str | Metric] = (),
        protocol: Protocol = "task_aware",
        sort: Sort = "created",
        reverse: bool = False,
        limit: int | None = None,
        before: str | AdapterRef | None = None,
    ) -> list[Version]:
        """Returns the versions that meet every condition given, newest first unless sorted otherwise.

        Args:
            name: of this adapter.
            run: made by this run.
            task: the state after this task.
            kind: of this method.
            base: on the base model of this name.
            alias: that this alias of any adapter stands for.
            tags: with all of these tags: ``"keep"``, or ``"owner=ada"`` for one value.
            where: with these values of other columns (``origin``, ...) or of the configuration
                (``config.r``).
            since: registered then or later.
            until: registered before.
            metrics: that scored so: ``"accuracy>=0.9"`` is the mean over the tasks learned so far,
                ``"accuracy@mail>=0.9"`` the score on one task; see :class:`Metric`.
            protocol: which scores these are.
            sort: ``"name"`` goes up; ``"created"``, ``"bytes"`` and ``"metric"`` (the first) go down.
            reverse: sort the other way round.
            limit: at most so many.
            before: those after this version in the order: the last of a page gives the next page.

        Raises:
            UsageError: if a condition or the order is none of these.
        """
        wanted = Filter(
            equal={"name": name, "run": run, "task": task, "kind": kind, "base": base, **(where or {})},
            tags=tags,
            alias=alias,
            since=timestamp(since) if since else None,
            until=timestamp(until) if until else None,
            metrics=[Metric.parse(each) if isinstance(each, str) else each for each in metrics],
            protocol=protocol,
            sort=sort,
            reverse=reverse,
        )
        with self._db.read() as connection:
            return find.select(connection, wanted, str(self.path), limit=limit, before=before)

    def names(self) -> list[str]:
        """Returns the names of all adapters, sorted."""
        with self._db.read() as connection:
            return versions.names(connection)

    def children(self, ref: str | AdapterRef) -> list[str]:
        """Returns the ``name@n`` of the versions made from this one, oldest first."""
        with self._db.read() as connection:
            found, _ = versions.find(connection, ref, str(self.path))
            return versions.children(connection, found)

    def start_run(
        self, run: str, *, config: Mapping[str, Any], seed: int, tasks: Sequence[Task], scenario: str
    ) -> Run:
        """Returns the run of that name, new or resumed.

        Args:
            run: its name.
            config: its whole configuration, JSON.
            seed: its seed.
            tasks: the stream, in order.
            scenario: what may be known about a row's task.

        Raises:
            ConfigError: if a run of that name has another configuration, seed, stream or scenario.
        """
        check_name(run, "run")
        with self._db.write() as connection:
            runs.start(connection, run, config, seed, tuple(tasks), scenario)
            return runs.get(connection, run, str(self.path))

    def run(self, run: str) -> Run:
        """Returns a run.

        Raises:
            NotFoundError: if there is none of that name.
        """
        with self._db.read() as connection:
            return runs.get(connection, run, str(self.path))

    def runs(self) -> list[Run]:
        """Returns all runs, oldest first."""
        with self._db.read() as connection:
            return runs.select(connection)

    def finish_run(self, run: str, status: Status) -> None:
        """Writes how a run ended: ``"finished"``, ``"failed"`` or ``"interrupted"``."""
        with self._db.write() as connection:
            runs.finish(connection, run, status, str(self.path))

    def finish_step(
        self,
        run: str,
        way: str,
        step: int,
        *,
        task: str,
        answers: Mapping[str, Composition],
        versions: Sequence[str],
        scores: Sequence[Score],
        seconds: float,
        detail: Mapping[str, Any] | None = None,
    ) -> Step:
        """Writes a finished step and all its scores, or nothing.

        Repeating it with equal content changes nothing; ``seconds`` and whether a score was copied
        may differ.

        Args:
            run: the run.
            way: which strategy of the run.
            step: index of the task in the stream.
            task: the task's name.
            answers: what answers after this step; references must be exact (``name@n``).
            versions: ``name@n`` of the versions this step made.
            scores: what was measured after it.
            seconds: how long it took.
            detail: whatever else is worth keeping, JSON.

        Raises:
            IntegrityError: if the step is there with other content.
            NotFoundError: if the run or a version does not exist.
            SpecError: if a reference is not exact or a score cannot be stored.
        """
        done = Step(run, way, step, task, dict(answers), tuple(versions), seconds, detail or {}, now())
        with self._db.write() as connection:
            return steps.finish(connection, done, scores, str(self.path))

    def steps(self, run: str, way: str | None = None) -> list[Step]:
        """Returns the finished steps of a run: way by way in the order they began, then by step."""
        with self._db.read() as connection:
            return steps.select(connection, run, way)

    def add_scores(self, scores: Iterable[Score]) -> None:
        """Writes scores that belong to no step; all of them or none.

        Raises:
            IntegrityError: if a score is there with another value.
            NotFoundError: if a run does not exist.
        """
        with self._db.write() as connection:
            steps.add_scores(connection, scores, str(self.path))

    def scores(
        self, *, run: str | None = None, way: str | None = None, task: str | None = None
    ) -> list[Score]:
        """Returns the scores that meet every condition given, in the order they were written."""
        with self._db.read() as connection:
            return steps.select_scores(connection, run, way, task)

    def cached_score(self, *, composition: str, data: str, protocol: str, metric: str) -> Score | None:
        """Returns the first measured score of an equal cell in any run, or None.

        Args:
            composition: digest of what answers, base model included.
            data: digest of the examples.
            protocol: which classes can be answered.
            metric: name of the score.
        """
        with self._db.read() as connection:
            return steps.cached_score(
                connection, composition=composition, data=data, protocol=protocol, metric=metric
            )

    def events(self, subject: str | None = None) -> list[Event]:
        """Returns the audit log of ``subject`` (``name@n``, a run, ``run/way/step``), or all of it."""
        with self._db.read() as connection:
            return events.select(connection, subject)
