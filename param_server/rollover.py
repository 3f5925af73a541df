"""Spaces in preparation: while one is listed, workers encode every push for it beside the space that serves.

So a new encoder's space can be filled by a backfill and stays complete until the scene's pointer moves to it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from contracts.errors import InvalidInput, NotFound, UnknownVersion
from contracts.manifest import canonical
from param_server import keys
from param_server.connection import redis_errors
from param_server.parts import Part
from param_server.server import Server, ask

PREPARING_VERSION = 1
_WHY = b"in preparation for an encoder rollover"


@dataclass(frozen=True)
class Preparing:
    """One space in preparation and the encoder that fills it. began_ms: wall clock."""

    space_id: str
    encoder_uri: str
    encoder_digest: str
    buckets: int
    began_ms: int

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "version": PREPARING_VERSION,
                "encoder_uri": self.encoder_uri,
                "encoder_digest": self.encoder_digest,
                "buckets": self.buckets,
                "began_ms": self.began_ms,
            }
        )


def parse_preparing(space_id: str, data: bytes) -> Preparing:
    """`Preparing.to_bytes()` back; UnknownVersion or InvalidInput otherwise."""
    try:
        document = json.loads(data)
        if document["version"] != PREPARING_VERSION:
            raise UnknownVersion("space in preparation", document["version"], PREPARING_VERSION)
        return Preparing(
            space_id,
            str(document["encoder_uri"]),
            str(document["encoder_digest"]),
            int(document["buckets"]),
            int(document["began_ms"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("space in preparation", data, f"is malformed: {error!r}") from error


class Rollovers:
    """The list on the table's server. Every method raises Unavailable where it is gone."""

    def __init__(self, redis: Server) -> None:
        self._redis = redis

    async def begin(self, space_id: str, encoder_uri: str, encoder_digest: str, buckets: int) -> Preparing:
        """List a space; one that is listed stays as it is. The caller has created the space. It is pinned:
        nothing serves it yet, and it must not be collected."""
        made = Preparing(space_id, encoder_uri, encoder_digest, buckets, time.time_ns() // 1_000_000)
        field, pin = space_id.encode(), Part("space", space_id).field
        async with redis_errors("begin a rollover"):
            *_, stored = await ask(
                self._redis,
                (b"HSETNX", keys.pins(), pin, _WHY),
                (b"HSETNX", keys.preparing(), field, made.to_bytes()),
                (b"HGET", keys.preparing(), field),
            )
        return parse_preparing(space_id, stored)

    async def list(self) -> list[Preparing]:
        """All spaces in preparation, by id."""
        async with redis_errors("list spaces in preparation"):
            (found,) = await ask(self._redis, (b"HGETALL", keys.preparing()))
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        return [parse_preparing(space_id.decode(), data) for space_id, data in sorted(pairs)]

    async def clear(self, space_id: str) -> None:
        """Take a space off the list: pushes no longer go to it. NotFound where it is not there."""
        field, pin = space_id.encode(), Part("space", space_id).field
        async with redis_errors("end a rollover"):
            removed, why = await ask(
                self._redis, (b"HDEL", keys.preparing(), field), (b"HGET", keys.pins(), pin)
            )
            if why == _WHY:  # somebody's own pin stays
                await ask(self._redis, (b"HDEL", keys.pins(), pin))
        if not removed:
            raise NotFound("space in preparation", space_id)
