"""Experience replay, DER++ and latent replay: their losses, their buffers and what they equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from strategies_tiny import TASKS, Classifier, Way, learnt, same, training
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel, FrozenPrefix, PrefixCache
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec, Single
from contpeft.store import AdapterStore
from contpeft.strategies import Cosine, FillBuffer, Recipe, Replay, TrainingData, find_recipe
from contpeft.strategies.recipes import REPLAY
from contpeft.strategies.replay import Buffer, draw, from_bytes, positions, scores_of

TOP = AdapterSpec("lora", r=2, layers_to_transform=[1], targets=["query", "value"])


def spec_of(name: str) -> AdapterSpec:
    return TOP if name == "latent-replay" else AdapterSpec("lora", r=2)


def way_of(
    store: AdapterStore, name: str, recipe: Recipe | None = None, tasks: int = 2, **options: Any
) -> Way:
    return learnt(store, recipe or find_recipe(name), tasks, spec=spec_of(name), **options)


def buffer_of(store: AdapterStore, ref: str = "way.buffer") -> Buffer:
    return Buffer.of(store.load(ref))


def prints(way: Way) -> list[str]:
    return [version.fingerprint for version in way.history]


# --- what they equal ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bound"), [*((name, "size") for name in REPLAY), ("er", "rows")])
def test_with_an_empty_buffer_nothing_is_replayed(store: AdapterStore, name: str, bound: str) -> None:
    recipe = REPLAY[name]
    empty = replace(recipe, consolidate=replace(recipe.consolidate, **{bound: 0}))
    parent = way_of(store, name, find_recipe("sequential"), line="parent")
    assert prints(way_of(store, name, empty)) == prints(parent)


@pytest.mark.parametrize("name", REPLAY)
def test_with_weight_zero_nothing_is_replayed(store: AdapterStore, name: str) -> None:
    zero = {each: 0.0 for each in vars(REPLAY[name].penalty)}
    recipe = replace(REPLAY[name], penalty=replace(REPLAY[name].penalty, **zero))
    parent = way_of(store, name, find_recipe("sequential"), line="parent")
    assert prints(way_of(store, name, recipe))[::2] == prints(parent)


@pytest.mark.parametrize("name", REPLAY)
def test_the_first_task_is_learnt_as_without_a_buffer(store: AdapterStore, name: str) -> None:
    parent = way_of(store, name, find_recipe("sequential"), line="parent", tasks=1)
    way = way_of(store, name, tasks=1)
    assert prints(way)[0] == prints(parent)[0]


@pytest.mark.parametrize("name", REPLAY)
def test_an_interrupted_way_goes_on_with_the_same_bytes(store: AdapterStore, name: str) -> None:
    straight = way_of(store, name)
    other = way_of(store, name, line="other", tasks=1)
    again = AdapterStore(store.path)
    resumed = Way(
        again,
        find_recipe(name),
        "other",
        spec_of(name),
        history=tuple(again.show(v.ref) for v in other.history),
    )
    resumed.learn(1)
    assert prints(resumed) == prints(straight)
    assert same(store.load("way.buffer@2").tensors, again.load("other.buffer@2").tensors)
    again.close()


def test_a_resumed_fit_goes_on_with_the_same_draws(store: AdapterStore) -> None:
    way = way_of(store, "er", tasks=1)
    context = way.started(1)
    drawn = [[row.rank for row in draw(context, 4, "rows")] for _ in range(6)]
    resumed = way.started(1)
    for _ in range(3):
        draw(resumed, 4, "rows")
    fresh = way.started(1)
    fresh.working.update(resumed.working)  # what a checkpoint holds
    assert [[row.rank for row in draw(fresh, 4, "rows")] for _ in range(3)] == drawn[3:]
    assert len({tuple(each) for each in drawn}) > 1


def test_latent_replay_is_replay_where_the_lower_layers_stand_still(store: AdapterStore) -> None:
    def learn(name: str, line: str) -> Way:
        way = Way(store, find_recipe(name), line, TOP)
        with FrozenPrefix(AdaptedModel.of(way.module), PrefixCache("1MB")):
            for step in range(2):
                way.learn(step)
        return way

    assert prints(learn("latent-replay", "latent"))[::2] == prints(learn("er", "raw"))[::2]


def test_the_base_stays_as_it_was(store: AdapterStore) -> None:
    before = AdaptedModel.of(Classifier()).base
    for name in ("derpp", "latent-replay"):
        module = Classifier()
        way = way_of(store, name, module=module, line=name)
        assert {version.base for version in way.history} == {before}
        assert AdaptedModel.of(module).verify_base() == before


# --- what is lost and kept ------------------------------------------------------------------------


def started(store: AdapterStore, name: str) -> tuple[Any, dict[str, Any]]:
    """Returns the context of the second task, nothing trained of it, and a batch of it."""
    way = way_of(store, name, tasks=1)
    context = way.started(1)
    data = training(TASKS[1].classes)
    labels = [context.adapted.head.classes.index(label) for label in data.labels[:8]]
    return context, {**context.adapted.module.collate(data.inputs[:8]), "labels": torch.tensor(labels)}


def test_replay_is_the_cross_entropy_of_drawn_rows(store: AdapterStore) -> None:
    context, batch = started(store, "er")
    twin = Way(store, find_recipe("er"), history=context.history).started(1)
    rows = draw(twin, 8, "rows")
    with torch.no_grad():
        scores = context.adapted.module(context.adapted.module.collate([from_bytes(r.content) for r in rows]))
    z = scores.double().numpy()
    right = z[np.arange(8), [context.adapted.head.classes.index(row.label) for row in rows]]
    expected = float((np.log(np.exp(z).sum(1)) - right).mean())
    assert float(Replay(2.0).loss(context, batch, None).detach()) == pytest.approx(2 * expected, rel=1e-5)


def test_all_classes_compete_for_replayed_rows(store: AdapterStore) -> None:
    local = replace(find_recipe("er"), head=Cosine(grow=True, local=True))
    way = way_of(store, "er", local, tasks=1)
    context = way.started(1)
    context.adapted.head.train()
    scores = scores_of(context, draw(context, 8, "rows"))
    assert scores.shape == (8, 4)
    assert torch.isfinite(scores).all()
    assert context.adapted.head.local


def test_scores_have_not_moved_right_after_they_were_kept(store: AdapterStore) -> None:
    context, batch = started(store, "derpp")
    only = replace(find_recipe("derpp").penalty, labels=0.0, scores=1.0)
    assert 0 <= float(only.loss(context, batch, None).detach()) < 1e-8
    with torch.no_grad():
        for name, parameter in context.own_parameters.items():
            if "lora_B" in name:
                parameter.add_(0.5)
    assert float(only.loss(context, batch, None).detach()) > 1e-3


def test_dark_replay_compares_the_columns_that_were_there(store: AdapterStore) -> None:
    context, batch = started(store, "derpp")
    with torch.no_grad():
        for parameter in context.own_parameters.values():
            parameter.mul_(1.5)
    twin = Way(store, find_recipe("derpp"), history=context.history).context(1)
    rows = draw(twin, 8, "scores")
    with torch.no_grad():
        now = scores_of(context, rows).double().numpy()[:, :2]
    before = np.stack([row.more["scores"].double().numpy() for row in rows])
    only = replace(find_recipe("derpp").penalty, labels=0.0, scores=1.0)
    assert float(only.loss(context, batch, None).detach()) == pytest.approx(
        ((now - before) ** 2).mean(), rel=1e-5
    )


def test_the_two_draws_of_dark_replay_differ(store: AdapterStore) -> None:
    context, batch = started(store, "derpp")
    only = replace(find_recipe("derpp").penalty, scores=0.0, labels=1.0)
    found = only.loss(context, batch, None).detach()
    context.working.clear()
    rows = draw(context, 8, "labels")
    torch.testing.assert_close(
        found, F.cross_entropy(scores_of(context, rows), positions(context, rows)).detach()
    )
    context.working.clear()
    drawn = {who: [row.rank for row in draw(context, 6, who)] for who in ("scores", "labels")}
    assert drawn["scores"] != drawn["labels"]
    assert len(set(drawn["scores"])) == 6


@pytest.mark.parametrize("name", REPLAY)
def test_the_buffer_is_a_version_within_its_bounds(store: AdapterStore, name: str) -> None:
    size = 2000 if name == "latent-replay" else 600
    recipe = replace(REPLAY[name], consolidate=replace(REPLAY[name].consolidate, size=size, rows=None))
    way = way_of(store, name, recipe)
    for n in (1, 2):
        version, buffer = store.show(f"way.buffer@{n}"), buffer_of(store, f"way.buffer@{n}")
        told = sum(tensor.nbytes for tensor in store.load(version.ref).tensors.values())
        assert size - max(row.nbytes for row in buffer.rows) < told <= size
        assert (version.config["bytes"], version.config["rows"]) == (told, len(buffer.rows))
        assert not version.adapts
    assert way.answers[-1] == {"main": Single("way@2")}


@pytest.mark.parametrize("name", ["er-balanced", "er-herding"])
def test_balanced_buffers_hold_as_many_of_each_class(store: AdapterStore, name: str) -> None:
    recipe = replace(REPLAY[name], consolidate=replace(REPLAY[name].consolidate, rows=16))
    way_of(store, name, recipe, tasks=3)
    labels = [row.label for row in buffer_of(store).rows]
    assert sorted(labels.count(label) for label in "abcdef") == [2, 2, 3, 3, 3, 3]


def test_herded_rows_stand_for_their_class(store: AdapterStore) -> None:
    recipe = replace(REPLAY["er-herding"], consolidate=FillBuffer("herding", rows=4))
    way = way_of(store, "er-herding", recipe, tasks=1)
    context, data = way.context(0), training(TASKS[0].classes)
    with context.adapted.applied(Single("way@1"), context.load):
        unit = torch.nn.functional.normalize(context.features.current(data.inputs), dim=1)
    kept = [data.inputs.index(from_bytes(row.content)) for row in buffer_of(store).rows]
    for label in "ab":
        rows = data.rows(label)
        own = [row for row in kept if row in rows]
        distance = (unit[own].mean(0) - unit[rows].mean(0)).norm()
        every = [(unit[[a, b]].mean(0) - unit[rows].mean(0)).norm() for a in rows for b in rows if a < b]
        assert distance <= sorted(every)[len(every) // 2]


def test_replay_forgets_less(store: AdapterStore) -> None:
    data = training("ab", n=16, seed=5)

    def right(name: str) -> int:
        way = learnt(store, find_recipe(name), line=name)
        answered = way.answerer().predict(way.answers[-1]["main"], data.inputs, data.digest)
        return sum(a == b for a, b in zip(answered, data.labels, strict=True))

    plain = right("sequential")
    assert {name: right(name) > plain + 3 for name in ("er", "derpp")} == (
        dict.fromkeys(("er", "derpp"), True)
    )


# --- what is refused ------------------------------------------------------------------------------


def test_a_head_without_the_replayed_classes_is_refused(store: AdapterStore) -> None:
    context, _ = started(store, "er")
    rows = [replace(row, label="z") for row in draw(context, 2, "rows")]
    with pytest.raises(
        SpecError, match="does not know the classes of replayed rows z; use a head that grows"
    ):
        positions(context, rows)


def test_scores_that_were_not_kept_are_refused(store: AdapterStore) -> None:
    context, batch = started(store, "er")
    with pytest.raises(SpecError, match="fill the buffer with their scores"):
        find_recipe("derpp").loss(context, batch, None)


def test_latent_replay_over_an_adapted_first_layer_is_refused(store: AdapterStore) -> None:
    with pytest.raises(
        UnsupportedError, match="latent replay keeps what the layers below the adapter compute"
    ):
        learnt(store, find_recipe("latent-replay"), tasks=1)


def test_inputs_without_a_form_are_refused(store: AdapterStore) -> None:
    way = Way(store, find_recipe("er"))
    context = way.started(0)
    context.data = TrainingData([object()], ["a"], "x")
    with pytest.raises(UnsupportedError, match="cannot keep an input of type object"):
        find_recipe("er").end(context, None)
