"""What a row is to a gate: the mean embedding of its tokens.

No adapter with a gate changes embeddings, so that it is the same for ever, and it is there before the first
adapted layer is asked: no second pass. GainLoRA and MoCL read the same; SAPT takes the maximum over tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from torch import Tensor, nn

from contpeft.adapters.pools.query import mean_over_tokens
from contpeft.adapters.prompts.backbone import backbone_of, is_vision
from contpeft.adapters.prompts.calls import named, refuse_checkpointing
from contpeft.errors import UnsupportedError

__all__ = ["reading_rows", "watching_rows"]


class _ReadError(Exception):
    """Carries what rows are out of a forward pass that need go no further."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows


@contextmanager
def watching_rows(model: nn.Module, see: Callable[[Tensor | None], None]) -> Iterator[None]:
    """Tells inside the block what the rows of every call of a model are, before its layers are asked.

    Args:
        model: the transformers model.
        see: called with None when a call begins, and with ``(B, d)`` once the embeddings are there.
    """
    backbone, watch = backbone_of(model), _Watch(see)
    embeddings = cast(nn.Module, cast(Any, backbone).get_input_embeddings())
    with ExitStack() as hooks:
        begin = backbone.register_forward_pre_hook(watch.begin, with_kwargs=True)
        hooks.callback(begin.remove)
        hooks.callback(embeddings.register_forward_hook(watch.take).remove)
        yield


@contextmanager
def reading_rows(model: nn.Module) -> Iterator[Callable[[Callable[[], object]], Tensor]]:
    """Yields what returns the rows ``(B, d)`` of a call of a model, which ends at its embeddings.

    Args:
        model: the transformers model; what is called has it read one batch.
    """

    def stop(rows: Tensor | None) -> None:
        if rows is not None:
            raise _ReadError(rows)

    def read(call: Callable[[], object]) -> Tensor:
        try:
            call()
        except _ReadError as reached:
            return reached.rows
        raise _unread(model)

    with watching_rows(model, stop):
        yield read


def _unread(model: nn.Module) -> UnsupportedError:
    return UnsupportedError(
        f"gates read the embeddings of tokens, and {type(model).__name__} was called without them; give it "
        "input_ids or pixel_values, and leave out a prefix cache"
    )


class _Watch:
    """Sees one call after the other."""

    def __init__(self, see: Callable[[Tensor | None], None]) -> None:
        self._see = see
        self._mask: Tensor | None = None
        self._waits = False

    def begin(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Is called before the model computes."""
        refuse_checkpointing(backbone, "an adapter with a gate")
        call = named(backbone, args, kwargs)
        if call.get("past_key_values") is not None:
            raise UnsupportedError(
                "gates read whole rows, and a call with past_key_values has the last tokens alone; set "
                "use_cache=False"
            )
        self._mask = None if is_vision(backbone) else call.get("attention_mask")
        self._waits = True
        self._see(None)

    def take(self, embeddings: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Is called with the embeddings; those of a decoder, which come second, are not the row's."""
        if self._waits:
            self._waits = False
            self._see(mean_over_tokens(output.detach().float(), self._mask, "what a gate reads"))
