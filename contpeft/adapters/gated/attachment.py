"""LoRA adapters with gates in a model: the last one may be trained, the earlier ones stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, cast

from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from contpeft.adapters.attached import Attached, check_shapes, cpu_copy
from contpeft.adapters.attachment import Attachment
from contpeft.adapters.gated.feature import watching_rows
from contpeft.adapters.gated.gate import Gate, weigh
from contpeft.adapters.gated.states import GATE, gates_of, lora_of
from contpeft.adapters.prompts.backbone import backbone_of
from contpeft.adapters.stacked import StackedLora
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState
from contpeft.spec.methods import GATED

__all__ = ["GatedAttachment"]

_CHILD: Final = "row_gates"  # their name in the model while they are in


class GatedAttachment(Attached):
    """A LoRA adapter and its gate, with earlier ones beside them; made installed.

    What a layer says is ``W x + sum_i w_i(row) s_i B_i A_i x``: a row has one weight for each adapter, the
    same in all layers. Training and answering compute by these very modules.

    Args:
        model: the transformers model, with no adapter in it.
        earlier: stored adapters with gates, which stay as they are.
        own: the LoRA adapter on top, taken out.
        gate: its gate.

    Attributes:
        gate: as given.
        weights: of the last call, ``(B, N)``, the own adapter's last; None before the first.

    Raises:
        SpecError: if the gates are not made alike.
        UnsupportedError: if an adapter is more than LoRA of linear layers.
    """

    def __init__(self, model: nn.Module, earlier: Sequence[AdapterState], own: Attached, gate: Gate) -> None:
        self._model, self._backbone, self._own = model, backbone_of(model), own
        self.gate = gate
        self._ups = _ups(own)
        device = next(model.parameters()).device
        self._gates = nn.ModuleList([*_earlier_gates(earlier, gate), gate]).to(device)
        self._stack = StackedLora([lora_of(state) for state in earlier], device) if earlier else None
        self.dynamics = own.dynamics
        self.weights: Tensor | None = None
        self._undo = ExitStack()
        self.installed = False
        self.install()

    @classmethod
    def from_states(cls, model: nn.Module, states: Sequence[AdapterState]) -> GatedAttachment:
        """Returns stored adapters with gates, installed in ``model``, the last of them on top.

        Args:
            model: the transformers model, with no adapter in it.
            states: in the order in which they were learnt.

        Raises:
            SpecError: if one does not fit the model, or has no gate, or another one's is made otherwise.
        """
        gate = gates_of(states)[-1].requires_grad_()
        own = Attachment.from_state(model, lora_of(states[-1]))
        own.remove()
        return cls(model, states[:-1], own, gate)

    @property
    def parts(self) -> tuple[Attached, ...]:
        """The LoRA adapter on top."""
        return (self._own,)

    def install(self) -> None:
        """Lets the model compute with all of them; nothing happens if it does.

        Raises:
            UnsupportedError: if other adapters with gates are in the model.
        """
        if self.installed:
            return
        if hasattr(self._backbone, _CHILD):
            raise UnsupportedError(
                f"{type(self._backbone).__name__} has adapters with gates in it already; name all in one "
                "composition: Gated((...))"
            )
        with ExitStack() as undo:
            self._own.install()
            undo.callback(self._own.remove)
            self._backbone.add_module(_CHILD, self._gates)
            undo.callback(delattr, self._backbone, _CHILD)
            undo.enter_context(watching_rows(self._model, self._see))
            for up in self._ups:
                undo.callback(up.register_forward_hook(self._scale).remove)
            if self._stack is not None:
                undo.enter_context(self._stack.weighed(self._model, self._of_earlier))
            self._undo = undo.pop_all()
        self.installed = True

    def remove(self) -> None:
        """Takes all of them out; nothing happens if they are."""
        if self.installed:
            self._undo.close()
            self.weights = None
            self.installed = False

    def weigh(self, rows: Tensor) -> Tensor:
        """Returns the weights ``(B, N)`` of rows ``(B, d)``, the own adapter's last, gradients flowing."""
        return weigh([cast(Gate, gate) for gate in self._gates], rows)

    def parameters(self) -> list[nn.Parameter]:
        """Returns those of the adapter on top and of its gate."""
        return [*self._own.parameters(), *self.gate.parameters()]

    def trainable(self) -> list[nn.Parameter]:
        """Returns those of them that are trained."""
        return [*self._own.trainable(), *self.gate.parameters()]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the parameters in use under their names in :meth:`tensors`."""
        gate = {f"{GATE}{name}": parameter for name, parameter in self.gate.named().items()}
        return {**self._own.named_parameters(), **gate}

    def train(self, mode: bool = True) -> None:
        """Puts the adapter on top in train mode, or in eval mode; gates compute the same in both."""
        self._own.train(mode)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of the adapter on top and of its gate, on the CPU."""
        gate = {f"{GATE}{name}": cpu_copy(value) for name, value in self.gate.named().items()}
        return {**self._own.tensors(), **gate}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets them.

        Raises:
            SpecError: if a tensor is missing, foreign or of another shape; nothing is loaded then.
        """
        gate = {name: value for name, value in tensors.items() if name.startswith(GATE)}
        own = {f"{GATE}{name}": parameter for name, parameter in self.gate.named().items()}
        check_shapes(own, gate, "a stored gate does")
        self._own.load({name: value for name, value in tensors.items() if name not in gate})
        for name, parameter in own.items():
            parameter.data.copy_(gate[name])

    def config_json(self) -> dict[str, Any]:
        """Returns what the gate and the LoRA adapter are made of, as JSON."""
        return {
            "peft_type": GATED.upper(),
            "gate": self.gate.options.to_json(),
            "lora": self._own.config_json(),
        }

    def _see(self, rows: Tensor | None) -> None:
        self.weights = None if rows is None else self.weigh(rows)

    def _of_earlier(self, path: str, x: Tensor) -> Tensor:
        return self._told(x)[:, None, :-1].to(x.dtype)

    def _scale(self, up: nn.Module, args: Any, output: Tensor) -> Tensor:
        own = self._told(output)[:, -1].to(output.dtype)
        return output * own.view(-1, *[1] * (output.ndim - 1))

    def _told(self, x: Tensor) -> Tensor:
        """Returns the weights of the rows of a batch that a layer reads or has computed."""
        if self.weights is None or len(self.weights) != len(x):
            there = "none" if self.weights is None else str(len(self.weights))
            raise SpecError(
                f"a layer computes {len(x)} rows and gates have weighed {there}; call the whole model, with "
                "input_ids or pixel_values, and leave out a prefix cache"
            )
        return self.weights


def _earlier_gates(earlier: Sequence[AdapterState], gate: Gate) -> list[Gate]:
    gates = gates_of(earlier) if earlier else []
    if gates and gates[-1].options != gate.options:
        raise SpecError(
            f"a gate of {gate.options} does not weigh together with earlier ones of {gates[-1].options}; "
            "keep one recipe under one name"
        )
    return gates


def _ups(own: Attached) -> list[nn.Module]:
    """Returns the modules whose output is all that a LoRA adapter adds."""
    layers = [layer.module for _, layer in own.places()] if isinstance(own, Attachment) else []
    wrong = next((each for each in layers if not isinstance(each, LoraLinear) or each.lora_variant), None)
    if own.kind != "lora" or wrong is not None or not layers:
        raise UnsupportedError(
            f"a gate weighs what a plain LoRA adapter adds to linear layers, not an adapter of method "
            f"{own.kind!r}" + (f" that makes a {type(wrong).__name__} a variant" if wrong is not None else "")
        )
    return [next(iter(cast(LoraLinear, layer).lora_B.values())) for layer in layers]
