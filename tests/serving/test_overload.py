"""Refused early, never computed late: rows in flight, deadlines, callers that hang up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import orjson
import pytest

from contracts.errors import DeadlineExceeded, Overloaded
from contracts.request import PRIORITIES, Behaviour, ScoreRequest
from contracts.scores import Scores
from doors.loop_lag import LoopLag
from doors.shutdown import cancel
from serving.admission import Admission
from serving.app import RunningScorer
from serving.client import GrpcClient, HttpClient, score_message
from serving.run_time import RunTime
from tests.serving.conftest import World, held, until

REQUEST = ScoreRequest(["item-1", "item-2"], [Behaviour("item-3")])
ROWS = 3


def test_admission_counts_rows() -> None:
    admission = Admission(100)
    admission.enter(60)
    with pytest.raises(Overloaded, match="60 rows in flight, 41 more exceed the limit of 100"):
        admission.enter(41)
    admission.enter(40)
    admission.leave(60)
    assert admission.in_flight == 40


def test_a_run_is_admitted_where_it_meets_its_deadline() -> None:
    admission = Admission(100, workers=2, max_wait_s=1.0)
    admission.begin(5.0, left_s=0.1)  # nobody is before it: tried, whatever is predicted
    assert admission.wait_s == 2.5
    with pytest.raises(
        Overloaded, match="2500 ms of waiting and 1000 ms of work exceed the deadline in 3000 ms"
    ):
        admission.begin(1.0, left_s=3.0)
    admission.begin(0.4, left_s=3.0)
    with pytest.raises(
        Overloaded,
        match="requests wait 2700 ms for a worker and 0 ms for the event loop, the limit is 1000 ms",
    ):
        admission.check()
    admission.end(5.0)
    admission.check()
    admission.end(0.4)
    assert admission.wait_s == 0


def test_run_time_is_a_line_over_size() -> None:
    learned = RunTime()
    assert learned.predict(100, 64) == 0
    learned.observe(100, 64, 0.002)
    assert learned.predict(100, 64) == pytest.approx(0.002)
    assert learned.predict(200, 64) == pytest.approx(0.004)
    for n, t in [(10, 4), (100, 64), (500, 64), (1_000, 0)] * 50:
        learned.observe(n, t, 0.001 + 1e-7 * n * (1 + t))
    assert learned.predict(300, 64) == pytest.approx(0.001 + 1e-7 * 300 * 65, rel=0.02)
    assert learned.predict(1, 0) == pytest.approx(0.001, rel=0.05)
    for _ in range(300):
        learned.observe(500, 64, 0.01)  # the machine is slower now
    assert learned.predict(500, 64) == pytest.approx(0.01, rel=0.05)


def test_run_time_never_predicts_less_for_more() -> None:
    learned = RunTime()
    for n, seconds in [(1, 0.005), (1_000, 0.001)] * 20:
        learned.observe(n, 10, seconds)
    assert 0 < learned.predict(1, 1) <= learned.predict(2_000, 1_000)


async def test_a_long_wait_refuses_before_a_body_is_read(running: RunningScorer) -> None:
    """What is no request at all gets 429 too: it was not looked at."""
    running.scorer.admission.begin(60.0, left_s=60.0)
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            with pytest.raises(
                Overloaded,
                match=r"requests wait 60000 ms for a worker and \d+ ms for the event loop",
            ):
                await client.score(REQUEST)
        async with httpx.AsyncClient(base_url=running.http_url) as raw:
            assert (await raw.post("/v1/score", content=b"{")).status_code == 429
            assert "repcenter_predicted_wait_seconds 60.0" in (await raw.get("/metrics")).text
        running.scorer.admission.end(60.0)
        for client in (http, rpc):
            assert (await client.score(REQUEST)).status_names() == ["ok", "ok"]
    assert running.scorer.admission.wait_s == 0


def test_priorities_have_shares_and_wait_for_their_betters() -> None:
    admission = Admission(100, workers=1, max_wait_s=1.0)
    admission.enter(100, "low")  # nothing is in flight: as many as anybody
    admission.leave(60)
    with pytest.raises(Overloaded, match="40 rows in flight, 11 more exceed the limit of 50"):
        admission.enter(11, "low")
    admission.enter(60, "normal")
    with pytest.raises(Overloaded):
        admission.enter(1, "normal")
    admission.enter(25, "high")
    with pytest.raises(Overloaded, match="the limit of 125"):
        admission.enter(1, "high")
    admission.begin(0.6, 9.0, "low")
    with pytest.raises(Overloaded, match=r"requests wait 600 ms for a worker .* the limit is 500 ms"):
        admission.check("low")
    admission.begin(0.7, 9.0, "normal")
    assert [round(admission.wait_of(p), 6) for p in PRIORITIES] == [1.3, 0.7, 0.0]
    admission.begin(0.2, 0.3, "high")  # waits for nobody
    with pytest.raises(Overloaded):
        admission.begin(0.2, 0.3, "normal")
    admission.end(0.7, "normal")
    admission.end(0.2, "high")
    assert [round(admission.wait_of(p), 6) for p in PRIORITIES] == [0.6, 0.0, 0.0]
    with admission.aside(0.6, "low"):
        assert admission.wait_of("low") == 0
    assert admission.wait_of("low") == pytest.approx(0.6)
    admission.end(0.6, "low")
    assert admission.wait_of("low") == 0


def test_a_late_event_loop_counts_as_wait() -> None:
    late = [0.0]
    admission = Admission(100, max_wait_s=0.1, lag_s=lambda: late[0])
    admission.check()
    late[0] = 0.2
    with pytest.raises(Overloaded, match="0 ms for a worker and 200 ms for the event loop"):
        admission.check()
    admission.begin(0.01, 0.1)  # nobody is before it
    with pytest.raises(Overloaded, match="210 ms of waiting"):
        admission.begin(0.01, 0.1)
    assert admission.wait_s == pytest.approx(0.01)


async def test_the_urgent_are_answered_while_others_are_refused(running: RunningScorer) -> None:
    running.scorer.admission.begin(60.0, left_s=60.0)
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            for priority in ("low", "normal"):
                with pytest.raises(Overloaded):
                    await client.score(replace(REQUEST, priority=priority))
            urgent = replace(REQUEST, priority="high")
            assert (await client.score(urgent)).status_names() == ["ok", "ok"]
            refused, answered = await client.score_many([REQUEST, urgent])
            assert isinstance(refused, Overloaded)
            assert isinstance(answered, Scores)
            with pytest.raises(Overloaded):
                await client.score_many([REQUEST, REQUEST])
    running.scorer.admission.end(60.0)


async def test_an_early_refusal_is_counted_and_keeps_the_connection(running: RunningScorer) -> None:
    """Also with a body that comes in pieces, or is larger than any may be."""
    running.scorer.admission.begin(60.0, left_s=60.0)

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"candidates": ', b'["item-1"], "prior', b'ity": "high"}'):
            yield piece
            await asyncio.sleep(0.01)

    async with httpx.AsyncClient(base_url=running.http_url) as raw:
        for _ in range(3):
            answer = await raw.post("/v1/score", json={"candidates": ["item-1"]})
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["type"] == "urn:repcenter:problem:overloaded"
            assert answer.json()["instance"] == "/v1/score"
        assert (await raw.post("/v1/score", content=pieces())).json()["statuses"] == ["ok"]
        large = await raw.post("/v1/score", content=b'"priority"' + b" " * (5 << 20))
        assert large.status_code == 413
        assert (await raw.get("/v1/score")).status_code == 405
        exposed = (await raw.get("/metrics")).text
        name = "repcenter_score_request_duration_seconds_count"
        assert f'{name}{{door="http",outcome="overloaded"}} 3.0' in exposed
    running.scorer.admission.end(60.0)


async def test_the_loops_lag_is_what_stands_not_one_long_turn() -> None:
    lag = LoopLag()
    beating = asyncio.create_task(lag.run())
    await asyncio.sleep(0.05)
    time.sleep(0.1)
    await asyncio.sleep(0)
    assert lag.seconds() < 0.05
    late = 0.0
    for _ in range(8):
        await asyncio.sleep(0)
        time.sleep(0.03)
        await asyncio.sleep(0.001)
        late = max(late, lag.seconds())
    assert late > 0.01
    await cancel(beating)
    assert lag.seconds() == 0


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(running: RunningScorer) -> None:
    running.scorer.admission.begin(0.2, left_s=1.0)
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            with pytest.raises(Overloaded, match="exceed the deadline in"):
                await client.score(REQUEST, deadline_s=0.19)
            assert running.scorer.admission.in_flight == 0
            assert (await client.score(REQUEST, deadline_s=5)).status_names() == ["ok", "ok"]
    assert running.scorer.admission.wait_s == pytest.approx(0.2)


async def test_too_many_rows_are_429_with_retry_after(running: RunningScorer) -> None:
    running.scorer.admission.enter(3_000 - ROWS + 1)
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            with pytest.raises(Overloaded) as caught:
                await client.score(REQUEST)
            assert caught.value.retry_after_s == 1.0
        async with httpx.AsyncClient(base_url=running.http_url) as raw:
            answer = await raw.post("/v1/score", json={"candidates": ["item-1", "item-2", "item-3"]})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        running.scorer.admission.leave(1)
        for client in (http, rpc):
            assert (await client.score(REQUEST)).status_names() == ["ok", "ok"]


async def test_a_deadline_is_answered_in_time_while_the_store_hangs(
    running: RunningScorer, world: World
) -> None:
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        for client in (http, rpc):
            await client.score(ScoreRequest([]))  # connected; no row is cached
        await world.redis.client_pause(1_000, all=True)
        for client in (http, rpc):
            began = time.perf_counter()
            with pytest.raises(DeadlineExceeded):
                await client.score(REQUEST, deadline_s=0.1)
            assert 0.09 < time.perf_counter() - began < 0.6
        await until(lambda: _free(running))  # a gRPC client may give up first
        await world.redis.client_unpause()
        for client in (http, rpc):
            assert (await client.score(REQUEST)).status_names() == ["ok", "ok"]


async def test_http_says_504(running: RunningScorer) -> None:
    async with httpx.AsyncClient(base_url=running.http_url) as http:
        answer = await http.post("/v1/score", json={"candidates": ["item-1"], "deadline_ms": 0.001})
    assert answer.status_code == 504
    assert answer.json()["type"] == "urn:repcenter:problem:deadline"


async def test_nothing_is_computed_past_its_deadline(running: RunningScorer) -> None:
    """With the only worker busy, requests time out in the queue; their graphs never run."""
    runs: list[float] = []
    loaded = running.live.pin("default")
    run = loaded.model.run

    def counted(*arguments: object) -> object:
        runs.append(time.perf_counter())
        return run(*arguments)  # type: ignore[arg-type]

    loaded.model.run = counted  # type: ignore[method-assign,assignment]
    gate = threading.Event()
    held(running, gate)
    waiting = [asyncio.create_task(running.scorer.score(REQUEST, deadline_s=0.1)) for _ in range(5)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(r) for r in results] == [DeadlineExceeded] * 5
    assert running.scorer.admission.in_flight == 0
    gate.set()
    assert (await running.scorer.score(REQUEST)).status_names() == ["ok", "ok"]
    assert len(runs) == 1


async def test_a_run_that_nobody_waits_for_holds_its_rows_until_it_ends(running: RunningScorer) -> None:
    loaded = running.live.pin("default")
    run = loaded.model.run
    gate, started = threading.Event(), threading.Event()

    def slow(*arguments: object) -> object:
        started.set()
        gate.wait(5)
        return run(*arguments)  # type: ignore[arg-type]

    loaded.model.run = slow  # type: ignore[method-assign,assignment]
    with pytest.raises(DeadlineExceeded):
        await running.scorer.score(REQUEST, deadline_s=0.2)
    assert started.is_set()
    assert running.scorer.admission.in_flight == ROWS
    gate.set()
    await until(lambda: _free(running))


async def test_callers_that_hang_up_are_not_computed(running: RunningScorer, world: World) -> None:
    async with HttpClient(running.http_url) as http, GrpcClient(running.grpc_target) as rpc:
        await http.score(REQUEST)
        await rpc.score(REQUEST)
        gate = threading.Event()
        held(running, gate)
        call = rpc._scorer.Score(score_message(REQUEST), timeout=5)
        host, port = running.http_url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = orjson.dumps({"candidates": ["item-1"], "deadline_ms": 5_000})
        writer.write(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await until(lambda: _in_flight(running, ROWS + 1))
        call.cancel()
        writer.close()
        await until(lambda: _free(running))
        gate.set()
        for client in (http, rpc):
            assert (await client.score(REQUEST)).status_names() == ["ok", "ok"]
    async with httpx.AsyncClient(base_url=running.http_url) as raw:
        exposed = (await raw.get("/metrics")).text
    for door in ("http", "grpc"):
        name = "repcenter_score_request_duration_seconds_count"
        assert f'{name}{{door="{door}",outcome="cancelled"}} 1.0' in exposed


async def _in_flight(running: RunningScorer, rows: int) -> bool:
    return running.scorer.admission.in_flight == rows


async def _free(running: RunningScorer) -> bool:
    return running.scorer.admission.in_flight == 0
