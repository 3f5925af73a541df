"""What serving showed, joined with what users did: the score log and events -> interactions.parquet.

    requests  r1: a b c      events  (user, b, +40 s)  ->  a 0   b 1   c 0

An event counts for the newest request of its user that showed the item, at most `window_s` before; one that
names its request counts for that one. A request whose window has not passed yet is left out: its clicks may
still come.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InvalidInput
from contracts.scores import MISSING
from param_server.score_files import SCHEMA, ScoreFiles
from training.data.context import USERS
from training.data.event_table import EventTable
from training.data.progress import Progress, silent
from training.data.queries import QUERIES
from training.data.said import said_columns
from training.data.table import Array

INTERACTIONS = "interactions.parquet"
_COLUMNS = ("user_id", "item_id", "timestamp", "label", "request_id", "query_id", "split", "ts_imputed")
_READ = [n for n in SCHEMA.names if n not in ("behaviours", "behaviour_sequences")]

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class JoinOptions:
    """window_s: how long after a request an event still counts for it.

    top: only the best so many of a request were shown, None = all candidates. shown_kind: only candidates
    with an event of this kind were shown. kinds: of the events that make a label 1, empty = all but
    shown_kind. scenes: empty = all. since_ms, until_ms: requests of that time.
    """

    window_s: float = 1800.0
    top: int | None = None
    shown_kind: str | None = None
    kinds: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.window_s <= 10 * 86_400 * 365:
            raise InvalidInput("window_s", self.window_s, "must be positive seconds")
        if self.top is not None and self.top < 1:
            raise InvalidInput("top", self.top, "must be at least 1")


@dataclass(frozen=True, eq=False)
class _Shown:
    """I impressions in time order, requests (R) that they are of."""

    log: pa.Table  # (R,) requests
    request: Integers  # (I,) row of log
    items: Array  # (I,) ids
    sequences: Array  # (I,)
    scores: Array  # (I,)
    times: Integers  # (I,) ms


def join_scores(
    files: ScoreFiles,
    events: EventTable,
    directory: Path,
    options: JoinOptions,
    *,
    replace: bool = False,
    progress: Progress = silent,
) -> dict[str, int]:
    """Write interactions.parquet (and queries.parquet, users.parquet where requests said such) -> counts.

    Raises InvalidInput where there is such a file and it is not to be replaced, or nothing is left.
    """
    out = directory / INTERACTIONS
    if out.exists() and not replace:
        raise InvalidInput("directory", str(directory), f"has an {INTERACTIONS} already")
    counts: Counter[str] = Counter()
    log = _requests(files, options, counts, progress)
    shown = _shown(log, options, counts)
    positive = events.positives(options.kinds, options.shown_kind)
    window_ms = round(options.window_s * 1e3)
    end_ms = max(int(shown.times.max(initial=0)), int(events.times.max(initial=0)))
    closed = shown.times + window_ms <= end_ms
    counts["impressions_still_open"] = int((~closed).sum())
    labels, unmatched = _attributed(shown, events, positive, window_ms)
    counts["events_without_impression"] = unmatched
    kept = closed
    if options.shown_kind is not None:
        seen, _ = _attributed(shown, events, events.of_kind(options.shown_kind), window_ms)
        kept = closed & (seen | labels)
        counts["impressions_not_seen"] = int((closed & ~kept).sum())
    if not kept.any():
        raise InvalidInput("score log", files.root, f"leaves no impression: {dict(counts)}")
    rows = np.flatnonzero(kept)
    directory.mkdir(parents=True, exist_ok=True)
    context, left_out = said_columns(log["context"], _COLUMNS)
    counts["context_columns_left_out"] = left_out
    counts["queries"] = _write_queries(log, np.unique(shown.request[rows]), directory)
    table = _interactions(shown, labels, rows, context, bool(counts["queries"]))
    _write(table, out)
    counts["users"] = _write_users(log, np.unique(shown.request[rows]), directory)
    counts["rows"], counts["positives"] = len(rows), int(labels[rows].sum())
    counts["requests"] = len(np.unique(shown.request[rows]))
    return dict(counts)


def _requests(files: ScoreFiles, options: JoinOptions, counts: Counter[str], progress: Progress) -> pa.Table:
    """The log's requests in time order, those of nobody and repeated ones left out."""
    names, tables = files.names(), []
    for done, table in enumerate(files.read(names), 1):
        counts["requests_logged"] += len(table)
        kept = pc.field("timestamp_ms") >= (options.since_ms or 0)
        if options.until_ms is not None:
            kept &= pc.field("timestamp_ms") < options.until_ms
        if options.scenes:
            kept &= pc.field("scene").isin(list(options.scenes))
        tables.append(table.select(_READ).filter(kept))
        progress(done, len(names))
    log = pa.concat_tables(tables).sort_by("timestamp_ms").combine_chunks()
    named = log.filter(pc.is_valid(log["user_id"]))
    counts["requests_without_user"] = len(log) - len(named)
    ids = named["request_id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first = np.sort(np.unique(ids, return_index=True)[1])
    counts["requests_repeated"] = len(named) - len(first)
    return named.take(pa.array(first))


def _shown(log: pa.Table, options: JoinOptions, counts: Counter[str]) -> _Shown:
    lists = log["candidates"].combine_chunks()
    request = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    items, sequences, scores, statuses = (
        log[name].combine_chunks().flatten() for name in ("candidates", "sequences", "scores", "statuses")
    )
    missing = statuses.to_numpy(zero_copy_only=False) == MISSING
    counts["impressions_without_score"] = int(missing.sum())
    kept = ~missing
    codes = items.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    keys = request * (int(codes.max(initial=0)) + 1) + codes
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True  # an item that a request names twice is shown once
    kept &= first
    if options.top is not None:
        kept &= _among_best(scores.to_numpy(zero_copy_only=False), request, kept, options.top)
    rows = pa.array(np.flatnonzero(kept))
    times = log["timestamp_ms"].to_numpy()[request]
    return _Shown(log, request[kept], items.take(rows), sequences.take(rows), scores.take(rows), times[kept])


def _among_best(scores: npt.NDArray[np.float32], request: Integers, kept: Mask, top: int) -> Mask:
    """(I,) whether a row is among the best `top` of its request's kept rows."""
    rows = np.flatnonzero(kept)
    order = rows[np.lexsort((-scores[rows], request[rows]))]
    of = request[order]
    place = np.arange(len(of)) - np.searchsorted(of, of, side="left")
    best = np.zeros(len(kept), dtype=bool)
    best[order[place < top]] = True
    return best


def _attributed(shown: _Shown, events: EventTable, chosen: Mask, window_ms: int) -> tuple[Mask, int]:
    """Which impressions (I,) the chosen events count for, and how many of these count for none."""
    labels = np.zeros(len(shown.times), dtype=bool)
    rows = np.flatnonzero(chosen)
    by_request = rows[events.has_request[rows]]
    by_user = rows[~events.has_request[rows]]
    found = 0
    requests = shown.log["request_id"].combine_chunks().take(pa.array(shown.request))
    users = shown.log["user_id"].combine_chunks().take(pa.array(shown.request))
    for part, whose, names in ((by_request, requests, events.request_ids), (by_user, users, events.user_ids)):
        at = _newest_before(
            _pairs(whose, shown.items, names.take(pa.array(part)), events.item_ids.take(pa.array(part))),
            shown.times,
            events.times[part],
            window_ms,
        )
        labels[at[at >= 0]] = True
        found += int((at >= 0).sum())
    return labels, len(rows) - found


def _pairs(left: Array, left_items: Array, right: Array, right_items: Array) -> tuple[Integers, Integers]:
    """Equal numbers for equal (name, item) pairs: of I impressions and of E events."""
    names, items = (
        pa.concat_arrays([a.cast(pa.large_string()), b.cast(pa.large_string())])
        .dictionary_encode()
        .indices.to_numpy(zero_copy_only=False)
        .astype(np.int64)
        for a, b in ((left, right), (left_items, right_items))
    )
    _, codes = np.unique(names * (int(items.max(initial=0)) + 1) + items, return_inverse=True)
    return codes[: len(left)], codes[len(left) :]


def _newest_before(
    pairs: tuple[Integers, Integers], shown_ms: Integers, event_ms: Integers, window_ms: int
) -> Integers:
    """(E,) the newest impression of each event's pair within the window before it, -1 = none."""
    shown, asked = pairs
    if not len(shown) or not len(asked):
        return np.full(len(asked), -1, dtype=np.int64)
    times, ranks = np.unique(np.concatenate([shown_ms, event_ms]), return_inverse=True)
    keys = shown * len(times) + ranks[: len(shown)]
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], asked * len(times) + ranks[len(shown) :], side="right") - 1
    at = order[np.maximum(place, 0)]
    near = (place >= 0) & (shown[at] == asked) & (event_ms - shown_ms[at] <= window_ms)
    return np.where(near, at, -1)


