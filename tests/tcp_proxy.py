"""A way to a real server that tests can spoil: slow, silent, cut off in a reply, closed by half.

The bytes are the server's own; what the proxy adds is only when they come, and whether.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Ending = Literal["close", "half-close", "hang"]


@dataclass
class TcpProxy:
    """port: on 127.0.0.1, and so is `url`. The other fields may be changed at any time.

    delay_s: before replies are passed on. silent: nothing is passed on, in either direction. cut_after: so
    many more bytes of replies are passed on, then the connection ends as `ending` says ("half-close": we send
    no more but still read). cut_asked: the same of questions; these know no half-close. accepted: connections
    so far; asked, replied: bytes of questions and of replies so far.
    """

    target: str
    port: int = 0
    delay_s: float = 0.0
    silent: bool = False
    cut_after: int | None = None
    cut_asked: int | None = None
    ending: Ending = "close"
    accepted: int = 0
    asked: int = 0
    replied: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def open_connections(self) -> int:
        return len(self._writers) // 2

    def drop(self) -> None:
        """Reset every connection that is open now; new ones are accepted."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            parts = urlsplit(self.target)
            if parts.scheme == "unix":
                there = await asyncio.open_unix_connection(parts.path)
            else:
                there = await asyncio.open_connection(parts.hostname, parts.port)
            self._writers |= {writer, there[1]}
            try:
                await asyncio.gather(
                    self._questions(reader, there[1]), self._replies(there[0], writer), return_exceptions=True
                )
            finally:
                self._writers -= {writer, there[1]}
                there[1].close()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _questions(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.asked += len(data)
            if self.cut_asked is not None:
                data, self.cut_asked = data[: self.cut_asked], max(0, self.cut_asked - len(data))
            if not self.silent:
                writer.write(data)
                await writer.drain()
            if self.cut_asked == 0:
                while self.ending == "hang" and await reader.read(1 << 16):
                    pass
                break
        writer.close()

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.replied += len(data)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.silent:
                continue
            if self.cut_after is not None:
                data, self.cut_after = data[: self.cut_after], max(0, self.cut_after - len(data))
            writer.write(data)
            await writer.drain()
            if self.cut_after == 0:
                if self.ending == "close":
                    break
                if self.ending == "half-close":
                    writer.write_eof()
                while await reader.read(1 << 16):
                    pass
        writer.close()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def tcp_proxy(target: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[TcpProxy]:
    """A proxy to the server of a redis:// or unix:// URL, on a free port. tls: spoken with the client."""
    proxy = TcpProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
