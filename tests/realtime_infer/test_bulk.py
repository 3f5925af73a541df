"""Many pushes in one upload: NDJSON over HTTP and PushMany over gRPC."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from redis.asyncio import Redis

from contracts.errors import TooLarge
from contracts.items import Item
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from param_server.settings import StoreSettings
from realtime_infer.app import RunningDoor, open_door
from realtime_infer.ingest import Ingest
from realtime_infer.ndjson import Lines
from realtime_infer.push_entry import decode_entry
from realtime_infer.settings import EncoderSettings
from tests.encoder_bundle import picture
from tests.realtime_infer.conftest import entries
from tests.realtime_infer.workers import KEYS, until

NDJSON = {"content-type": "application/x-ndjson"}
BLUE = picture((20, 20, 220))


async def stored(redis: Redis) -> list[tuple[str, int, Item | None]]:
    decoded = [decode_entry(fields) for _, fields in await entries(redis, KEYS.pushes)]
    return [(entry.item_id, entry.sequence, entry.item) for entry in decoded]


def ndjson(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def upload(
    http: httpx.AsyncClient, body: Any, **headers: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """-> the outcomes of lines, the last line."""
    answer = await http.post("/v1/items", content=body, headers={**NDJSON, **headers})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == NDJSON["content-type"]
    *lines, last = (json.loads(line) for line in answer.text.splitlines())
    return lines, last


@asynccontextmanager
async def small_door(
    encoder_settings: EncoderSettings, settings: StoreSettings, **update: object
) -> AsyncIterator[tuple[RunningDoor, httpx.AsyncClient]]:
    async with (
        open_door(encoder_settings.model_copy(update=update), settings) as door,
        httpx.AsyncClient(base_url=door.http_url, timeout=15) as client,
    ):
        yield door, client


async def test_every_line_has_its_outcome_in_order(redis: Redis, http: httpx.AsyncClient) -> None:
    body = ndjson(
        {"item_id": "a", "title": "one"},
        {"item_id": "b", "title": 7},
        {"item_id": "a", "image": base64.b64encode(BLUE).decode()},
        {"item_id": "c"},
        {"item_id": "a", "delete": True},
        {"item_id": "a", "delete": False},
        {"item_id": "d", "title": 'has the word "delete"'},
    )
    body = b"\n" + body + b"{broken\n \r\n" + b'{"item_id": "e", "title": "no line end"}'
    lines, last = await upload(http, body)
    assert [line["line"] for line in lines] == list(range(9))
    accepted = [(line["item_id"], line["sequence"]) for line in lines if "sequence" in line]
    assert [item_id for item_id, _ in accepted] == ["a", "a", "a", "d", "e"]
    assert last == {"accepted": 5, "refused": 4}
    found = await stored(redis)
    assert [(item_id, sequence) for item_id, sequence, _ in found] == accepted
    assert [item for _, _, item in found] == [
        Item("a", {"title": "one"}),
        Item("a", image=BLUE),
        None,
        Item("d", {"title": 'has the word "delete"'}),
        Item("e", {"title": "no line end"}),
    ]
    fields = {line["line"]: line["problem"]["errors"][0]["field"] for line in lines if "problem" in line}
    assert fields == {1: "title", 3: "item", 5: "delete", 7: "body"}


async def test_outcomes_come_while_lines_are_still_sent(door: RunningDoor) -> None:
    """One line goes, its outcome is read, then the next goes."""
    host, port = door.http_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/items HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    for n in range(3):
        line = ndjson({"item_id": f"i{n}", "title": "x"})
        writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        async with asyncio.timeout(10):
            while f'"item_id":"i{n}"'.encode() not in await reader.readline():
                pass
    writer.write(b"0\r\n\r\n")
    async with asyncio.timeout(10):
        while b'{"accepted":3,"refused":0}' not in await reader.readline():
            pass
    writer.close()


async def test_many_lines_go_many_at_a_time(redis: Redis, door: RunningDoor, http: httpx.AsyncClient) -> None:
    count = 5_000

    async def lines() -> AsyncIterator[bytes]:
        for start in range(0, count, 500):
            yield ndjson(*({"item_id": f"i{n % 400}", "title": str(n)} for n in range(start, start + 500)))

    outcomes, last = await upload(http, lines())
    assert last == {"accepted": count, "refused": 0}
    assert [outcome["item_id"] for outcome in outcomes] == [f"i{n % 400}" for n in range(count)]
    titles = [item.text["title"] for _, _, item in await stored(redis) if item is not None]
    assert titles == [str(n) for n in range(count)]
    metrics = (await http.get("/metrics")).text
    (trips,) = [
        line for line in metrics.splitlines() if line.startswith("repcenter_push_group_entries_count ")
    ]
    assert float(trips.split()[1]) < count / 20


async def test_a_line_too_long_is_refused_alone(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    async with small_door(encoder_settings, settings, max_body_bytes=1_024) as (_, http):
        long = {"item_id": "long", "title": "x" * 200_000}
        lines, last = await upload(
            http, ndjson({"item_id": "a", "title": "x"}, long, {"item_id": "b", "title": "x"})
        )
    assert last == {"accepted": 2, "refused": 1}
    assert lines[1]["problem"]["status"] == 413
    assert [item_id for item_id, _, _ in await stored(redis)] == ["a", "b"]


async def test_too_many_lines_end_the_upload_and_say_so(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    async with small_door(encoder_settings, settings, max_bulk_items=3) as (_, http):
        lines, last = await upload(http, ndjson(*({"item_id": str(n), "title": "x"} for n in range(5))))
    assert [line["item_id"] for line in lines] == ["0", "1", "2"]
    assert (last["accepted"], last["problem"]["status"]) == (3, 413)
    assert len(await stored(redis)) == 3


async def test_a_full_backlog_slows_the_upload_down_until_there_is_room(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    update = {"max_backlog": 10, "retry_after_s": 0.02}
    async with small_door(encoder_settings, settings, **update) as (_, http):
        body = ndjson(*({"item_id": f"i{n % 7}", "title": str(n)} for n in range(25)))
        uploading = asyncio.create_task(upload(http, body))
        taken: list[str] = []
        while len(taken) < 25:

            async def full() -> bool:
                return len(await entries(redis, KEYS.pushes)) >= min(10, 25 - len(taken))

            await until(full)
            for entry_id, fields in await entries(redis, KEYS.pushes):
                item = decode_entry(fields).item
                assert item is not None
                taken.append(item.text["title"])
                await redis.xdel(KEYS.pushes, entry_id)
        lines, last = await uploading
    assert last == {"accepted": 25, "refused": 0}
    assert taken == [str(n) for n in range(25)]
    assert [line["sequence"] for line in lines] == sorted(line["sequence"] for line in lines)


async def test_a_backlog_that_stays_full_refuses_with_a_time(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    async with small_door(encoder_settings, settings, max_backlog=2, bulk_wait_s=0, retry_after_s=2.5) as (
        _,
        http,
    ):
        lines, last = await upload(http, ndjson(*({"item_id": str(n), "title": "x"} for n in range(4))))
    assert last == {"accepted": 2, "refused": 2}
    assert [line["problem"]["status"] for line in lines[2:]] == [429, 429]
    assert lines[3]["problem"]["retry_after_s"] == 2.5


async def test_uploads_are_bounded_in_number_and_give_their_place_back(
    redis: Redis, encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    async with small_door(encoder_settings, settings, max_bulks=1) as (door, http):
        host, port = door.http_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/items HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        await reader.readline()
        refused = await http.post("/v1/items", content=b"", headers=NDJSON)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        writer.close()

        async def free() -> bool:
            return (await http.post("/v1/items", content=b"", headers=NDJSON)).status_code == 200

        await until(free)


async def test_a_header_key_makes_a_repeated_upload_give_the_same_receipts(
    redis: Redis, http: httpx.AsyncClient
) -> None:
    body = ndjson(
        {"item_id": "a", "title": "x"},
        {"item_id": "a", "title": "y"},
        {"item_id": "b", "title": "x", "idempotency_key": "own"},
        {"item_id": "c", "delete": True},
    )
    first, _ = await upload(http, body, **{"idempotency-key": "import 7"})
    again, last = await upload(http, body, **{"idempotency-key": "import 7"})
    assert [{**line, "replayed": True} for line in first] == again
    assert last == {"accepted": 4, "refused": 0}
    assert len(await stored(redis)) == 4


async def test_push_many_over_grpc(redis: Redis, door: RunningDoor) -> None:
    def push(item_id: str, title: str, key: str | None = None) -> pb.PushManyRequest:
        item = pb.Item(item_id=item_id, text={"title": title})
        return pb.PushManyRequest(push=pb.PushRequest(item=item, idempotency_key=key))

    requests = [
        push("a", "one"),
        push("b", ""),
        push("a", "two", "k"),
        pb.PushManyRequest(delete=pb.DeleteRequest(item_id="a")),
        pb.PushManyRequest(),
        push("a", "two", "k"),
        push("a", "three", "k"),
    ]
    async with grpc.aio.insecure_channel(door.grpc_target) as channel:
        stub: Any = pb_grpc.ItemsStub(channel)  # type: ignore[no-untyped-call]
        outcomes = [outcome async for outcome in stub.PushMany(iter(requests))]
    assert [outcome.index for outcome in outcomes] == list(range(7))
    assert [outcome.refusal.code for outcome in outcomes] == [
        "",
        "invalid",
        "",
        "",
        "invalid",
        "",
        "conflict",
    ]
    assert outcomes[5].receipt.replayed
    assert outcomes[5].receipt.sequence == outcomes[2].receipt.sequence
    found = await stored(redis)
    assert [(item_id, item and item.text["title"]) for item_id, _, item in found] == [
        ("a", "one"),
        ("a", "two"),
        ("a", None),
    ]


async def test_a_grpc_upload_over_its_number_ends_with_a_status(
    encoder_settings: EncoderSettings, settings: StoreSettings
) -> None:
    async with (
        small_door(encoder_settings, settings, max_bulk_items=1) as (door, _),
        grpc.aio.insecure_channel(door.grpc_target) as channel,
    ):
        stub: Any = pb_grpc.ItemsStub(channel)  # type: ignore[no-untyped-call]
        one = pb.PushManyRequest(delete=pb.DeleteRequest(item_id="a"))
        call = stub.PushMany(iter([one, one, one]))
        assert (await call.read()).receipt.item_id == "a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
def test_lines_are_found_however_the_body_is_cut(size: int) -> None:
    body = b"one\n\n  \ntwo\r\n" + b"x" * 50 + b"\nthree\n" + b"y" * 51
    lines = Lines(40)
    found = [line for at in range(0, len(body), size) for line in lines.feed(body[at : at + size])]
    found += lines.end()
    kept = [str(line) if isinstance(line, TooLarge) else line.strip().decode() for line in found]
    assert kept == [
        "one",
        "two",
        "line: 50 bytes exceed the limit of 40",
        "three",
        "line: 51 bytes exceed the limit of 40",
    ]


async def test_pushes_that_come_together_share_a_round_trip_and_keep_their_order(
    redis: Redis, encoder_settings: EncoderSettings
) -> None:
    trips: list[int] = []
    ingest = Ingest(redis, encoder_settings, trips.append)
    receipts = await asyncio.gather(*(ingest.push(Item("a", {"title": str(n)})) for n in range(60)))
    assert [receipt.sequence for receipt in receipts] == sorted(receipt.sequence for receipt in receipts)
    assert sum(trips) == 60
    assert len(trips) <= 3
