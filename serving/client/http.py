"""Both doors over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import httpx
import orjson

from contracts.encoded import EncodedItems
from contracts.errors import DeadlineExceeded, RepcenterError, Unavailable
from contracts.events import Appended, Event, Forgotten
from contracts.items import Item
from contracts.listing import GenerationInfo, GenerationList, SceneInfo
from contracts.request import ScoreRequest
from contracts.scores import Scores
from serving.client.credentials import Credentials
from serving.client.encoded import encode_body, read_encoded
from serving.client.errors import http_error
from serving.client.items import ItemStatus, Receipt, item_body, item_path, read_outcomes
from serving.client.scores import many_body, read_many, read_scores, score_body

DEFAULT_DEADLINE_S = 5.0
_HTTP_MARGIN_S = 0.5  # the server answers a missed deadline itself; this is for one that says nothing


class HttpClient:
    """One door over HTTP: the scorer's (score, generations), the write door's (push, delete, status,
    append, forget) or an encoder's (encode)."""

    def __init__(
        self,
        base_url: str,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        credentials: Credentials | None = None,
    ) -> None:
        """base_url: http:// or https://. InvalidInput where a file of the credentials cannot be used."""
        shown = credentials or Credentials()
        self._deadline_s = deadline_s
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=deadline_s + _HTTP_MARGIN_S,
            headers=shown.headers,
            verify=shown.context() if base_url.startswith("https:") else True,
        )

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

    async def score_many(
        self,
        requests: Sequence[ScoreRequest],
        *,
        deadline_s: float | None = None,
        generation: str | None = None,
    ) -> list[Scores | RepcenterError]:
        """Each request's answer or error, in order; raises what refuses all of them."""
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        body = many_body(requests, deadline_s=limit_s, generation=generation)
        return read_many(await self._call("POST", "/v1/score/many", body, limit_s + _HTTP_MARGIN_S))

    async def encode(
        self, items: Sequence[Item], *, records: bool = False, deadline_s: float | None = None
    ) -> EncodedItems:
        """Vectors at once, of an encoder; records: also what a push would store. The items' ids stay here."""
        limit_s = self._deadline_s if deadline_s is None else deadline_s
        body = encode_body(items, records=records, deadline_s=limit_s)
        return read_encoded(await self._call("POST", "/v1/encode", body, limit_s + _HTTP_MARGIN_S))

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

    async def push_many(
        self, items: Sequence[Item], keys: Sequence[str] | None = None, *, timeout_s: float = 120.0
    ) -> list[Receipt | RepcenterError]:
        """Push items in one upload -> a receipt or an error of each. keys: for idempotency, of each.

        timeout_s: long, since a door whose backlog is full lets it wait. Raises where the upload failed
        as a whole.
        """
        given = [None] * len(items) if keys is None else keys
        body = b"\n".join(item_body(item, key) for item, key in zip(items, given, strict=True))
        answer = await self._call("POST", "/v1/items", body, timeout_s, kind="application/x-ndjson")
        return read_outcomes(answer, len(items))

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
