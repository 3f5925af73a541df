"""Doors with keys and certificates: who is let in over HTTP and gRPC, and what stays open."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr

from contracts.errors import Forbidden, RepcenterError, Unauthenticated, Unavailable
from contracts.items import Item
from contracts.request import ScoreRequest
from doors.guard import OPEN_PATHS
from doors.settings import DoorSettings
from param_server.settings import StoreSettings
from realtime_infer.app import open_door
from realtime_infer.settings import EncoderSettings
from serving.app import open_scorer
from serving.client import Credentials, GrpcClient, HttpClient
from serving.settings import ScorerSettings
from tests.certificates import make_certificates
from tests.serving.conftest import World, until

SCORE, PUSH, ADMIN = "score-0123456789", "push-0123456789a", "admin-0123456789"
KEYS = DoorSettings(api_keys=SecretStr(f"score {SCORE}, push {PUSH}, admin {ADMIN}"))
REQUEST = ScoreRequest(["item-1"])


async def test_the_scorer_asks_for_a_key_and_its_health_does_not(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    async with open_scorer(scorer_settings, settings, KEYS) as running:
        await until(running.readiness.is_ready)
        cases: list[tuple[str | None, type[RepcenterError] | None]] = [
            (SCORE, None),
            (ADMIN, None),
            (PUSH, Forbidden),
            ("nobody-0123456789", Unauthenticated),
            (None, Unauthenticated),
        ]
        for key, error in cases:
            shown = Credentials(key)
            async with (
                HttpClient(running.http_url, credentials=shown) as http,
                GrpcClient(running.grpc_target, credentials=shown) as rpc,
            ):
                for client in (http, rpc):
                    if error is None:
                        assert (await client.score(REQUEST)).status_names() == ["ok"]
                        assert (await client.generations()).scenes
                        continue
                    with pytest.raises(error):
                        await client.score(REQUEST)
                    with pytest.raises(error):
                        await client.generations()
        async with httpx.AsyncClient(base_url=running.http_url) as raw:
            assert {(await raw.get(path)).status_code for path in OPEN_PATHS} == {200}
            for path in ("/docs", "/openapi.json", "/nowhere", "/v1/generations", "/health/live/"):
                assert (await raw.get(path)).status_code == 401
            refused = await raw.post("/v1/score", content=b"not JSON")  # refused for the key, not parsed
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["type"] == "urn:repcenter:problem:unauthenticated"
        async with grpc.aio.insecure_channel(running.grpc_target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            checked = await health.Check(health_pb2.HealthCheckRequest())
            assert checked.status == health_pb2.HealthCheckResponse.SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await reflection.ServerReflectionInfo(iter([asked])).read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_write_door_asks_for_another_role(world: World, settings: StoreSettings) -> None:
    cases: list[tuple[str, type[RepcenterError] | None]] = [(SCORE, Forbidden), (PUSH, None), (ADMIN, None)]
    async with open_door(EncoderSettings(http_port=0, grpc_port=0), settings, KEYS) as door:
        for key, error in cases:
            shown = Credentials(key)
            async with (
                HttpClient(door.http_url, credentials=shown) as http,
                GrpcClient(door.grpc_target, credentials=shown) as rpc,
            ):
                for client in (http, rpc):
                    if error is None:
                        assert (await client.push(Item("new", {"title": "x"}))).item_id == "new"
                        continue
                    with pytest.raises(error):
                        await client.push(Item("new", {"title": "x"}))


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls_on_both_doors(
    world: World,
    settings: StoreSettings,
    scorer_settings: ScorerSettings,
    tmp_path: Path,
    mutual: bool,
) -> None:
    pem = make_certificates(tmp_path / "pem")
    files = DoorSettings(
        door_tls_cert_file=pem.server,
        door_tls_key_file=pem.server_key,
        door_tls_client_ca_file=pem.ca if mutual else None,
    )
    believes = Credentials(None, pem.ca)
    shows = Credentials(None, pem.ca, pem.client, pem.client_key)
    async with open_scorer(scorer_settings, settings, files) as running:
        await until(running.readiness.is_ready)
        assert running.http_url.startswith("https://")
        for shown, let_in in ((shows, True), (believes, not mutual), (Credentials(), False)):
            async with (
                HttpClient(running.http_url, credentials=shown) as http,
                GrpcClient(running.grpc_target, credentials=shown, tls=True) as rpc,
            ):
                for client in (http, rpc):
                    if let_in:
                        assert (await client.score(REQUEST)).status_names() == ["ok"]
                        continue
                    with pytest.raises(Unavailable):
                        await client.score(REQUEST)
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(running.http_url.replace("https", "http") + "/health/live")


def test_credentials_are_not_shown_and_belong_together(tmp_path: Path) -> None:
    assert SCORE not in repr(Credentials(SCORE))
    with pytest.raises(RepcenterError, match="go together"):
        Credentials(cert_file=tmp_path / "a")
    with pytest.raises(RepcenterError, match="cannot be used"):
        Credentials(ca_file=tmp_path / "absent").context()
    assert Credentials().context().verify_mode is ssl.CERT_REQUIRED
