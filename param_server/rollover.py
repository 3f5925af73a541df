"""Spaces in preparation: while one is listed, workers encode every push for it beside the space that serves.

So a new encoder's space can be filled by a backfill and stays complete until the scene's pointer moves to it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from contracts.errors import InvalidInput, NotFound, UnknownVersion
from contracts.manifest import canonical
from param_server import keys
from param_server.connection import redis_errors

PREPARING_VERSION = 1


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

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin(self, space_id: str, encoder_uri: str, encoder_digest: str, buckets: int) -> Preparing:
        """List a space; one that is listed stays as it is. The caller has created the space."""
        made = Preparing(space_id, encoder_uri, encoder_digest, buckets, time.time_ns() // 1_000_000)
        async with redis_errors("begin a rollover"), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hsetnx(keys.preparing().decode(), space_id, made.to_bytes().decode())
            pipeline.hget(keys.preparing().decode(), space_id)
            _, stored = await pipeline.execute()
        return parse_preparing(space_id, stored)

    async def list(self) -> list[Preparing]:
        """All spaces in preparation, by id."""
        async with redis_errors("list spaces in preparation"):
            reply: Any = self._redis.hgetall(keys.preparing().decode())
            found: dict[bytes, bytes] = await reply
        return [parse_preparing(space_id.decode(), data) for space_id, data in sorted(found.items())]

    async def clear(self, space_id: str) -> None:
        """Take a space off the list: pushes no longer go to it. NotFound where it is not there."""
        async with redis_errors("end a rollover"):
            reply: Any = self._redis.hdel(keys.preparing().decode(), space_id)
            removed: int = await reply
        if not removed:
            raise NotFound("space in preparation", space_id)
