"""Tasks whose layers read few directions, and fits with any optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from strategies_tiny import TASKS, Way, training
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from contpeft.adapters import LiveFactors, input_moments
from contpeft.digest import json_digest
from contpeft.strategies import Context, TrainingData

Make = Callable[[Iterable[torch.nn.Parameter]], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "adam": lambda params: Adam(params, lr=0.05),
    "adamw": lambda params: AdamW(params, lr=0.05, weight_decay=0.3),
    "momentum": lambda params: SGD(params, lr=2.0, momentum=0.9, weight_decay=0.01),
}


def short_sentences(labels: str) -> TrainingData:
    """Returns one sentence of three words per label: no layer reads more than three directions a label."""
    inputs = [tuple(4 * (ord(label) - ord("a")) + i for i in range(3)) for label in labels]
    return TrainingData(inputs, list(labels), json_digest([inputs, labels]))


def begun(way: Way, step: int, data: TrainingData | None = None) -> Context:
    """Returns the context of a task about to be trained, on data of one's own."""
    context = way.context(step)
    context.data = data or training(TASKS[step].classes)
    context.adapted.detach()
    torch.manual_seed(step)
    way.recipe.start(context)
    return context


def fit(way: Way, context: Context, make: Make = OPTIMIZERS["adam"], steps: int = 8) -> None:
    """Trains on all the task's data at once."""
    module, data = context.adapted.module, context.training_data("this test")
    classes = way.recipe.head.classes(context)
    batch: dict[str, Any] = module.collate(data.inputs)
    labels = torch.tensor([classes.index(label) for label in data.labels])
    context.adapted.set_base_mode(training=False)
    context.adapted.head.train()
    optimizer = make(context.adapted.train_only())
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(batch), labels).backward()
        before = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
        optimizer.step()
        way.recipe.project(context, before)


def ended(way: Way, context: Context) -> None:
    """Registers what was trained and what the recipe remembers."""
    trained = way.store.register(
        way.recipe.init.name(context),
        context.state(way.recipe.head.classes(context)),
        base=context.adapted.verify_base(),
        parents=context.parents,
        task=context.task.name,
    )
    registered = way.recipe.end(context, trained)
    way.answers.append(way.recipe.route(context, registered))
    way.history += registered


def factors_of(context: Context) -> dict[str, LiveFactors]:
    return context.factors("this test")


def moments_of(context: Context, data: TrainingData) -> dict[str, Tensor]:
    """Returns the second moments of what each adapted layer reads on some data, model as it stands."""
    modules = list(factors_of(context))
    found = input_moments(context.adapted.model, modules, lambda: context.features.current(data.inputs))
    return {name: found.of(name) for name in modules}
