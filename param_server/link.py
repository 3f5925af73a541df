"""The way to one server: every call of a client passes its breaker, is retried within a budget, and waits for
one of a bounded number of connections.

The client library calls `call_with_retry` around each attempt to connect, to send and to read, which makes it
the one place that sees them all, whatever issues the command. Nothing here outlives the caller's deadline:
waiting, pauses and reconnects are all inside of the caller's `asyncio.timeout`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from param_server.breaker import Breaker, BreakerLimits, BreakerOpen, State

T = TypeVar("T")
_UNREACHED = (RedisConnectionError, RedisTimeoutError, OSError)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.1
_SAVED = 10.0  # retries that a quiet time saves up
_inside: ContextVar[bool] = ContextVar("inside a call of this link", default=False)


class PoolBusy(RedisConnectionError):
    """All connections are in use and none became free in time."""


@dataclass
class LinkCounts:
    """What a link has done since it was made. wait_s: seconds that calls waited for a connection."""

    retries: int = 0
    retries_refused: int = 0
    waits: int = 0
    wait_s: float = 0.0
    pool_busy: int = 0


class Link:
    """To one server. retries: of one call whose connection was lost; share: of all calls that may be retries,
    so that an outage does not multiply the load. A timeout is never retried: its time is spent."""

    def __init__(self, server: str, retries: int, share: float, limits: BreakerLimits) -> None:
        self.server = server
        self.breaker = Breaker(server, limits)
        self.counts = LinkCounts()
        self._retries = retries
        self._share = share
        self._budget = _SAVED

    @property
    def state(self) -> State:
        return self.breaker.state

    @property
    def opened(self) -> int:
        """How often the breaker opened."""
        return self.breaker.opened

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Awaitable[Any]],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """`do` until it succeeds or may not be retried; `fail` cleans up after each failure.

        A call inside of another one, such as the reconnect of a command, is part of it. Raises BreakerOpen.
        """
        if _inside.get():
            return await self._attempt(do, fail, 1, with_failure_count)
        call = self.breaker.begin()
        token = _inside.set(True)
        failures = 0
        try:
            while True:
                try:
                    result = await self._attempt(do, fail, failures + 1, with_failure_count)
                except RedisConnectionError as error:
                    failures += 1
                    if is_retryable is not None and not is_retryable(error):
                        raise
                    if not self._may_retry(failures, error):
                        raise
                    await asyncio.sleep(
                        random.uniform(0, min(_FIRST_PAUSE_S * 2**failures, _LONGEST_PAUSE_S))
                    )
                else:
                    self._budget = min(self._budget + self._share, _SAVED)
                    self.breaker.succeeded(call)
                    return result
        except asyncio.CancelledError:
            self.breaker.abandoned(call)
            raise
        except _UNREACHED as error:
            self.breaker.failed(call, error)
            raise
        except BaseException:  # an answer, if not the one hoped for
            self.breaker.succeeded(call)
            raise
        finally:
            _inside.reset(token)

    async def _attempt(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Awaitable[Any]],
        failures: int,
        with_failure_count: bool,
    ) -> T:
        try:
            return await do()
        except RedisConnectionError as error:
            await (fail(error, failures) if with_failure_count else fail(error))
            raise

    def _may_retry(self, failures: int, error: RedisConnectionError) -> bool:
        if failures > self._retries or isinstance(error, BreakerOpen | PoolBusy):
            return False
        if self._budget < 1:
            self.counts.retries_refused += 1
            return False
        self._budget -= 1
        self.counts.retries += 1
        return True

    # What the client library asks of an object in the place of its own retries.

    def __deepcopy__(self, _memo: object) -> Link:
        return self  # each connection would have a copy: there is one breaker and one budget

    def get_retries(self) -> int:
        return self._retries

    def update_supported_errors(self, _errors: object) -> None:
        pass


class LinkPool(BlockingConnectionPool):
    """The library's pool, which is made to be derived from: asks the breaker before it lets a call wait."""

    def __init__(self, *, link: Link, **options: Any) -> None:
        super().__init__(**options, retry=link)
        self.link = link

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connected connection. Raises BreakerOpen, PoolBusy, and what connecting raises."""
        self.link.breaker.check()
        connected: Callable[[], Awaitable[Any]] = super().get_connection  # untyped there
        if self.can_get_connection():
            return await connected()
        counts, began = self.link.counts, time.monotonic()
        counts.waits += 1
        try:
            return await connected()
        except RedisConnectionError as error:
            if not isinstance(error.__cause__, asyncio.TimeoutError):
                raise
            counts.pool_busy += 1
            raise PoolBusy(
                f"all {self.max_connections} connections to {self.link.server} are busy, none became free in "
                f"{self.timeout:g} s (REPCENTER_MAX_CONNECTIONS, REPCENTER_POOL_WAIT_S)"
            ) from error
        finally:
            counts.wait_s += time.monotonic() - began


def link_of(redis: Redis) -> Link:
    """The link that a client of one server goes through."""
    return cast(LinkPool, redis.connection_pool).link
