"""The typed async client of both doors, over HTTP and gRPC with the same results and errors.

    async with HttpClient("http://127.0.0.1:8080") as client:
        request = ScoreRequest(["film-50", "film-260"], user={"age": 34}, context={"device": "tv"})
        scores = await client.score(request)

Imports contracts only. `score_body`, `read_scores`, `score_message` and `read_score_message` are the
wire formats by themselves, for drivers with another event loop.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, Self, cast
from urllib.parse import quote

import grpc
import grpc.aio
import httpx
import numpy as np
import orjson

from contracts.errors import DeadlineExceeded, RepcenterError, Unavailable
from contracts.events import Appended, Event, Forgotten
from contracts.items import Item
from contracts.listing import GenerationInfo, GenerationList, SceneInfo
from contracts.problem import GRPC_KEY, MEDIA_TYPE, STATUSES, error_of
from contracts.request import ScoreRequest
from contracts.rpc.columns import column_messages
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from contracts.scores import STATUS_NAMES, Completeness, Scores, Timings

DEFAULT_DEADLINE_S = 5.0
_STATUS_OF_NAME = {name: number for number, name in enumerate(STATUS_NAMES)}
_HTTP_MARGIN_S = 0.5  # the server answers a missed deadline itself; this is for one that says nothing
_CODE_OF_GRPC = {
    "INVALID_ARGUMENT": "invalid",
    "NOT_FOUND": "not_found",
    "FAILED_PRECONDITION": "conflict",
    "RESOURCE_EXHAUSTED": "overloaded",
    "UNAVAILABLE": "unavailable",
    "DEADLINE_EXCEEDED": "deadline",
}


@dataclass(frozen=True)
class Receipt:
    """An accepted push or deletion. sequence: as given by the write door."""

    item_id: str
    sequence: int


@dataclass(frozen=True)
class ItemStatus:
    """state: queued, encoding, scoreable, deleted or dead; reason: why it is dead, else None;
    updated_ms: 0 where unknown."""

    item_id: str
    state: str
    sequence: int
    reason: str | None
    updated_ms: int


class HttpClient:
    """One door over HTTP: the scorer's (score, generations) or the write door's (push, delete, status,
    append, forget)."""

    def __init__(self, base_url: str, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._http = httpx.AsyncClient(base_url=base_url, timeout=deadline_s + _HTTP_MARGIN_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def score(
        self, request: ScoreRequest, *, deadline_s: float | None = None, generation: str | None = None
    ) -> Scores:
        """Raises the door's typed errors."""
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        body = score_body(request, deadline_s=limit_s, generation=generation)
        return read_scores(await self._call("POST", "/v1/score", body, limit_s + _HTTP_MARGIN_S))

    async def generations(self) -> GenerationList:
        document = orjson.loads(await self._call("GET", "/v1/generations"))
        return GenerationList(
            [SceneInfo(**scene) for scene in document["scenes"]],
            [GenerationInfo(**generation) for generation in document["generations"]],
        )

    async def push(self, item: Item) -> Receipt:
        """Push a new or changed item; it is on disk when this returns."""
        receipt = orjson.loads(await self._call("POST", "/v1/items", item_body(item)))
        return Receipt(receipt["item_id"], receipt["sequence"])

    async def delete(self, item_id: str) -> Receipt:
        receipt = orjson.loads(await self._call("DELETE", item_path(item_id)))
        return Receipt(receipt["item_id"], receipt["sequence"])

    async def status(self, item_id: str) -> ItemStatus:
        document = orjson.loads(await self._call("GET", item_path(item_id)))
        return ItemStatus(
            document["item_id"],
            document["state"],
            document["sequence"],
            document.get("reason") or None,
            document["updated_ms"] or 0,
        )

    async def append(self, events: Sequence[Event]) -> Appended:
        """Append to users' behaviours; they are on disk when this returns. All or none."""
        lines = b"\n".join(orjson.dumps(event) for event in events)
        answer = await self._call("POST", "/v1/events", lines, kind="application/x-ndjson")
        return Appended(**orjson.loads(answer))

    async def forget(self, user_id: str) -> Forgotten:
        """Delete all of a user's behaviours."""
        path = item_path(user_id).replace("/items/", "/users/", 1)
        return Forgotten(**orjson.loads(await self._call("DELETE", path)))

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        timeout_s: float | None = None,
        kind: str = "application/json",
    ) -> bytes:
        try:
            answer = await self._http.request(
                method,
                path,
                content=body,
                headers={} if body is None else {"content-type": kind},
                timeout=httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s,
            )
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"{method} {self._http.base_url}{path}: no answer in time") from error
        except httpx.TransportError as error:
            raise Unavailable(f"{method} {self._http.base_url}{path}: {error!r}") from error
        if answer.is_success:
            return answer.content
        raise http_error(
            answer.status_code,
            answer.headers.get("content-type", ""),
            answer.content,
            answer.headers.get("retry-after"),
        )


