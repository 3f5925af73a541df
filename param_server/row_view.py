"""Stored rows as a person reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from contracts.codec import CODEC_NAMES, CONTENT_FP16, HEADER_BYTES, Rows, decode_id_rows, id_row_dtype
from contracts.errors import NotFound
from contracts.manifest import IdTable
from contracts.space import Space
from param_server import keys
from param_server.connection import redis_errors
from param_server.hget import hget
from param_server.id_tables import id_table, id_tables
from param_server.rows import join_id_rows, join_records, join_sequences
from param_server.server import Server
from param_server.store import Store

SHOWN = 8  # codes of a vector


async def view_item(
    redis: Server, item_id: str, space: str | None = None, table: str | None = None
) -> list[dict[str, Any]]:
    """What every space and ID table holds of an item, decoded (JSON values).

    space: the beginning of its id; table: a name; either: that one only. Raises NotFound where
    none holds it, UnknownVersion, BrokenRow, Unavailable.
    """
    rows: list[dict[str, Any] | None] = []
    if table is None:
        spaces = [s for s in await Store(redis).spaces() if s.id.startswith(space or "")]
        rows += [await _record(redis, found, item_id) for found in spaces]
    if space is None:
        tables = (
            [await id_table(redis, table)] if table else [state.table for state in await id_tables(redis)]
        )
        rows += [await _id_row(redis, one, item_id) for one in tables]
    there = [row for row in rows if row is not None]
    if not there:
        raise NotFound("row of item", item_id)
    return there


async def _record(redis: Server, space: Space, item_id: str) -> dict[str, Any] | None:
    what = f"space {space.id}"
    async with redis_errors(f"read {what}"):
        replies = await hget(redis, [keys.records(space.id, space.buckets)], keys.id_bytes([item_id]))
    records, found = join_records(replies, space.dtype, [item_id], what)
    value = replies[0]
    if value is None:
        return None
    if not found[0]:
        sequence = join_sequences(replies, what, space.codec)[0]
        return {"table": what, "state": "deleted", "sequence": int(sequence), "bytes": HEADER_BYTES}
    return {"table": what, "state": "live", "bytes": len(value), **view_record(space, records[0])}


def view_record(space: Space, record: Rows) -> dict[str, Any]:
    """One live record: header, then by modality what there is of it, then attribute slots."""
    body = record["values"] if space.codec == CONTENT_FP16 else record["codes"]
    modalities: dict[str, Any] = {}
    start = 0
    for m, modality in enumerate(space.modalities):
        inv_norm = float(record["inv_norm"][m])
        modalities[modality.name] = {
            "missing": bool(record["flags"] >> m & 1),
            "flagged": bool(record["guard"] >> m & 1),
            "norm": 0.0 if inv_norm == 0 else 1.0 / inv_norm,
            "first": body[start : start + min(SHOWN, modality.dim)].tolist(),
        }
        start += modality.dim
    attributes: dict[str, Any] = {}
    start = 0
    for f in space.attributes:
        slots = record["attributes"][start : start + f.slots]
        if f.kind == "numeric":
            number = float(slots.view(np.float32)[0])
            attributes[f.name] = None if np.isnan(number) else number
        else:
            attributes[f.name] = [f"{token:08x}" for token in slots.tolist() if token]
        start += f.slots
    return {
        "version": int(record["version"]),
        "codec": CODEC_NAMES[space.codec],
        "sequence": int(record["sequence"]),
        "modalities": modalities,
        "attributes": attributes,
    }


async def _id_row(redis: Server, table: IdTable, item_id: str) -> dict[str, Any] | None:
    what, dtype = f"ID table {table.name}", id_row_dtype(table.codec, table.dim)
    async with redis_errors(f"read {what}"):
        replies = await hget(redis, [keys.id_rows(table.name, table.rows)], keys.id_bytes([item_id]))
    rows, found = join_id_rows(replies, dtype, table.codec, [item_id], what)
    if not found[0]:
        return None
    values = decode_id_rows(rows)[0]
    return {
        "table": what,
        "bytes": dtype.itemsize,
        "version": int(rows["version"][0]),
        "codec": CODEC_NAMES[table.codec],
        "positives": round(float(np.expm1(rows["evidence"][0].astype(np.float64))), 1),
        "norm": float(np.linalg.norm(values)),
        "first": [round(value, 6) for value in values[:SHOWN].tolist()],
    }
