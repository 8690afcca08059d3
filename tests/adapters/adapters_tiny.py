"""Small random transformers, a module around one, a training loop, and what a module looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
)

from contpeft.adapters import AdaptedModel, AnySpec
from contpeft.spec import AdapterSpec, AdapterState, BaseModel, Version
from contpeft.store import AdapterStore

WIDTH, CLASSES = 16, ("red", "green", "blue")
IDS = torch.arange(24).reshape(3, 8) % 48
LABELS = torch.tensor([0, 1, 2])
QUERY = "bert.encoder.layer.0.attention.self.query"


def _seeded(make: Callable[[], Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def bert_config(**options: Any) -> BertConfig:
    sizes = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return BertConfig(vocab_size=48, max_position_embeddings=16, num_labels=3, **sizes, **options)


def bert(seed: int = 0, **options: Any) -> BertForSequenceClassification:
    """Returns a classifier whose head sits inside the transformers model."""
    return _seeded(lambda: BertForSequenceClassification(bert_config(**options)), seed)


def encoder(seed: int = 0, **options: Any) -> BertModel:
    return _seeded(lambda: BertModel(bert_config(**options), add_pooling_layer=False), seed)


def vit() -> ViTForImageClassification:
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=3,
    )  # fmt: skip
    return _seeded(lambda: ViTForImageClassification(config), 0)


def dinov2() -> Dinov2Model:
    config = Dinov2Config(
        image_size=8, patch_size=4, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2
    )
    return _seeded(lambda: Dinov2Model(config), 0)


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(n_embd=WIDTH, n_layer=2, n_head=2, vocab_size=48, n_positions=16)
    return _seeded(lambda: GPT2LMHeadModel(config), 0)


def distilbert() -> DistilBertForSequenceClassification:
    config = DistilBertConfig(
        dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=48, max_position_embeddings=16
    )
    return _seeded(lambda: DistilBertForSequenceClassification(config), 0)


def t5() -> T5EncoderModel:
    config = T5Config(d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=48)
    return _seeded(lambda: T5EncoderModel(config), 0)


def llama() -> LlamaModel:
    sizes = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return _seeded(lambda: LlamaModel(LlamaConfig(vocab_size=48, **sizes)), 0)


class Module(nn.Module):
    """Somebody's module: an encoder and a head of its own."""

    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.model = encoder(seed)
        self.head = _seeded(lambda: nn.Linear(WIDTH, classes), seed)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.model(input_ids=ids).last_hidden_state.mean(1))


def logits(module: nn.Module, ids: Tensor = IDS) -> Tensor:
    """Returns the scores of a module as it stands."""
    with torch.no_grad():
        output = module(ids)
    return getattr(output, "logits", output)


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    output = module(IDS)
    optimizer.zero_grad()
    F.cross_entropy(getattr(output, "logits", output), LABELS).backward()
    optimizer.step()


def trained(
    adapted: AdaptedModel, spec: AnySpec | None = None, steps: int = 2, classes: tuple[str, ...] = ()
) -> AdapterState:
    """Attaches an adapter (unless one is), trains it and the head, and returns its state."""
    if not adapted.active:
        adapted.attach(spec or AdapterSpec("lora"))
    optimizer = torch.optim.SGD(adapted.train_only(), lr=0.5)
    for _ in range(steps):
        step(adapted.module, optimizer)
    return adapted.state(classes)


def version(state: AdapterState, base: BaseModel, ref: str = "colours@1") -> Version:
    """Returns the catalogue entry a store would make."""
    return Version(
        ref=ref, name=ref.partition("@")[0], n=1, kind=state.kind, fingerprint="", sha256="", bytes=0,
        parameters=0, config=state.config, head=state.head, base=base, origin="trained", parents=(),
        recipe=None, run=None, task=None, data=None, environment={}, seconds=None, created_at="",
    )  # fmt: skip


def tree(module: nn.Module) -> dict[str, int]:
    """Returns which object sits where."""
    return {name: id(each) for name, each in module.named_modules(remove_duplicate=False)}


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Returns whether two dicts of tensors have equal names and equal bits."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def look(module: nn.Module) -> dict[str, Any]:
    """Returns everything that attaching must put back, values apart."""
    modules = list(module.modules())
    return {
        "tree": tree(module),
        "parameters": {name: (id(p), p.requires_grad) for name, p in module.named_parameters()},
        "modes": [each.training for each in modules],
        "attributes": [sorted(set(vars(each)) - {"_contpeft"}) for each in modules],
        "hooks": sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in modules),
    }


def answer_stored(folder: str) -> None:
    """Writes what the stored adapter ``colours`` answers on a fresh module; run in another process."""
    adapted = AdaptedModel.of(Module())
    print(adapted.base.fingerprint)
    state = AdapterStore(f"{folder}/store", create=False).load("colours@1")
    adapted.attach_state(state)
    adapted.load_head(state)
    save_file({"logits": logits(adapted.module)}, f"{folder}/logits.safetensors")
