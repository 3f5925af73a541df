"""The offline table as the source of a bulk load: the newest record of each item, deleted ones included."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from contracts.codec import Rows
from contracts.space import Space
from contracts.window import Window
from param_server.load_source import Batch
from param_server.offline import OfflineTable


@dataclass(frozen=True)
class OfflineSource:
    """K items with their newest records (K,), in memory; identity changes with the files that count."""

    space: Space
    item_ids: list[str]
    records: Rows
    identity: str

    @classmethod
    def open(cls, table: OfflineTable, space_id: str) -> Self:
        """Blocking. NotFound, InvalidInput (a broken file, by name), UnknownVersion, SpaceMismatch."""
        space = table.space(space_id)
        item_ids, records = table.read_newest(space)
        digest = hashlib.sha256(repr((table.files.root, len(item_ids))).encode())
        digest.update(records["sequence"].tobytes())
        return cls(space, item_ids, records, digest.hexdigest()[:32])

    @property
    def rows(self) -> int:
        return len(self.item_ids)

    def batches(self, first: int, most: int, sequence: int) -> Iterator[Batch]:
        """Records bring their own sequences."""
        now = time.time_ns() // 1_000_000
        for at in range(first, self.rows, most):
            part = slice(at, min(self.rows, at + most))
            window = Window(self.space, self.item_ids[part], self.records[part], now)
            yield Batch(part.stop, part.stop - at, window)
