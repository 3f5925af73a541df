"""Locust users of the scorer over HTTP and gRPC.

    REPCENTER_LOAD_IDS=var/ids.json locust -f loadtests/locustfile.py --headless -u 20 -r 20 -t 60s \
        --host http://127.0.0.1:8080

REPCENTER_LOAD_GRPC names the gRPC door (default 127.0.0.1:50051), REPCENTER_LOAD_RATE the requests
per second of one user (default 5), REPCENTER_LOAD_SCENE the scene. Locust is a closed loop: for
latency claims use loadtests.open_loop.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any, cast

import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import FastHttpUser, User, constant_throughput, task
from locust.exception import StopUser

from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from loadtests.shapes import IDS_VARIABLE, Traffic, read_item_ids
from serving.client import read_score_message, read_scores, score_body, score_message

grpc_gevent.init_gevent()

_RATE = float(os.environ.get("REPCENTER_LOAD_RATE", "5"))
_GRPC_TARGET = os.environ.get("REPCENTER_LOAD_GRPC", "127.0.0.1:50051")
_SCENE = os.environ.get("REPCENTER_LOAD_SCENE", "default")
_DEADLINE_S = 5.0
_SEEDS = itertools.count(1)
_ITEM_IDS = read_item_ids(os.environ.get(IDS_VARIABLE, "var/load_ids.json"))


def _traffic() -> Traffic:
    return Traffic(_ITEM_IDS, next(_SEEDS), _SCENE)


class HttpScorer(FastHttpUser):
    """POST /v1/score."""

    wait_time = constant_throughput(_RATE)
    network_timeout = _DEADLINE_S

    def on_start(self) -> None:
        self.traffic = _traffic()

    @task
    def score(self) -> None:
        request = self.traffic.request()
        body = score_body(request, deadline_s=_DEADLINE_S).decode()
        headers = {"content-type": "application/json"}
        with self.client.post("/v1/score", data=body, headers=headers, catch_response=True) as answer:
            if answer.status_code == 200 and len(read_scores(answer.content).scores) != len(
                request.candidates
            ):
                answer.failure("another number of scores than candidates")


class GrpcScorer(User):
    """repcenter.v1.Scorer/Score."""

    wait_time = constant_throughput(_RATE)

    def on_start(self) -> None:
        self.traffic = _traffic()
        self.channel = grpc.insecure_channel(_GRPC_TARGET)
        self.stub = cast(Any, pb_grpc.ScorerStub)(self.channel)
        try:
            grpc.channel_ready_future(self.channel).result(timeout=_DEADLINE_S)
        except grpc.FutureTimeoutError as error:
            self._report(_DEADLINE_S * 1e3, 0, error)  # so that the run fails
            raise StopUser from error

    def on_stop(self) -> None:
        self.channel.close()

    @task
    def score(self) -> None:
        request = self.traffic.request()
        message = score_message(request)
        began = time.perf_counter()
        failure: Exception | None = None
        size = 0
        try:
            answer = self.stub.Score(message, timeout=_DEADLINE_S)
            size = answer.ByteSize()
            if len(read_score_message(answer).scores) != len(request.candidates):
                failure = ValueError("another number of scores than candidates")
        except grpc.RpcError as error:
            failure = error
        self._report((time.perf_counter() - began) * 1e3, size, failure)

    def _report(self, response_ms: float, size: int, failure: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="gRPC",
            name="/repcenter.v1.Scorer/Score",
            response_time=response_ms,
            response_length=size,
            exception=failure,
            context={},
        )
