"""The offline sink: one task for each space that the serving table knows, new ones found as they come."""

from __future__ import annotations

import asyncio
import logging

from contracts.errors import RepcenterError, Unavailable
from contracts.space import Space
from param_server.offline import OfflineTable
from param_server.server import Server
from param_server.store import Store
from realtime_infer.sink_metrics import SinkMetrics
from realtime_infer.sink_settings import SinkSettings
from realtime_infer.space_sink import SpaceSink

log = logging.getLogger(__name__)


class Sink:
    """table: a client of the serving table's server; stream: of the window streams'."""

    def __init__(
        self, table: Server, stream: Server, root: str, settings: SinkSettings, metrics: SinkMetrics
    ) -> None:
        self._table, self._stream = table, stream
        self._offline = OfflineTable(root)
        self._settings, self._metrics = settings, metrics
        self._stop = asyncio.Event()
        self._spaces: dict[str, tuple[SpaceSink, asyncio.Task[None]]] = {}
        self._error: str | None = "the sink is starting"

    def check(self) -> None:
        """Nothing while every space gets on, else Unavailable."""
        errors = [self._error, *(sink.error for sink, _ in self._spaces.values())]
        if found := [error for error in errors if error is not None]:
            raise Unavailable("; ".join(found))

    def stop(self) -> None:
        """Write what was read, then end."""
        self._stop.set()

    async def run(self) -> None:
        """Until stop()."""
        try:
            while not self._stop.is_set():
                await self._discover()
                try:
                    await asyncio.wait_for(self._stop.wait(), self._settings.sink_poll_s)
                except TimeoutError:
                    continue
        finally:
            self._error = "the sink has stopped"
            for sink, _ in self._spaces.values():
                sink.stop()
            ends = await asyncio.gather(*(task for _, task in self._spaces.values()), return_exceptions=True)
            for end in ends:
                if isinstance(end, BaseException):
                    log.warning("not ended in good order: %s", end)

    async def _discover(self) -> None:
        try:
            spaces = {space.id: space for space in await Store(self._table).spaces()}
        except RepcenterError as error:
            self._error = f"spaces cannot be listed: {error}"
            log.warning("waiting: %s", self._error)
            return
        self._error = None
        for space_id in [known for known in self._spaces if known not in spaces]:
            sink, task = self._spaces[space_id]
            sink.stop()  # collected: what was read of it is written
            if task.done():
                del self._spaces[space_id]
        for space in spaces.values():
            if space.id not in self._spaces:
                self._spaces[space.id] = self._start(space)

    def _start(self, space: Space) -> tuple[SpaceSink, asyncio.Task[None]]:
        log.info("space %s: following its windows", space.id)
        sink = SpaceSink(space, self._table, self._stream, self._offline, self._settings, self._metrics)
        return sink, asyncio.create_task(sink.run())
