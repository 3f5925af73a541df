"""A bounded way from one task to another, many things at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """most, most_bytes: held at a time; one thing alone may be larger. One task puts, one takes."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._held: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = asyncio.Event()

    async def put(self, value: T, size: int) -> None:
        """Waits for room."""
        while self._held and (len(self._held) >= self._most or self._bytes + size > self._most_bytes):
            await self._change()
        self._held.append((value, size))
        self._bytes += size
        self._changed.set()

    def close(self) -> None:
        """Nothing more will be put."""
        self._closed = True
        self._changed.set()

    async def take(self) -> list[T]:
        """All that is held, once there is something; nothing at the end."""
        while not self._held and not self._closed:
            await self._change()
        taken = [value for value, _ in self._held]
        self._held.clear()
        self._bytes = 0
        self._changed.set()
        return taken

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
