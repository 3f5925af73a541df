"""POST /v1/score as a bare ASGI app before the FastAPI one, which has all other paths and the documents.

Routing and middleware cost more than reading the body. While requests wait too long, 429 is said before
anything is parsed; a body that names its priority is looked at: its turn may come sooner.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import Overloaded, RepcenterError
from doors.body import read_body
from doors.problems import refusal, unforeseen
from serving.admission import RETRY_AFTER_S
from serving.answer_json import score_answer, server_timing
from serving.disconnect import CLIENT_CLOSED_REQUEST, while_connected
from serving.metrics import Metrics
from serving.score_json import parse_score_body
from serving.scorer import Scorer

log = logging.getLogger(__name__)
PATH = "/v1/score"


class _Route(NamedTuple):
    path: str


_ROUTE = _Route(PATH)


class ScoreDoor:
    """Answers, whoever asks."""

    def __init__(self, scorer: Scorer, metrics: Metrics, max_body_bytes: int, max_calls: int) -> None:
        """max_calls: POSTs in flight, whatever their path."""
        self._scorer, self._metrics = scorer, metrics
        self._max_body_bytes, self._max_calls = max_body_bytes, max_calls
        self._calls = 0

    def before(self, app: ASGIApp) -> ASGIApp:
        """An app that answers here, and gives every other path and method to `app`."""

        async def fronted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] != "POST":
                await app(scope, receive, send)
                return
            if self._calls >= self._max_calls:
                full = Overloaded(f"{self._calls} calls are in flight", RETRY_AFTER_S)
                if scope["path"] == PATH:
                    self._metrics.request("http", full.code, 0.0)
                await refusal(full, scope["path"])(scope, receive, send)
                return
            self._calls += 1
            try:
                if scope["path"] == PATH:
                    scope["route"] = _ROUTE  # as a router would: traces are named by it
                    answer = await self.answer(Request(scope, receive))
                    await answer(scope, receive, send)
                else:
                    await app(scope, receive, send)
            finally:
                self._calls -= 1

        return fronted

    async def answer(self, request: Request) -> Response:
        """Scores or a problem; never raises but what cancels it."""
        began, outcome = time.perf_counter(), "internal"
        try:
            data = await read_body(request, self._max_body_bytes)
            self._scorer.admission.check_unread(data)
            body = parse_score_body(data)
            work = self._scorer.score(body.request(), body.deadline_s, body.generation)
            scores = await while_connected(request, work)
            outcome = "ok"
            return Response(
                score_answer(scores, body.candidates, body.top_k),
                media_type="application/json",
                headers={"X-Generation": scores.generation, "Server-Timing": server_timing(scores)},
            )
        except (RepcenterError, RequestValidationError) as error:
            outcome = error.code if isinstance(error, RepcenterError) else "invalid"
            return refusal(error, PATH)
        except ClientDisconnect:
            outcome = "cancelled"
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception:
            log.exception("%s", PATH)
            return unforeseen(PATH, "scorer")
        finally:
            self._metrics.request("http", outcome, time.perf_counter() - began)
