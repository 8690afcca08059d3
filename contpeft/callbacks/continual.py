"""The callback that gives each task an adapter of its own.

Hook by hook: ``setup`` attaches (before optimizers exist and before the strategy wraps the module),
``on_fit_start`` verifies, ``on_train_end`` takes the weights out and registers them, ``teardown``
undoes what was patched, and ``on_exception`` also what was attached.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from os import PathLike
from typing import Any, Literal

import lightning.pytorch as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from contpeft.adapters import AdaptedModel, AnySpec, FrozenPrefix, PrefixCache
from contpeft.callbacks.fit import Fit
from contpeft.callbacks.guards import (
    check_dtype,
    check_steps_taken,
    planned_steps,
    refuse_manual,
    refuse_settings,
    verify_optimizers,
)
from contpeft.callbacks.passes import in_two_passes
from contpeft.callbacks.repeats import Repeats
from contpeft.callbacks.shared import Patches, add_to_loss, as_store, on_rank_zero
from contpeft.errors import IntegrityError, TrainingError, UnsupportedError
from contpeft.spec import AdapterSpec, AdapterState, Task, Version, check_name
from contpeft.store import AdapterStore
from contpeft.strategies import Context, Recipe, TrainingData, find_recipe

__all__ = ["ContinualAdapter"]


class ContinualAdapter(L.Callback):
    """Attaches an adapter for one task, trains only that and the head, and registers the result.

    The transformers model is found inside the ``LightningModule``, which needs no change: its
    ``configure_optimizers`` gets the right parameters from ``self.parameters()``. Make a fresh
    ``Trainer`` per task; a second ``fit`` of the same one takes no step, which is refused here.

    Example::

        trainer = L.Trainer(max_epochs=3, callbacks=[ContinualAdapter("adapters/", task="billing")])
        trainer.fit(module, data)            # adapters/: billing@1

    Args:
        store: the store, or its folder.
        task: name of the task, or the task with its classes.
        spec: how a fresh adapter is made: an :class:`AdapterSpec`, the same as YAML spells it
            (``{"method": "lora", "r": 8}``), or PEFT's own configuration.
        module: attribute that holds the transformers model (dotted); found when None.
        head: attribute that holds the classifier head (dotted); found when None.
        recipe: the strategy: a :class:`Recipe` or its name. The default learns a fresh adapter
            with the module's own head, started as it was first seen.
        name: what the adapters are named after; the task's name when None.
        data: the task's training examples, for recipes that make statistics of them.
        backbone_mode: ``"eval"`` keeps the base's dropout off while training, ``"train"`` on.
        prefix_cache: keeps what the layers below the adapter compute of each row, so that later epochs skip
            them: how large it may get (``"256MB"``), or one cache for several fits. The adapter must leave
            the first layer alone, and the base be in eval mode.
        context: makes the context of the task from the model; replaces the one built from
            ``store``, ``task``, ``spec``, ``name`` and ``data`` (used by the sequence runner).
        repeats: fits that need not be done again (used by the sequence runner).

    Attributes:
        registered: versions this callback's last fit registered, the adapter first; on every rank.
    """

    def __init__(
        self,
        store: AdapterStore | str | PathLike[str],
        task: str | Task,
        spec: AnySpec | dict[str, Any] | None = None,
        *,
        module: str | None = None,
        head: str | None = None,
        recipe: Recipe | str | None = None,
        name: str | None = None,
        data: TrainingData | None = None,
        backbone_mode: Literal["eval", "train"] = "eval",
        prefix_cache: PrefixCache | int | str | None = None,
        context: Callable[[AdaptedModel], Context] | None = None,
        repeats: Repeats | None = None,
    ) -> None:
        self.task = Task(task, ()) if isinstance(task, str) else task
        check_name(self.task.name, "task")
        self.spec: AnySpec = AdapterSpec(**spec) if isinstance(spec, dict) else spec or AdapterSpec()
        self.recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe or Recipe()
        self.registered: tuple[Version, ...] = ()
        self._store = as_store(store)
        self._paths = {"model": module, "head": head}
        self._name = name
        self._data = data
        self._backbone_mode = backbone_mode
        self._prefix_cache = (
            PrefixCache(prefix_cache) if isinstance(prefix_cache, int | str) else prefix_cache
        )
        self._make_context = context or self._own_context
        self._repeats = repeats
        self._patches = Patches()
        self._fit = Fit()
        if prefix_cache is not None and backbone_mode == "train":
            raise UnsupportedError(
                "a prefix cache keeps what the base computes, which dropout makes another one every time; "
                "use backbone_mode='eval', or leave out the cache"
            )
        if context is None and not self.recipe.init.trains(0):
            raise UnsupportedError(
                "this recipe trains no adapter, so a fit would register none; run it with `contpeft run`"
            )
        if self.recipe.after is not None:
            raise UnsupportedError(
                "this recipe trains in two stages and a fit is one of them; run it with `contpeft run`, or "
                "make the second stage a callback of its own, such as FusionStage"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps: primitives only."""
        told = {"task": self.task.name, "steps": self._fit.steps, "seconds": self._fit.elapsed()}
        kept = self._fit.dynamics.state()
        working = {} if self._fit.context is None else dict(self._fit.context.working)
        return told | {key: value for key, value in (("dynamics", kept), ("working", working)) if value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes steps and time of the fit that is resumed.

        Raises:
            IntegrityError: if that was the fit of another task.
        """
        if state_dict["task"] != self.task.name:
            raise IntegrityError(
                f"the checkpoint's task is {state_dict['task']!r}, this fit's is {self.task.name!r}; "
                "resume with the task it was written for"
            )
        self._fit.steps, self._fit.seconds = state_dict["steps"], state_dict["seconds"]
        if "dynamics" in state_dict:
            self._fit.dynamics.resume(state_dict["dynamics"])
        if "working" in state_dict:
            self.context.working.update(state_dict["working"])

    # --- attach ---------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Attaches the adapter before optimizers are built.

        Raises:
            UnsupportedError: for trainer settings that would lose the adapter.
            NotFoundError: if the module holds no transformers model.
        """
        if stage != "fit":
            return
        self._fit, self.registered = Fit(), ()
        refuse_settings(trainer)
        if self.recipe.penalty is not None or self.recipe.projection is not None:
            refuse_manual(pl_module)
        if is_overridden("configure_model", pl_module):
            self._patches.replace(pl_module, "configure_model", self._then_attach(pl_module))
        else:
            self._attach(pl_module)

    def _attach(self, pl_module: L.LightningModule) -> None:
        adapted = AdaptedModel.of(pl_module, **self._paths)
        self._fit.context = self._make_context(adapted)
        if not self.recipe.init.trains(self.context.step):
            raise UnsupportedError(
                f"this recipe trains nothing at task {self.task.name!r}, number {self.context.step + 1} of "
                "its line; it only gathers there, which `contpeft run` does"
            )
        adapted.detach()
        self._start(self._fit.context)
        self._fit.trainable = adapted.train_only()
        self._fit.dtype = next(adapted.model.parameters()).dtype
        self._change_step(pl_module)
        # All in train mode until training starts, as Lightning expects; then see on_train_start.
        self._set_mode(base_training=True)
        if self._repeats is not None:
            self._repeats.look(self._fit.context, self.recipe)

    def _start(self, context: Context) -> None:
        """Attaches the adapter and puts the head in place, which may read the task's rows already."""
        if self._prefix_cache is None:
            self.recipe.start(context)
            return
        prefix = self._fit.lent.enter_context(FrozenPrefix(context.adapted, self._prefix_cache))
        self.recipe.start(context)
        prefix.check()

    def _change_step(self, pl_module: L.LightningModule) -> None:
        """Lets ``training_step`` do what the method and the recipe do to the loss."""
        dynamics = self._fit.dynamics
        if not dynamics.idle:
            refuse_manual(pl_module)
        if dynamics.consistency:
            head = self.context.adapted.head
            twice = in_two_passes(pl_module.training_step, head, dynamics.consistency)
            self._patches.replace(pl_module, "training_step", twice)
        if self.recipe.penalty is not None or not dynamics.idle:
            self._fit.lent.enter_context(self.context.listening())
            penalised = add_to_loss(pl_module.training_step, self._penalty)
            self._patches.replace(pl_module, "training_step", penalised)

    def _then_attach(self, pl_module: L.LightningModule) -> Callable[[], None]:
        """Returns a ``configure_model`` that attaches once the module has built its model."""
        configure_model = pl_module.configure_model

        def configure_then_attach() -> None:
            configure_model()
            if self._fit.context is None:
                self._attach(pl_module)

        return configure_then_attach

    def _set_mode(self, *, base_training: bool) -> None:
        adapted = self.context.adapted
        adapted.set_base_mode(training=base_training)
        if adapted.head is not None:
            adapted.head.train()

    def _own_context(self, adapted: AdaptedModel) -> Context:
        store, line = self._store, self._name or ""
        known = [v for v in store.versions() if v.name == line or v.name.startswith(f"{line}.")]
        history = tuple(reversed(known if line else store.versions(name=self.task.name)))
        heads = [version.head.classes for version in history if version.adapts and version.head]
        step = len({version.task for version in history})
        return Context(
            adapted=adapted,
            store=store,
            spec=self.spec,
            line=line,
            task=self.task,
            step=step,
            seen=tuple(dict.fromkeys(label for own in (*heads, self.task.classes) for label in own)),
            history=history,
            data=self._data,
            seed=step,
        )

    @property
    def context(self) -> Context:
        """The task at hand.

        Raises:
            TrainingError: before the fit has set it up.
        """
        if self._fit.context is None:
            raise TrainingError(f"task {self.task.name!r} has not been set up; it is at the start of a fit")
        return self._fit.context

    # --- train ----------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Verifies that optimizers hold the adapter, that nothing else is trained, and the precision.

        Raises:
            TrainingError: if not.
        """
        verify_optimizers(trainer, pl_module, self._fit.trainable)
        check_dtype(trainer, self.context.adapted.model, self._fit.dtype)
        dynamics = self._fit.dynamics
        dynamics.prepare(planned_steps(trainer) if dynamics.plans else None)
        if self.recipe.projection is not None or self.recipe.penalty is not None:
            self.context.steps.planned = planned_steps(trainer)
        if self._repeats is not None:
            self._repeats.skip(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts the base in the chosen mode and starts the clock."""
        self._set_mode(base_training=self._backbone_mode == "train")
        self._fit.started = time.monotonic()

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Remembers the parameters if method or recipe change the update to come."""
        if not self._fit.stepping:  # some optimizers evaluate several times in one step
            self._fit.dynamics.before_step()
        self._fit.stepping = True
        if self.recipe.projection is not None and self._fit.before is None:
            trainable = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
            self._fit.before = {name: p.detach().clone() for name, p in trainable.items()}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the step and lets the method, then the recipe change the update just applied."""
        self._fit.steps += 1
        if self._fit.stepping:
            self._fit.dynamics.after_step(trainer.global_step - 1)
            self._fit.stepping = False
        self.context.steps.done = trainer.global_step
        if self._fit.before is not None:
            self.recipe.project(self.context, self._fit.before)
            self._fit.before = None

    def _penalty(self, batch: Any, outputs: Any) -> Tensor | None:
        terms = (self.recipe.loss(self.context, batch, outputs), self._fit.dynamics.loss())
        added = [term for term in terms if term is not None]
        return sum(added[1:], start=added[0]) if added else None

    # --- register -------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Registers the adapter on rank zero; every rank learns of an error there.

        Raises:
            TrainingError: if no step was taken, or rank zero could not register.
        """
        check_steps_taken(trainer, self._fit.steps, self.task.name)
        if getattr(trainer, "fast_dev_run", False):
            rank_zero_info("fast_dev_run trains a few batches: nothing is registered")
            return
        self._fit.dynamics.finish(trainer.global_step)
        self._register_all(trainer, self.context.state(self.recipe.head.classes(self.context)))

    def _register_all(self, trainer: L.Trainer, state: AdapterState) -> None:
        what = f"registering task {self.task.name!r}"
        self.registered = on_rank_zero(trainer, what, lambda: self._register(state))

    def _register(self, state: AdapterState) -> tuple[Version, ...]:
        context = self.context
        trained = context.store.register(
            self.recipe.init.name(context),
            state,
            base=context.adapted.verify_base(),
            parents=context.parents,
            run=context.run,
            task=context.task.name,
            data=context.data.digest if context.data else None,
            seconds=self._fit.elapsed(),
        )
        return self.recipe.end(context, trained)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Registers what a checkpoint of a finished fit, or the same fit of before, has brought.

        Lightning has nothing to train then.

        Raises:
            TrainingError: if nothing was trained at all.
        """
        if self._repeats is not None and self._repeats.same is not None:
            self._fit.seconds = self._repeats.same.seconds or 0.0
            self._register_all(trainer, self._repeats.take(self.context, self._repeats.same))
        elif self._fit.started is None:
            self.on_train_end(trainer, pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Takes a half-trained adapter and head out again: the module is as it was first seen."""
        self._undo()
        if self._fit.context is not None and trainer.state.fn == "fit":
            adapted = self._fit.context.adapted
            adapted.detach()
            adapted.reset_head()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Puts patched methods back; the trained adapter stays attached and answers."""
        self._undo()

    def _undo(self) -> None:
        self._patches.undo()
        self._fit.lent.close()
