"""The ids asked for most, in a small file of JSON, so that a process starts with the rows that it will need.

{"version": 1, "ids": [...], "counts": [...]}, most wanted first; counts are 0 to 255. It is advice: a file
that cannot be read is passed over. Processes that share it replace it whole, the last one wins.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contracts.errors import InvalidInput, RepcenterError, UnknownVersion
from contracts.items import check_item_id
from param_server.frequency import MOST, Counts

log = logging.getLogger(__name__)

HOT_IDS_VERSION = 1
_MOST_BYTES = 512 << 20


class HotIds:
    """At most `most` ids in `path`. Blocking I/O: call from a thread."""

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self.most = most

    def load(self) -> tuple[list[str], Counts]:
        """What was saved -> ids, (K,) uint8 counts; nothing where there is no usable file."""
        try:
            if self._path.stat().st_size > _MOST_BYTES:
                raise InvalidInput(self._path.name, self._path.stat().st_size, "is too large")
            return _parse(json.loads(self._path.read_bytes()), self.most)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError, RepcenterError) as error:
            log.warning("%s is passed over: %s", self._path, error)
        return [], np.zeros(0, np.uint8)

    def save(self, ids: Sequence[str], counts: Counts) -> None:
        """Replace the file by these ids. Raises OSError."""
        document = {
            "version": HOT_IDS_VERSION,
            "ids": list(ids[: self.most]),
            "counts": counts[: self.most].tolist(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file)
            os.replace(name, self._path)
        except BaseException:
            os.unlink(name)
            raise


def _parse(document: object, most: int) -> tuple[list[str], Counts]:
    if not isinstance(document, dict) or document.get("version") != HOT_IDS_VERSION:
        found = document.get("version") if isinstance(document, dict) else type(document).__name__
        raise UnknownVersion("hot ids", found, HOT_IDS_VERSION)
    ids, counts = document.get("ids"), document.get("counts")
    if not isinstance(ids, list) or not isinstance(counts, list) or len(ids) != len(counts):
        raise InvalidInput("hot ids", sorted(document), "must hold as many ids as counts")
    if not all(isinstance(count, int) and 0 <= count <= MOST for count in counts):
        raise InvalidInput("hot ids.counts", counts[:4], f"must be whole numbers, 0 to {MOST}")
    for i, item_id in enumerate(ids):
        check_item_id(item_id, f"ids[{i}]")
    if len(set(ids)) < len(ids):
        raise InvalidInput("hot ids.ids", len(ids), "must be distinct")
    return ids[:most], np.array(counts[:most], np.uint8)
