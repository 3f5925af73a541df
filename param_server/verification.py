"""A table against its source: every difference between what is stored and what should be.

Each row of the source is asked for. A row that the server holds with a newer sequence is no difference: it
was pushed since. Rows that the server alone holds are found by scanning it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.codec import HEADER_BYTES, TOMBSTONE, stored_bytes
from contracts.errors import shown
from contracts.manifest import IdTable
from param_server import keys
from param_server.connection import redis_errors
from param_server.hget import hget
from param_server.record_file import RecordFiles, batches
from param_server.scan import scan
from param_server.server import Server
from param_server.store import Store
from param_server.table_load import read_id_table

MAX_EXAMPLES = 20  # per kind of difference
_ROWS = 4_096

Progress = Callable[[int, int], None]  # rows done, in all
Ids = npt.NDArray[np.uint64]


def _silent(done: int, total: int) -> None:
    """A Progress that shows nothing."""


@dataclass
class Verification:
    """What was found. missing: rows that the table lacks; older: with an older sequence than the source's;
    different: of an equal sequence and other bytes; extra: rows that the source lacks, not newer than all of
    it; newer: written since (no difference). examples: some ids by kind."""

    name: str
    checked: int = 0
    scanned: int = 0
    missing: int = 0
    older: int = 0
    different: int = 0
    extra: int = 0
    newer: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        return not (self.missing or self.older or self.different or self.extra)

    def add(self, kind: str, ids: Sequence[str]) -> None:
        """Count rows of a kind and keep some."""
        setattr(self, kind, getattr(self, kind) + len(ids))
        if ids:
            kept = self.examples.setdefault(kind, [])
            kept += [shown(item_id) for item_id in ids[: MAX_EXAMPLES - len(kept)]]


@dataclass(frozen=True)
class _Rows:
    """K rows of a source: ids, what is stored of them, their sequences (None: of rows that never change)."""

    ids: list[str]
    values: list[bytes]
    sequences: Ids | None


async def verify_space(
    redis: Server, path: Path, *, sample: int | None = None, seed: int = 0, progress: Progress = _silent
) -> Verification:
    """A space against a file of records, or a directory of them (an offline table's, whole or in part).

    sample: about so many rows of the source and as many of the server, None = all. Where the source holds
    several records of an item the newest counts. Raises NotFound (no such space), SpaceMismatch, Unavailable,
    InvalidInput.
    """
    files = await asyncio.to_thread(RecordFiles.open, path)
    await Store(redis).space(files.space.id)

    def rows() -> Iterator[_Rows]:
        for batch in files.batches(0, _ROWS):
            records = batch.window.records
            sequences = records["sequence"].astype(np.uint64)
            yield _Rows(batch.window.item_ids, stored_bytes(records), sequences)

    family = keys.records(files.space.id, files.space.buckets)
    run = _Run(redis, family, Verification(f"space {files.space.id}"), files.rows, sample, seed)
    return await run.all(rows(), progress)


async def verify_id_table(
    redis: Server,
    path: Path,
    table: IdTable,
    *,
    sample: int | None = None,
    seed: int = 0,
    progress: Progress = _silent,
) -> Verification:
    """An ID table against a file of its rows; as `verify_space`."""
    source = await asyncio.to_thread(read_id_table, path, table.name)

    def rows() -> Iterator[_Rows]:
        for _, part in batches(path, ["item_id", "row"], 0, _ROWS):
            yield _Rows(part["item_id"].to_pylist(), part["row"].to_pylist(), None)

    family = keys.id_rows(table.name, table.rows)
    run = _Run(redis, family, Verification(f"ID table {table.name}"), source.rows, sample, seed)
    return await run.all(rows(), progress)


class _Run:
    """One verification: the source's rows first, then the server's."""

    def __init__(
        self,
        redis: Server,
        family: keys.Family,
        report: Verification,
        rows: int,
        sample: int | None,
        seed: int,
    ) -> None:
        self._redis, self._family, self._report, self._rows = redis, family, report, rows
        self._share = 1.0 if sample is None else min(1.0, sample / max(1, rows))
        self._random = np.random.default_rng(seed)
        self._known: list[Ids] = []
        self._newest = 0  # sequence of the source

    async def all(self, source: Iterator[_Rows], progress: Progress) -> Verification:
        done = 0
        while (rows := await asyncio.to_thread(next, source, None)) is not None:
            self._known.append(_digests([item_id.encode() for item_id in rows.ids]))
            if rows.sequences is not None and len(rows.sequences):
                self._newest = max(self._newest, int(rows.sequences.max()))
            places = np.flatnonzero(self._random.random(len(rows.ids)) < self._share).tolist()
            if places:
                await self._compare(rows, places)
            done += len(rows.ids)
            progress(done, 2 * self._rows)
        await self._extra(lambda part: progress(self._rows + round(part * self._rows), 2 * self._rows))
        return self._report

    async def _compare(self, rows: _Rows, places: list[int]) -> None:
        ids = [rows.ids[i] for i in places]
        async with redis_errors("verify a table"):
            replies = await hget(self._redis, [self._family], keys.id_bytes(ids))
        kinds: dict[str, list[str]] = {"missing": [], "older": [], "newer": [], "different": []}
        stored = np.zeros(len(ids), np.uint64)
        if rows.sequences is not None:
            stored = np.array([_sequence(reply) for reply in replies], np.uint64)
        for item_id, place, reply, found in zip(ids, places, replies, stored.tolist(), strict=True):
            expected = 0 if rows.sequences is None else int(rows.sequences[place])
            if reply is None:
                kinds["missing"].append(item_id)
            elif found != expected:
                kinds["older" if found < expected else "newer"].append(item_id)
            elif reply != rows.values[place]:
                kinds["different"].append(item_id)
        self._report.checked += len(ids)
        for kind, named in kinds.items():
            self._report.add(kind, named)

    async def _extra(self, progress: Callable[[float], None]) -> None:
        known = np.unique(np.concatenate(self._known)) if self._known else np.zeros(0, np.uint64)
        self._known = []
        count = max(1, round(self._share * self._family.buckets))
        numbers = np.sort(self._random.permutation(self._family.buckets)[:count])
        async with aclosing(scan(self._redis, self._family, numbers)) as parts:
            async for part in parts:
                digests = _digests(part.ids)
                places = np.minimum(np.searchsorted(known, digests), max(0, len(known) - 1))
                strangers = np.flatnonzero(known[places] != digests if len(known) else digests >= 0).tolist()
                for i in strangers:
                    value, name = part.values[i], part.ids[i].decode(errors="replace")
                    if self._newest and len(value) >= HEADER_BYTES and value[2] & TOMBSTONE:
                        continue  # deleted, and the source does not know it: it agrees
                    self._report.add("newer" if _sequence(value) > self._newest > 0 else "extra", [name])
                self._report.scanned += len(part.ids)
                progress(part.buckets / len(numbers))


def _sequence(value: bytes | None) -> int:
    return 0 if value is None or len(value) < HEADER_BYTES else int.from_bytes(value[4:12], "little")


def _digests(ids: Sequence[bytes]) -> Ids:
    """8 bytes of each id's blake2b -> (K,) uint64."""
    joined = b"".join([hashlib.blake2b(item_id, digest_size=8).digest() for item_id in ids])
    return np.frombuffer(joined, "<u8").astype(np.uint64)
