"""Bulk import of behaviours: the liked rows of an interactions.parquet (docs/data.md), straight to the shelf.

Grouped by user in numpy; Python touches a row once, for its digest. A row is known by item and time, as an
event without an id is, so an import again, or beside live events of the same actions, doubles nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InvalidInput
from contracts.events import MAX_AHEAD_MS, MAX_EVENTS, Appended
from contracts.items import MAX_ID_BYTES
from param_server.behaviour_rows import event_digest, pack_columns
from param_server.behaviours import Behaviours

ROWS_AT_ONCE = 1_000_000
_NEEDED = ("user_id", "item_id", "timestamp")
_FOOTER_BYTES = 1 << 16


@dataclass(frozen=True)
class Imported:
    """rows: of the file; resumed: those that an earlier run had done; found: what became of the liked rows of
    this run, without those that newer ones of their user in the same batch leave no place for."""

    rows: int
    resumed: int
    found: Appended


@dataclass(frozen=True)
class _Ids:
    """R ids: codes (R,) into distinct UTF-8 strings."""

    codes: npt.NDArray[np.int64]
    names: list[bytes]


async def import_interactions(
    behaviours: Behaviours,
    path: Path,
    ledger: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Imported:
    """Append the newest liked rows of each user, as many as are kept of one.

    ledger: a file that says how many rows are done, so that a run after an interrupted one goes on from
    there; removed at the end. Without a column `label` every row counts. Raises InvalidInput (file, column,
    row), and as Behaviours.append_packed() does.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidInput("interactions", str(path), f"cannot be read: {error}") from error
    columns = [name for name in (*_NEEDED, "label") if name in file.schema_arrow.names]
    if missing := [name for name in _NEEDED if name not in columns]:
        raise InvalidInput(f"{path.name}: columns", file.schema_arrow.names, f"lack {missing[0]}")
    identity = f"{_identity(path)} {rows_at_once}"
    total, resumed = file.metadata.num_rows, _done(ledger, identity)
    done, counts = 0, dict.fromkeys(asdict(Appended()), 0)
    for batch in file.iter_batches(rows_at_once, columns=columns):
        if done + len(batch) > resumed:
            for users, packed in _packed(path.name, batch, done, behaviours.most):
                for name, count in asdict(await behaviours.append_packed(users, packed)).items():
                    counts[name] += count
            _note(ledger, identity, done + len(batch))
        done += len(batch)
        progress(done, total)
    ledger.unlink(missing_ok=True)
    return Imported(total, min(resumed, total), Appended(**counts))


def _packed(
    file: str, batch: pa.RecordBatch, first_row: int, most: int
) -> Iterator[tuple[list[str], list[bytes]]]:
    """The liked rows of a batch as calls of append_packed(), of about MAX_EVENTS events each."""
    times = _times(file, batch.column("timestamp"), first_row)
    users, items = (_ids(file, name, batch.column(name), first_row) for name in ("user_id", "item_id"))
    liked = np.flatnonzero(_liked(file, batch, first_row))
    order = liked[np.lexsort((times[liked], users.codes[liked]))]
    owners = users.codes[order]
    ends = np.flatnonzero(np.diff(owners, append=-1)) + 1  # of each user's rows
    after = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(order))  # rows of the user from here on
    order = order[after <= most]
    owners, times = users.codes[order], times[order]
    ends = np.flatnonzero(np.diff(owners, append=-1)) + 1
    names = [items.names[code] for code in items.codes[order].tolist()]
    sizes = np.fromiter(map(len, names), np.int64, len(names))
    digests = b"".join(
        event_digest(None, name.decode(), at) for name, at in zip(names, times.tolist(), strict=True)
    )
    when, lengths, ids = (
        times.astype("<u8").tobytes(),
        (sizes - 1).astype(np.uint8).tobytes(),
        b"".join(names),
    )
    cuts = [0, *ends.tolist()]
    id_cuts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])[cuts].tolist()
    who: list[str] = []
    packed: list[bytes] = []
    events = 0
    for n, owner in enumerate(owners[ends - 1].tolist()):
        a, b = cuts[n], cuts[n + 1]
        columns = (
            when[8 * a : 8 * b],
            digests[8 * a : 8 * b],
            lengths[a:b],
            ids[id_cuts[n] : id_cuts[n + 1]],
        )
        who.append(users.names[owner].decode())
        packed.append(pack_columns(*columns))
        events += b - a
        if events >= MAX_EVENTS:
            yield who, packed
            who, packed, events = [], [], 0
    if who:
        yield who, packed


