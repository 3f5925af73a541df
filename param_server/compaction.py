"""Small files of an offline table into larger ones, sorted by item and sequence, each record once.

    write the compacted file, which names what it replaces: from here on that does not count -> delete that

Killed anywhere, the table reads the same before and after; the next compaction deletes what was left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.space import Space
from param_server.offline import OfflineRows, OfflineTable
from param_server.offline_files import (
    COMPACTED_KEY,
    Listing,
    OfflineFiles,
    compact_name,
    compacted_metadata,
    is_own,
)
from param_server.record_file import rows_table

DEFAULT_BYTES = 256 << 20

_BY_ITEM = [("item_id", "ascending"), ("sequence", "ascending")]

Progress = Callable[[int, int], None]  # files done, in all


@dataclass
class CompactionReport:
    """files, bytes: before; written: compacted files; replaced: files that they stand for; rows: in them;
    duplicates: records left out that another file held too; outdated: versions before the horizon."""

    space_id: str
    files: int = 0
    bytes: int = 0
    written: int = 0
    replaced: int = 0
    rows: int = 0
    duplicates: int = 0
    outdated: int = 0
    bytes_written: int = 0


def compact(
    table: OfflineTable,
    space: Space,
    *,
    most_bytes: int = DEFAULT_BYTES,
    horizon_ms: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
    progress: Progress = lambda done, total: None,
) -> CompactionReport:
    """Merge files below half of `most_bytes` into ones of about that size; so much is in memory at a time.

    horizon_ms: leave out what was replaced by a newer version of its item that is older than this; what the
    table shows as of any later time stays the same. None: every version stays. stopped: asked before each
    file. Files that were put there by hand stay as they are. Blocking. FileNotFoundError where another
    compaction took a file meanwhile: nothing is lost, run it again.
    """
    files = table.files
    listing = files.listing(space.id)
    files.delete(space.id, listing.superseded)
    report = CompactionReport(space.id, len(listing.live), sum(listing.live.values()))
    floors = None if horizon_ms is None else _floors(files, space, listing, horizon_ms)
    groups = list(_groups(files, space, listing, most_bytes, floors, horizon_ms))
    done, total = 0, sum(map(len, groups))
    for names in groups:
        if stopped():
            break
        _merge(table, space, names, floors, horizon_ms, report)
        done += len(names)
        progress(done, total)
    return report


@dataclass(frozen=True)
class _Floors:
    """The newest sequence that each item had at the horizon."""

    item_ids: pa.Array
    sequences: npt.NDArray[np.uint64]

    def outdated(
        self,
        item_ids: pa.Array,
        sequences: npt.NDArray[np.uint64],
        committed_ms: npt.NDArray[np.int64],
        at: int,
    ) -> npt.NDArray[np.bool_]:
        """(K,) of K rows: whether a newer version had taken the row's place at the horizon."""
        place = pc.fill_null(pc.index_in(item_ids, self.item_ids), 0).to_numpy(zero_copy_only=False)
        if not len(self.sequences):
            return np.zeros(len(item_ids), bool)
        old: npt.NDArray[np.bool_] = (committed_ms <= at) & (sequences < self.sequences[place])
        return old


def _floors(files: OfflineFiles, space: Space, listing: Listing, horizon_ms: int) -> _Floors:
    parts = []
    for name in listing.live:
        rows = files.read(space.id, name, ["item_id", "sequence", "committed_ms"])
        old = rows.filter(pc.less_equal(rows["committed_ms"], horizon_ms)).select(["item_id", "sequence"])
        parts.append(old.replace_schema_metadata(None).group_by("item_id").aggregate([("sequence", "max")]))
    merged = (
        pa.concat_tables(parts).group_by("item_id").aggregate([("sequence_max", "max")]) if parts else None
    )
    if merged is None:
        return _Floors(pa.array([], pa.string()), np.zeros(0, np.uint64))
    return _Floors(
        merged["item_id"].combine_chunks(), merged["sequence_max_max"].to_numpy().astype(np.uint64)
    )


def _groups(
    files: OfflineFiles,
    space: Space,
    listing: Listing,
    most_bytes: int,
    floors: _Floors | None,
    horizon_ms: int | None,
) -> Iterator[list[str]]:
    """Names that one compacted file will stand for."""
    group: list[str] = []
    size, worth = 0, False
    for name, bytes_ in listing.live.items():
        if not is_own(name):
            continue
        old = False
        if floors is not None and horizon_ms is not None:
            rows = files.read(space.id, name, ["item_id", "sequence", "committed_ms"])
            old = bool(
                floors.outdated(
                    rows["item_id"].combine_chunks(),
                    rows["sequence"].to_numpy(),
                    rows["committed_ms"].to_numpy(),
                    horizon_ms,
                ).any()
            )
        if bytes_ >= most_bytes // 2 and not old:
            continue
        if group and size + bytes_ > most_bytes:
            if worth or len(group) > 1:
                yield group
            group, size, worth = [], 0, False
        group.append(name)
        size, worth = size + bytes_, worth or old
    if group and (worth or len(group) > 1):
        yield group


def _merge(
    table: OfflineTable,
    space: Space,
    names: list[str],
    floors: _Floors | None,
    horizon_ms: int | None,
    report: CompactionReport,
) -> None:
    files = table.files
    ranges = files.ranges_of(space.id, names)
    rows = table.rows_of(space, names)
    kept = rows.distinct()
    duplicates, outdated = len(rows.records) - len(kept), 0
    if floors is not None and horizon_ms is not None:
        old = floors.outdated(
            rows.item_ids.dictionary_decode(), rows.records["sequence"], rows.committed_ms, horizon_ms
        )
        outdated = int(old[kept].sum())
        kept = kept[~old[kept]]
    merged = _table(space, rows, kept)
    said = compacted_metadata(names, ranges)
    merged = merged.replace_schema_metadata({**merged.schema.metadata, COMPACTED_KEY: said})
    name = compact_name(ranges, hashlib.sha256(said).hexdigest()[:16])
    files.write(space.id, name, merged)
    report.bytes_written += files.names(space.id).get(name, 0)
    files.delete(space.id, names)
    report.written += 1
    report.replaced += len(names)
    report.rows += len(kept)
    report.duplicates += duplicates
    report.outdated += outdated


def _table(space: Space, rows: OfflineRows, kept: npt.NDArray[np.int64]) -> pa.Table:
    """Rows by item id, then sequence."""
    ids = pa.array(rows.names(kept), pa.string())
    sequences = pa.array(rows.records["sequence"][kept])
    order = pc.sort_indices(pa.table([ids, sequences], ["item_id", "sequence"]), sort_keys=_BY_ITEM)
    places = kept[order.to_numpy()]
    return rows_table(space, ids.take(order), rows.records[places], rows.committed_ms[places])
