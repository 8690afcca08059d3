"""A tiny classifier of token sequences, tasks for it, and the loop that learns them one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from contpeft.adapters import AdaptedModel, AnySpec
from contpeft.digest import json_digest
from contpeft.spec import AdapterSpec, Composition, Task, Version
from contpeft.store import AdapterStore
from contpeft.strategies import Answerer, Context, Recipe, TrainingData

WIDTH, LENGTH = 16, 6
Words = tuple[int, ...]


class Classifier(nn.Module):
    """The least that strategies ask for: an encoder, a head, three methods; no Lightning."""

    def __init__(self, seed: int = 0, classes: int = 2) -> None:
        super().__init__()
        sizes = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = BertConfig(vocab_size=64, max_position_embeddings=LENGTH, **sizes)
            self.model = BertModel(config, add_pooling_layer=False)
            self.head: nn.Module = nn.Linear(WIDTH, classes)
        self.eval()

    def collate(self, inputs: Sequence[Words]) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor(list(inputs))}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model(input_ids=batch["input_ids"]).last_hidden_state.mean(1)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(self.encode(batch))


def examples(labels: Sequence[str], n: int, seed: int) -> tuple[list[Words], list[str]]:
    """Returns ``n`` sentences per label: the words of a label are its own, but for some noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs, drawn = [], []
    for label in list(labels) * n:
        own = 4 * (ord(label) - ord("a")) + torch.randint(4, (LENGTH,), generator=generator)
        noise = torch.randint(64, (LENGTH,), generator=generator)
        words = torch.where(torch.rand(LENGTH, generator=generator) < 0.25, noise, own)
        inputs.append(tuple(words.tolist()))
        drawn.append(label)
    return inputs, drawn


def training(labels: Sequence[str], n: int = 8, seed: int = 0) -> TrainingData:
    inputs, drawn = examples(labels, n, seed)
    return TrainingData(inputs, drawn, json_digest([inputs, drawn]))


TASKS = tuple(Task(name, tuple(labels)) for name, labels in {"one": "ab", "two": "cd", "three": "ef"}.items())


@dataclass
class Way:
    """One way through a stream of tasks, remembered by the store alone."""

    store: AdapterStore
    recipe: Recipe
    line: str = "way"
    spec: AnySpec = field(default_factory=lambda: AdapterSpec("lora", r=2))
    module: nn.Module = field(default_factory=Classifier)
    data: bool = True
    history: tuple[Version, ...] = ()
    answers: list[dict[str, Composition]] = field(default_factory=list)

    def context(self, step: int, tasks: Sequence[Task] = TASKS) -> Context:
        return Context(
            adapted=AdaptedModel.of(self.module),
            store=self.store,
            spec=self.spec,
            line=self.line,
            task=tasks[step],
            step=step,
            seen=tuple(label for task in tasks[: step + 1] for label in task.classes),
            history=self.history,
            data=training(tasks[step].classes) if self.data else None,
            seed=step,
        )

    def started(self, step: int, tasks: Sequence[Task] = TASKS) -> Context:
        """Returns the context of a task about to be trained."""
        context = self.context(step, tasks)
        context.adapted.detach()
        torch.manual_seed(step)
        self.recipe.start(context)
        return context

    def learn(self, step: int, tasks: Sequence[Task] = TASKS) -> tuple[Version, ...]:
        """Learns a task as the runner does, stage by stage; returns what it registered."""
        known, whole = len(self.history), self.recipe
        for self.recipe in whole.stages(step):
            answers = self._learn(step, tasks)
        self.recipe = whole
        self.answers.append(answers)
        return self.history[known:]

    def _learn(self, step: int, tasks: Sequence[Task]) -> dict[str, Composition]:
        """Learns a stage as the callback does; returns who answers."""
        context = self.started(step, tasks)
        trained = None
        if self.recipe.init.trains(step):
            self.train(context)
            trained = self.store.register(
                self.recipe.init.name(context),
                context.state(self.recipe.head.classes(context)),
                base=context.adapted.verify_base(),
                parents=context.parents,
                task=context.task.name,
            )
        registered = self.recipe.end(context, trained)
        self.history += registered
        return self.recipe.route(context, registered)

    def train(self, context: Context, passes: int = 3) -> None:
        module, data = context.adapted.module, training(context.task.classes)
        classes = self.recipe.head.classes(context)
        optimizer = torch.optim.Adam(context.adapted.train_only(), lr=0.02)
        context.adapted.set_base_mode(training=False)
        starts = [*range(0, len(data.labels), 8)] * passes
        context.steps.planned = len(starts)
        for start in starts:
            cut = slice(start, start + 8)
            batch: Any = {
                **module.collate(data.inputs[cut]),
                "labels": torch.tensor([classes.index(label) for label in data.labels[cut]]),
            }
            with context.listening():
                loss = F.cross_entropy(module(batch), batch["labels"])
                extra = self.recipe.loss(context, batch, loss)
            optimizer.zero_grad()
            (loss if extra is None else loss + extra).backward()
            before = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
            optimizer.step()
            context.steps.done += 1
            self.recipe.project(context, before)

    def answerer(self) -> Answerer:
        context = self.context(0)
        return Answerer(context.adapted, context.load, context.features)


def learnt(store: AdapterStore, recipe: Recipe, tasks: int = 3, **options: Any) -> Way:
    """Returns a way that has learnt the first tasks."""
    way = Way(store, recipe, **options)
    for step in range(tasks):
        way.learn(step)
    return way


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
