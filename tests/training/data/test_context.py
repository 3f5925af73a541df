"""What users and requests say: read as serving reads it, of the request, and never the label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InvalidInput
from contracts.features import context_columns
from contracts.schema import Encoding, FeatureSchema
from contracts.space import Modality, Space
from tests.training.data.tables import Columns, log_columns, write
from training.batches import make_batch
from training.data.dataset import Dataset, load_dataset
from training.data.interactions import TRAIN
from training.data.samples import Samples, build_samples
from training.schema_fit import fit_schema

ROWS, USERS = 240, 12
SPACE = Space("0" * 64, (Modality("text", 4),))


def log() -> Columns:
    """Requests of two rows; a device and an hour of each, some absent."""
    columns = log_columns(ROWS)
    columns["user_id"] = [f"u{k // 2 % USERS}" for k in range(ROWS)]
    columns["request_id"] = [k // 2 for k in range(ROWS)]
    columns["label"] = [(k + k // 8) % 2 for k in range(ROWS)]
    columns["device"] = [
        None if k // 2 % 7 == 0 else ("phone", "tablet", "tv")[k // 2 % 3] for k in range(ROWS)
    ]
    columns["hour"] = [None if k // 2 % 11 == 0 else k // 2 % 24 for k in range(ROWS)]
    return columns


def people() -> Columns:
    """Two of the log's users are missing, one stranger is there."""
    ids = [f"u{k}" for k in range(2, USERS)] + ["stranger"]
    return {
        "user_id": ids,
        "tags": pa.array([["a", "b"] if k % 2 else ["c"] for k in range(len(ids))]),
        "spent": [10.0 ** (k % 4) for k in range(len(ids))],
        "member": [k % 3 == 0 for k in range(len(ids))],
        "name": [f"person {k}" for k in range(len(ids))],
        "joined_at": list(range(len(ids))),
        "portrait": pa.array([b"x"] * len(ids)),
    }


def load(directory: Path, users: Columns | None = None, **named: Any) -> Dataset:
    write(directory, log=log())
    pq.write_table(pa.table(users or people()), directory / "users.parquet")
    return load_dataset(directory, **named)


def read(data: Dataset, **options: Any) -> tuple[Samples, FeatureSchema]:
    samples = build_samples(data, np.zeros(len(data.catalogue), bool), 8)
    records = np.zeros(3, dtype=SPACE.dtype)
    schema = fit_schema(samples, records, SPACE, history_length=8, id_dim=4, **options)
    return samples.read_by(schema), schema


def test_columns_are_inferred(tmp_path: Path) -> None:
    data = load(tmp_path)
    assert data.users is not None
    assert data.interactions.context is not None
    kinds = {f.name: (f.kind, f.slots) for f in data.users.fields}
    assert kinds == {"tags": ("categorical", 2), "spent": ("numeric", 1), "member": ("numeric", 1)}
    assert [(f.name, f.kind) for f in data.interactions.context.fields] == [
        ("device", "categorical"),
        ("hour", "numeric"),
    ]
    assert data.report["users_without_columns"] == 2
    assert data.users.values(data.interactions.user_ids.index("u0")) == {}
    assert data.users.values(data.interactions.user_ids.index("u3")) == {
        "tags": "a|b",
        "spent": 10.0,
        "member": 0.0,
    }


def test_training_reads_what_serving_reads(tmp_path: Path) -> None:
    data = load(tmp_path, encodings={"hour": "bins", "device": "hash", "spent": "log"})
    samples, schema = read(data)
    assert {f.field.name: f.encoding for f in schema.request_columns} == {
        "tags": "vocabulary",
        "spent": "log",
        "member": "standard",
        "device": "hash",
        "hour": "bins",
    }
    chosen = np.random.default_rng(0).permutation(len(samples))[:50]
    requests = make_batch(samples, chosen, 8).requests
    assert data.users is not None
    assert data.interactions.context is not None
    rows, values = context_columns(
        [data.users.values(u) for u in samples.users[chosen].tolist()],
        [data.interactions.context.values(r) for r in samples.requests[chosen].tolist()],
        schema,
    )
    assert requests.context is not None
    assert requests.context_values is not None
    assert np.array_equal(requests.context.numpy(), rows)
    assert np.array_equal(requests.context_values.numpy(), values)
    assert len(np.unique(rows)) > 20
    assert (rows == 0).any()
    assert requests.gaps is None
    assert requests.query_codes is None


