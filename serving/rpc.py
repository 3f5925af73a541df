"""The gRPC read door: repcenter.v1.Scorer. It only translates."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import grpc.aio

from contracts.errors import RepcenterError
from contracts.request import Behaviour, ScoreRequest
from contracts.rpc.columns import read_columns
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from contracts.scores import Scores
from doors.grpc_errors import Context, GrpcErrors
from doors.grpc_server import GrpcServer
from doors.protection import Protection
from serving import oip_rpc
from serving.listing import Listing
from serving.metrics import Metrics
from serving.oip_rpc import InferenceService
from serving.scorer import Scorer

SERVICE = "repcenter.v1.Scorer"
SOURCES = {"request": pb.BEHAVIOUR_SOURCE_REQUEST, "stored": pb.BEHAVIOUR_SOURCE_STORED}
_LONGEST_DEADLINE_S = 60.0
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
            self._scorer.admission.check()  # a refusal costs no conversion
            remaining = context.time_remaining()
            scores = await self._scorer.score(
                score_request(request),
                None if remaining is None else min(remaining, _LONGEST_DEADLINE_S),
                request.generation or None,
            )
            outcome = "ok"
            return score_response(scores)
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
    protection: Protection | None = None,
) -> GrpcServer:
    """The door with both services, not yet started."""

    def add(server: grpc.aio.Server) -> None:
        cast(Any, pb_grpc.add_ScorerServicer_to_server)(service, server)
        inference.add_to(server)

    others = (oip_rpc.SERVICE,)
    return GrpcServer(SERVICE, add, host, port, max_body_bytes, others=others, protection=protection)


def score_request(message: pb.ScoreRequest) -> ScoreRequest:
    """The message as a ScoreRequest; an empty scene means "default".

    InvalidInput names a column without a value.
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
    )


def score_response(scores: Scores) -> pb.ScoreResponse:
    """The answer as a message; missing candidates keep NaN."""
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
        ),
        timings=pb.Timings(
            queue_ms=t.queue_ms,
            fetch_ms=t.fetch_ms,
            assemble_ms=t.assemble_ms,
            run_ms=t.run_ms,
            total_ms=t.total_ms,
        ),
        request_id=scores.request_id,
    )
