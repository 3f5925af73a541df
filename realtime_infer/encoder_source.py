"""Which encoder a worker runs: the one of the scene's active generation, or one named in the settings."""

from __future__ import annotations

import asyncio
import logging
import time

from contracts.errors import SpaceMismatch, Unavailable
from param_server.generations import Generations
from param_server.store import Store
from realtime_infer.encoder import Encoder
from realtime_infer.settings import EncoderSettings

log = logging.getLogger(__name__)


class EncoderSource:
    """Opens encoders beside the running one, so that a worker goes on until the next is proven."""

    def __init__(self, store: Store, generations: Generations, settings: EncoderSettings) -> None:
        self._store = store
        self._generations = generations
        self._settings = settings
        self._encoder: Encoder | None = None
        self._next_look = 0.0

    async def current(self) -> Encoder:
        """The encoder to use now; the scene is looked up at most every scene_poll_s.

        Raises Unavailable where the scene has no generation yet; once there was one, an encoder that
        cannot be opened or a store that does not answer is logged and the old one stays.
        """
        if self._encoder is not None and time.monotonic() < self._next_look:
            return self._encoder
        try:
            self._encoder = await self._look()
        except Exception as error:
            if self._encoder is None:
                raise
            log.error("the encoder %s stays: %s", self._encoder.digest[:12], error)
        self._next_look = time.monotonic() + self._settings.scene_poll_s
        return self._encoder

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
            self._encoder is not None
            and digest in (None, self._encoder.digest)
            and (space is None or space.id == self._encoder.space.id)
        ):
            return self._encoder
        buckets = settings.encoder_buckets if space is None else space.buckets
        encoder = await asyncio.to_thread(
            Encoder.open, uri, digest, device=settings.device, threads=settings.threads, buckets=buckets
        )
        if space is not None and space.id != encoder.space.id:
            raise SpaceMismatch(space.id, encoder.space.id, f"encoder {uri}")
        await self._store.create_space(encoder.space)
        log.info("encoder %s fills space %s", encoder.digest[:12], encoder.space.id)
        return encoder
