"""Pictures decoded in processes that may die, so that a hostile one takes nothing else with it.

A picture that its decoder refuses, or that takes too much processor time, is refused. One during which the
decoder dies or hangs otherwise is tried once more in a new process, since something else may have killed that
one; the second time it is refused too. Where no decoder starts at all, no picture is blamed: Unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import orjson

from contracts.errors import InvalidInput, Overloaded, RepcenterError, TooLarge, Unavailable
from contracts.images import MAX_IMAGE_BYTES, Pixels
from contracts.items import Item
from contracts.problem import error_of
from realtime_infer.decode_process import ANSWER, OUT_OF_MEMORY, PIXELS, READY, REFUSED, REQUEST
from realtime_infer.pictures import Pictures, decode_here

log = logging.getLogger(__name__)
MAX_WAITING = 1024
_START_S = 30.0
_ATTEMPTS = 2
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    # Memory of one picture is kept for the next: to give it back costs a third of the decoder's time.
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}


@dataclass(frozen=True)
class DecodeLimits:
    """What one picture may take. memory_mb: beyond what a decoder has at its start; cpu_s: processor time;
    wall_s: time in all, which is more, since a machine may be busy."""

    memory_mb: int = 1024
    cpu_s: float = 5.0
    wall_s: float = 12.0


class DecoderDied(Exception):
    """A decoder ended, or had to be ended, before it answered. retry: something else may be to blame."""

    def __init__(self, reason: str, *, retry: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry = retry


class DecodePool:
    """`processes` decoders; with 0 of them pictures are decoded in a thread of this process."""

    def __init__(
        self,
        processes: int,
        limits: DecodeLimits | None = None,
        *,
        max_waiting: int = MAX_WAITING,
        died: Callable[[], None] = lambda: None,
    ) -> None:
        """max_waiting: pictures that may wait for a decoder. died: called when a decoder has died."""
        self._limits = limits or DecodeLimits()
        self._processes = processes
        self._max_waiting = max_waiting
        self._died = died
        self._waiting = 0
        self._closed = False
        self._places: asyncio.LifoQueue[_Decoder | None] = asyncio.LifoQueue()  # the one used last is warm
        for _ in range(processes):
            self._places.put_nowait(None)

    async def __aenter__(self) -> Self:
        """Start all decoders; Unavailable where one does not start."""
        places = [self._places.get_nowait() for _ in range(self._processes)]
        started = await asyncio.gather(*(self._start() for _ in places), return_exceptions=True)
        for decoder in started:
            self._places.put_nowait(decoder if isinstance(decoder, _Decoder) else None)
        if failed := [error for error in started if isinstance(error, BaseException)]:
            await self.aclose()
            raise failed[0]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Take no more pictures, let those in hand be finished, end the decoders."""
        if self._closed:
            return
        self._closed = True
        for _ in range(self._processes):
            decoder = await self._places.get()
            if decoder is not None:
                await decoder.end()

    async def pictures(self, items: Sequence[Item], size: tuple[int, int]) -> Pictures:
        """The pictures that items bring, by position: pixels, or why it is refused. size: (height, width).

        Raises what is no picture's fault: Overloaded, Unavailable.
        """
        if self._processes == 0:
            return await asyncio.to_thread(decode_here, items, size)
        found: dict[int, Pixels | RepcenterError] = {}
        waiting = ((i, item.image) for i, item in enumerate(items) if isinstance(item.image, bytes))
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self._processes, len(items))):
                    tasks.create_task(self._take(waiting, size, found))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return found

    async def decode(self, picture: bytes, size: tuple[int, int]) -> Pixels:
        """One picture -> (height, width, 3) uint8. Raises InvalidInput, TooLarge, Overloaded, Unavailable."""
        if len(picture) > MAX_IMAGE_BYTES:
            raise TooLarge("image", len(picture), MAX_IMAGE_BYTES, "bytes")
        if self._closed:
            raise Unavailable("the decoders have been closed")
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} pictures wait for a decoder")
        self._waiting += 1
        try:
            decoder = await self._places.get()
        finally:
            self._waiting -= 1
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    decoder = decoder or await self._start()
                    return await decoder.decode(picture, size)
                except DecoderDied as death:
                    decoder = None
                    self._died()
                    log.warning("a decoder died: %s", death.reason)
                    if not death.retry or attempt == _ATTEMPTS:
                        times = "" if attempt == 1 else f" {attempt} times"
                        raise InvalidInput("image", picture[:16], f"{death.reason}{times}") from death
            raise AssertionError("every attempt returns or raises")
        finally:
            self._places.put_nowait(decoder if decoder is not None and decoder.idle else None)

    async def _take(
        self,
        waiting: Iterator[tuple[int, bytes]],
        size: tuple[int, int],
        found: dict[int, Pixels | RepcenterError],
    ) -> None:
        for i, picture in waiting:
            try:
                found[i] = await self.decode(picture, size)
            except (InvalidInput, TooLarge) as error:
                found[i] = error

    async def _start(self) -> _Decoder:
        return await _Decoder.start(self._limits)


