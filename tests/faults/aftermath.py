"""What must hold once everything that was killed is up again: of every push, and of the offline table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.codec import Rows, is_tombstone, stored_bytes
from contracts.errors import RepcenterError
from contracts.request import Behaviour, ScoreRequest
from contracts.scores import MISSING, OK
from contracts.window import decode_window
from param_server.compaction import compact
from param_server.hget import hget
from param_server.keys import id_bytes, records
from param_server.offline import OfflineTable
from param_server.stream_id import START
from param_server.window_stream import WINDOW_FIELD, window_stream
from realtime_infer.encoder import Encoder
from realtime_infer.ingest import Ingest
from realtime_infer.offline_check import check_offline
from realtime_infer.push_entry import ITEM_ID, SEQUENCE
from serving.client import HttpClient
from tests.encoder_bundle import ATTRIBUTES
from tests.faults.pushes import Kind, Op, Told
from tests.ranker_bundle import recompute
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.sinks import joined_from_start, newest
from tests.realtime_infer.workers import until

_YEAR = sum(field.slots for field in ATTRIBUTES[:-1])  # the slot of the last attribute, a float32
_CHUNK = 100
_WRONG = ("lost", "duplicates", "other_bytes", "gaps", "out_of_order")
_SETTLED_S, _SEEN_S, _WRITTEN_S = 90.0, 30.0, 60.0


def op_numbers(rows: Rows) -> list[int]:
    """Of which push the content of live records is."""
    years: list[float] = rows["attributes"][:, _YEAR].astype(np.uint32).view(np.float32).tolist()
    return [int(year) for year in years]


async def check_ends(stream: Redis, ingest: Ingest, told: Mapping[str, Told], outcomes: Counter[str]) -> None:
    """Every push has its end: nothing waits, a poison push is one dead letter with a reason, others none."""

    async def settled() -> bool:
        try:
            return (await ingest.backlog()).entries == 0
        except RepcenterError:
            return False

    await until(settled, _SETTLED_S)
    for item_id, pushes in told.items():
        op, sequence = pushes.newest
        status = await ingest.status(item_id)
        assert status.state.value == op.kind.value, (op.number, status)
        assert status.sequence >= sequence
        assert bool(status.reason) == (op.kind is Kind.POISON)
    letters: Counter[tuple[str, int]] = Counter()
    for keys in await ingest.partitions.all():
        for _, fields in await entries(stream, keys.dead):
            assert fields[b"code"]
            assert fields[b"reason"]
            letters[fields[ITEM_ID].decode(), int(fields[SEQUENCE])] += 1
    assert set(letters.values()) <= {1}
    answered = {(op.item_id, n): op.kind for pushes in told.values() for op, n in pushes.answered}
    poison = {key for key, kind in answered.items() if kind is Kind.POISON}
    assert poison <= letters.keys()
    assert not letters.keys() & (answered.keys() - poison), "a good push is a dead letter"
    outcomes["dead_with_a_reason"] += len(poison)


async def check_scores(
    table: Redis,
    scorer: str,
    encoder: Encoder,
    ranker: Bundle,
    told: Mapping[str, Told],
    outcomes: Counter[str],
) -> None:
    """A score through the door says of every item what its newest push makes true; and is right.

    Right: the record has this push's content, and the score is what the oracle makes of the record.
    """
    content = {item_id: pushes.content for item_id, pushes in told.items()}
    live = {i: op for i, op in content.items() if op is not None and op.kind is Kind.GOOD}
    stored = await _stored(table, encoder, sorted(live))
    _check_records(encoder, stored, live, told)
    behaviours = [Behaviour(item_id) for item_id in sorted(live)[:3]]
    items = sorted(told)
    async with HttpClient(scorer) as client:
        for at in range(0, len(items), _CHUNK):
            some = items[at : at + _CHUNK]
            expected = [OK if item_id in live else MISSING for item_id in some]
            request = ScoreRequest(some, behaviours)
            await until(partial(_says, client, request, expected), _SEEN_S)  # what was cached may be behind
            scores = (await client.score(request)).scores
            oracle = recompute(ranker, encoder.space, request, stored, {})
            np.testing.assert_allclose(scores, oracle, atol=1e-4)
    outcomes["scoreable_with_newest_content"] += len(live)
    outcomes["deleted"] += sum(op is not None and op.kind is Kind.DELETE for op in content.values())
    outcomes["never_good"] += sum(op is None for op in content.values())


async def _says(client: HttpClient, request: ScoreRequest, expected: Sequence[int]) -> bool:
    try:
        statuses = (await client.score(request)).statuses
    except RepcenterError:
        return False
    return np.array_equal(statuses, expected)


async def _stored(table: Redis, encoder: Encoder, item_ids: list[str]) -> dict[str, bytes]:
    family = records(encoder.space.id, encoder.space.buckets)
    values = await hget(table, [family], id_bytes(item_ids))
    return {i: v for i, v in zip(item_ids, values, strict=True) if isinstance(v, bytes)}


def _check_records(
    encoder: Encoder, stored: Mapping[str, bytes], live: Mapping[str, Op], told: Mapping[str, Told]
) -> None:
    items = sorted(live)
    lost = [item_id for item_id in items if item_id not in stored]
    assert not lost, lost
    rows = np.frombuffer(b"".join(stored[item_id] for item_id in items), encoder.space.dtype)
    numbers = op_numbers(rows)
    assert numbers == [live[item_id].number for item_id in items]
    for item_id, sequence in zip(items, rows["sequence"].tolist(), strict=True):
        good = [n for op, n in told[item_id].answered if op is live[item_id]]
        assert sequence >= good[0]
    for at in range(0, len(items), _CHUNK):
        some = [live[item_id].item for item_id in items[at : at + _CHUNK]]
        encoded = encoder.encode([item for item in some if item is not None])
        assert not encoded.failures
        expected = encoder.records(encoded, rows["sequence"][at : at + _CHUNK])
        gap = np.abs(expected["codes"].astype(int) - rows["codes"][at : at + _CHUNK].astype(int))
        assert gap.max() <= 1  # other neighbours in a batch may round a float the other way


async def check_offline_table(
    table: Redis,
    stream: Redis,
    offline: OfflineTable,
    encoder: Encoder,
    told: Mapping[str, Told],
    outcomes: Counter[str],
) -> None:
    """The offline table has every record of every window once, joined from the stream's beginning; both
    tables agree; an item's contents came in the order of its pushes."""
    space = encoder.space
    goal = await newest(stream, space)

    async def written() -> bool:
        return (offline.files.checkpoint(space.id) or START) >= goal

    await until(written, _WRITTEN_S)
    announced: dict[tuple[str, int], bytes] = {}
    windows = [fields for _, fields in await entries(stream, window_stream(space.id))]
    for fields in windows:
        if WINDOW_FIELD in fields:
            window = decode_window(fields[WINDOW_FIELD], space)
            sequences = window.records["sequence"].tolist()
            values = stored_bytes(window.records)
            announced |= dict(zip(zip(window.item_ids, sequences, strict=True), values, strict=True))
    rows = offline.rows(space)
    kept = rows.distinct()
    names, chosen = rows.names(kept), rows.records[kept]
    keys = list(zip(names, chosen["sequence"].tolist(), strict=True))
    found = dict(zip(keys, stored_bytes(chosen), strict=True))
    outcomes["offline_records"] += len(kept)
    outcomes["lost"] += len(announced.keys() - found.keys())
    outcomes["duplicates"] += len(kept) - len(found)
    outcomes["other_bytes"] += sum(found[key] != value for key, value in announced.items() if key in found)
    check: Any = await check_offline(table, stream, offline, space)
    outcomes["gaps"] += len(check.holes) + (not joined_from_start(offline, space))
    outcomes["out_of_order"] += _out_of_order(chosen, names, told)
    assert check.agrees, check
    assert check.in_flight == 0
    assert [outcomes[name] for name in ("lost", "duplicates", "other_bytes", "gaps", "out_of_order")] == [
        0
    ] * 5
    compact(offline, space)
    rows = offline.rows(space)
    assert len(rows.records) == len(kept), "compaction keeps a record once"


def _out_of_order(chosen: Rows, names: list[str], told: Mapping[str, Told]) -> int:
    """Records whose content is of an older push than that of a smaller sequence, or not of their own push."""
    numbers, gone = op_numbers(chosen), is_tombstone(chosen).tolist()
    versions: defaultdict[str, list[tuple[int, int, bool]]] = defaultdict(list)
    for item_id, sequence, number, dead in zip(
        names, chosen["sequence"].tolist(), numbers, gone, strict=True
    ):
        versions[item_id].append((sequence, number, dead))
    wrong = 0
    for item_id, found in versions.items():
        said = {n: op for op, n in told[item_id].answered}
        last = 0
        for sequence, number, dead in sorted(found):
            op = said.get(sequence)
            if op is not None:
                wrong += dead != (op.kind is Kind.DELETE) or (not dead and number != op.number)
            if not dead:
                wrong += number < last
                last = number
    return wrong
