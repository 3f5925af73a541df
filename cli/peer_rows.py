"""Rows as the users of a server without a scorer would lay them out: one string per item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import redis

from contracts.codec import Rows
from contracts.errors import InvalidInput
from contracts.schema import FeatureSchema

PREFIX = "peer:"
_OF_RECORD = ("version", "flags", "inv_norm", "codes")
_OF_ID_ROW = ("version", "evidence", "scale", "codes")
_AT_ONCE = 1_000


def peer_rows(records: Rows, id_rows: Rows) -> Rows:
    """(I,) rows: a record's bytes and behind them its ID row's; fields as in `loadtests.peers.rows`.

    records: (I,) int8 records; id_rows: (I,) int8 ID rows, zeros where there is none.
    """
    rows = np.zeros(len(records), _row_dtype(records.dtype, id_rows.dtype))
    whole = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
    behind = records.dtype.itemsize
    whole[:, :behind] = np.frombuffer(records.tobytes(), np.uint8).reshape(len(rows), behind)
    whole[:, behind:] = np.frombuffer(id_rows.tobytes(), np.uint8).reshape(len(rows), id_rows.dtype.itemsize)
    return rows


def check_plain(schema: FeatureSchema) -> None:
    """Raises InvalidInput for a ranker that reads columns, times or queries: peers assemble none of them."""
    columns = [f.field.name for f in (*schema.items, *schema.request_columns)]
    if columns or schema.query or schema.time_gaps:
        raise InvalidInput("schema", columns, "must read content and ids alone")


def _row_dtype(record: np.dtype[np.void], id_row: np.dtype[np.void]) -> np.dtype[np.void]:
    names, formats, offsets = [], [], []
    for prefix, fields, dtype, at in (
        ("", _OF_RECORD, record, 0),
        ("id_", _OF_ID_ROW, id_row, record.itemsize),
    ):
        assert dtype.fields is not None
        for name in fields:
            names.append(prefix + name)
            formats.append(dtype.fields[name][0])
            offsets.append(at + dtype.fields[name][1])
    size = record.itemsize + id_row.itemsize
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def write_rows(item_ids: Sequence[str], rows: Rows, file: Path) -> None:
    """The .npz of `loadtests.peers.rows`."""
    np.savez(file, ids=np.array(item_ids), rows=rows)


def load_rows(item_ids: Sequence[str], rows: Rows, redis_url: str) -> None:
    """One string per item under PREFIX + id."""
    with redis.Redis.from_url(redis_url) as client:
        for at in range(0, len(rows), _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            keys = [PREFIX + item_id for item_id in item_ids[part]]
            client.mset({key: row.tobytes() for key, row in zip(keys, rows[part], strict=True)})
