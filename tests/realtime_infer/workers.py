"""Workers for tests: in this process or as processes of their own, and what is asked of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import Redis

from contracts.space import Space
from contracts.window import Window, decode_window
from param_server.settings import StoreSettings
from param_server.window_stream import WINDOW_FIELD, window_stream
from realtime_infer.app import RunningWorker, open_worker
from realtime_infer.ingest import Ingest
from realtime_infer.push_status import PushStatus
from realtime_infer.settings import EncoderSettings
from realtime_infer.stream_keys import GROUP, Partition
from tests.realtime_infer.conftest import entries

KEYS = Partition()
_SKEW = """
import time
true, true_ns, ahead_s = time.time, time.time_ns, {}
time.time = lambda: true() + ahead_s
time.time_ns = lambda: true_ns() + ahead_s * 10**9
"""


async def until(done: Callable[[], Awaitable[bool]], timeout_s: float = 30.0) -> None:
    """Wait for a condition, TimeoutError otherwise."""
    async with asyncio.timeout(timeout_s):
        while not await done():
            await asyncio.sleep(0.01)


async def ended(ingest: Ingest, item_ids: Sequence[str], timeout_s: float = 30.0) -> list[PushStatus]:
    """The final statuses of items."""
    statuses = [await ingest.wait(item_id, timeout_s) for item_id in item_ids]
    assert all(status.state.final for status in statuses), statuses
    return statuses


async def pending(redis: Redis) -> int:
    """Entries that a worker holds."""
    summary: Any = await redis.xpending(KEYS.pushes, GROUP)
    return int(summary["pending"])


async def windows(redis: Redis, space: Space) -> list[Window]:
    """The window messages of a space, oldest first."""
    return [
        decode_window(fields[WINDOW_FIELD], space)
        for _, fields in await entries(redis, window_stream(space.id))
    ]


async def dead_letters(redis: Redis) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in await entries(redis, KEYS.dead)]


@asynccontextmanager
async def working(settings: EncoderSettings, store_settings: StoreSettings) -> AsyncIterator[RunningWorker]:
    """A ready worker in this process."""
    async with open_worker(settings, store_settings) as running:

        async def ready() -> bool:
            return running.worker.ready or running.task.done()

        await until(ready)
        yield running


@contextmanager
def process(
    name: str, redis_url: str, *, ahead_s: float = 0, **settings: object
) -> Iterator[subprocess.Popen[str]]:
    """`realtime_infer.app.<name>()` as a process; killed at the end where it still runs.

    ahead_s: of the true time its clock is.
    """
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("REPCENTER_")},
        "REPCENTER_REDIS_URL": redis_url,
        "REPCENTER_HTTP_PORT": "0",
        "REPCENTER_GRPC_PORT": "0",
        "OMP_NUM_THREADS": "1",
        **{f"REPCENTER_{key.upper()}": str(value) for key, value in settings.items()},
    }
    code = _SKEW.format(ahead_s) if ahead_s else ""
    code += f"from realtime_infer.app import {name}; {name}()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def wait_line(running: subprocess.Popen[str], start: str) -> str:
    """The next line of its output that starts so."""
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith(start):
            return line.strip()
    raise AssertionError(f"the process ended with {running.wait()} before it said {start!r}")
