"""Checkpoints that hold the adapter and the head, not the frozen base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from contpeft.adapters import AdaptedModel
from contpeft.callbacks.continual import ContinualAdapter
from contpeft.callbacks.shared import Patches, required
from contpeft.digest import json_digest
from contpeft.errors import IntegrityError

__all__ = ["AdapterCheckpoint"]

MANIFEST = "contpeft"

Check = Callable[[dict[str, Any]], None]


class AdapterCheckpoint(L.Callback):
    """Leaves only what is trained in every checkpoint, with a manifest that is checked on resume.

    Works with any ``ModelCheckpoint``; needs a :class:`ContinualAdapter` before it in the same
    trainer. A checkpoint resumes the fit of one task (optimizer, loop and all); finished tasks come
    from the store. ``load_from_checkpoint`` cannot rebuild a module from such a file: build the
    module and load the version from the store.

    Example::

        callbacks = [ContinualAdapter(store, task="billing"), AdapterCheckpoint(), ModelCheckpoint()]
    """

    def __init__(self) -> None:
        self._patches = Patches()
        self._strict: bool | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Lets Lightning load a checkpoint without the base's tensors, once its manifest was checked.

        The module's own hook is used, because it runs before weights are loaded and callbacks' after.

        Raises:
            UnsupportedError: if no :class:`ContinualAdapter` comes before this callback.
        """
        continual = required(ContinualAdapter, trainer, self)
        self._strict, pl_module.strict_loading = pl_module.strict_loading, False
        checked = _checked(pl_module, continual, pl_module.on_load_checkpoint)
        self._patches.replace(pl_module, "on_load_checkpoint", checked)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Drops the base's parameters and adds the manifest."""
        dropped = _names(pl_module, kept=False)
        state = checkpoint["state_dict"]
        kept = {_plain(name): tensor for name, tensor in state.items()}
        checkpoint["state_dict"] = {name: tensor for name, tensor in kept.items() if name not in dropped}
        checkpoint[MANIFEST] = _manifest(pl_module, required(ContinualAdapter, trainer, self))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Makes loading as strict as it was."""
        self._patches.undo()
        if self._strict is not None:
            pl_module.strict_loading, self._strict = self._strict, None

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Makes loading as strict as it was."""
        self.teardown(trainer, pl_module, "")


def _checked(pl_module: L.LightningModule, continual: ContinualAdapter, on_load_checkpoint: Check) -> Check:
    """Returns an ``on_load_checkpoint`` that refuses a checkpoint of anything else.

    It raises :class:`IntegrityError` if the checkpoint is of another task, base or adapter, or lacks
    tensors.
    """

    def check(checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get(MANIFEST)
        if stored is None:
            raise IntegrityError(
                "the checkpoint has no adapter manifest, so what it would restore is unknown; "
                "resume from one that was written with AdapterCheckpoint"
            )
        for key, here in _manifest(pl_module, continual).items():
            if stored.get(key) != here:
                raise IntegrityError(
                    f"the checkpoint's {key} is {stored.get(key)!r}, this fit's is {here!r}; "
                    "resume with the task and model it was written for"
                )
        checkpoint["state_dict"] = _as_named_here(pl_module, checkpoint["state_dict"])
        on_load_checkpoint(checkpoint)

    return check


def _as_named_here(pl_module: L.LightningModule, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors under the names this module has for them, compiled or not.

    Makes up for the strictness that was switched off: nothing may be missing or left over.
    """
    names = {_plain(name): name for name in pl_module.state_dict()}
    lost = sorted(_names(pl_module, kept=True) - stored.keys())
    foreign = sorted(stored.keys() - names.keys())
    if lost or foreign:
        raise IntegrityError(
            f"the checkpoint lacks {len(lost)} tensors and has {len(foreign)} that this module has "
            f"not (first: {(lost + foreign)[0]}); resume with the module it was written for"
        )
    return {names[name]: tensor for name, tensor in stored.items()}


def _manifest(pl_module: L.LightningModule, continual: ContinualAdapter) -> dict[str, Any]:
    adapted = AdaptedModel.of(pl_module)
    attachment = adapted.attachment
    return {
        "task": continual.task.name,
        "base": adapted.base.fingerprint,
        "adapter": None if attachment is None else json_digest(attachment.made_json()),
    }


def _names(module: L.LightningModule, *, kept: bool) -> set[str]:
    """Returns the names of the parameters a checkpoint keeps, or of the others.

    Kept is what is trained, and what the adapter holds beside it: frozen, but random at its start.
    A tied tensor is listed under each of its names.
    """
    attachment = AdaptedModel.of(module).attachment
    adapter = {id(p) for p in attachment.parameters()} if attachment else set()
    named = module.named_parameters(remove_duplicate=False)
    return {_plain(name) for name, p in named if (p.requires_grad or id(p) in adapter) == kept}


def _plain(name: str) -> str:
    """Returns the name without what ``torch.compile`` puts into it."""
    return name.replace("._orig_mod", "")
