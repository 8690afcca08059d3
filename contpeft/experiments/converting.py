"""Pretrained weights in other formats, written as folders that ``from_pretrained`` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from contpeft.experiments.optional import import_optional

__all__ = ["dinov2", "smollm2"]

_CONVERTING: Final = "converting this model"
_WIDTH, _POSITIONS = 384, 37 * 37
# Pictures are scaled to 16 patches a side and normalised as those of ImageNet are.
_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 224, "width": 224},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def dinov2(onnx_file: Path, folder: Path) -> None:
    """Writes the DINOv2 ViT-S/14 (Oquab et al., 2024) inside an ONNX graph, with its image processor.

    Args:
        onnx_file: a graph whose backbone is the encoder.
        folder: where the model goes.

    Raises:
        NotFoundError: if onnx is not installed.
    """
    onnx = import_optional("onnx", _CONVERTING)
    from safetensors.numpy import save_file
    from transformers import Dinov2Config

    graph = onnx.load(str(onnx_file)).graph
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors = _backbone(weights) | _of_products(graph, weights) | _positions(weights)
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    Dinov2Config(
        hidden_size=_WIDTH,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        architectures=["Dinov2Model"],
    ).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR, indent=2), encoding="utf-8")


def smollm2(gguf_file: Path, folder: Path) -> None:
    """Writes a Llama model and its tokenizer from a GGUF file, 4-bit weights as the floats they stand for.

    Args:
        gguf_file: the model.
        folder: where it goes.

    Raises:
        NotFoundError: if gguf is not installed.
    """
    import_optional("gguf", _CONVERTING)
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    here: dict[str, Any] = {"gguf_file": gguf_file.name}
    read = AutoModelForCausalLM.from_pretrained(gguf_file.parent, **here)
    config = read.config
    config.name_or_path = "smollm2"
    # What is read from GGUF counts as quantised, which transformers does not write.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(cast(Any, config))
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf_file.parent, **here).save_pretrained(folder)


def _backbone(weights: dict[str, Any]) -> dict[str, Any]:
    prefix = "backbone."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _of_products(graph: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """Returns the weights that have no name: the node that multiplies by one is named after its module."""
    found = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in weights:
            module = node.name.removeprefix("/backbone/").rpartition("/")[0].replace("/", ".")
            found[f"{module}.weight"] = weights[node.input[1]].T
    return found


def _positions(weights: dict[str, Any]) -> dict[str, Any]:
    """Returns the position embeddings, which the graph holds cut in two, and a mask token, which it lacks."""
    first = [v for n, v in weights.items() if n.startswith("onnx::Concat") and v.shape == (1, 1, _WIDTH)]
    shape = (1, _POSITIONS, _WIDTH)
    rest = [v for n, v in weights.items() if n.startswith("onnx::Reshape") and v.shape == shape]
    return {
        "embeddings.position_embeddings": np.concatenate(first + rest, axis=1),
        "embeddings.mask_token": np.zeros((1, _WIDTH), np.float32),
    }
