"""Dead letters: pushes that could not become a record, with the reason and all that was pushed.

A letter's name is `<partition>:<id in its stream>`. Replaying gives a new sequence, so it would overwrite
whatever was pushed since; it is refused where a newer push was accepted or the table holds something newer.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from contracts.errors import Conflict, InvalidInput, NotFound, shown
from param_server.connection import redis_errors
from param_server.server import Server
from param_server.store import Store
from realtime_infer.acceptor import INLINE_BYTES
from realtime_infer.ingest import Ingest
from realtime_infer.push_entry import ITEM_ID, PAYLOAD, SEQUENCE, SIZE, PushEntry, decode_entry
from realtime_infer.push_status import Receipt
from realtime_infer.stream_keys import Partition
from realtime_infer.stream_scripts import DROP, REPLAY, Argument

_NAME = re.compile(r"(\d{1,4}):(\d{1,20}-\d{1,20})", re.ASCII)
_PAGE = 500


@dataclass(frozen=True)
class DeadLetter:
    """item_id, sequence: None where the entry was no push; died_ms: the stream server's clock."""

    name: str
    item_id: str | None
    sequence: int | None
    code: str
    reason: str
    died_ms: int
    payload_bytes: int


class DeadLetters:
    """Every method raises Unavailable where a server is gone."""

    def __init__(self, stream: Server, ingest: Ingest, store: Store) -> None:
        self._stream = stream
        self._ingest = ingest
        self._store = store

    async def list(
        self, code: str | None = None, item_ids: Collection[str] = (), limit: int | None = None
    ) -> list[DeadLetter]:
        """The newest letters first, of one error code or of some items where given."""
        found: list[DeadLetter] = []
        for partition in await self._ingest.partitions.all():
            found += await self._list(partition, code, item_ids, limit)
        found.sort(key=lambda letter: (letter.died_ms, letter.name), reverse=True)
        return found[:limit]

    async def _list(
        self, partition: Partition, code: str | None, item_ids: Collection[str], limit: int | None
    ) -> builtins.list[DeadLetter]:
        found: builtins.list[DeadLetter] = []
        last = "+"
        while limit is None or len(found) < limit:
            async with redis_errors("list dead letters"):
                page: Any = await self._stream.xrevrange(partition.dead, last, "-", count=_PAGE)
            for letter_id, fields in page:
                letter = _letter(partition, letter_id, fields)
                if code in (None, letter.code) and (not item_ids or letter.item_id in item_ids):
                    found.append(letter)
            if len(page) < _PAGE:
                break
            last = f"({page[-1][0].decode()}"
        return found

    async def get(self, name: str) -> tuple[DeadLetter, PushEntry | None]:
        """A letter and the push in it, None where it is none; NotFound, InvalidInput."""
        partition, letter_id = await self._find(name)
        letter, fields = await self._read(partition, letter_id)
        async with redis_errors("read a dead letter"):
            reply: Any = self._stream.hget(partition.dead_staged.decode(), letter_id)
            payload: bytes | None = await reply
        try:
            entry = decode_entry({**fields, PAYLOAD: payload or b""})
        except Exception:  # whatever was in the stream; the letter itself says what was wrong with it
            entry = None
        return letter, entry

    async def replay(self, name: str, *, force: bool = False) -> Receipt:
        """Push the letter's content again, with a new sequence; the letter is gone then.

        force: even where something newer was pushed or is in the table. Raises Conflict otherwise,
        InvalidInput where it is no push, NotFound, Overloaded (backlog full).
        """
        partition, letter_id = await self._find(name)
        letter, _ = await self._read(partition, letter_id)
        if letter.item_id is None or letter.sequence is None:
            raise InvalidInput("dead letter", name, "is no push")
        if not force and letter.code != Conflict.code:  # that one lost to a number that no push has
            await self._refuse_older(letter.item_id, letter.sequence)
        keys = [
            partition.sequence,
            partition.pushes,
            partition.payload_bytes,
            partition.status(letter.item_id.encode()),
            partition.staged,
            partition.node,
            partition.gaps,
            partition.dead,
            partition.dead_staged,
            partition.dead_bytes,
        ]
        args: list[Argument] = [letter_id, *await self._ingest.share(), INLINE_BYTES, "1" if force else "0"]
        reply = await self._ingest.durably(REPLAY, keys, args, "replay a dead letter")
        match int(reply[0]):
            case -1:
                raise self._ingest.full(partition, reply)
            case -2:
                raise NotFound("dead letter", name)
            case -3:
                raise _newer(letter.item_id, letter.sequence, int(reply[1]), "was pushed")
            case -4:
                raise InvalidInput("dead letter", name, "is no push")
            case sequence:
                return Receipt(letter.item_id, sequence)

    async def drop(self, name: str) -> None:
        """Forget a letter and its payload; NotFound."""
        partition, letter_id = await self._find(name)
        async with redis_errors("drop a dead letter"):
            keys = [partition.dead, partition.dead_staged, partition.dead_bytes]
            dropped = await DROP.run(self._stream, keys, [letter_id])
        if not dropped:
            raise NotFound("dead letter", name)

    async def _refuse_older(self, item_id: str, sequence: int) -> None:
        for space in await self._store.spaces():
            stored = int((await self._store.sequences(space, [item_id]))[0])
            if stored > sequence:
                raise _newer(item_id, sequence, stored, f"is in space {space.id}")

    async def _find(self, name: str) -> tuple[Partition, str]:
        found = _NAME.fullmatch(name)
        if found is None:
            raise InvalidInput("dead letter", name, "must be <partition>:<stream id>")
        partition = Partition(int(found[1]))
        if partition not in await self._ingest.partitions.all():
            raise NotFound("dead letter", name)
        return partition, found[2]

    async def _read(self, partition: Partition, letter_id: str) -> tuple[DeadLetter, dict[bytes, bytes]]:
        async with redis_errors("read a dead letter"):
            found: Any = await self._stream.xrange(partition.dead, letter_id, letter_id)
        if not found:
            raise NotFound("dead letter", f"{partition.number}:{letter_id}")
        return _letter(partition, *found[0]), found[0][1]


def _newer(item_id: str, sequence: int, newer: int, where: str) -> Conflict:
    newest = f"{newer}, newer than the letter's {sequence}, {where}"
    return Conflict(f"item {shown(item_id)}: {newest}; --force to overwrite it")


def _letter(partition: Partition, letter_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    def text(name: bytes) -> str:
        return fields.get(name, b"").decode("utf-8", "replace")

    sequence, size = text(SEQUENCE), text(SIZE)
    return DeadLetter(
        f"{partition.number}:{letter_id.decode()}",
        text(ITEM_ID) if ITEM_ID in fields else None,
        int(sequence) if sequence.isascii() and sequence.isdigit() else None,
        text(b"code"),
        text(b"reason"),
        int(letter_id.partition(b"-")[0]),
        int(size) if size.isascii() and size.isdigit() else 0,
    )
