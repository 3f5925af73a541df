"""A world's rows as the users of a server without a scorer would lay them out: one string per item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import redis

from cli.serve_world import ServeWorld
from contracts.codec import Rows
from contracts.errors import InvalidInput

PREFIX = "peer:"
_OF_RECORD = ("version", "flags", "inv_norm", "codes")
_OF_ID_ROW = ("version", "evidence", "scale", "codes")
_AT_ONCE = 1_000


def peer_rows(world: ServeWorld) -> Rows:
    """(I,) rows: a record's bytes and behind them its ID row's, zeros where there is none.

    Fields as in `loadtests.peers.rows`. Raises InvalidInput for a ranker that reads columns: peers have no
    feature assembly.
    """
    schema = world.spec.schema
    if schema.items or schema.request_columns or schema.query or schema.time_gaps:
        raise InvalidInput("schema", [f.field.name for f in schema.items], "must read content and ids alone")
    record, id_row = world.records.dtype, world.id_rows.dtype
    behind = record.itemsize
    rows = np.zeros(len(world.records), _row_dtype(record, id_row))
    whole = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
    whole[:, :behind] = np.frombuffer(world.records.tobytes(), np.uint8).reshape(len(rows), behind)
    whole[:, behind:] = np.frombuffer(world.id_rows.tobytes(), np.uint8).reshape(len(rows), id_row.itemsize)
    return rows


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


def write_rows(world: ServeWorld, rows: Rows, file: Path) -> None:
    """The .npz of `loadtests.peers.rows`."""
    np.savez(file, ids=np.array(world.item_ids), rows=rows)


def load_rows(world: ServeWorld, rows: Rows, redis_url: str) -> None:
    """One string per item under PREFIX + id."""
    with redis.Redis.from_url(redis_url) as client:
        for at in range(0, len(rows), _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            keys = [PREFIX + item_id for item_id in world.item_ids[part]]
            client.mset({key: row.tobytes() for key, row in zip(keys, rows[part], strict=True)})
