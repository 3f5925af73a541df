"""One commit, announced: the serving table first, then the window message. Live pushes and backfill alike.

A redelivered batch is announced again; consumers drop what they know by (space, item, sequence).
"""

from __future__ import annotations

import dataclasses

from contracts.window import Window, encode_window
from param_server.server import Server
from param_server.store import Store
from param_server.window_stream import DEFAULT_WINDOW_BYTES, WINDOW_FIELD, Announcements


class Windows:
    """The write path of content records. stream: a client of the stream's server."""

    def __init__(
        self, store: Store, stream: Server, max_windows: int, max_bytes: int = DEFAULT_WINDOW_BYTES
    ) -> None:
        self._store = store
        self._announcements = Announcements(stream, max_windows, max_bytes)

    async def commit(self, window: Window) -> Window:
        """Commit distinct items; what the table now holds of the window, with the table's own bytes.

        Left out: records that lost to a newer sequence. A record of an equal sequence that was there
        already (a redelivery whose floats rounded differently) stays, and its stored bytes are given.
        Raises Unavailable; NotFound where the space does not exist.
        """
        accepted = await self._store.commit_window(window)
        if accepted.all():
            return window
        records = window.records.copy()
        refused = (~accepted).nonzero()[0]
        stored = await self._store.fetch(window.space, None, [window.item_ids[i] for i in refused.tolist()])
        same = stored.found & (stored.records["sequence"] == records["sequence"][refused])
        records[refused[same]] = stored.records[same]
        accepted = accepted.copy()
        accepted[refused[same]] = True
        kept = accepted.nonzero()[0]
        return dataclasses.replace(
            window, item_ids=[window.item_ids[i] for i in kept.tolist()], records=records[kept]
        )

    async def announce(self, window: Window) -> None:
        """Add the window message to the space's window stream; nothing where the window is empty."""
        if not window.item_ids:
            return
        await self._announcements.add(window.space.id, WINDOW_FIELD, encode_window(window))
