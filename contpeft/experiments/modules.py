"""The LightningModules a task sequence uses unless the user brings one.

Both are ordinary modules that know nothing of adapters: a transformers backbone, a head, and the
three methods of :class:`contpeft.strategies.Classifier`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast

import lightning.pytorch as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

from contpeft.errors import NotFoundError
from contpeft.experiments.archives import resolve_model

__all__ = ["ImageClassifier", "TextClassifier"]

OptimizerCallable = Callable[[Iterable[nn.Parameter]], Optimizer]
_FINAL_RATE = 0.05


class _BackboneClassifier(L.LightningModule, ABC):
    """Cross-entropy on ``head(encode(batch))``; the rate falls linearly to 5 % of its start."""

    model: nn.Module

    def __init__(self, learning_rate: float, optimizer: OptimizerCallable | None) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.head: nn.Module = nn.Identity()

    @abstractmethod
    def collate(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Returns one batch from raw inputs."""

    @abstractmethod
    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns features ``(B, d)``."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns scores ``(B, C)``."""
        scores: Tensor = self.head(self.encode(batch))
        return scores

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Returns the cross-entropy of one batch."""
        loss = F.cross_entropy(self(batch), batch["labels"])
        self.log("loss", loss, batch_size=len(batch["labels"]))
        return loss

    def configure_optimizers(self) -> Any:
        """Returns the optimizer over what is trainable, and its schedule."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        if self.optimizer is not None:
            return self.optimizer(trainable)
        optimizer = torch.optim.AdamW(trainable, lr=self.learning_rate)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = LambdaLR(optimizer, lambda step: 1 - (1 - _FINAL_RATE) * min(1.0, step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TextClassifier(_BackboneClassifier):
    """A text encoder with pooled token states and a head.

    Args:
        model: a packaged model's name (``"minilm"``), a local folder, or a hub id.
        max_length: tokens kept per text.
        pooling: ``"mean"`` over the tokens, or the first token's state (``"cls"``).
        num_layers: keep only the first layers; None for all.
        learning_rate: of AdamW.
        optimizer: another optimizer, given the trainable parameters; its rate stays constant.
    """

    def __init__(
        self,
        model: str = "minilm",
        max_length: int = 64,
        pooling: Literal["mean", "cls"] = "mean",
        num_layers: int | None = None,
        learning_rate: float = 1e-3,
        optimizer: OptimizerCallable | None = None,
    ) -> None:
        super().__init__(learning_rate, optimizer)
        self.max_length = max_length
        self.pooling = pooling
        self.tokenizer = _load(AutoTokenizer, model)
        self.model = _backbone(model) if num_layers is None else _first_layers(model, num_layers)

    def collate(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        """Returns token ids and mask, padded to the longest text of the batch."""
        return dict(
            self.tokenizer(
                list(inputs), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
            )
        )

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns pooled states ``(B, d)``."""
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        states: Tensor = self.model(**inputs).last_hidden_state
        if self.pooling == "cls":
            return states[:, 0]
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)


class ImageClassifier(_BackboneClassifier):
    """An image encoder with its class-token state and a head.

    Args:
        model: a local folder or a hub id.
        image_size: images are enlarged or shrunk to this many pixels a side; None for the size
            the model's own processor says.
        learning_rate: of AdamW.
        optimizer: another optimizer, given the trainable parameters; its rate stays constant.
    """

    def __init__(
        self,
        model: str,
        image_size: int | None = None,
        learning_rate: float = 1e-3,
        optimizer: OptimizerCallable | None = None,
    ) -> None:
        super().__init__(learning_rate, optimizer)
        self.processor = _load(AutoImageProcessor, model)
        self.size = {"height": image_size, "width": image_size} if image_size else None
        self.model = _backbone(model)

    def collate(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Returns pixel values ``(B, 3, H, W)`` of arrays ``(H, W)``, ``(H, W, 3)`` or PIL images."""
        images = [_as_image(each) for each in inputs]
        size = {} if self.size is None else {"size": self.size}
        return dict(self.processor(images, return_tensors="pt", **size))

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns class-token states ``(B, d)``."""
        states: Tensor = self.model(pixel_values=batch["pixel_values"]).last_hidden_state
        return states[:, 0]


def _as_image(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    array = np.asarray(value)
    if array.dtype != np.uint8:
        peak = float(array.max()) or 1.0
        array = (255 * (array / max(1.0, peak))).astype(np.uint8)
    return Image.fromarray(array).convert("RGB")


def _backbone(model: str, **options: Any) -> nn.Module:
    loaded = _load(AutoModel, model, **options)
    loaded.config.name_or_path = model  # the label people know it by, wherever its folder is
    return cast(nn.Module, loaded)


def _first_layers(model: str, count: int) -> nn.Module:
    """Returns the backbone with its first layers only, without a report on the ones left out."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        return _backbone(model, num_hidden_layers=count)
    finally:
        logging.set_verbosity(level)


def _load(loader: Any, model: str, **options: Any) -> Any:
    name = resolve_model(model)
    try:
        return loader.from_pretrained(name, **options)
    except OSError as error:
        raise NotFoundError(
            f"cannot load model {model!r}: no such packaged model or folder, and the hub gave nothing "
            f"({str(error).splitlines()[0]}); name a local folder"
        ) from error
