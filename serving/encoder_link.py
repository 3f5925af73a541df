"""The way to an encoder: one gRPC channel behind a breaker. One that is gone costs no request its deadline.

A channel that is down fails at once and is tried again every second or so. An encoder that is there but does
not answer is given up by the breaker, until one call in a while has an answer. A refusal is an answer.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial

import grpc.aio
import numpy as np

from contracts.codec import check_records
from contracts.encoded import EncodedItem, EncodedItems
from contracts.errors import (
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    RepcenterError,
    SpaceMismatch,
    TooLarge,
    Unavailable,
)
from contracts.items import Item
from contracts.problem import GRPC_KEY
from contracts.space import Space
from doors.tracing import Tracing
from param_server.breaker import Breaker, BreakerLimits, BreakerOpen
from serving.client import GrpcClient
from serving.encode_settings import EncodeSettings

log = logging.getLogger(__name__)
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # which is how long an attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 64 << 20),
)
_BREAKER = BreakerLimits(failures=5, silence_s=0.5, open_s=0.5, longest_open_s=5.0)
_METHOD = "repcenter.v1.Encoder/Encode"
_OF_THE_CALL = (InvalidInput, TooLarge, Overloaded, Unavailable, DeadlineExceeded)

Answer = EncodedItem | RepcenterError


class EncoderLink:
    """One per process."""

    def __init__(self, settings: EncodeSettings, tracing: Tracing | None = None) -> None:
        """Connects with the first call. InvalidInput where a file of the credentials cannot be read."""
        if settings.encoder_target is None:
            raise InvalidInput("encoder_target", None, "must be set")
        self._breaker = Breaker(f"encoder {settings.encoder_target}", _BREAKER)
        self._tracing = tracing
        self._client = GrpcClient(
            settings.encoder_target,
            credentials=settings.credentials(),
            tls=settings.encoder_tls,
            options=_OPTIONS,
        )

    @property
    def given_up(self) -> bool:
        """Whether calls fail at once, because those before them had no answer."""
        return self._breaker.state != "closed"

    async def close(self) -> None:
        await self._client.close()

    async def encode(self, space: Space, items: Sequence[Item], until: float) -> list[Answer]:
        """Each item's vectors and record in this space, or why it has none. until: time.perf_counter().

        Raises InvalidInput, TooLarge, Overloaded, DeadlineExceeded, Unavailable, SpaceMismatch where the
        encoder fills another space.
        """
        left_s = until - time.perf_counter()
        if left_s <= 0:
            raise DeadlineExceeded("no time was left to encode")
        try:
            call = self._breaker.begin()
        except BreakerOpen as error:
            log.debug("%s", error)
            raise Unavailable("the encoder has not answered lately") from None
        try:
            found = await self._ask(items, left_s)
        except RepcenterError as error:
            if _answered(error):
                self._breaker.succeeded(call)
            elif isinstance(error, DeadlineExceeded):
                self._breaker.abandoned(call)
            else:
                self._breaker.failed(call, error)
                log.debug("%s", error)  # it says where the encoder is
                raise Unavailable("the encoder does not answer") from error
            raise _told(error) from error
        except BaseException:
            self._breaker.abandoned(call)
            raise
        self._breaker.succeeded(call)
        if found.space_id != space.id:
            raise SpaceMismatch(space.id, found.space_id, "the encoder's answer")
        if len(found.items) != len(items):
            raise Unavailable(f"the encoder answered {len(found.items)} of {len(items)} items")
        return [_checked(item, space) for item in found.items]

    async def _ask(self, items: Sequence[Item], left_s: float) -> EncodedItems:
        spans = contextlib.nullcontext if self._tracing is None else partial(self._tracing.call, _METHOD)
        with spans() as headers:
            return await self._client.encode(items, records=True, deadline_s=left_s, metadata=headers)


def _answered(error: RepcenterError) -> bool:
    """Whether the encoder, or gRPC at its door, said so."""
    if not isinstance(error, Unavailable | DeadlineExceeded):
        return True
    cause = error.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and GRPC_KEY in dict(cause.trailing_metadata() or ())


def _told(error: RepcenterError) -> RepcenterError:
    """A key that the encoder does not take, and whatever else is no fault of a request, is Unavailable."""
    return error if isinstance(error, _OF_THE_CALL) else Unavailable(f"the encoder refused: {error}")


def _checked(answer: Answer, space: Space) -> Answer:
    """What an encoder says is held to the space that it names."""
    if isinstance(answer, RepcenterError):
        return _told(answer)
    dims = {modality.name: modality.dim for modality in space.modalities}
    for name, vector in answer.vectors.items():
        if vector.shape != (dims.get(name),) or not np.isfinite(vector).all():
            return Unavailable(f"the encoder gave a vector {name!r} that is none of space {space.id}")
        vector.setflags(write=False)  # it may be kept
    if len(answer.record) != space.dtype.itemsize:
        return Unavailable(
            f"the encoder gave a record of {len(answer.record)} bytes, not {space.dtype.itemsize}"
        )
    try:
        check_records(np.frombuffer(answer.record, space.dtype), "the encoder's record", space.codec)
    except RepcenterError as error:
        return Unavailable(str(error))
    return answer
