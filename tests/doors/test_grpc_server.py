"""A gRPC service: statuses with the problem in trailing metadata, limits, health with Watch, reflection."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import grpc
import grpc.aio
import orjson
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from contracts.errors import InvalidInput, Overloaded, RepcenterError
from contracts.problem import GRPC_KEY, STATUSES, problem
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from tests.doors.doors import LIMIT, SERVICE, grpc_door
from tests.doors.test_problems import ERRORS

SERVING = health_pb2.HealthCheckResponse.ServingStatus


def scorer(channel: grpc.aio.Channel) -> Any:
    return cast(Any, pb_grpc.ScorerStub)(channel)


async def refusal(error: Exception) -> tuple[grpc.aio.AioRpcError, dict[str, Any]]:
    """What a caller sees of an error: the status and the trailing metadata."""
    async with grpc_door(error) as door, grpc.aio.insecure_channel(door.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await scorer(channel).Score(pb.ScoreRequest())
        metadata: Any = caught.value.trailing_metadata()
        return caught.value, dict(metadata)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
async def test_errors_are_statuses_with_their_problem(error: RepcenterError) -> None:
    caught, metadata = await refusal(error)
    assert caught.code().name == STATUSES[error.code][1]
    assert caught.details() == str(error)
    assert orjson.loads(metadata[GRPC_KEY]) == problem(error, f"/{SERVICE}/Score")
    assert metadata.get("grpc-retry-pushback-ms") == ("200" if isinstance(error, Overloaded) else None)


async def test_an_unforeseen_error_tells_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caught, metadata = await refusal(ValueError("secret"))
    assert caught.code() is grpc.StatusCode.INTERNAL
    assert caught.details() == "an error of ours; the tester's log says more"
    assert GRPC_KEY not in metadata
    logged = [record for record in caplog.records if record.name == "doors.grpc_errors"]
    assert [(record.getMessage(), str((record.exc_info or [None] * 2)[1])) for record in logged] == [
        ("Score failed", "secret")
    ]


async def test_an_error_of_ours_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    await refusal(RepcenterError("a row of a wrong length"))
    assert ("doors.grpc_errors", logging.ERROR, "Score: a row of a wrong length") in caplog.record_tuples


async def test_messages_are_refused_by_size() -> None:
    async with grpc_door() as door, grpc.aio.insecure_channel(door.target) as channel:
        stub = scorer(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Score(pb.ScoreRequest(scene="x" * LIMIT))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.Score(pb.ScoreRequest(scene="x"))).scene == "x"


async def test_health_says_what_it_is_told_and_watchers_hear_it() -> None:
    async with grpc_door() as door, grpc.aio.insecure_channel(door.target) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        async with asyncio.timeout(10):
            for ready, status in ((None, SERVING.NOT_SERVING), (True, SERVING.SERVING)):
                if ready is not None:
                    await door.tell(ready)
                assert (await watch.read()).status == status
                for name in ("", SERVICE):
                    answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                    assert answer.status == status
            await door.tell(False)
            assert (await watch.read()).status == SERVING.NOT_SERVING
        watch.cancel()


async def test_reflection_names_the_service() -> None:
    async with grpc_door() as door, grpc.aio.insecure_channel(door.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = await stub.ServerReflectionInfo(iter([asked])).read()
        names = {service.name for service in listed.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_taken_port_is_named() -> None:
    async with grpc_door() as door:
        port = int(door.target.rpartition(":")[2])
        with pytest.raises(InvalidInput, match="grpc_port: cannot listen on"):
            async with grpc_door(port=port):
                pass


async def test_ipv6_addresses_are_bracketed() -> None:
    async with grpc_door(host="::1") as door, grpc.aio.insecure_channel(door.target) as channel:
        assert door.target.startswith("[::1]:")
        assert (await scorer(channel).Score(pb.ScoreRequest(scene="x"))).scene == "x"
