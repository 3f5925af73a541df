"""The real set, where it lies beside the repository."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.items import attribute_slots, check_item
from training.data.dataset import Dataset, load_dataset
from training.data.holdout import new_items
from training.data.samples import build_samples

REAL = Path(__file__).parents[4] / "shared" / "data" / "movielens1m_posters"
LOAD_LIMIT_S = 5.0

pytestmark = pytest.mark.skipif(
    not (REAL / "items.parquet").is_file(), reason="../shared/data/movielens1m_posters is not there"
)


@pytest.fixture(scope="module")
def real() -> Dataset:
    start = time.process_time()
    loaded = load_dataset(REAL)
    assert time.process_time() - start < LOAD_LIMIT_S
    return loaded


def test_fields_are_sensible(real: Dataset) -> None:
    texts = real.catalogue.text_fields
    assert texts[:4] == ("title", "genres", "director", "actors")
    assert "plot_long" in texts
    assert not {"imdb_id", "tmdb_id", "image_source", "plot_short"} & set(texts)
    kinds = {f.name: (f.kind, f.slots) for f in real.catalogue.attribute_fields}
    assert kinds == {"genres": ("categorical", 3), "year": ("numeric", 1)}


def test_rows_and_splits(real: Dataset) -> None:
    assert len(real.catalogue) == 3_883
    assert len(real.interactions) == 1_556_295
    assert int(real.interactions.requests.max()) + 1 == 518_765
    assert np.bincount(real.interactions.splits).tolist() == [1_389_012, 37_584, 129_699]


def test_items_and_posters(real: Dataset) -> None:
    toys = check_item(real.catalogue.item(real.catalogue.row_of["1"]))
    assert toys.text["title"] == "Toy Story (1995)"
    assert toys.attributes["year"] == 1995.0
    assert attribute_slots(toys.attributes, real.catalogue.attribute_fields).all()
    assert toys.image is not None
    with Image.open(io.BytesIO(toys.image)) as poster:
        assert poster.width == 160
    with_poster = sum(real.catalogue.pictures.read(row) is not None for row in range(len(real.catalogue)))
    assert with_poster == 3_284


def test_new_items_are_drawn_and_samples_hold_none_before_test(real: Dataset) -> None:
    new = new_items(real)
    assert new.sum() == round(0.15 * 3_687)
    samples = build_samples(real, new, 64)
    early = samples.candidates[samples.splits < 2]
    assert not np.concatenate([[False], new])[early].any()
    assert samples.candidates.shape[1] == 3