def _interactions(
    shown: _Shown, labels: Mask, rows: Integers, context: dict[str, Array], queries: bool
) -> pa.Table:
    taken, requests = pa.array(rows), pa.array(shown.request[rows])
    log = shown.log
    columns = {
        "user_id": log["user_id"].take(requests),
        "item_id": shown.items.take(taken),
        "timestamp": pa.array(shown.times[rows]).cast(pa.timestamp("ms")),
        "label": pa.array(labels[rows].astype(np.int8)),
        "request_id": log["request_id"].take(requests),
        "served_scene": log["scene"].take(requests).combine_chunks().dictionary_encode(),
        "served_generation": log["generation"].take(requests).combine_chunks().dictionary_encode(),
        "served_sequence": shown.sequences.take(taken),
        "served_score": shown.scores.take(taken),
    }
    if queries:
        asked = log["query"].take(requests)
        columns["query_id"] = pc.if_else(pc.not_equal(asked, ""), columns["request_id"], None)
    return pa.table({**columns, **{name: values.take(requests) for name, values in context.items()}})


def _write_queries(log: pa.Table, requests: Integers, directory: Path) -> int:
    """queries.parquet of the requests that searched, by request id -> how many."""
    taken = log.take(pa.array(requests))
    taken = taken.filter(pc.not_equal(taken["query"], ""))
    if len(taken):
        vectors, _ = said_columns(taken["query"], ("query_id",), numbers=True)
        _write(pa.table({"query_id": taken["request_id"], **vectors}), directory / QUERIES)
    return len(taken)


def _write_users(log: pa.Table, requests: Integers, directory: Path) -> int:
    """users.parquet of what each user's newest request said, where there is no such file yet -> how many."""
    taken = log.take(pa.array(requests))
    taken = taken.filter(pc.not_equal(taken["user"], ""))
    if not len(taken) or (directory / USERS).exists():
        return 0
    ids = taken["user_id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    newest = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    taken = taken.take(pa.array(np.sort(newest)))
    columns, _ = said_columns(taken["user"], ("user_id",))
    _write(pa.table({"user_id": taken["user_id"], **columns}), directory / USERS)
    return len(taken)


def _write(table: pa.Table, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)
