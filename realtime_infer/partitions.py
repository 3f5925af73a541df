"""How many partitions the push stream has: said once on its server, the same for every door and worker."""

from __future__ import annotations

from contracts.errors import Conflict
from param_server.connection import redis_errors
from param_server.server import Server
from realtime_infer.stream_keys import PARTITIONS, Partition

DEFAULT_PARTITIONS = 8


class Partitions:
    """The partitions of one stream. wanted: their number where the caller insists on one.

    Raises Conflict where the stream has another number, Unavailable where its server is gone.
    """

    def __init__(self, stream: Server, wanted: int | None) -> None:
        self._stream = stream
        self._wanted = wanted
        self._all: tuple[Partition, ...] = ()

    async def all(self) -> tuple[Partition, ...]:
        """Every partition, by number; a stream that is new is given its number here."""
        if not self._all:
            await self.check()
        return self._all

    async def of(self, item_id: bytes) -> Partition:
        """The partition of an item, by the UTF-8 of its id."""
        return Partition.of(item_id, len(await self.all()))

    async def check(self) -> None:
        """Ask the server again: it may have been emptied, and then been given another number."""
        expected = len(self._all) or self._wanted
        async with redis_errors("read the number of partitions"):
            reply = await self._stream.set(PARTITIONS, str(expected or DEFAULT_PARTITIONS), nx=True, get=True)
        stored = int(reply) if isinstance(reply, bytes) else expected or DEFAULT_PARTITIONS
        if expected is not None and stored != expected:
            raise Conflict(
                f"the push stream has {stored} partitions, this process expects {expected}: set "
                f"REPCENTER_STREAM_PARTITIONS to {stored} or leave it out, and start again"
            )
        self._all = tuple(map(Partition, range(stored)))
