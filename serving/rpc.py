"""The gRPC read door: repcenter.v1.Scorer. It only translates."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import grpc.aio

from contracts.errors import InvalidInput, RepcenterError
from contracts.explanation import Explanation
from contracts.items import Item
from contracts.problem import retry_after_s
from contracts.request import PRIORITIES, Behaviour, MissingPolicy, Priority, ScoreRequest
from contracts.rpc.columns import read_columns
from contracts.rpc.items import item_of
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from contracts.scores import Scores
from doors.grpc_errors import Context, GrpcErrors
from doors.grpc_server import GrpcServer
from doors.protection import Protection
from doors.tracing import Tracing
from serving import oip_rpc
from serving.admission import RANK
from serving.content_json import place
from serving.listing import Listing
from serving.many import Asked, score_many
from serving.metrics import Metrics
from serving.oip_rpc import InferenceService
from serving.scorer import Scorer

SERVICE = "repcenter.v1.Scorer"
SOURCES = {"request": pb.BEHAVIOUR_SOURCE_REQUEST, "stored": pb.BEHAVIOUR_SOURCE_STORED}
MISSING_POLICIES: dict[int, MissingPolicy] = {
    pb.MISSING_POLICY_UNSPECIFIED: "mask",
    pb.MISSING_POLICY_MASK: "mask",
    pb.MISSING_POLICY_FAIL: "fail",
    pb.MISSING_POLICY_ENCODE: "encode",
}
_PRIORITIES: dict[int, Priority] = {
    pb.REQUEST_PRIORITY_UNSPECIFIED: "normal",
    pb.REQUEST_PRIORITY_LOW: "low",
    pb.REQUEST_PRIORITY_NORMAL: "normal",
    pb.REQUEST_PRIORITY_HIGH: "high",
}
_LONGEST_DEADLINE_S = 60.0
_OTHER_CALLS = 64  # health watches
_ERRORS = GrpcErrors(SERVICE, "scorer")


class ScorerService(pb_grpc.ScorerServicer):
    """The Scorer service over one Scorer."""

    def __init__(self, scorer: Scorer, listing: Listing, metrics: Metrics) -> None:
        self._scorer = scorer
        self._listing = listing
        self._metrics = metrics

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Within the client's deadline; a cancelled call is cancelled here too."""
        began = time.perf_counter()
        outcome = "internal"
        try:
            self._scorer.admission.check(_priority(request.priority))  # a refusal costs no conversion
            top_k = _top_k(request)
            scores = await self._scorer.score(
                score_request(request), _deadline_s(context), request.generation or None
            )
            outcome = "ok"
            return score_response(scores, request.candidates, top_k)
        except RepcenterError as error:
            outcome = error.code
            await _ERRORS.abort(context, error, "Score")
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            await _ERRORS.abort(context, error, "Score")
        finally:
            self._metrics.request("grpc", outcome, time.perf_counter() - began)

    async def ScoreMany(self, request: pb.ScoreManyRequest, context: Context) -> pb.ScoreManyResponse:
        """All of them within the client's deadline."""
        limit_s = _deadline_s(context)
        try:
            if request.requests:
                urgent = max(RANK[_PRIORITIES.get(one.priority, "low")] for one in request.requests)
                self._scorer.admission.check(PRIORITIES[urgent])
            asked = [_asked(one, limit_s) for one in request.requests]
            outcomes = await score_many(self._scorer, self._metrics, "grpc", asked)
        except Exception as error:
            await _ERRORS.abort(context, error, "ScoreMany")
        return pb.ScoreManyResponse(
            outcomes=[_outcome(*pair) for pair in zip(request.requests, outcomes, strict=True)]
        )

    async def ListGenerations(
        self, request: pb.ListGenerationsRequest, context: Context
    ) -> pb.ListGenerationsResponse:
        try:
            listed = await self._listing.read()
        except Exception as error:
            await _ERRORS.abort(context, error, "ListGenerations")
        return pb.ListGenerationsResponse(
            scenes=[
                pb.Scene(name=s.name, generation=s.generation, revision=s.revision) for s in listed.scenes
            ],
            generations=[
                pb.GenerationInfo(
                    id=g.id,
                    created_ms=g.created_ms,
                    space_id=g.space_id,
                    encoder_digest=g.encoder_digest,
                    ranker_digest=g.ranker_digest,
                )
                for g in listed.generations
            ],
        )


def scorer_server(
    service: ScorerService,
    inference: InferenceService,
    host: str,
    port: int,
    max_body_bytes: int,
    max_calls: int,
    protection: Protection | None = None,
    tracing: Tracing | None = None,
) -> GrpcServer:
    """The door with both services, not yet started."""

    def add(server: grpc.aio.Server) -> None:
        cast(Any, pb_grpc.add_ScorerServicer_to_server)(service, server)
        inference.add_to(server)

    others = (oip_rpc.SERVICE,)
    return GrpcServer(
        SERVICE,
        add,
        host,
        port,
        max_body_bytes,
        max_calls=max_calls + _OTHER_CALLS,
        others=others,
        protection=protection,
        tracing=tracing,
    )


