"""The gRPC read door: repcenter.v1.Scorer, health with Watch, reflection. It only translates."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
import orjson
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from contracts.errors import InvalidInput, RepcenterError
from contracts.features import Behaviour, ScoreRequest
from contracts.problem import GRPC_KEY, grpc_status, problem, retry_after_s
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from contracts.scores import Scores
from serving.listing import Listing
from serving.metrics import Metrics
from serving.scorer import Scorer

log = logging.getLogger(__name__)
SERVICE = "repcenter.v1.Scorer"
_LONGEST_DEADLINE_S = 60.0
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)

Context = grpc.aio.ServicerContext[Any, Any]


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
            await _refuse(context, error, "Score")
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception:
            await _our_error(context, "Score")
        finally:
            self._metrics.request("grpc", outcome, time.perf_counter() - began)

    async def ListGenerations(
        self, request: pb.ListGenerationsRequest, context: Context
    ) -> pb.ListGenerationsResponse:
        try:
            listed = await self._listing.read()
        except RepcenterError as error:
            await _refuse(context, error, "ListGenerations")
        except Exception:
            await _our_error(context, "ListGenerations")
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


def score_request(message: pb.ScoreRequest) -> ScoreRequest:
    """The message as a ScoreRequest; an empty scene means "default"."""
    return ScoreRequest(
        candidates=list(message.candidates),
        behaviours=[
            Behaviour(b.item_id, b.timestamp_ms if b.HasField("timestamp_ms") else None)
            for b in message.behaviours
        ],
        scene=message.scene or "default",
        user_id=message.user_id if message.HasField("user_id") else None,
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
        ),
        timings=pb.Timings(
            queue_ms=t.queue_ms,
            fetch_ms=t.fetch_ms,
            assemble_ms=t.assemble_ms,
            run_ms=t.run_ms,
            total_ms=t.total_ms,
        ),
    )


async def _refuse(context: Context, error: RepcenterError, method: str) -> NoReturn:
    if error.code == "internal":
        log.error("%s: %s", method, error)
    metadata: list[tuple[str, str | bytes]] = [
        (GRPC_KEY, orjson.dumps(problem(error, f"/{SERVICE}/{method}")))
    ]
    if (wait_s := retry_after_s(error)) is not None:
        metadata.append(("grpc-retry-pushback-ms", str(math.ceil(wait_s * 1e3))))
    await context.abort(grpc.StatusCode[grpc_status(error)], str(error), tuple(metadata))


async def _our_error(context: Context, method: str) -> NoReturn:
    """The log has the trace; the answer tells nothing of our insides."""
    log.exception("%s failed", method)
    await context.abort(grpc.StatusCode.INTERNAL, "an error of ours; the scorer's log says more")


class RpcDoor:
    """The gRPC server and its health service. `port`: the one that was taken."""

    def __init__(self, service: ScorerService, host: str, port: int, max_body_bytes: int) -> None:
        self._server = grpc.aio.server(
            options=(*_KEEPALIVE, ("grpc.max_receive_message_length", max_body_bytes))
        )
        self._health = health.aio.HealthServicer()
        cast(Any, pb_grpc.add_ScorerServicer_to_server)(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        try:
            self.port = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise InvalidInput("grpc_port", port, f"cannot listen on {host}: {error}") from error

    async def start(self) -> None:
        await self.tell(False)
        await self._server.start()

    async def tell(self, ready: bool) -> None:
        """What the health service says to Check and Watch."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in ("", SERVICE):
            await self._health.set(name, status.SERVING if ready else status.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let those in flight end for at most grace_s."""
        await self._server.stop(grace_s)