def test_values_come_from_the_rows_of_the_request(tmp_path: Path) -> None:
    data = load(tmp_path)
    context, columns = data.interactions.context, log()
    assert context is not None
    for request in range(ROWS // 2):
        wanted = {"device": columns["device"][2 * request], "hour": columns["hour"][2 * request]}
        assert context.values(request) == {n: v for n, v in wanted.items() if v is not None}


def test_encodings_are_fitted_on_the_train_split_alone(tmp_path: Path) -> None:
    data = load(tmp_path)
    _, schema = read(data)
    altered = log()
    late = range(int(0.8 * ROWS), ROWS)
    altered["device"] = [f"new {k // 2 % 2}" if k in late else d for k, d in enumerate(altered["device"])]
    altered["hour"] = [9_000 + k // 2 if k in late else h for k, h in enumerate(altered["hour"])]
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", log=altered)
    pq.write_table(pa.table(people()), tmp_path / "other" / "users.parquet")
    other = load_dataset(tmp_path / "other")
    assert data.interactions.splits[late[0]] != TRAIN
    assert read(other)[1].to_json() == schema.to_json()
    late_samples, _ = read(other)
    rows = make_batch(late_samples, np.array([len(late_samples) - 1]), 8).context
    assert rows is not None
    device = schema.user[0].columns + schema.user[1].columns + schema.user[2].columns
    unknown = 1 + sum(f.rows for f in schema.user)
    assert rows[0, device] == unknown


def test_columns_can_be_named_and_left_out(tmp_path: Path) -> None:
    data = load(tmp_path, user_columns=("name",), context_columns=())
    assert data.users is not None
    assert [f.name for f in data.users.fields] == ["name"]
    assert data.interactions.context is None
    encodings: dict[str, Encoding] = {"hour": "vocabulary"}
    data = load(tmp_path, user_columns=(), encodings=encodings)
    assert data.users is None
    assert data.interactions.context is not None
    hour = data.interactions.context.fields[1]
    assert (hour.name, hour.kind) == ("hour", "categorical")
    samples, schema = read(data)
    wanted = context_columns([{}], [{"device": "tv", "hour": 5}], schema)[0]
    assert schema.context[1].encoding == "vocabulary"
    assert wanted[0, 1] > 2 + len(schema.context[0].tokens)  # an hour that the vocabulary has
    assert len(samples) == ROWS // 2


@pytest.mark.parametrize(
    ("named", "field", "reason"),
    [
        ({"context_columns": ["hours"]}, "interactions.parquet: column 'hours'", "is missing"),
        ({"context_columns": ["label"]}, "context_columns", "has a meaning of its own"),
        ({"user_columns": ["user_id"]}, "user_columns", "has a meaning of its own"),
        ({"user_columns": ["portrait"]}, "users.parquet: column 'portrait'", "must be strings, lists"),
        ({"encodings": {"device": "log"}}, "interactions.parquet: column 'device'", "must be numbers"),
        ({"encodings": {"member": "hash"}}, "users.parquet: column 'member'", "must be strings or numbers"),
    ],
)
def test_names_that_cannot_be_used(tmp_path: Path, named: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as error:
        load(tmp_path, **named)
    assert error.value.field == field
    assert error.value.reason.startswith(reason)


def test_rows_of_one_request_have_to_agree(tmp_path: Path) -> None:
    for name, other in (("device", "fridge"), ("hour", 23.5), ("device", None)):
        columns = log()
        columns[name][5] = other
        with pytest.raises(InvalidInput) as error:
            load_dataset(write(tmp_path, log=columns))
        assert error.value.field == f"interactions.parquet: column '{name}', row 5"
        assert error.value.reason.startswith("differs from other rows of its request")


@pytest.mark.parametrize("rating", [[1, 5], [1.25, 4.5], ["bad", "good"]])
def test_a_column_written_after_the_label_is_refused(tmp_path: Path, rating: list[Any]) -> None:
    columns = log_columns(ROWS) | {"request_id": list(range(ROWS))}
    columns["rating"] = [rating[label] for label in columns["label"]]
    with pytest.raises(InvalidInput) as error:
        load_dataset(write(tmp_path, log=columns))
    assert error.value.field == "interactions.parquet: column 'rating'"
    assert "gives the label of every train row away" in error.value.reason
    columns["rating"][:12] = [rating[1 - label] for label in columns["label"][:12]]  # some are wrong
    context = load_dataset(write(tmp_path, log=columns)).interactions.context
    assert context is not None
    assert load_dataset(tmp_path, context_columns=()).interactions.context is None


def test_a_number_that_parts_the_labels_is_refused(tmp_path: Path) -> None:
    columns = log_columns(ROWS) | {"request_id": list(range(ROWS))}
    columns["dwell"] = [100.0 * label + k / ROWS for k, label in enumerate(columns["label"])]
    with pytest.raises(InvalidInput, match=r"column 'dwell': gives the label"):
        load_dataset(write(tmp_path, log=columns))


@pytest.mark.parametrize(
    ("users", "field"),
    [
        ({"user_id": ["u1", "u2", "u1"], "age": [1, 2, 3]}, "users.parquet: column 'user_id', row 2"),
        ({"user_id": ["u1", None], "age": [1, 2]}, "users.parquet: column 'user_id', row 1"),
        ({"user_id": ["u1", "u2"], "age": [1.0, 1e39]}, "users.parquet: column 'age', row 1"),
        ({"age": [1, 2]}, "users.parquet: column 'user_id'"),
    ],
)
def test_broken_users_name_the_cell(tmp_path: Path, users: Columns, field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        load(tmp_path, users)
    assert error.value.field == field


def test_a_schema_that_asks_for_more_than_there_is_is_refused(tmp_path: Path) -> None:
    _, schema = read(load(tmp_path))
    bare = load_dataset(tmp_path, user_columns=(), context_columns=())
    samples = build_samples(bare, np.zeros(6, bool), 8)
    with pytest.raises(InvalidInput, match=r"schema\.user: the data has no such columns"):
        samples.read_by(schema)
    fewer = build_samples(load_dataset(tmp_path, context_columns=["hour"]), np.zeros(6, bool), 8)
    with pytest.raises(InvalidInput, match=r"schema\.context\.device"):
        fewer.read_by(schema)