def _times(file: str, column: Any, first_row: int) -> npt.NDArray[np.int64]:
    """Seconds as numbers, or parquet timestamps -> milliseconds."""
    _refuse(file, "timestamp", np.asarray(column.is_null()), first_row, "is null")
    if pa.types.is_timestamp(column.type):
        times = np.asarray(column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()))
    elif pa.types.is_integer(column.type):
        seconds = np.asarray(column).astype(np.float64)
        times = np.where(np.abs(seconds) < 2**43, np.asarray(column).astype(np.int64), 2**43) * 1_000
    elif pa.types.is_floating(column.type):
        seconds = np.asarray(column).astype(np.float64)
        fit = np.isfinite(seconds) & (np.abs(seconds) < 2**43)
        times = np.where(fit, np.floor(np.where(fit, seconds, 0) * 1_000), 2**53).astype(np.int64)
    else:
        raise InvalidInput(f"{file}: timestamp", str(column.type), "must be seconds or a timestamp")
    latest = time.time_ns() // 1_000_000 + MAX_AHEAD_MS
    _refuse(
        file, "timestamp", (times < 0) | (times > latest), first_row, "must be seconds, not in the future"
    )
    return times


def _ids(file: str, name: str, column: Any, first_row: int) -> _Ids:
    """Strings, or integers as decimal strings."""
    _refuse(file, name, np.asarray(column.is_null()), first_row, "is null")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InvalidInput(f"{file}: {name}", str(kind), "must be integers or strings")
    encoded = pc.dictionary_encode(column.cast(kind).cast(pa.large_string()))
    names = [text.encode() for text in encoded.dictionary.to_pylist()]
    codes = np.asarray(encoded.indices).astype(np.int64)
    usable = np.array([1 <= len(text) <= MAX_ID_BYTES for text in names], dtype=bool)
    if not usable.all():
        _refuse(file, name, ~usable[codes], first_row, f"must be 1 to {MAX_ID_BYTES} bytes of UTF-8")
    return _Ids(codes, names)


def _liked(file: str, batch: pa.RecordBatch, first_row: int) -> npt.NDArray[np.bool_]:
    if "label" not in batch.schema.names:
        return np.ones(len(batch), dtype=bool)
    column = batch.column("label")
    _refuse(file, "label", np.asarray(column.is_null()), first_row, "is null")
    if not (
        pa.types.is_boolean(column.type)
        or pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
    ):
        raise InvalidInput(f"{file}: label", str(column.type), "must be 0 or 1")
    labels = np.asarray(column.cast(pa.float64()) if not pa.types.is_boolean(column.type) else column)
    _refuse(file, "label", (labels != 0) & (labels != 1), first_row, "must be 0 or 1")
    liked: npt.NDArray[np.bool_] = labels == 1
    return liked


def _refuse(file: str, column: str, bad: npt.NDArray[np.bool_], first_row: int, reason: str) -> None:
    if bad.any():
        row = first_row + int(np.flatnonzero(bad)[0])
        raise InvalidInput(f"{file}: {column}", f"row {row}", reason)


def _identity(path: Path) -> str:
    """The file by its size and its end, where Parquet says what it holds."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _FOOTER_BYTES))
        return f"{size} {hashlib.sha256(stream.read()).hexdigest()}"


def _done(ledger: Path, identity: str) -> int:
    try:
        document = json.loads(ledger.read_text())
    except (OSError, ValueError):
        return 0
    return int(document["rows"]) if isinstance(document, dict) and document.get("file") == identity else 0


def _note(ledger: Path, identity: str, rows: int) -> None:
    ledger.parent.mkdir(parents=True, exist_ok=True)
    fresh = ledger.with_suffix(".new")
    fresh.write_text(json.dumps({"file": identity, "rows": rows}))
    os.replace(fresh, ledger)
