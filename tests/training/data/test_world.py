"""The drawn world: reproducible, well-formed, and with the structure that was planted."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contracts.errors import InvalidInput
from contracts.features import align_histories
from contracts.items import check_item
from training.data.dataset import Dataset, load_dataset
from training.data.holdout import new_items
from training.data.interactions import TEST
from training.data.samples import build_samples
from training.data.world import World, draw_world

ITEMS, USERS, IMPRESSIONS = 600, 250, 25_000


@dataclass(frozen=True)
class Drawn:
    truth: World
    data: Dataset
    new: npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    path = tmp_path_factory.mktemp("world")
    truth = draw_world(path, items=ITEMS, users=USERS, impressions=IMPRESSIONS, seed=7)
    data = load_dataset(path)
    return Drawn(truth, data, new_items(data))


def gauc(scores: npt.NDArray[Any], labels: npt.NDArray[Any], groups: npt.NDArray[Any]) -> float:
    """AUC within each group that has both classes, ties a half, weighted by rows."""
    won = weight = 0.0
    for group in np.unique(groups):
        inside = groups == group
        up, down = scores[inside & (labels == 1)], scores[inside & (labels == 0)]
        if len(up) and len(down):
            wins = (up[:, None] > down).mean() + 0.5 * (up[:, None] == down).mean()
            won += wins * inside.sum()
            weight += inside.sum()
    return won / weight


def test_equal_seeds_equal_bytes(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_world(tmp_path / name, items=60, users=10, impressions=600, seed=seed)
        files = (tmp_path / name / f for f in ("items.parquet", "interactions.parquet"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] != digests[2][1]


def test_its_shape(drawn: Drawn) -> None:
    log = drawn.data.interactions
    assert len(drawn.data.catalogue) == ITEMS
    assert len(log) == IMPRESSIONS
    assert len(log.user_ids) == USERS
    sizes = np.bincount(log.requests)
    assert (sizes[:-1] >= 5).all()
    assert sizes.max() == 10
    assert 0.2 <= log.labels.mean() <= 0.35
    rows = log.requests * ITEMS + log.items
    assert len(np.unique(rows)) == len(rows), "an item is shown once in a request"


def test_items_are_complete_and_pictures_differ(drawn: Drawn) -> None:
    catalogue = drawn.data.catalogue
    assert catalogue.text_fields == ("title", "category", "rooms", "maker", "description")
    kinds = {f.name: (f.kind, f.slots) for f in catalogue.attribute_fields}
    assert kinds == {
        "category": ("categorical", 1),
        "rooms": ("categorical", 3),
        "maker": ("categorical", 1),
        "price": ("numeric", 1),
    }
    seen = set()
    for row in range(50):
        item = check_item(catalogue.item(row))
        assert item.image is not None
        with Image.open(io.BytesIO(item.image)) as picture:
            assert (picture.size, picture.mode) == ((64, 64), "RGB")
            assert np.asarray(picture).std() > 10
        seen.add(item.image)
        assert catalogue.titles[row] == item.text["title"]
    assert len(seen) == 50


def test_the_last_items_are_new_and_tested_enough(drawn: Drawn) -> None:
    log = drawn.data.interactions
    assert 0.08 * ITEMS <= drawn.new.sum() <= 0.13 * ITEMS
    assert np.flatnonzero(drawn.new).min() >= 0.87 * ITEMS
    assert drawn.new[log.items[log.splits == TEST]].mean() >= 0.05
    assert not drawn.new[log.items[log.splits != TEST]].any()


def test_true_affinity_ranks_new_items(drawn: Drawn) -> None:
    log = drawn.data.interactions
    rows = (log.splits == TEST) & drawn.new[log.items]
    assert gauc(drawn.truth.affinity[rows], log.labels[rows], log.users[rows]) > 0.7


def test_likeness_to_liked_items_ranks_new_items(drawn: Drawn) -> None:
    samples = build_samples(drawn.data, drawn.new, 64)
    rows = np.flatnonzero(samples.splits == TEST)
    features = np.concatenate([np.zeros((1, drawn.truth.features.shape[1])), drawn.truth.features])
    behaviours, _ = align_histories(samples.liked, samples.starts[rows], samples.ends[rows], 64)
    likeness = np.einsum("rtv,rnv->rn", features[behaviours], features[samples.candidates[rows]])
    fresh = np.concatenate([[False], drawn.new])[samples.candidates[rows]]
    users = np.broadcast_to(samples.users[rows, None], fresh.shape)
    assert gauc(likeness[fresh], samples.labels[rows][fresh], users[fresh]) > 0.6


def test_quality_and_tastes_are_not_written(drawn: Drawn) -> None:
    assert set(drawn.data.catalogue.columns) == {
        "title",
        "description",
        "category",
        "rooms",
        "maker",
        "price",
    }


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    draw_world(
        tmp_path,
        items=60,
        users=10,
        impressions=600,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == sorted(steps)
    assert len(steps) > 2
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize(
    "size", [{"items": 49}, {"users": 1}, {"impressions": 10}, {"seed": -1}, {"items": 10**9}]
)
def test_sizes_are_checked(tmp_path: Path, size: dict[str, int]) -> None:
    (name,) = size
    with pytest.raises(InvalidInput) as error:
        draw_world(tmp_path, **size)  # type: ignore[arg-type]
    assert error.value.field == name
