"""Traffic has the shapes that it promises."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import InvalidInput
from contracts.request import check_request
from loadtests.shapes import Traffic, read_item_ids


def test_requests_are_valid_long_tailed_and_skewed() -> None:
    traffic = Traffic([f"i{n}" for n in range(1_000)], seed=3)
    requests = [check_request(traffic.request()) for _ in range(1_000)]
    histories = np.array([len(r.behaviours) for r in requests])
    counts = np.array([len(r.candidates) for r in requests])
    assert histories.min() == 0
    assert histories.max() == 64
    assert np.median(histories) < 20 < np.mean(np.sort(histories)[-200:])
    assert counts.min() >= 20
    assert counts.max() <= 200
    assert np.quantile(counts, 0.9) > 120
    popularity = Counter(i for r in requests for i in r.candidates)
    top = sum(count for _, count in popularity.most_common(100))
    assert 0.3 < top / popularity.total() < 0.7  # a tenth of the items; 0.1 without skew
    assert popularity.most_common(1)[0][0] == "i0"


def test_traffic_repeats_with_its_seed() -> None:
    ids = ["a", "b", "c"]
    first, again, other = (Traffic(ids, seed).request() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"item_ids": []}', '{"item_ids": "abc"}', '{"item_ids": ["a", 7]}', "{}"]
)
def test_a_wrong_ids_file_names_what_is_wrong(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ids.json"
    path.write_text(content)
    with pytest.raises(InvalidInput) as caught:
        read_item_ids(path)
    assert caught.value.field in ("REPCENTER_LOAD_IDS", "item_ids", "item_ids[1]")


def test_ids_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ids.json"
    path.write_text(json.dumps({"item_ids": ["ü", "b"]}))
    assert read_item_ids(path) == ["ü", "b"]
    with pytest.raises(InvalidInput, match="absent"):
        read_item_ids(tmp_path / "absent")
