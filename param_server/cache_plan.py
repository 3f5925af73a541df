"""How much memory the row cache of a process takes: predicted from its arrays, and measured in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from contracts.codec import id_row_dtype, record_dtype
from contracts.errors import InvalidInput, Unavailable
from param_server.frequency import MOST
from param_server.plan_check import SAMPLE, Check
from param_server.planner import Catalogue, Part, Plan
from param_server.slots import OVERHEAD, SlotTable

_CHUNK = 2_048  # rows of one offer, as a cache is warmed
_STATM = Path("/proc/self/statm")
_FILL = "import sys; from param_server.cache_plan import fill; print(fill(sys.argv[1]))"
_LONGEST_S = 120.0


def plan_cache(catalogue: Catalogue) -> Plan:
    """What a process takes for `cached` rows of the records and as many ID rows, with ids of ASCII."""
    rows = catalogue.cached
    if not rows:
        return Plan("process", ())
    tables = [SlotTable.bytes_of(rows, size) for size in _row_bytes(catalogue)]
    ids = rows * (-(-sys.getsizeof("x" * catalogue.id_bytes) // 16) * 16)  # one string, held by both tables
    total = sum(tables) + ids
    return Plan("process", (Part("cached rows", rows, sum(_row_bytes(catalogue)), total / rows, total),))


def cache_bytes(catalogue: Catalogue) -> int:
    """What REPCENTER_CACHE_BYTES must be, so that `cached` rows have a place."""
    return catalogue.cached * sum(size + OVERHEAD for size in _row_bytes(catalogue))


def check_cache(catalogue: Catalogue, progress: Callable[[int, int], None] | None = None) -> Check:
    """A plan of SAMPLE rows of this shape beside what a process of its own grows by when it caches them.

    Raises InvalidInput where ids are too short to tell so many apart, Unavailable where the system does not
    say what a process takes.
    """
    if 16**catalogue.id_bytes < SAMPLE:
        raise InvalidInput("id_bytes", catalogue.id_bytes, f"are too few for {SAMPLE} ids")
    sample = replace(catalogue, items=0, users=0, user_rows=0, behaviours=0, buckets=0, cached=SAMPLE)
    if not _STATM.exists():
        raise Unavailable(f"there is no {_STATM} that says what a process takes")
    command = [sys.executable, "-c", _FILL, json.dumps(asdict(sample))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise Unavailable(f"a process that caches rows has failed: {error}") from error
    if progress is not None:
        progress(1, 1)
    return Check("the row cache of a process", sample, plan_cache(sample).total, int(done.stdout))


def fill(catalogue: str) -> int:
    """Fill a cache's tables as it does, in a process that has done nothing else -> bytes that it grew by."""
    given = json.loads(catalogue)
    shape = Catalogue(**{**given, "dims": tuple(given["dims"])})
    dtypes = [record_dtype(shape.dims, shape.attributes, shape.codec)]
    dtypes += [id_row_dtype(shape.id_codec, shape.id_dim)] if shape.id_dim else []
    _filled(_CHUNK, dtypes, shape.id_bytes)  # what a first use takes once is not the cache's
    before = _resident()
    tables = _filled(shape.cached, dtypes, shape.id_bytes)
    grown = _resident() - before
    if not all(len(table) == shape.cached for table in tables):
        raise AssertionError("not every row was kept")
    return grown


def _filled(rows: int, dtypes: Sequence[np.dtype[np.void]], id_bytes: int) -> list[SlotTable]:
    tables = [SlotTable(rows, dtype) for dtype in dtypes]
    for at in range(0, rows, _CHUNK):
        ids = [f"{n:0{id_bytes}x}" for n in range(at, min(at + _CHUNK, rows))]
        counts, found = np.full(len(ids), MOST, np.uint8), np.ones(len(ids), bool)
        for table, dtype in zip(tables, dtypes, strict=True):
            table.expect(ids, counts)
            table.offer(ids, np.frombuffer(os.urandom(len(ids) * dtype.itemsize), dtype), found)
    return tables


def _row_bytes(catalogue: Catalogue) -> list[int]:
    return [catalogue.record_bytes] + ([catalogue.id_row_bytes] if catalogue.id_dim else [])


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
