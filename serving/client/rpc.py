"""Both doors over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self, cast

import grpc.aio

from contracts.encoded import EncodedItems
from contracts.errors import RepcenterError
from contracts.events import Appended, Event, Forgotten
from contracts.items import Item
from contracts.listing import GenerationInfo, GenerationList, SceneInfo
from contracts.request import ScoreRequest
from contracts.rpc.items import item_message
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from contracts.scores import Scores
from serving.client.credentials import Credentials
from serving.client.encoded import read_encoded_message
from serving.client.errors import grpc_error
from serving.client.items import ItemStatus, Receipt
from serving.client.scores import read_many_message, read_score_message, score_message

DEFAULT_DEADLINE_S = 5.0


class GrpcClient:
    """The same over gRPC. target: host:port."""

    def __init__(
        self,
        target: str,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        credentials: Credentials | None = None,
        tls: bool = False,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        """options: of the gRPC channel. InvalidInput where a file of the credentials cannot be read."""
        shown = credentials or Credentials()
        self._deadline_s = deadline_s
        self._metadata = tuple(shown.headers.items())
        self._channel = (
            grpc.aio.secure_channel(target, shown.channel_credentials(), options)
            if tls
            else grpc.aio.insecure_channel(target, options)
        )
        self._scorer = cast(Any, pb_grpc.ScorerStub)(self._channel)
        self._items = cast(Any, pb_grpc.ItemsStub)(self._channel)
        self._events = cast(Any, pb_grpc.EventsStub)(self._channel)
        self._encoder = cast(Any, pb_grpc.EncoderStub)(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def score(
        self, request: ScoreRequest, *, deadline_s: float | None = None, generation: str | None = None
    ) -> Scores:
        """Raises the door's typed errors."""
        message = score_message(request, generation)
        answer = await self._call(self._scorer.Score, message, deadline_s)
        return read_score_message(answer, explained=request.explain > 0)

    async def score_many(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        generation: str | None = None,
    ) -> list[Scores | RepcenterError]:
        """Each request's answer or error, in order; raises what refuses all of them."""
        message = pb.ScoreManyRequest(requests=[score_message(request, generation) for request in requests])
        return read_many_message(await self._call(self._scorer.ScoreMany, message, deadline_s))

    async def encode(
        self,
        items: Sequence[Item],
        *,
        records: bool = False,
        deadline_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> EncodedItems:
        """Vectors at once, of an encoder; records: also what a push would store. metadata: of the call."""
        message = pb.EncodeRequest(items=[item_message(item) for item in items], records=records)
        answer = await self._call(self._encoder.Encode, message, deadline_s, tuple((metadata or {}).items()))
        return read_encoded_message(answer)

    async def generations(self) -> GenerationList:
        listed = await self._call(self._scorer.ListGenerations, pb.ListGenerationsRequest())
        return GenerationList(
            [SceneInfo(s.name, s.generation, s.revision) for s in listed.scenes],
            [
                GenerationInfo(g.id, g.created_ms, g.space_id, g.encoder_digest, g.ranker_digest)
                for g in listed.generations
            ],
        )

    async def push(self, item: Item) -> Receipt:
        """Push a new or changed item; it is on disk when this returns."""
        receipt = await self._call(self._items.Push, pb.PushRequest(item=item_message(item)))
        return Receipt(receipt.item_id, receipt.sequence)

    async def delete(self, item_id: str) -> Receipt:
        receipt = await self._call(self._items.Delete, pb.DeleteRequest(item_id=item_id))
        return Receipt(receipt.item_id, receipt.sequence)

    async def status(self, item_id: str) -> ItemStatus:
        message = await self._call(self._items.GetStatus, pb.GetStatusRequest(item_id=item_id))
        state = pb.ItemState.Name(message.state).removeprefix("ITEM_STATE_").lower()
        return ItemStatus(
            message.item_id, state, message.sequence, message.reason or None, message.updated_ms
        )

    async def append(self, events: Sequence[Event]) -> Appended:
        """Append to users' behaviours; they are on disk when this returns. All or none."""
        message = pb.AppendEventsRequest(events=[pb.Event(**asdict(event)) for event in events])
        r = await self._call(self._events.Append, message)
        return Appended(r.appended, r.duplicates, r.too_old, r.forgotten, r.ignored)

    async def forget(self, user_id: str) -> Forgotten:
        """Delete all of a user's behaviours."""
        r = await self._call(self._events.Forget, pb.ForgetUserRequest(user_id=user_id))
        return Forgotten(r.user_id, r.behaviours, r.forgotten_ms)

    async def _call(
        self,
        method: Any,
        message: Any,
        deadline_s: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        try:
            timeout_s = self._deadline_s if deadline_s is None else deadline_s
            return await method(message, timeout=timeout_s, metadata=self._metadata + metadata)
        except grpc.aio.AioRpcError as error:
            raise grpc_error(error) from error