class GrpcClient:
    """The same over gRPC. target: host:port."""

    def __init__(self, target: str, *, deadline_s: float = DEFAULT_DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._channel = grpc.aio.insecure_channel(target)
        self._scorer = cast(Any, pb_grpc.ScorerStub)(self._channel)
        self._items = cast(Any, pb_grpc.ItemsStub)(self._channel)
        self._events = cast(Any, pb_grpc.EventsStub)(self._channel)

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
        return read_score_message(await self._call(self._scorer.Score, message, deadline_s))

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

    async def _call(self, method: Any, message: Any, deadline_s: float | None = None) -> Any:
        try:
            return await method(message, timeout=self._deadline_s if deadline_s is None else deadline_s)
        except grpc.aio.AioRpcError as error:
            _raise(error)


def score_body(
    request: ScoreRequest,
    *,
    deadline_s: float | None = None,
    generation: str | None = None,
    top_k: int | None = None,
) -> bytes:
    """The JSON of POST /v1/score."""
    return orjson.dumps(
        {
            "scene": request.scene,
            "user_id": request.user_id,
            "behaviours": list(request.behaviours),
            "candidates": list(request.candidates),
            "generation": generation,
            "deadline_ms": None if deadline_s is None else deadline_s * 1e3,
            "top_k": top_k,
            "user": dict(request.user),
            "context": dict(request.context),
            "timestamp_ms": request.timestamp_ms,
            "query": {name: list(vector) for name, vector in request.query.items()},
            "request_id": request.request_id,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def read_scores(body: bytes) -> Scores:
    """The answer of POST /v1/score; null scores become NaN."""
    document = orjson.loads(body)
    return Scores(
        document["scene"],
        document["generation"],
        np.array(document["scores"], dtype=np.float32),
        np.array([_STATUS_OF_NAME[name] for name in document["statuses"]], dtype=np.uint8),
        Completeness(**document["completeness"]),
        Timings(**{f"{stage}_ms": ms for stage, ms in document["timings_ms"].items()}),
        document["request_id"],
    )


def score_message(request: ScoreRequest, generation: str | None = None) -> pb.ScoreRequest:
    return pb.ScoreRequest(
        scene=request.scene,
        user_id=request.user_id,
        behaviours=[pb.Behaviour(item_id=b.item_id, timestamp_ms=b.timestamp_ms) for b in request.behaviours],
        candidates=request.candidates,
        generation=generation,
        user=column_messages(request.user),
        context=column_messages(request.context),
        timestamp_ms=request.timestamp_ms,
        query={name: pb.Vector(values=vector) for name, vector in request.query.items()},
        request_id=request.request_id,
    )


def read_score_message(message: pb.ScoreResponse) -> Scores:
    c, t = message.completeness, message.timings
    return Scores(
        message.scene,
        message.generation,
        np.array(message.scores, dtype=np.float32),
        np.array(message.statuses, dtype=np.uint8),
        Completeness(
            c.behaviours_asked,
            c.behaviours_found,
            c.candidates_asked,
            c.candidates_found,
            c.columns_asked,
            c.columns_found,
            behaviours_source="stored" if c.behaviours_source == pb.BEHAVIOUR_SOURCE_STORED else "request",
            stale=c.stale,
        ),
        Timings(t.queue_ms, t.fetch_ms, t.assemble_ms, t.run_ms, t.total_ms),
        message.request_id,
    )


def item_body(item: Item) -> bytes:
    """The JSON of POST /v1/items."""
    return orjson.dumps(
        {
            "item_id": item.item_id,
            "text": dict(item.text),
            "attributes": dict(item.attributes),
            "image": None if item.image is None else base64.b64encode(item.image).decode(),
            **({} if item.image_url is None else {"image_url": item.image_url}),
        }
    )


def item_path(item_id: str) -> str:
    """The path of one item; dots are encoded too, or ids such as ".." would be resolved away."""
    return "/v1/items/" + quote(item_id, safe="").replace(".", "%2E")


def item_message(item: Item) -> pb.Item:
    return pb.Item(
        item_id=item.item_id,
        text=item.text,
        attributes=column_messages(item.attributes),
        image=item.image,
        image_url=item.image_url,
    )


def http_error(status: int, content_type: str, body: bytes, retry_after: str | None) -> RepcenterError:
    """The typed error of an answer that is not a success."""
    if content_type.startswith(MEDIA_TYPE):
        return error_of(orjson.loads(body), float(retry_after) if retry_after else None)
    return RepcenterError(f"HTTP {status}: {body[:200].decode(errors='replace')}")


def _raise(error: grpc.aio.AioRpcError) -> NoReturn:
    """The door's problem where it sent one; else the best reading of gRPC's own status."""
    metadata = dict(error.trailing_metadata() or ())
    if GRPC_KEY in metadata:
        wait_ms = metadata.get("grpc-retry-pushback-ms")
        raise error_of(orjson.loads(metadata[GRPC_KEY]), float(wait_ms) / 1e3 if wait_ms else None)
    code = _CODE_OF_GRPC.get(error.code().name, "internal")
    title = STATUSES[code][2]
    raise error_of({"type": f":{code}", "detail": error.details() or title}) from error
