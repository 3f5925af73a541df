"""An encoder that is killed, stopped, full or locked: flagged answers in time, typed refusals, recovery."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc.aio
import httpx
import numpy as np
import pytest
import pytest_asyncio
from pydantic import SecretStr
from redis.asyncio import Redis

from contracts.bundle import Bundle
from contracts.codec import CONTENT_INT8, RECORD_VERSION
from contracts.errors import DeadlineExceeded, Overloaded, Unavailable
from contracts.items import Item
from contracts.request import Behaviour, ScoreRequest
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from doors.grpc_errors import Context
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from realtime_infer.app import open_encoder
from realtime_infer.encoder import Encoder
from realtime_infer.settings import EncoderSettings
from serving.settings import ScorerSettings
from tests.certificates import make_certificates
from tests.encoder_bundle import make_encoder_bundle
from tests.realtime_infer.workers import process, wait_line
from tests.serving.conftest import SPACE, World, fill, until
from tests.serving.encoders import NEW, Scorer, free_port, metric, scoring
from tests.serving.full_ranker import make_bundle, make_ranker

KEY = "score-0123456789"
BROUGHT = ScoreRequest(["item-1", *NEW], [Behaviour("item-3")], missing="encode", contents=NEW)
QUERY = ScoreRequest(["item-1"], query_text="red shoes")
FLAGGED = ["ok", "missing", "missing", "missing"]
ENCODED = ["ok", "encoded", "encoded", "encoded"]
CALLS = 'repcenter_encode_total{door="grpc",outcome="encoded"}'


@pytest.fixture(scope="module")
def encoder_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("encoder") / "bundle"
    return make_encoder_bundle(directory, 16, attributes=SPACE.attributes)


@pytest.fixture(scope="module")
def bundle(encoder_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    space = Encoder.open(str(encoder_bundle.path), encoder_bundle.digest).space
    return make_bundle(tmp_path_factory.mktemp("full") / "ranker", make_ranker(), space=space)


@pytest_asyncio.fixture
async def world(redis: Redis, bundle: Bundle, encoder_bundle: Bundle) -> World:
    space = Encoder.open(str(encoder_bundle.path), encoder_bundle.digest).space
    return await fill(redis, bundle, space, str(encoder_bundle.path))


class EncoderProcess:
    """One on a port of its own that is stopped, killed and started again."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url, self.port = redis_url, free_port()
        self.target = f"127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """Told to go on at the end, or it could not be killed in good order."""
        with process("run_encoder", self.redis_url, grpc_port=self.port, scene_poll_s=0.05) as encoder:
            line = wait_line(encoder, "listening")
            self.http_url = line.split()[1].removeprefix("http=")
            yield encoder

    async def ready(self) -> None:
        async with httpx.AsyncClient(base_url=self.http_url) as http:

            async def answers() -> bool:
                return (await http.get("/health/ready")).status_code == 200

            await until(answers, 30)

    async def calls(self) -> float:
        async with httpx.AsyncClient(base_url=self.http_url) as http:
            return await metric(http, CALLS)


@pytest.fixture
def remote(world: World, server: EmbeddedServer) -> EncoderProcess:
    return EncoderProcess(server.url)


@asynccontextmanager
async def paused(running: subprocess.Popen[str]) -> AsyncIterator[None]:
    running.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        running.send_signal(signal.SIGCONT)


async def waits_for(scorer: Scorer, contents: float, joined: float = 0) -> None:
    async def there() -> bool:
        return (
            await scorer.count("repcenter_encode_on_miss_waiting") == contents
            and await scorer.count('repcenter_encode_on_miss_total{result="joined"}') >= joined
        )

    await until(there)


async def all_encoded(scorer: Scorer) -> bool:
    return (await scorer.http.score(BROUGHT, deadline_s=5)).status_names() == ENCODED


async def test_a_stopped_encoder_costs_the_items_and_nothing_else(
    remote: EncoderProcess, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    with remote.running() as running:
        await remote.ready()
        async with scoring(scorer_settings, settings, remote.target) as scorer:
            assert (await scorer.http.score(BROUGHT)).status_names() == ENCODED
            contents = {**NEW, "new-1": Item("new-1", {"title": "another"})}
            unseen = replace(BROUGHT, contents=contents)
            async with paused(running):
                for client in (scorer.http, scorer.rpc):
                    answer = await client.score(unseen, deadline_s=0.5)
                    assert answer.status_names() == ["ok", "missing", "encoded", "encoded"]  # two are kept
                    assert (answer.completeness.encoded, answer.completeness.encode_failed) == (2, 1)
                    assert answer.timings.total_ms < 500  # within the deadline, or it would not be here
                with pytest.raises(DeadlineExceeded):
                    await scorer.http.score(QUERY, deadline_s=0.3)

                async def given_up() -> bool:
                    await scorer.http.score(unseen, deadline_s=0.3)
                    return await scorer.count("repcenter_encode_on_miss_breaker_open") == 1

                await until(given_up, 30)
                async with asyncio.timeout(30):  # of a deadline of 60
                    flagged = await scorer.http.score(unseen, deadline_s=60)
                assert flagged.status_names()[1] == "missing"
                with pytest.raises((Unavailable, DeadlineExceeded)):  # another call may just be trying
                    await scorer.http.score(QUERY, deadline_s=1)

            async def encodes() -> bool:
                return (await scorer.http.score(unseen, deadline_s=5)).status_names() == ENCODED

            await until(encodes, 30)
            assert (await scorer.rpc.score(QUERY)).status_names() == ["ok"]


async def test_a_killed_encoder_is_found_again(
    remote: EncoderProcess, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    async with scoring(scorer_settings, settings, remote.target, encode_cache_items=0) as scorer:
        async with asyncio.timeout(30):  # of deadlines of 60: nobody listens
            assert (await scorer.rpc.score(BROUGHT, deadline_s=60)).status_names() == FLAGGED
            for client in (scorer.http, scorer.rpc):
                with pytest.raises(Unavailable):
                    await client.score(QUERY, deadline_s=60)
        for _ in range(2):
            with remote.running() as running:
                await remote.ready()
                await until(lambda: all_encoded(scorer), 30)
                waiting = []
                async with paused(running):
                    waiting = [
                        asyncio.create_task(scorer.rpc.score(r, deadline_s=60)) for r in (BROUGHT, QUERY)
                    ]
                    await waits_for(scorer, 4)
                    running.kill()
                running.wait()
                async with asyncio.timeout(30):
                    assert (await waiting[0]).status_names() == FLAGGED
                    with pytest.raises(Unavailable):
                        await waiting[1]


async def test_many_requests_share_one_call_that_outlives_who_began_it(
    remote: EncoderProcess, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    request = replace(BROUGHT, query_text="together")
    with remote.running() as running:
        await remote.ready()
        async with scoring(scorer_settings, settings, remote.target) as scorer:
            await scorer.http.score(replace(QUERY, query_text="connects"))
            async with paused(running):
                first = asyncio.create_task(scorer.rpc.score(request))
                await waits_for(scorer, 4)
                rest = [asyncio.create_task(scorer.http.score(request)) for _ in range(20)]
                await waits_for(scorer, 4, joined=80)
                first.cancel()  # it hangs up
            answers = await asyncio.gather(*rest)
            assert all(answer.status_names() == ENCODED for answer in answers)
            assert await remote.calls() == 1 + 2  # the query's and the items'
            assert await scorer.count('repcenter_encode_on_miss_total{result="joined"}') == 80
            assert await scorer.count('repcenter_encode_on_miss_total{result="encoded"}') == 1 + 4


async def test_who_joined_a_call_that_had_less_time_asks_once_more(
    remote: EncoderProcess, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    with remote.running() as running:
        await remote.ready()
        async with scoring(scorer_settings, settings, remote.target) as scorer:
            await scorer.http.score(replace(QUERY, query_text="connects"))
            async with paused(running):
                hasty = asyncio.create_task(scorer.http.score(QUERY, deadline_s=1.0))
                await waits_for(scorer, 1)
                patient = [asyncio.create_task(scorer.rpc.score(QUERY, deadline_s=20)) for _ in range(3)]
                await waits_for(scorer, 1, joined=3)
                with pytest.raises(DeadlineExceeded):
                    await hasty
                await waits_for(scorer, 1)
            assert [a.status_names() for a in await asyncio.gather(*patient)] == [["ok"]] * 3
            assert await scorer.count('repcenter_encode_on_miss_total{result="encoded"}') == 2


async def test_what_is_kept_and_what_waits_is_bounded(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    asked = EncoderSettings(http_port=0, grpc_port=0, scene_poll_s=0.05, stop_s=2.0)
    async with open_encoder(asked, settings) as door:
        async with scoring(scorer_settings, settings, door.grpc_target, encode_cache_items=2) as scorer:
            await until(lambda: all_encoded(scorer))
            before = await scorer.count('repcenter_encode_on_miss_total{result="encoded"}')
            for title in ("a", "b", "c", "b", "c", "a"):
                await scorer.http.score(replace(QUERY, query_text=title))
            encoded = await scorer.count('repcenter_encode_on_miss_total{result="encoded"}')
            assert encoded - before == 4  # "a" was the oldest
        async with scoring(scorer_settings, settings, door.grpc_target, encode_in_flight=3) as scorer:
            query = replace(QUERY, candidates=BROUGHT.candidates, missing="encode", contents=NEW)
            with pytest.raises(Overloaded, match="contents wait for the encoder"):
                await asyncio.gather(
                    *(scorer.rpc.score(replace(query, query_text=f"q{n}")) for n in range(8))
                )
            await until(lambda: all_encoded(scorer))  # once those calls have ended


async def test_an_encoder_behind_keys_and_tls(
    world: World,
    settings: StoreSettings,
    scorer_settings: ScorerSettings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    made = make_certificates(tmp_path / "certificates")
    asked = EncoderSettings(http_port=0, grpc_port=0, scene_poll_s=0.05, stop_s=2.0)
    with monkeypatch.context() as patch:
        patch.setenv("REPCENTER_API_KEYS", f"score {KEY}, push push-0123456789a")
        patch.setenv("REPCENTER_DOOR_TLS_CERT_FILE", str(made.server))
        patch.setenv("REPCENTER_DOOR_TLS_KEY_FILE", str(made.server_key))
        patch.setenv("REPCENTER_DOOR_TLS_CLIENT_CA_FILE", str(made.ca))
        opened = open_encoder(asked, settings)
        door = await opened.__aenter__()
    try:
        shown: dict[str, object] = {
            "encoder_tls": True,
            "encoder_tls_ca_file": made.ca,
            "encoder_tls_cert_file": made.client,
            "encoder_tls_key_file": made.client_key,
        }
        right = {**shown, "encoder_api_key": SecretStr(KEY)}
        async with scoring(scorer_settings, settings, door.grpc_target, **right) as scorer:
            await until(lambda: all_encoded(scorer))
        for wrong in (shown, {**shown, "encoder_api_key": SecretStr("push-0123456789a")}, {}):
            async with scoring(scorer_settings, settings, door.grpc_target, **wrong) as scorer:
                with pytest.raises(Unavailable) as caught:
                    await scorer.http.score(QUERY)
                assert KEY not in str(caught.value)
                assert (await scorer.http.score(BROUGHT)).status_names() == FLAGGED
    finally:
        await opened.__aexit__(None, None, None)


async def test_nothing_is_encoded_while_the_tables_are_silent(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings, remote: EncoderProcess
) -> None:
    """Nobody can say then whether an item was deleted."""
    flagged = scorer_settings.model_copy(
        update={"cache_stale": "flagged", "cache_patience_ms": 50, "cache_bound_s": 1.0}
    )
    with remote.running():
        await remote.ready()
        async with scoring(flagged, settings, remote.target) as scorer:
            assert (await scorer.http.score(BROUGHT)).status_names() == ENCODED
            await world.redis.client_pause(4_000, all=True)

            async def stale() -> bool:
                answer = await scorer.http.score(BROUGHT, deadline_s=0.5)
                assert (answer.completeness.encoded, answer.completeness.encode_failed) == (0, 3)
                return answer.completeness.stale

            await until(stale)
            await until(lambda: all_encoded(scorer), 30)


class Liar(pb_grpc.EncoderServicer):
    """An encoder of another build, or none at all: `answer` is what it says to anything."""

    answer: pb.EncodeResponse | None = None

    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        if self.answer is None:
            raise ValueError("of a test")
        return self.answer


async def test_an_encoder_that_answers_nonsense_gives_no_wrong_score(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    space, liar = world.generation.space, Liar()
    record = np.zeros(1, space.dtype)
    record["version"], record["codec"] = RECORD_VERSION, CONTENT_INT8
    good = pb.EncodedItem(vectors={"text": pb.Vector(values=[1.0] * 16)}, record=record.tobytes())
    newer = record.copy()
    newer["version"] = 200
    huge, short = (pb.Vector(values=values) for values in ([float("inf")] * 16, [1.0] * 15))
    nonsense: list[list[pb.EncodedItem]] = [
        [],
        [good, good],
        [pb.EncodedItem()],
        [pb.EncodedItem(vectors=good.vectors, record=record.tobytes()[:-1])],
        [pb.EncodedItem(vectors=good.vectors, record=newer.tobytes())],
        [pb.EncodedItem(vectors={"text": huge}, record=good.record)],
        [pb.EncodedItem(vectors={"text": short}, record=good.record)],
        [pb.EncodedItem(vectors={"smell": good.vectors["text"]}, record=good.record)],
        [pb.EncodedItem(refusal=pb.Refusal(code="unheard of", detail="x"))],
    ]
    server = grpc.aio.server()
    pb_grpc.add_EncoderServicer_to_server(liar, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    request = ScoreRequest(["item-1", "new-1"], missing="encode", contents={"new-1": NEW["new-1"]})
    try:
        async with scoring(scorer_settings, settings, f"127.0.0.1:{port}") as scorer:
            for items in (None, *nonsense):
                liar.answer = None if items is None else pb.EncodeResponse(space_id=space.id, items=items)
                answer = await scorer.http.score(request)
                assert answer.status_names() == ["ok", "missing"], items
                assert answer.completeness.encode_failed == 1
                with pytest.raises(Unavailable):
                    await scorer.rpc.score(QUERY)
            liar.answer = pb.EncodeResponse(space_id=space.id, items=[good])
            assert (await scorer.http.score(request)).status_names() == ["ok", "encoded"]
            assert (await scorer.rpc.score(QUERY)).status_names() == ["ok"]
    finally:
        await server.stop(0)
