"""Where the picture of an item is -> its bytes: a URL of an allowed origin, or a path below an allowed root.

The door checks what can be checked without asking anyone, and keeps the reference; the worker fetches.
Nothing is allowed unless the operator says so (image_url_origins, image_roots).
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from contracts.errors import InvalidInput, RepcenterError, Unavailable, shown
from contracts.items import Item, check_image_url
from realtime_infer.fetch_http import HttpFetcher, Passing, Resolver
from realtime_infer.fetch_objects import ObjectFetcher
from realtime_infer.origins import PORTS, parse_origin, web_address
from realtime_infer.public_address import networks

_FIELD = "image_url"
_FIRST_PAUSE_S = 0.2


@dataclass(frozen=True)
class FetchLimits:
    """origins, roots: what is allowed. networks: private ones in which those origins may be. timeout_s: of
    one try, redirects included; attempts: tries where a failure may pass; at_once: fetches at a time."""

    origins: Sequence[str] = ()
    networks: Sequence[str] = ()
    roots: Sequence[str] = ()
    timeout_s: float = 5.0
    attempts: int = 3
    at_once: int = 16


class PictureSources:
    """Checks references to pictures, and fetches what they name."""

    def __init__(
        self, limits: FetchLimits, *, resolver: Resolver | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Raises InvalidInput where an origin, a network or a root is not one."""
        self._limits = limits
        self._web = HttpFetcher(
            [parse_origin(text, "image_url_origins") for text in limits.origins],
            networks(limits.networks, "image_url_networks"),
            connections=limits.at_once,
            resolver=resolver,
            tls=tls,
        )
        self._objects = ObjectFetcher(limits.roots)
        self._places = asyncio.Semaphore(limits.at_once)
        # Threads of their own: a store that hangs must not hold those of the encoder.
        self._threads = ThreadPoolExecutor(limits.at_once, thread_name_prefix="picture")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._web.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self, item: Item) -> None:
        """Nothing where the item names no picture or one that is allowed; else InvalidInput, TooLarge."""
        if item.image_url is None:
            return
        url = check_image_url(item.image_url)
        if _is_web(url):
            self._web.check(url)
        else:
            self._objects.check(url)

    async def load(self, items: Sequence[Item]) -> tuple[list[Item], Mapping[int, RepcenterError]]:
        """Items with the bytes of the pictures that they name, and by position why one could not be had.

        An item that failed stays as it is. Raises nothing of its own.
        """
        named = [i for i, item in enumerate(items) if item.image_url is not None]
        answers = await asyncio.gather(*(self._answer(items[i]) for i in named))
        loaded, failures = list(items), dict[int, RepcenterError]()
        for i, answer in zip(named, answers, strict=True):
            if isinstance(answer, RepcenterError):
                failures[i] = answer
            else:
                loaded[i] = replace(items[i], image=answer, image_url=None)
        return loaded, failures

    async def fetch(self, url: str) -> bytes:
        """The picture's bytes. Raises InvalidInput, TooLarge, or Unavailable after the last try."""
        check_image_url(url)
        for attempt in range(1, self._limits.attempts + 1):
            try:
                async with self._places, asyncio.timeout(self._limits.timeout_s):
                    body = await self._try(url)
                if not body:
                    raise InvalidInput(_FIELD, _place(url), "holds no bytes")
                return body
            except TimeoutError:
                reason = f"took longer than {self._limits.timeout_s:g} s"
            except Passing as error:
                reason = str(error)
            if attempt < self._limits.attempts:
                await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        tries = f"{self._limits.attempts} tries" if self._limits.attempts > 1 else "one try"
        raise Unavailable(f"{_FIELD}: {reason}, after {tries} (got {shown(_place(url))})")

    async def _try(self, url: str) -> bytes:
        if _is_web(url):
            return await self._web.fetch(url)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._objects.fetch, url)

    async def _answer(self, item: Item) -> bytes | RepcenterError:
        try:
            return await self.fetch(str(item.image_url))
        except RepcenterError as error:
            return error


def _is_web(url: str) -> bool:
    return url.partition("://")[0].lower() in PORTS


def _place(url: str) -> str:
    return web_address(url).place if _is_web(url) else url
