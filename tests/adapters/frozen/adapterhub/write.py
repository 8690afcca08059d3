"""Wrote the folders beside this file: ``python write.py FOLDER``, in an environment of its own.

Run on 2026-11-22 with adapters 1.3.0, transformers 4.57.6, torch 2.13.0, safetensors 0.8.0. The base and all
adapters are random; ``answers.safetensors`` is what that library computed with them. Nothing runs this again.
"""

import os
import sys

import torch
from adapters import BertAdapterModel, DoubleSeqBnConfig, LoRAConfig, ParBnConfig, SeqBnConfig
from adapters.composition import Fuse
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

out = sys.argv[1]
os.makedirs(out)
torch.manual_seed(0)
config = BertConfig(
    vocab_size=12,
    hidden_size=4,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=8,
    type_vocab_size=1,
)
model = BertAdapterModel(config).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.4)
base = BertModel(config)
base.load_state_dict({name: model.bert.state_dict()[name] for name in base.state_dict()})
base.save_pretrained(f"{out}/base")

model.add_adapter("sst", config=SeqBnConfig(reduction_factor=2))
model.add_adapter("mnli", config=SeqBnConfig(reduction_factor=4))
model.add_adapter("houl", config=DoubleSeqBnConfig(reduction_factor=2, leave_out=[0]))
model.add_adapter("par", config=ParBnConfig(reduction_factor=2, scaling="learned"))
model.add_adapter("low", config=LoRAConfig(r=2, alpha=4, intermediate_lora=True, output_lora=True))
model.add_adapter_fusion(Fuse("sst", "mnli"))
model.add_classification_head("sst", num_labels=3, id2label={0: "neg", 1: "neu", 2: "pos"})
model.add_classification_head("low", layers=1, activation_function=None, use_pooler=True)
model.add_classification_head("both", layers=1)
for name, parameter in model.named_parameters():
    if "fusion_layer" in name and "value.weight" in name:
        parameter.data += 0.3 * torch.randn_like(parameter).tril()
    elif any(part in name for part in (".adapters.", ".loras.", "heads.", "fusion_layer")):
        torch.nn.init.normal_(parameter, std=0.5)

ids = torch.arange(10).reshape(2, 5)
answers = {"ids": ids}
with torch.no_grad():
    for name in ("sst", "mnli", "houl", "par", "low", Fuse("sst", "mnli")):
        model.set_active_adapters(name)
        key = name if isinstance(name, str) else "fusion"
        answers[f"{key}.hidden"] = model.bert(ids).last_hidden_state
        head = {"sst": "sst", "low": "low", "fusion": "both"}.get(key)
        if head:
            model.active_head = head
            answers[f"{key}.scores"] = model(ids).logits
for name in ("houl", "par", "low"):
    model.save_adapter(f"{out}/{name}", name, use_safetensors=True)
model.save_adapter_setup(f"{out}/setup", Fuse("sst", "mnli"), head_setup="both", use_safetensors=True)
save_file(answers, f"{out}/answers.safetensors")
