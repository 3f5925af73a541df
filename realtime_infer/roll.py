"""What the sink has read of a space's window stream and not written yet: the next file."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.space import Space
from contracts.window import Window
from param_server.offline import OfflineRows
from param_server.record_file import rows_table
from param_server.stream_id import Range, StreamId


@dataclass
class Roll:
    """Windows behind `after`, up to `last`. size: bytes of their messages; began: when the first was read.

    A record's time is its entry's id: one clock, the stream server's, behind the commit and never before it.
    """

    space: Space
    after: StreamId
    last: StreamId
    size: int = 0
    began: float = 0.0
    windows: list[tuple[StreamId, Window]] = field(default_factory=list)

    def add(self, entry: StreamId, window: Window, size: int) -> None:
        """The stream's next window."""
        self.pass_over(entry)
        self.windows.append((entry, window))
        self.size += size

    def pass_over(self, entry: StreamId) -> None:
        """The stream's next entry, of which nothing is kept."""
        if not self.waiting:
            self.began = time.monotonic()
        self.last = entry

    @property
    def waiting(self) -> bool:
        """Whether there is something to write, if only how far the stream was read."""
        return self.last != self.after

    @property
    def covered(self) -> Range:
        return Range(self.after, self.last)

    def table(self) -> tuple[pa.Table, int]:
        """The file's rows, and how many were left out because they were announced before."""
        dtype = self.space.dtype
        ids = pa.array([i for _, window in self.windows for i in window.item_ids], pa.string())
        records = np.concatenate([np.zeros(0, dtype), *(window.records for _, window in self.windows)])
        counts = [len(window.item_ids) for _, window in self.windows]
        times = np.repeat(np.array([entry.ms for entry, _ in self.windows], np.int64), counts)
        rows = OfflineRows(pc.dictionary_encode(ids), records, times)
        kept = np.sort(rows.distinct())
        table = rows_table(self.space, ids.take(pa.array(kept)), records[kept], times[kept])
        return table, len(ids) - len(kept)
