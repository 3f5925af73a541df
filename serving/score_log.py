"""What was answered, to Parquet: sampled by the request's id, never in the way of a request.

    observe() on the event loop -> bounded queue -> one thread: small pieces to Arrow -> a file per roll

A request that does not fit the bound is left out and counted. A file that cannot be written is tried again;
what waits meanwhile counts towards the bound. A killed process loses what it has not written.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
import zlib
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from prometheus_client import CollectorRegistry, Counter, Gauge

from contracts.request import ScoreRequest
from param_server.score_files import SCHEMA, ScoreFiles
from serving.scored import Scored
from serving.settings import ScorerSettings

log = logging.getLogger(__name__)
_PIECE_ROWS = 4_096  # what one conversion holds the interpreter for: about a millisecond
_TICK_S = 0.25
_LONGEST_PAUSE_S = 30.0

Sequences = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class _Answered:
    """sequences, behaviour_sequences: copies, so that no fetched row is kept. size: in rows that wait."""

    request: ScoreRequest
    generation: str
    timestamp_ms: int
    sequences: Sequences
    behaviours: list[str]
    behaviour_sequences: Sequences
    statuses: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float32]
    size: int


class ScoreLog:
    """One per process. What waits is counted in rows: candidates, behaviours and numbers of the query."""

    def __init__(self, files: ScoreFiles, settings: ScorerSettings, registry: CollectorRegistry) -> None:
        self._files = files
        self._below = settings.score_log_share * 2.0**32
        self._roll_s = settings.score_log_roll_s
        self._most_rows = settings.score_log_rows
        self._roll_rows = settings.score_log_rows // 2
        self._queue: deque[_Answered] = deque()
        self._held = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._token, self._number = uuid.uuid4().hex[:12], 0
        requests = Counter(
            "repcenter_score_log_requests",
            "Sampled requests, by outcome: written, dropped (too many wait), lost (not written at the end).",
            ["outcome"],
            registry=registry,
        )
        self._written, self._dropped, self._lost = map(requests.labels, ("written", "dropped", "lost"))
        self._errors = Counter(
            "repcenter_score_log_errors",
            "Files that could not be written, and were tried again.",
            registry=registry,
        )
        waiting = Gauge("repcenter_score_log_waiting_rows", "Rows not written yet.", registry=registry)
        waiting.set_function(lambda: self._held)
        self._thread = threading.Thread(target=self._run, name="score-log", daemon=True)
        self._thread.start()

    def observe(self, scored: Scored) -> None:
        """Take an answered request, or count it as dropped. A few microseconds."""
        request = scored.request
        if not request.candidates or not self.takes(request.request_id or ""):
            return
        behaviours = request.behaviours[-scored.loaded.schema.history_length :]
        size = len(request.candidates) + len(behaviours) + sum(map(len, request.query.values()))
        with self._lock:
            if self._held + size > self._most_rows:
                self._dropped.inc()
                return
            self._held += size
        sequence = np.zeros(len(scored.assembled.item_ids) + 1, np.uint64)
        sequence[1:] = np.where(scored.fetched.found, scored.fetched.records["sequence"], 0)
        mask = scored.assembled.behaviour_mask[0]
        self._queue.append(
            _Answered(
                request,
                scored.scores.generation,
                scored.now_ms if request.timestamp_ms is None else request.timestamp_ms,
                sequence[scored.assembled.candidates[0]],
                [b.item_id for b in behaviours],
                sequence[scored.assembled.behaviours[0][mask]],
                scored.scores.statuses,
                scored.scores.scores,
                size,
            )
        )

    def takes(self, request_id: str) -> bool:
        """Whether the request is among the sampled: all processes agree on it."""
        return zlib.crc32(request_id.encode()) < self._below

    def close(self) -> None:
        """Write what waits; one attempt."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pieces: list[pa.RecordBatch] = []
        rows, began, name, again_at, pause = 0, 0.0, "", 0.0, _TICK_S
        while True:
            stopping = self._stop.wait(_TICK_S)
            while self._queue and rows < self._roll_rows:
                if not pieces:
                    began, name = time.monotonic(), self._name()
                piece = self._piece()
                pieces.append(_batch(piece))
                rows += sum(a.size for a in piece)
            due = rows >= self._roll_rows or time.monotonic() >= began + self._roll_s
            if pieces and (stopping or (due and time.monotonic() >= again_at)):
                if self._write(name, pieces, rows, stopping):
                    pieces, rows, pause = [], 0, _TICK_S
                else:
                    again_at = time.monotonic() + pause
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
            if stopping and not self._queue:
                return

    def _piece(self) -> list[_Answered]:
        piece, size = [self._queue.popleft()], 0
        while self._queue and (size := size + piece[-1].size) < _PIECE_ROWS:
            piece.append(self._queue.popleft())
        return piece

    def _name(self) -> str:
        now_ms, self._number = time.time_ns() // 1_000_000, self._number + 1
        day = datetime.fromtimestamp(now_ms / 1e3, UTC).strftime("%Y-%m-%d")
        return f"{day}/scores-{now_ms:013d}-{self._token}-{self._number}.parquet"

    def _write(self, name: str, pieces: list[pa.RecordBatch], rows: int, last: bool) -> bool:
        """Whether these rows are done with. last: there is no other attempt."""
        table = pa.Table.from_batches(pieces, SCHEMA)
        try:
            self._files.write(name, table)
        except Exception as error:  # fsspec's backends share no base class
            self._errors.inc()
            log.warning("score log: %s could not be written: %s", name, error)
            if not last:
                return False
            self._lost.inc(len(table))
        else:
            self._written.inc(len(table))
        with self._lock:
            self._held -= rows
        return True


def _batch(answered: list[_Answered]) -> pa.RecordBatch:
    requests = [a.request for a in answered]
    scores = [pa.array(a.scores, from_pandas=True) for a in answered]  # NaN becomes null
    columns: list[pa.Array] = [
        pa.array([r.request_id for r in requests], pa.string()),
        pa.array([r.scene for r in requests], pa.string()),
        pa.array([a.generation for a in answered], pa.string()),
        pa.array([r.user_id for r in requests], pa.string()),
        pa.array([a.timestamp_ms for a in answered], pa.int64()),
        _lists([pa.array(r.candidates, pa.string()) for r in requests]),
        _lists([pa.array(a.sequences) for a in answered]),
        _lists([pa.array(a.statuses) for a in answered]),
        _lists(scores),
        _lists([pa.array(a.behaviours, pa.string()) for a in answered]),
        _lists([pa.array(a.behaviour_sequences) for a in answered]),
        *(pa.array([_json(said) for said in column], pa.string()) for column in _said(requests)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _lists(values: list[pa.Array]) -> pa.Array:
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.concat_arrays(values))


def _said(requests: list[ScoreRequest]) -> tuple[list[object], list[object], list[object]]:
    return ([r.user for r in requests], [r.context for r in requests], [r.query for r in requests])


def _json(said: object) -> str:
    return orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY).decode() if said else ""
