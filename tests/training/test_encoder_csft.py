"""C-SFT on planted interests: what is held out, what is learnt, what is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from contracts.errors import InvalidInput
from training.item_features import Features
from training.losses import InfoNce
from training.models.fusion import EncoderHead
from training.recipes.csft import CsftReport, train_head
from training.recipes.csft_config import CsftConfig, Query
from training.recipes.pair_split import Pairs, split_pairs

ITEMS, GROUPS = 160, 8
QUICK = CsftConfig(
    steps=90, batch=64, learning_rate=3e-3, warm_up=10, evaluate_every=30, dropout=0.1, held_out=0.1
)


def world() -> tuple[Features, Features, Pairs]:
    """Interest groups lie in faint directions of both modalities, under louder ones that tell nothing."""
    rng = np.random.default_rng(0)
    group = np.arange(ITEMS) % GROUPS

    def features(width: int) -> Features:
        told = rng.standard_normal((GROUPS, width))[group]
        noise = rng.standard_normal((ITEMS, 6)) @ rng.standard_normal((6, width)) * 1.5
        values = (told + noise).astype(np.float32)
        present = rng.random(ITEMS) > 0.1
        values[~present] = 0
        return Features(values, present)

    query = rng.integers(0, ITEMS, 4000)
    chosen = (query + GROUPS * rng.integers(1, ITEMS // GROUPS, 4000)) % ITEMS
    return features(24), features(20), np.unique(np.stack([query, chosen], axis=1), axis=0)


def train(config: CsftConfig, pairs: Pairs | None = None) -> tuple[EncoderHead, CsftReport]:
    text, image, planted = world()
    return train_head(
        text,
        image,
        planted if pairs is None else pairs,
        np.arange(ITEMS),
        16,
        config,
        seed=3,
        threads=1,
        progress=lambda done, total: None,
    )


@pytest.mark.parametrize(("query", "level"), [("fused", "fused>fused"), ("image", "image>fused")])
def test_items_never_trained_on_are_found_better(query: Query, level: str) -> None:
    _, report = train(replace(QUICK, query=query))
    assert 0 < report.steps <= report.steps_run <= QUICK.steps
    assert report.after["unseen"][level][10] > 1.5 * report.before["unseen"][level][10]
    assert report.after["seen"][level][10] > 1.5 * report.before["seen"][level][10]
    assert abs(report.mean_cosine["fused"]) < 0.3


def test_equal_seeds_give_equal_heads() -> None:
    one, first = train(replace(QUICK, steps=30))
    two, second = train(replace(QUICK, steps=30))
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)


def test_pairs_that_mean_nothing_leave_the_head_as_it_started() -> None:
    rng = np.random.default_rng(5)
    noise = rng.integers(0, ITEMS, (3000, 2))
    head, report = train(QUICK, noise)
    untrained, nothing = train(QUICK, noise[:0])
    assert report.steps == 0 < report.steps_run
    assert (nothing.steps, nothing.steps_run, nothing.after) == (0, 0, {})
    assert torch.equal(head.text.linear.weight, untrained.text.linear.weight)


def test_pairs_without_the_vectors_they_need_are_left_out() -> None:
    text, image, pairs = world()
    either = text.present | image.present
    distinct = pairs[pairs[:, 0] != pairs[:, 1]]
    _, fused = train(replace(QUICK, steps=0))
    _, pictured = train(replace(QUICK, steps=0, query="image"))
    assert fused.pairs == int(either[distinct].all(axis=1).sum())
    assert pictured.pairs == int((image.present[distinct[:, 0]] & either[distinct[:, 1]]).sum())
    assert pictured.pairs < fused.pairs < len(pairs)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_what_is_held_out_was_never_trained_on(share: float) -> None:
    pairs: npt.NDArray[np.int64] = world()[2]
    split = split_pairs(pairs, share, seed=1, limit=10_000)
    unseen = np.unique(split.unseen[:, 1])
    assert len(unseen)
    assert not np.isin(split.trained, unseen).any()
    assert not np.isin(split.seen, unseen).any()
    whole = {tuple(pair) for pair in pairs.tolist()}
    parts = [{tuple(p) for p in part.tolist()} for part in (split.trained, split.seen, split.unseen)]
    assert all(part <= whole for part in parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert len(split_pairs(pairs, share, seed=1, limit=7).unseen) == 7


def test_too_few_items_hold_nothing_out() -> None:
    few = np.array([[0, 1], [1, 2]])
    split = split_pairs(few, 0.1, seed=0, limit=10)
    assert (len(split.trained), len(split.seen), len(split.unseen)) == (2, 0, 0)
    with pytest.raises(InvalidInput, match="held_out"):
        split_pairs(few, 0.5, seed=0, limit=10)


def test_a_query_is_never_its_own_negative() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    query, item = torch.tensor([0, 1]), torch.tensor([1, 2])  # item 1 is chosen once and asks once
    loss = InfoNce()
    masked = loss(vectors[query], vectors[item], item, query_items=query)
    cosine = (vectors[query] @ vectors[item].T) / loss.temperature
    first = -torch.log_softmax(cosine[0], dim=0)[0]
    assert masked.item() == pytest.approx((first / 2).item(), rel=1e-5)  # the second has no negative left


@pytest.mark.parametrize(("field", "value"), [("query", "text"), ("batch", 0), ("patience", 0)])
def test_a_wrong_option_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=field):
        replace(QUICK, **{field: value})  # type: ignore[arg-type]
