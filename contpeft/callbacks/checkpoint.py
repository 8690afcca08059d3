"""Checkpoints that hold the adapter and the head, not the frozen base."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L

from contpeft.adapters import AdaptedModel
from contpeft.callbacks.continual import ContinualAdapter
from contpeft.digest import json_digest
from contpeft.errors import IntegrityError, UnsupportedError

__all__ = ["AdapterCheckpoint"]

MANIFEST = "contpeft"


class AdapterCheckpoint(L.Callback):
    """Leaves only what is trained in every checkpoint, with a manifest that is checked on resume.

    Works with any ``ModelCheckpoint``; needs a :class:`ContinualAdapter` in the same trainer. A
    checkpoint resumes the fit of one task (optimizer, loop and all); finished tasks come from the
    store. ``load_from_checkpoint`` cannot rebuild a module from such a file: build the module and
    load the version from the store.

    Example::

        callbacks = [ContinualAdapter(store, task="billing"), AdapterCheckpoint(), ModelCheckpoint()]
    """

    def __init__(self) -> None:
        self._strict = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Lets Lightning load a checkpoint without the base's tensors.

        Raises:
            UnsupportedError: if no :class:`ContinualAdapter` is in the trainer.
        """
        if stage == "fit":
            _continual(trainer)
            self._strict = pl_module.strict_loading
            pl_module.strict_loading = False

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Drops what is frozen and adds the manifest."""
        trained = {name for name, p in pl_module.named_parameters() if p.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if _plain(k) in trained}
        checkpoint[MANIFEST] = _manifest(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compares the manifest with what is attached.

        Raises:
            IntegrityError: if the checkpoint is of another task, base or adapter, or lacks tensors.
        """
        stored = checkpoint.get(MANIFEST)
        if stored is None:
            raise IntegrityError(
                "the checkpoint has no adapter manifest, so what it would restore is unknown; "
                "resume from one that was written with AdapterCheckpoint"
            )
        for key, here in _manifest(trainer, pl_module).items():
            if stored.get(key) != here:
                raise IntegrityError(
                    f"the checkpoint's {key} is {stored.get(key)!r}, this fit's is {here!r}; "
                    "resume with the task and model it was written for"
                )
        trained = {name for name, p in pl_module.named_parameters() if p.requires_grad}
        lost = sorted(trained - {_plain(name) for name in checkpoint["state_dict"]})
        if lost:
            raise IntegrityError(f"the checkpoint lacks {len(lost)} trained tensors (first: {lost[0]})")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Makes loading strict again."""
        pl_module.strict_loading = self._strict

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Makes loading strict again."""
        pl_module.strict_loading = self._strict


def _continual(trainer: L.Trainer) -> ContinualAdapter:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ContinualAdapter):
            return callback
    raise UnsupportedError("AdapterCheckpoint needs a ContinualAdapter in the same Trainer; add one")


def _manifest(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
    adapted = AdaptedModel.of(pl_module)
    attachment = adapted.attachment
    return {
        "task": _continual(trainer).task.name,
        "base": adapted.base.fingerprint,
        "adapter": None if attachment is None else json_digest(attachment.config_json()),
        "tensors": sorted(name for name, p in pl_module.named_parameters() if p.requires_grad),
    }


def _plain(name: str) -> str:
    return name.replace("._orig_mod", "")
