"""Loading a data directory: what is read, and which cell an error names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InvalidInput
from tests.training.data.tables import Columns, items_columns, log_columns, write
from training.data.dataset import load_dataset
from training.data.interactions import TEST, TRAIN, VAL


def changed(columns: Columns, name: str, row: int, value: Any) -> Columns:
    cells = list(columns[name])
    cells[row] = value
    return {**columns, name: cells}


def test_rows_come_in_time_order_and_rows_of_one_second_stay_in_the_files(tmp_path: Path) -> None:
    log = log_columns()
    log["timestamp"] = [1_000 - k // 3 for k in range(60)]
    found = load_dataset(write(tmp_path, log=log)).interactions
    order = np.argsort(log["timestamp"], kind="stable")
    assert found.timestamps.tolist() == [log["timestamp"][k] for k in order]
    assert [found.user_ids[u] for u in found.users] == [log["user_id"][k] for k in order]
    assert [f"i{row}" for row in found.items] == [log["item_id"][k] for k in order]
    assert found.labels.tolist() == [log["label"][k] for k in order]
    assert found.users.dtype == np.int32
    assert found.items.dtype == np.int32
    assert found.timestamps.dtype == found.requests.dtype == np.int64
    assert found.labels.dtype == found.splits.dtype == np.int8


def test_integer_and_string_ids_are_one_and_the_same(tmp_path: Path) -> None:
    items = {"item_id": pa.array([30, 10, 20, 40, 50, 60], pa.uint64()), "title": list("abcdef")}
    log = log_columns()
    log["item_id"] = pa.array([str(10 * (1 + k % 6)) for k in range(60)]).dictionary_encode()
    log["user_id"] = pa.array([7 + k % 2 for k in range(60)], pa.int16())
    found = load_dataset(write(tmp_path, items, log))
    assert found.catalogue.item_ids == ["30", "10", "20", "40", "50", "60"]
    assert found.catalogue.row_of["20"] == 2
    assert found.interactions.items[:3].tolist() == [1, 2, 0]
    assert found.interactions.user_ids == ["7", "8"]


def test_an_item_reads_as_it_would_be_pushed(tmp_path: Path) -> None:
    items = items_columns() | {
        "genres": pa.array([["Drama", "War"], None, ["War"], [], ["Drama"], ["Drama"]]),
        "year": pa.array([1990, None, 1992, 1993, 1994, 1995], pa.int16()),
        "image": pa.array([b"bytes", None, b"", b"x", b"y", b"z"]),
    }
    catalogue = load_dataset(write(tmp_path, items), attribute_fields=["genres", "year"]).catalogue
    assert len(catalogue) == 6
    first, second, third = (catalogue.item(row) for row in range(3))
    assert first.item_id == "i0"
    assert first.text == {"title": "Title 0", "genres": "Drama|War"}
    assert first.attributes == {"genres": "Drama|War", "year": 1990.0}
    assert first.image == b"bytes"
    assert second.text == {"title": "Title 1"}
    assert second.attributes == {}
    assert second.image is None
    assert third.image is None


def test_an_item_whose_picture_is_elsewhere_says_where(tmp_path: Path) -> None:
    urls = ["https://cdn.example.com/0.jpg", "/data/1.jpg", "", None, "https://e.com/4.jpg", None]
    items = items_columns() | {"image_url": urls, "image": pa.array([b"bytes", *[None] * 5], pa.binary())}
    catalogue = load_dataset(write(tmp_path, items)).catalogue
    assert [catalogue.item(row).image_url for row in range(6)] == [
        None,
        "/data/1.jpg",
        None,
        None,
        urls[4],
        None,
    ]
    assert catalogue.item(0).image == b"bytes"
    assert "image_url" not in {*catalogue.text_fields, *(f.name for f in catalogue.attribute_fields)}
    with pytest.raises(InvalidInput, match="image_url"):
        load_dataset(write(tmp_path, items_columns() | {"image_url": list(range(6))}))


def test_splits_by_time_without_a_split_column(tmp_path: Path) -> None:
    log = log_columns(100)
    splits = load_dataset(write(tmp_path, log=log)).interactions.splits
    assert splits.tolist() == [TRAIN] * 80 + [VAL] * 10 + [TEST] * 10


def test_a_cut_never_parts_a_request(tmp_path: Path) -> None:
    log = log_columns(100)
    log["request_id"] = [f"r{k // 7}" for k in range(100)]
    log["user_id"] = [f"u{k // 7 % 2}" for k in range(100)]
    found = load_dataset(write(tmp_path, log=log)).interactions
    for request in range(15):
        assert len(set(found.splits[found.requests == request])) == 1
    assert (np.diff(found.splits) >= 0).all()
    assert found.requests.tolist() == [k // 7 for k in range(100)]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    log = log_columns()
    log["split"] = (["test"] * 4 + ["train"] * 4 + ["val"] * 4) * 5
    splits = load_dataset(write(tmp_path, log=log)).interactions.splits
    assert splits.tolist() == ([TEST] * 4 + [TRAIN] * 4 + [VAL] * 4) * 5


def test_without_request_ids_a_users_second_is_a_request(tmp_path: Path) -> None:
    log = log_columns()
    log["timestamp"] = [k // 4 for k in range(60)]  # u0 u1 u0 u1 each second
    requests = load_dataset(write(tmp_path, log=log)).interactions.requests
    assert requests[:8].tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([1_500 + 1_000 * k for k in range(60)], pa.timestamp("ms")), 1),
        (pa.array([5.75 + k for k in range(60)]), 5),
        (pa.array(range(60), pa.uint32()), 0),
    ],
)
def test_times_are_whole_seconds(tmp_path: Path, times: pa.Array, expected: int) -> None:
    found = load_dataset(write(tmp_path, log=log_columns() | {"timestamp": times})).interactions
    assert found.timestamps[:2].tolist() == [expected, expected + 1]


def test_given_interest_pairs(tmp_path: Path) -> None:
    write(tmp_path)
    pairs = {"query_item_id": ["i3", None], "query_image": [None, b"pixels"], "item_id": ["i1", "i2"]}
    pq.write_table(pa.table(pairs), tmp_path / "interest_pairs.parquet")
    found = load_dataset(tmp_path).interest_pairs
    assert found is not None
    assert found.queries.tolist() == [3, -1]
    assert found.items.tolist() == [1, 2]
    assert found.query_pictures.read(0) is None
    assert found.query_pictures.read(1) == b"pixels"


@pytest.mark.parametrize(
    ("pairs", "field"),
    [
        ({"query_item_id": ["i0", "x"], "item_id": ["i1", "i2"]}, "column 'query_item_id', row 1"),
        ({"query_item_id": ["i0", "i1"], "item_id": ["i1", "x"]}, "column 'item_id', row 1"),
        ({"item_id": ["i1", "i2"]}, "interest_pairs.parquet"),
        ({"query_image": [b"x", None], "item_id": ["i1", "i2"]}, "column 'query_image', row 1"),
        (
            {
                "query_item_id": ["i0", None],
                "query_image": pa.array([None, None], pa.binary()),
                "item_id": ["i1", "i2"],
            },
            "column 'query_item_id', row 1",
        ),
        ({"query_image": ["../x.jpg"], "item_id": ["i1"]}, "column 'query_image', row 0"),
    ],
)
def test_broken_interest_pairs_name_the_cell(tmp_path: Path, pairs: Columns, field: str) -> None:
    write(tmp_path)
    pq.write_table(pa.table(pairs), tmp_path / "interest_pairs.parquet")
    with pytest.raises(InvalidInput) as error:
        load_dataset(tmp_path)
    assert error.value.field.startswith("interest_pairs.parquet")
    assert error.value.field.endswith(field)


@pytest.mark.parametrize(
    ("name", "row", "value", "reason"),
    [
        ("item_id", 4, None, "must not be null"),
        ("item_id", 4, "", "must not be empty"),
        ("item_id", 4, "é" * 129, "exceeds 256 bytes"),
        ("item_id", 4, "i2", "is there twice"),
        ("title", 5, "x" * 20_001, "exceeds 20000 characters"),
    ],
)
def test_broken_items_name_the_cell(tmp_path: Path, name: str, row: int, value: Any, reason: str) -> None:
    write(tmp_path, changed(items_columns(), name, row, value))
    with pytest.raises(InvalidInput) as error:
        load_dataset(tmp_path)
    assert error.value.field == f"items.parquet: column '{name}', row {row}"
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("name", "row", "value", "reason"),
    [
        ("user_id", 7, None, "must not be null"),
        ("user_id", 7, "", "must not be empty"),
        ("user_id", 7, "u" * 257, "exceeds 256 bytes"),
        ("item_id", 59, "i99", "is not in items.parquet"),
        ("item_id", 0, None, "must not be null"),
        ("label", 3, 2, "must be 0 or 1"),
        ("label", 3, float("nan"), "must be 0 or 1"),
        ("label", 3, None, "must not be null"),
        ("timestamp", 9, -1, "must not be negative"),
        ("timestamp", 9, float("nan"), "must be a finite number"),
        ("timestamp", 9, float("inf"), "must be a finite number"),
        ("timestamp", 9, None, "must not be null"),
    ],
)
def test_broken_interactions_name_the_cell(
    tmp_path: Path, name: str, row: int, value: Any, reason: str
) -> None:
    log = log_columns()
    log["timestamp"] = log["timestamp"][::-1]  # rows are named in the file's order, not in time's
    cells = [float(c) for c in log[name]] if isinstance(value, float) else log[name]
    write(tmp_path, log=changed(log | {name: cells}, name, row, value))
    with pytest.raises(InvalidInput) as error:
        load_dataset(tmp_path)
    assert error.value.field == f"interactions.parquet: column '{name}', row {row}"
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("split", "field", "reason"),
    [
        (["train"] * 59 + ["holdout"], "column 'split', row 59", "must be train, val or test"),
        (["train"] * 59 + [None], "column 'split', row 59", "must not be null"),
        ([1] * 60, "column 'split'", "must be strings"),
        (["train"] * 60, "split 'val'", "has no row with label 1"),
        (["train"] * 40 + ["val", "val"] + ["test"] * 18, "split 'val'", "has no row with label 1"),
        (["train"] * 42 + ["val", "val"] + ["test"] * 16, "split 'val'", "has no row with label 0"),
    ],
)
def test_broken_splits(tmp_path: Path, split: list[Any], field: str, reason: str) -> None:
    write(tmp_path, log=log_columns() | {"split": split})
    with pytest.raises(InvalidInput) as error:
        load_dataset(tmp_path)
    assert error.value.field == f"interactions.parquet: {field}"
    assert error.value.reason == reason


def test_a_request_has_one_user_and_one_split(tmp_path: Path) -> None:
    log = log_columns() | {"request_id": [k // 2 for k in range(60)]}
    with pytest.raises(InvalidInput, match=r"column 'user_id', row 1: differs from other rows"):
        load_dataset(write(tmp_path, log=log))
    log["user_id"] = ["u0"] * 60
    log["split"] = ["train"] * 41 + ["val"] * 9 + ["test"] * 10
    with pytest.raises(InvalidInput, match=r"column 'split', row 41: differs from other rows"):
        load_dataset(write(tmp_path, log=log))


@pytest.mark.parametrize(
    ("file", "column", "cells", "wanted"),
    [
        ("items.parquet", "item_id", [0.5] * 6, "integers or strings"),
        ("items.parquet", "title", [1] * 6, "strings"),
        ("items.parquet", "image", [1] * 6, "bytes or relative paths"),
        ("interactions.parquet", "user_id", [True] * 60, "integers or strings"),
        ("interactions.parquet", "timestamp", ["noon"] * 60, "integers, floats or timestamps"),
        ("interactions.parquet", "label", ["yes"] * 60, "numbers"),
    ],
)
def test_a_column_of_the_wrong_type(
    tmp_path: Path, file: str, column: str, cells: list[Any], wanted: str
) -> None:
    items, log = items_columns(), log_columns()
    (items if file == "items.parquet" else log)[column] = cells
    with pytest.raises(InvalidInput) as error:
        load_dataset(write(tmp_path, items, log))
    assert error.value.field == f"{file}: column '{column}'"
    assert error.value.reason == f"must be {wanted}"


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("items.parquet", "item_id"),
        ("items.parquet", "title"),
        ("interactions.parquet", "user_id"),
        ("interactions.parquet", "item_id"),
        ("interactions.parquet", "timestamp"),
        ("interactions.parquet", "label"),
    ],
)
def test_a_column_is_missing(tmp_path: Path, file: str, column: str) -> None:
    items, log = items_columns(), log_columns()
    del (items if file == "items.parquet" else log)[column]
    with pytest.raises(InvalidInput) as error:
        load_dataset(write(tmp_path, items, log))
    assert error.value.field == f"{file}: column '{column}'"
    assert error.value.reason == "is missing"


@pytest.mark.parametrize("file", ["items.parquet", "interactions.parquet"])
def test_a_file_is_missing_empty_or_no_parquet(tmp_path: Path, file: str) -> None:
    path = write(tmp_path) / file
    schema = pq.read_schema(path)
    for content, reason in (
        (None, "no such file"),
        (b"PAR1 but not quite", "is not a readable parquet file"),
    ):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidInput) as error:
            load_dataset(tmp_path)
        assert error.value.field == file
        assert error.value.reason.startswith(reason)
    pq.write_table(schema.empty_table(), path)
    with pytest.raises(InvalidInput, match=f"{file}: has no rows"):
        load_dataset(tmp_path)


def test_unknown_items_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    log = log_columns()
    log["item_id"] = ["nobody knows" if k % 10 == 3 else i for k, i in enumerate(log["item_id"])]
    with pytest.raises(InvalidInput, match=r"column 'item_id', row 3: is not in items\.parquet"):
        load_dataset(write(tmp_path, log=log))
    data = load_dataset(tmp_path, unknown_items="exclude")
    kept = [k for k in range(60) if k % 10 != 3]
    assert data.interactions.timestamps.tolist() == [100 + k for k in kept]
    assert [f"i{row}" for row in data.interactions.items] == [f"i{k % 6}" for k in kept]
    assert (data.report["file_rows"], data.report["rows"]) == (60, 54)
    assert data.report["excluded_unknown_item"] == 6
    assert data.report["splits"]["train"]["rows"] == int((data.interactions.splits == TRAIN).sum())
    with pytest.raises(InvalidInput, match="names no item"):
        load_dataset(write(tmp_path, log=log | {"item_id": ["x"] * 60}), unknown_items="exclude")
    with pytest.raises(InvalidInput, match="unknown_items: must be refuse or exclude"):
        load_dataset(tmp_path, unknown_items="drop")  # type: ignore[arg-type]


def test_the_report_counts_what_was_read(tmp_path: Path) -> None:
    log = log_columns() | {"user_id": [f"u{k % 2}" if k else "dislikes" for k in range(60)]}
    log["timestamp"] = [*range(130, 160), *range(100, 130)]
    report = load_dataset(write(tmp_path, log=log)).report
    assert report == {
        "file_rows": 60,
        "rows": 60,
        "excluded_unknown_item": 0,
        "rows_out_of_time_order": 1,
        "rows_with_imputed_time": 0,
        "requests": 60,
        "users": 3,
        "users_without_positives": 1,
        "splits": {
            name: {"rows": rows, "positives": positives}
            for name, rows, positives in (("train", 48, 24), ("val", 6, 4), ("test", 6, 2))
        },
    }


def test_imputed_times(tmp_path: Path) -> None:
    log = log_columns()
    drawn = [not label and k % 3 == 0 for k, label in enumerate(log["label"])]
    data = load_dataset(write(tmp_path, log=log | {"ts_imputed": drawn}))
    assert data.interactions.imputed is not None
    assert data.interactions.imputed.tolist() == drawn
    assert data.interactions.context is None
    assert data.report["rows_with_imputed_time"] == sum(drawn)
    assert load_dataset(write(tmp_path, log=log | {"ts_imputed": [False] * 60})).interactions.imputed is None
    wrong = [label == 1 and k == 7 for k, label in enumerate(log["label"])]
    with pytest.raises(InvalidInput, match=r"column 'ts_imputed', row 7: must be false where label is 1"):
        load_dataset(write(tmp_path, log=log | {"ts_imputed": wrong}))


def test_a_second_in_two_splits_is_two_requests(tmp_path: Path) -> None:
    log = log_columns() | {"timestamp": [k // 4 for k in range(60)]}
    log["split"] = ["train"] * 42 + ["val"] * 8 + ["test"] * 10
    found = load_dataset(write(tmp_path, log=log)).interactions
    second = found.requests[found.timestamps == 10]
    assert len(set(second.tolist())) == 4


def test_a_list_that_holds_a_null_names_the_cell(tmp_path: Path) -> None:
    genres = pa.array([["Drama"], None, [], ["War", None], ["War"], ["War"]])
    with pytest.raises(InvalidInput) as error:
        load_dataset(write(tmp_path, items_columns() | {"genres": genres}))
    assert error.value.field == "items.parquet: column 'genres', row 3"


def test_text_that_is_not_utf8_names_the_cell(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b"a", b"b", b"c", b"d"])
    broken = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    with pytest.raises(InvalidInput) as error:
        load_dataset(write(tmp_path, items_columns() | {"title": broken}))
    assert error.value.field == "items.parquet: column 'title', row 1"


def test_the_directory_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="data directory: is not a directory"):
        load_dataset(tmp_path / "nowhere")


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    load_dataset(write(tmp_path), progress=lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
