"""A micro-batch on its way: entries opened, per space what is reused and what is encoded, the window.

Everything is encoded before the newest of each item is chosen, so a poison push does not take an older good
one of the same batch with it: the outcome is the same as one by one.

**Content that did not change is not encoded again.** Where the record of an item has sequence s, and the
push with sequence s is known to have had the same content as the push at hand, the record's bytes are written
again under the new sequence. What push s held is remembered when it is settled, and only if the table then
had that push's own bytes, so a deletion, a backfill, a lost table, another space or a counter that began
again all show as another sequence, and the item is encoded.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.codec import Rows, tombstones
from contracts.errors import RepcenterError
from contracts.items import Item
from contracts.window import Window
from realtime_infer.delivery import Delivery, Made, Settlement
from realtime_infer.encoder import Encoder, Prepared
from realtime_infer.isolate import run_isolated
from realtime_infer.push_entry import PAYLOAD, decode_entry
from realtime_infer.push_status import PushState

_CONTENT_BYTES = 16


@dataclass(frozen=True)
class Push:
    """One push of an item. content: digest of all that the encoder reads, empty where that lies elsewhere."""

    delivery: Delivery
    item: Item
    sequence: int
    content: bytes


@dataclass(frozen=True)
class Batch:
    """Entries by what they are. dead: those that are no pushes; deletes: with item id and sequence."""

    pushes: list[Push]
    deletes: list[tuple[Delivery, str, int]]
    dead: list[Settlement]

    @property
    def items(self) -> list[Item]:
        return [push.item for push in self.pushes]

    def unchanged(self, made: Mapping[str, Made]) -> list[int]:
        """Positions of the pushes whose content their item's last record was made of already."""
        return [
            i
            for i, push in enumerate(self.pushes)
            if push.content and (last := made.get(push.item.item_id)) and last.content == push.content
        ]


@dataclass(frozen=True)
class SpaceBatch:
    """A batch in one space. reused: by position of the push its record, under its own sequence; rest: (R,)
    positions of the others; prepared: those."""

    encoder: Encoder
    reused: Mapping[int, Rows]
    rest: npt.NDArray[np.int64]
    prepared: Prepared


@dataclass(frozen=True)
class SpaceResult:
    """window: to be committed; failures: by position of the push."""

    window: Window
    failures: Mapping[int, RepcenterError]


def open_batch(deliveries: Sequence[Delivery]) -> Batch:
    """Read every entry; one that is no push is dead."""
    batch = Batch([], [], [])
    for delivery in deliveries:
        try:
            entry = decode_entry(delivery.fields)
        except RepcenterError as error:
            batch.dead.append(Settlement(delivery, PushState.DEAD, error))
            continue
        if entry.item is None:
            batch.deletes.append((delivery, entry.item_id, entry.sequence))
        else:
            content = b"" if entry.item.image_url else content_digest(delivery.fields[PAYLOAD])
            batch.pushes.append(Push(delivery, entry.item, entry.sequence, content))
    return batch


def content_digest(payload: bytes) -> bytes:
    """Of a push's payload: equal items have equal payloads."""
    return hashlib.blake2b(payload, digest_size=_CONTENT_BYTES).digest()


def reusable(
    batch: Batch, unchanged: Sequence[int], made: Mapping[str, Made], stored: Rows
) -> dict[int, Rows]:
    """Of the unchanged pushes those whose record is still the one: position -> (1,) the record, renumbered.

    stored: (K,) their items' records as they are, zero where there is none.
    """
    reused: dict[int, Rows] = {}
    for row, i in enumerate(unchanged):
        push = batch.pushes[i]
        if int(stored["sequence"][row]) == made[push.item.item_id].sequence:
            record = stored[row : row + 1].copy()
            record["sequence"] = push.sequence
            reused[i] = record
    return reused


def encode(work: SpaceBatch, batch: Batch, most_tokens: int, most_pixels: int) -> SpaceResult:
    """The graphs on what is left, and the newest of each item. Raises BrokenBundle as run_isolated()."""
    dtype, pushes = work.encoder.space.dtype, batch.pushes
    sequences = np.array([pushes[i].sequence for i in work.rest.tolist()], np.uint64)
    positions, blocks, failures = list[int](), list[Rows](), dict[int, RepcenterError]()
    for start, stop in parts(work.prepared, most_tokens, most_pixels):
        good, rows, failed = run_isolated(
            work.encoder, work.prepared.part(start, stop), sequences[start:stop]
        )
        rest = work.rest[start:stop]
        positions += rest[good].tolist()
        blocks.append(rows)
        failures |= {int(rest[i]): error for i, error in failed.items()}
    ids = [pushes[i].item.item_id for i in [*positions, *work.reused]]
    ids += [item_id for _, item_id, _ in batch.deletes]
    gone = np.array([sequence for _, _, sequence in batch.deletes], np.uint64)
    records = np.concatenate([np.zeros(0, dtype), *blocks, *work.reused.values(), tombstones(dtype, gone)])
    newest: dict[str, int] = {}
    for position in np.argsort(records["sequence"], kind="stable").tolist():
        newest[ids[position]] = position
    kept = sorted(newest.values())
    window = Window(work.encoder.space, [ids[i] for i in kept], records[kept], time.time_ns() // 1_000_000)
    return SpaceResult(window, failures)


def parts(prepared: Prepared, most_tokens: int, most_pixels: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges for the graphs: count x longest text, and pixels of pictures, at most so many (or
    one item alone)."""
    start, longest, pixels = 0, 0, 0
    for i in range(len(prepared)):
        tokens = len(prepared.tokens.get(i, ()))
        picture = prepared.pixels.get(i)
        area = 0 if picture is None else picture.shape[0] * picture.shape[1]
        longest, pixels = max(longest, tokens), pixels + area
        if i > start and (longest * (i - start + 1) > most_tokens or pixels > most_pixels):
            yield start, i
            start, longest, pixels = i, tokens, area
    if len(prepared):
        yield start, len(prepared)


def ends_of(
    batch: Batch, failures: Mapping[int, RepcenterError], results: Sequence[tuple[Window, Window]]
) -> list[Settlement]:
    """How each entry ends. failures: in the live space; results: of each space the window and what the table
    now holds of it."""
    own = [_own_bytes(window, held) for window, held in results]
    ends = [*batch.dead, *(Settlement(delivery, PushState.DELETED) for delivery, _, _ in batch.deletes)]
    for i, push in enumerate(batch.pushes):
        if i in failures:
            ends.append(Settlement(push.delivery, PushState.DEAD, failures[i]))
        else:
            sure = all((push.item.item_id, push.sequence) in space for space in own)
            content = push.content if sure else b""
            ends.append(Settlement(push.delivery, PushState.SCOREABLE, content=content))
    return ends


def _own_bytes(window: Window, held: Window) -> set[tuple[str, int]]:
    """(item, sequence) of the window's records that the table holds byte for byte."""
    ours = dict(zip(window.item_ids, window.records, strict=True))
    return {
        (item_id, int(record["sequence"]))
        for item_id, record in zip(held.item_ids, held.records, strict=True)
        if record.tobytes() == ours[item_id].tobytes()
    }