def score_request(message: pb.ScoreRequest) -> ScoreRequest:
    """The message as a ScoreRequest; an empty scene means "default".

    InvalidInput, TooLarge name a column without a value, or an item whose picture cannot be used.
    """
    return ScoreRequest(
        candidates=list(message.candidates),
        behaviours=[  # a time of 0 may also be one that is not given
            Behaviour(b.item_id, b.timestamp_ms or (0 if b.HasField("timestamp_ms") else None))
            for b in message.behaviours
        ],
        scene=message.scene or "default",
        user_id=message.user_id if message.HasField("user_id") else None,
        user=read_columns(message.user, "user"),
        context=read_columns(message.context, "context"),
        timestamp_ms=message.timestamp_ms if message.HasField("timestamp_ms") else None,
        query={name: list(vector.values) for name, vector in message.query.items()},
        request_id=message.request_id if message.HasField("request_id") else None,
        missing=_policy(message.missing),
        default_score=message.default_score if message.HasField("default_score") else None,
        explain=message.explain,
        priority=_priority(message.priority),
        query_text=message.query_text,
        query_image=message.query_image,
        contents={item_id: _content(item_id, item) for item_id, item in message.contents.items()},
    )


def _content(item_id: str, message: pb.Item) -> Item:
    """Its own id may be left out."""
    item = item_of(message, place(item_id))
    return item if item.item_id else replace(item, item_id=item_id)


def _priority(number: int) -> Priority:
    if number not in _PRIORITIES:
        raise InvalidInput("priority", number, f"must be one of {sorted(_PRIORITIES)}")
    return _PRIORITIES[number]


def _policy(number: int) -> MissingPolicy:
    if number not in MISSING_POLICIES:
        raise InvalidInput("missing", number, f"must be one of {sorted(MISSING_POLICIES)}")
    return MISSING_POLICIES[number]


def _top_k(message: pb.ScoreRequest) -> int | None:
    if not message.HasField("top_k"):
        return None
    if not message.top_k:
        raise InvalidInput("top_k", 0, "must be at least 1")
    return int(message.top_k)


def _deadline_s(context: Context) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else min(remaining, _LONGEST_DEADLINE_S)


def _asked(message: pb.ScoreRequest, deadline_s: float | None) -> Asked | RepcenterError:
    try:
        _top_k(message)
        return Asked(score_request(message), deadline_s, message.generation or None)
    except RepcenterError as error:
        return error


def _outcome(message: pb.ScoreRequest, outcome: Scores | RepcenterError) -> pb.ScoreOutcome:
    if isinstance(outcome, Scores):
        return pb.ScoreOutcome(answer=score_response(outcome, message.candidates, _top_k(message)))
    wait_s = retry_after_s(outcome)
    return pb.ScoreOutcome(
        refusal=pb.Refusal(
            code=outcome.code,
            detail=str(outcome),
            retry_after_ms=None if wait_s is None else math.ceil(wait_s * 1e3),
        )
    )


def score_response(
    scores: Scores, candidates: Sequence[str] = (), top_k: int | None = None
) -> pb.ScoreResponse:
    """The answer as a message; missing candidates keep NaN. candidates: the request's, for top_k."""
    c, t = scores.completeness, scores.timings
    return pb.ScoreResponse(
        scene=scores.scene,
        generation=scores.generation,
        scores=scores.scores.tolist(),
        statuses=scores.statuses.tolist(),
        completeness=pb.Completeness(
            behaviours_asked=c.behaviours_asked,
            behaviours_found=c.behaviours_found,
            candidates_asked=c.candidates_asked,
            candidates_found=c.candidates_found,
            columns_asked=c.columns_asked,
            columns_found=c.columns_found,
            behaviours_source=SOURCES[c.behaviours_source],
            stale=c.stale,
            encoded=c.encoded,
            encode_failed=c.encode_failed,
        ),
        timings=pb.Timings(
            queue_ms=t.queue_ms,
            fetch_ms=t.fetch_ms,
            assemble_ms=t.assemble_ms,
            run_ms=t.run_ms,
            total_ms=t.total_ms,
            encode_ms=t.encode_ms,
        ),
        request_id=scores.request_id,
        top=[]
        if top_k is None
        else [
            pb.TopItem(item_id=candidates[i], position=i, score=scores.scores[i]) for i in scores.top(top_k)
        ],
        explanations=[_explanation(e) for e in scores.explanations or ()],
    )


def _explanation(e: Explanation) -> pb.Explanation:
    return pb.Explanation(
        item_id=e.item_id,
        position=e.position,
        score=e.score,
        logit=e.logit,
        contributions=e.contributions,
        behaviours={
            name: pb.WeighedBehaviours(
                values=[pb.Weighed(item_id=w.item_id, age=w.age, value=w.value) for w in weighed]
            )
            for name, weighed in e.behaviours.items()
        },
        distributions={
            name: pb.Distribution(
                regions=len(grid), intervals=len(grid[0]), shares=[share for row in grid for share in row]
            )
            for name, grid in e.distributions.items()
        },
    )
