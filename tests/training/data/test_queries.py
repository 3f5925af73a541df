"""Searches: the same codes as serving makes of the same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InvalidInput
from contracts.features import query_rows
from contracts.schema import FeatureSchema
from contracts.space import Modality
from tests.training.data.tables import Columns, log_columns, write
from training.batches import make_batch
from training.data.dataset import load_dataset
from training.data.samples import build_samples

MODALITIES = (Modality("text", 3), Modality("image", 2))
SCHEMA = FeatureSchema(8, 4, query=MODALITIES)
QUERIES: Columns = {
    "query_id": [7, 8, 9],
    "text": pa.array([[0.5, -0.25, 1.0], [1e-3, 2e-3, -3e-3], None], pa.list_(pa.float32())),
    "image": pa.array([[3.0, 4.0], [0.0, 0.0], [-1.0, 0.1]], pa.list_(pa.float64(), 2)),
    "words": ["red", "sofa", "lamp"],
}


def directory(path: Path, queries: Columns = QUERIES, asked: list[Any] | None = None) -> Path:
    log = log_columns()
    log["request_id"] = [k // 4 * 2 + k % 2 for k in range(60)]  # of one user each
    log["query_id"] = asked or [(None, "7", "8", "9")[r % 4] for r in log["request_id"]]
    write(path, log=log)
    pq.write_table(pa.table(queries), path / "queries.parquet")
    return path


def test_training_reads_what_serving_reads(tmp_path: Path) -> None:
    data = load_dataset(directory(tmp_path))
    assert data.interactions.context is None  # a role, no column of the request
    samples = build_samples(data, np.zeros(6, bool), 8).read_by(SCHEMA)
    assert data.queries is not None
    vectors = {
        name: {n: v for n in ("text", "image") if (v := QUERIES[n][row].as_py()) is not None}
        for row, name in enumerate(("7", "8", "9"))
    }
    chosen = np.arange(len(samples))
    asked = [(None, "7", "8", "9")[r % 4] for r in samples.requests.tolist()]
    codes, inv_norm = query_rows([vectors[q] if q else {} for q in asked], SCHEMA)
    requests = make_batch(samples, chosen, 8).requests
    assert requests.query_codes is not None
    assert requests.query_inv_norm is not None
    assert np.array_equal(requests.query_codes.numpy(), codes)
    assert np.array_equal(requests.query_inv_norm.numpy(), inv_norm)
    assert (inv_norm == 0).any()
    assert (inv_norm > 0).any()


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"query_id": [7, 8, 7]}, "queries.parquet: column 'query_id', row 2"),
        ({"text": [[1.0, 2.0, 3.0], [1.0], None]}, "queries.parquet: column 'text', row 1"),
        ({"text": [[1.0, 2.0], [1.0, float("nan")], None]}, "queries.parquet: column 'text', row 1"),
        ({"text": [[1.0, 2.0], [1.0, 1e39], None]}, "queries.parquet: column 'text', row 1"),
        ({"text": ["a", "b", "c"], "image": [1, 2, 3]}, "queries.parquet"),
    ],
)
def test_broken_queries_name_the_cell(tmp_path: Path, changed: Columns, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        load_dataset(directory(tmp_path, QUERIES | changed))
    assert error.value.field == field


def test_a_request_has_one_query_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"column 'query_id', row 2: is not in queries\.parquet"):
        load_dataset(directory(tmp_path, asked=["7", None, "70"] + [None] * 57))
    with pytest.raises(InvalidInput, match=r"column 'query_id', row 2: differs from other rows"):
        load_dataset(directory(tmp_path, asked=["7", None, "8"] + [None] * 57))


def test_the_spaces_modalities_decide(tmp_path: Path) -> None:
    samples = build_samples(load_dataset(directory(tmp_path)), np.zeros(6, bool), 8)
    with pytest.raises(InvalidInput, match=r"column 'image': is not one of the modalities \['text'\]"):
        samples.read_by(FeatureSchema(8, 4, query=MODALITIES[:1]))
    with pytest.raises(InvalidInput, match=r"column 'image': must have 5 numbers a row"):
        samples.read_by(FeatureSchema(8, 4, query=(MODALITIES[0], Modality("image", 5))))
    plain = tmp_path / "plain"
    plain.mkdir()
    write(plain)
    bare = build_samples(load_dataset(plain), np.zeros(6, bool), 8)
    with pytest.raises(InvalidInput, match=r"schema\.query: the data has no queries"):
        bare.read_by(SCHEMA)