class _Decoder:
    """One process and the socket to it."""

    def __init__(self, process: subprocess.Popen[bytes], link: socket.socket, limits: DecodeLimits) -> None:
        self._process = process
        self._link = link
        self._limits = limits
        self.idle = False

    @classmethod
    async def start(cls, limits: DecodeLimits) -> Self:
        spawning = asyncio.ensure_future(asyncio.to_thread(_spawn, limits))
        try:
            process, link = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            await cls(*await spawning, limits).end()
            raise
        decoder = cls(process, link, limits)
        try:
            async with asyncio.timeout(_START_S):
                kind, _ = ANSWER.unpack(await decoder._read(ANSWER.size))
        except (OSError, EOFError, TimeoutError) as error:
            code = await decoder.end()
            raise Unavailable(f"a decoder of pictures did not start ({_ending(code)})") from error
        except BaseException:
            await decoder.end()
            raise
        decoder.idle = kind == READY
        return decoder

    async def decode(self, picture: bytes, size: tuple[int, int]) -> Pixels:
        """Raises DecoderDied, else as the process refused it."""
        self.idle = False
        try:
            async with asyncio.timeout(self._limits.wall_s):
                return await self._ask(picture, size)
        except TimeoutError as error:
            raise DecoderDied(f"took more than {self._limits.wall_s:g} s to decode") from error
        except (OSError, EOFError) as error:
            code = await self.end()
            if code == -signal.SIGPROF:
                reason = f"took more than {self._limits.cpu_s:g} s of processor time to decode"
                raise DecoderDied(reason, retry=False) from error
            if code == OUT_OF_MEMORY:
                reason = f"needed more than {self._limits.memory_mb} MiB to be decoded"
                raise DecoderDied(reason) from error
            raise DecoderDied(f"ended the process that decoded it ({_ending(code)})") from error
        finally:
            if not self.idle:  # cancelled or late: what it is at is unknown
                await asyncio.shield(self.end())

    async def _ask(self, picture: bytes, size: tuple[int, int]) -> Pixels:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._link, REQUEST.pack(len(picture), *size) + picture)
        kind, count = ANSWER.unpack(await self._read(ANSWER.size))
        body = await self._read(count)
        self.idle = True
        if kind == REFUSED:
            raise error_of(orjson.loads(body))
        if kind != PIXELS or count != size[0] * size[1] * 3:
            self.idle = False
            raise EOFError
        return np.frombuffer(body, dtype=np.uint8).reshape(*size, 3)

    async def _read(self, count: int) -> bytearray:
        loop, buffer, at = asyncio.get_running_loop(), bytearray(count), 0
        view = memoryview(buffer)
        while at < count:
            got = await loop.sock_recv_into(self._link, view[at:])
            if got == 0:
                raise EOFError
            at += got
        return buffer

    async def end(self) -> int:
        """Kill it, where it still runs -> its exit status."""
        self.idle = False
        self._link.close()
        if self._process.poll() is None:
            self._process.kill()
        return await asyncio.to_thread(self._process.wait)


def _spawn(limits: DecodeLimits) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A fresh interpreter: no fork of threads and models, no secret of this process's environment."""
    link, other = socket.socketpair()
    link.setblocking(False)
    descriptor = other.fileno()
    command = [sys.executable, "-m", "realtime_infer.decode_process"]
    with other:
        process = subprocess.Popen(
            [*command, str(descriptor), str(limits.memory_mb), str(limits.cpu_s)],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(sys.path), **_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C is for the owner, who drains first
        )
    return process, link


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
