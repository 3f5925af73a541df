"""Which encoders a worker runs: the one of the scene's active generation, or one named in the settings, and
beside it those of the spaces in preparation (param_server.rollover)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from contracts.errors import SpaceMismatch, Unavailable
from contracts.guard import Loss
from contracts.space import Space
from param_server.generations import Generations
from param_server.rollover import Preparing, Rollovers
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.settings import EncoderSettings

log = logging.getLogger(__name__)


class EncoderSource:
    """Opens encoders beside the running ones, so that a worker goes on until the next is proven."""

    def __init__(
        self,
        store: Store,
        generations: Generations,
        rollovers: Rollovers,
        settings: EncoderSettings,
        usable: Callable[[], None] = lambda: None,
        lost: Callable[[Space, Loss], None] | None = None,
    ) -> None:
        """usable: raises while no encoder may be used; lost: told what quantising took from each batch."""
        self._store = store
        self._generations = generations
        self._rollovers = rollovers
        self._settings = settings
        self._live: Encoder | None = None
        self._preparing: dict[str, Encoder] = {}  # by space id
        self._usable = usable
        self._lost = lost
        self._next_look = 0.0

    def opened(self) -> Sequence[Encoder]:
        """The encoders that are open, usable or not."""
        live = [] if self._live is None else [self._live]
        return [*live, *(e for e in self._preparing.values() if e is not self._live)]

    async def current(self) -> Sequence[Encoder]:
        """The encoders to use now, the live space's first; looked up at most every scene_poll_s.

        Raises Unavailable where the scene has no generation yet; once there was one, an encoder that
        cannot be opened or a store that does not answer is logged and the old ones stay.
        """
        self._usable()
        if self._live is None or time.monotonic() >= self._next_look:
            try:
                self._live = await self._look()
            except Exception as error:
                if self._live is None:
                    raise
                log.error("the encoder %s stays: %s", self._live.digest[:12], error)
            try:
                self._preparing = await self._look_ahead()
            except Exception as error:
                log.error("the spaces in preparation stay as they are: %s", error)
            self._next_look = time.monotonic() + self._settings.scene_poll_s
        live = self._live
        return [live, *(e for space_id, e in self._preparing.items() if space_id != live.space.id)]

    async def _look(self) -> Encoder:
        settings, space = self._settings, None
        uri, digest = settings.encoder_uri, settings.encoder_digest
        if uri is None:
            pointer = await self._generations.pointer(settings.scene)
            if pointer is None:
                raise Unavailable(f"scene {settings.scene!r} has no active generation, so no encoder yet")
            generation = await self._generations.get(pointer.generation_id)
            uri, digest, space = generation.encoder_uri, generation.encoder_digest, generation.space
        if (
            self._live is not None
            and digest in (None, self._live.digest)
            and (space is None or space.id == self._live.space.id)
        ):
            return self._live
        if space is not None and (prepared := self._preparing.get(space.id)):
            log.info("encoder %s was prepared and is live now", prepared.digest[:12])
            return prepared
        return await self._open(uri, digest, settings.encoder_buckets, space)

    async def _look_ahead(self) -> dict[str, Encoder]:
        """Encoders of the spaces in preparation; one that cannot be opened is logged and left out."""
        open_now = dict(self._preparing)
        if self._live is not None:
            open_now[self._live.space.id] = self._live
        found: dict[str, Encoder] = {}
        for entry in await self._rollovers.list():
            encoder = open_now.get(entry.space_id) or await self._prepare(entry)
            if encoder is not None:
                found[entry.space_id] = encoder
        return found

    async def _prepare(self, entry: Preparing) -> Encoder | None:
        try:
            space = await self._store.space(entry.space_id)
            return await self._open(entry.encoder_uri, entry.encoder_digest, entry.buckets, space)
        except Exception as error:
            log.error("space %s is not prepared by this worker: %s", entry.space_id, error)
            return None

    async def _open(self, uri: str, digest: str | None, buckets: int, space: Space | None) -> Encoder:
        """An encoder and its space. space: the one that it has to fill."""
        settings = self._settings
        buckets = buckets if space is None else space.buckets
        encoder = await asyncio.to_thread(
            Encoder.open, uri, digest, device=settings.device, threads=settings.threads, buckets=buckets
        )
        if space is not None and space.id != encoder.space.id:
            raise SpaceMismatch(space.id, encoder.space.id, f"encoder {uri}")
        encoder.lost = self._lost
        await self._store.create_space(encoder.space)
        log.info("encoder %s fills space %s", encoder.digest[:12], encoder.space.id)
        return encoder
