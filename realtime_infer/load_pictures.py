"""From what items say of their pictures to pixels: fetched where only their place is given, then decoded."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from contracts.items import Item
from realtime_infer.decode_pool import DecodePool
from realtime_infer.fetch import PictureSources
from realtime_infer.pictures import Pictures
from realtime_infer.settings import EncoderSettings


class PictureLoader:
    """Sources and decoders, which stay the caller's to close."""

    def __init__(self, sources: PictureSources, decoders: DecodePool) -> None:
        self._sources = sources
        self._decoders = decoders

    async def load(self, items: Sequence[Item], size: tuple[int, int]) -> Pictures:
        """The pictures of items, by position: pixels, or why there are none. size: (height, width).

        Raises what is no picture's fault: Overloaded, Unavailable.
        """
        fetched, failures = await self._sources.load(items)
        return {**await self._decoders.pictures(fetched, size), **failures}


@contextlib.asynccontextmanager
async def open_pictures(
    settings: EncoderSettings, died: Callable[[], None] = lambda: None
) -> AsyncIterator[PictureLoader]:
    """The loader of a worker, its decoders started. died: called when a decoder has died.

    Raises InvalidInput where a setting is no origin, network or root, Unavailable where no decoder starts.
    """
    async with (
        PictureSources(settings.fetch_limits()) as sources,
        DecodePool(settings.decoders(), settings.decode_limits(), died=died) as decoders,
    ):
        yield PictureLoader(sources, decoders)
