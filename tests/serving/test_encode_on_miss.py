"""Items encoded on the way, and queries in words and pictures: the same scores as from the tables."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc.aio
import httpx
import numpy as np
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from redis.asyncio import Redis
from typer.testing import CliRunner

from cli.main import app
from contracts.bundle import Bundle
from contracts.codec import tombstones
from contracts.errors import InvalidInput, SpaceMismatch, TooLarge
from contracts.items import Item
from contracts.request import Behaviour, ScoreRequest
from contracts.rpc.v1 import open_inference_pb2 as oip
from contracts.rpc.v1 import open_inference_pb2_grpc as oip_grpc
from contracts.rpc.v1 import repcenter_pb2 as pb
from contracts.rpc.v1 import repcenter_pb2_grpc as pb_grpc
from contracts.scores import Scores
from contracts.space import Space
from contracts.window import Window
from doors.settings import TraceSettings
from doors.tracing import start_tracing
from param_server.score_files import ScoreFiles
from param_server.settings import StoreSettings
from realtime_infer.app import RunningEncoder, open_encoder
from realtime_infer.encoder import Encoder
from realtime_infer.settings import EncoderSettings
from serving.app import open_scorer
from serving.capture_file import decode_capture
from serving.client import GrpcClient, HttpClient
from serving.drift import measure_drift
from serving.encode_settings import EncodeSettings
from serving.encoding import content_key
from serving.loaded import load_generation
from serving.recorded import Recorded
from serving.replay import open_captured, replay_capture
from serving.settings import ScorerSettings
from tests.encoder_bundle import make_encoder_bundle
from tests.serving.conftest import COLD, SPACE, World, fill, until
from tests.serving.encoders import BLUE, NEW, RED, Scorer, commit, metric, same, scoring
from tests.serving.full_ranker import make_bundle, make_ranker
from training.models.ciubm import CiubmConfig
from training.models.query import QueryConfig
from training.models.ranker import Ranker

KNOWN = [Behaviour("item-3", 10), Behaviour("item-9", 20)]
MISSING = ScoreRequest(
    ["item-1", "new-1", COLD[0], "new-2", "nobody", "new-1"],
    [*KNOWN, Behaviour("new-3", 30)],
    timestamp_ms=9_000,
)
BROUGHT = replace(MISSING, missing="encode", contents=NEW)


@pytest.fixture(scope="module")
def encoder_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("encoder") / "bundle"
    return make_encoder_bundle(directory, 16, attributes=SPACE.attributes)


@pytest.fixture(scope="module")
def encoder(encoder_bundle: Bundle) -> Encoder:
    return Encoder.open(str(encoder_bundle.path), encoder_bundle.digest)


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return make_ranker(
        (CiubmConfig(modality="fused", weighting="cosine"), QueryConfig(modalities=("text", "image")))
    )


@pytest.fixture(scope="module")
def bundle(ranker: Ranker, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("full") / "ranker", ranker, explains=True, space=encoder.space)


@pytest_asyncio.fixture
async def world(redis: Redis, bundle: Bundle, encoder: Encoder, encoder_bundle: Bundle) -> World:
    return await fill(redis, bundle, encoder.space, str(encoder_bundle.path))


@pytest.fixture
def encoder_settings() -> EncoderSettings:
    return EncoderSettings(http_port=0, grpc_port=0, scene_poll_s=0.05, stop_s=2.0)


@pytest_asyncio.fixture
async def door(
    world: World, encoder_settings: EncoderSettings, settings: StoreSettings
) -> AsyncIterator[RunningEncoder]:
    async with open_encoder(encoder_settings, settings) as running:
        async with httpx.AsyncClient(base_url=running.http_url) as http:

            async def ready() -> bool:
                return (await http.get("/health/ready")).status_code == 200

            await until(ready)
        yield running


@pytest_asyncio.fixture
async def scorer(
    door: RunningEncoder, settings: StoreSettings, scorer_settings: ScorerSettings
) -> AsyncIterator[Scorer]:
    async with scoring(scorer_settings, settings, door.grpc_target) as made:
        yield made


async def seen(scorer: Scorer, request: ScoreRequest, most_ok: int) -> Scores:
    """The answer once the row cache has heard of what was committed."""
    answers: list[Scores] = []

    async def heard() -> bool:
        answers.append(await scorer.http.score(request))
        return answers[-1].status_names().count("ok") >= most_ok

    await until(heard)
    return answers[-1]


async def test_scores_are_those_after_a_push_to_the_bit(
    scorer: Scorer, world: World, encoder: Encoder
) -> None:
    before = await scorer.http.score(MISSING)
    assert before.status_names() == ["ok", "missing", "cold", "missing", "missing", "missing"]
    answers = [await scorer.http.score(BROUGHT), await scorer.rpc.score(BROUGHT)]
    many = await scorer.http.score_many([BROUGHT, MISSING])
    await commit(world, encoder, list(NEW.values()))
    after = await seen(scorer, MISSING, 4)
    assert after.status_names() == ["ok", "ok", "cold", "ok", "missing", "ok"]
    assert abs(before.scores[0] - after.scores[0]) > 1e-6  # the behaviour counts
    for answer in answers:
        same(answer.scores, after.scores)
        assert answer.status_names() == ["ok", "encoded", "cold", "encoded", "missing", "encoded"]
        c = answer.completeness
        assert (c.encoded, c.encode_failed) == (3, 0)
        assert (c.candidates_asked, c.candidates_found) == (6, 2)
        assert (c.behaviours_asked, c.behaviours_found) == (3, 2)
    assert answers[0].timings.encode_ms > 0
    assert before.timings.encode_ms == after.timings.encode_ms == 0
    assert not isinstance(many[0], Exception)
    assert not isinstance(many[1], Exception)
    same(many[0].scores, after.scores)
    same(many[1].scores, before.scores)
    again = await scorer.http.score(BROUGHT)  # nothing is missing any more
    assert (again.status_names(), again.completeness.encoded) == (after.status_names(), 0)
    assert await scorer.count('repcenter_lookup_total{result="encoded"}') == 9
    assert await scorer.count('repcenter_stage_duration_seconds_count{stage="encode"}') == 3
    labels = f'generation="{world.generation.id}",result="encoded",scene="default"'
    assert await scorer.count(f"repcenter_generation_candidates_total{{{labels}}}") == 9


async def test_a_default_score_is_for_what_remains(scorer: Scorer) -> None:
    answer = await scorer.rpc.score(replace(BROUGHT, default_score=0.25))
    assert answer.status_names() == ["ok", "encoded", "cold", "encoded", "default", "encoded"]
    assert answer.scores[4] == 0.25


async def test_an_item_with_an_id_row_alone_gets_its_content(
    scorer: Scorer, world: World, encoder: Encoder
) -> None:
    item = Item(COLD[0], {"title": "Heat"}, image=RED)
    request = ScoreRequest([COLD[0], COLD[1]], KNOWN, timestamp_ms=99)
    brought = await scorer.http.score(replace(request, missing="encode", contents={COLD[0]: item}))
    assert brought.status_names() == ["encoded", "cold"]
    assert (brought.completeness.candidates_found, brought.completeness.encoded) == (2, 1)
    await commit(world, encoder, [item])
    same(brought.scores, (await seen(scorer, request, 1)).scores)


async def test_a_deleted_item_stays_deleted(scorer: Scorer, world: World, encoder: Encoder) -> None:
    rows = tombstones(encoder.space.dtype, np.array([500], np.uint64))
    await world.store.commit_window(Window(encoder.space, ["new-1"], rows, 1))
    answer = await scorer.http.score(BROUGHT)
    assert answer.status_names() == ["ok", "missing", "cold", "encoded", "missing", "missing"]
    assert (answer.completeness.encoded, answer.completeness.encode_failed) == (2, 0)


async def test_a_push_that_the_row_cache_has_not_heard_of_is_no_deletion(
    scorer: Scorer, world: World, encoder: Encoder
) -> None:
    await scorer.http.score(MISSING)  # cached as absent
    records = encoder.records(encoder.encode(list(NEW.values())), np.full(len(NEW), 9, np.uint64))
    await world.store.commit_window(Window(encoder.space, list(NEW), records, 1))
    answer = await scorer.http.score(BROUGHT)
    assert answer.status_names() == ["ok", "encoded", "cold", "encoded", "missing", "encoded"]


async def test_broken_content_fails_alone(scorer: Scorer) -> None:
    contents = {
        **NEW,
        "nobody": Item("nobody", image=b"no picture"),
        "item-1": Item("item-1", image=b"not looked at: it has a record"),
    }
    answer = await scorer.http.score(replace(BROUGHT, contents=contents))
    assert answer.status_names() == ["ok", "encoded", "cold", "encoded", "missing", "encoded"]
    assert (answer.completeness.encoded, answer.completeness.encode_failed) == (3, 1)
    assert await scorer.count('repcenter_encode_on_miss_failures_total{code="invalid"}') == 1
    assert await scorer.count('repcenter_encode_on_miss_total{result="encoded"}') == 3
    again = await scorer.http.score(replace(BROUGHT, contents=contents))  # a failure is not kept
    assert again.completeness.encode_failed == 1
    assert await scorer.count('repcenter_encode_on_miss_failures_total{code="invalid"}') == 2
    assert await scorer.count('repcenter_encode_on_miss_total{result="cached"}') == 3


@pytest.mark.parametrize("given", ["text", "image", "both"])
async def test_a_query_scores_as_its_vectors_do(scorer: Scorer, encoder: Encoder, given: str) -> None:
    text = "" if given == "image" else "a thief and a detective"
    image = b"" if given == "text" else BLUE
    item = Item("q", {"title": text} if text else {}, image=image or None)
    vectors = [block[0] for block in encoder.encode([item]).vectors]
    named = {m.name: v.tolist() for m, v in zip(encoder.space.modalities, vectors, strict=True) if v.any()}
    request = ScoreRequest(["item-1", "item-2", "item-30"], KNOWN, timestamp_ms=99)
    expected = await scorer.http.score(replace(request, query=named))
    without = await scorer.http.score(request)
    assert np.abs(expected.scores - without.scores).max() > 1e-4
    asked = replace(request, query_text=text, query_image=image)
    for client in (scorer.http, scorer.rpc):
        answer = await client.score(asked)
        np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-6)
        assert answer.timings.encode_ms > 0


async def test_a_given_vector_wins_over_the_encoded_one(scorer: Scorer, encoder: Encoder) -> None:
    request = ScoreRequest(["item-1", "item-2"], KNOWN, timestamp_ms=99, query_text="red")
    mine = np.random.default_rng(4).normal(size=16).tolist()
    fused = encoder.encode([Item("q", {"title": "red"})]).vectors[2][0].tolist()
    answer = await scorer.http.score(replace(request, query={"text": mine, "image": [0.0] * 16}))
    expected = await scorer.http.score(replace(request, query_text="", query={"text": mine, "fused": fused}))
    np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-6)
    every = dict.fromkeys(("text", "image", "fused"), mine)
    asked = await scorer.count('repcenter_encode_on_miss_total{result="encoded"}')
    await scorer.http.score(replace(request, query=every, query_text="another", query_image=b"unread"))
    assert await scorer.count('repcenter_encode_on_miss_total{result="encoded"}') == asked


@pytest.mark.parametrize("field", ["query_image", "query_text"])
async def test_a_query_that_cannot_be_encoded_is_refused(scorer: Scorer, field: str) -> None:
    broken = {
        "query_image": ScoreRequest(["item-1"], query_text="red", query_image=b"no picture"),
        "query_text": ScoreRequest(["item-1"], query_text="  \t "),
    }[field]
    for client in (scorer.http, scorer.rpc):
        with pytest.raises(InvalidInput, match=f"^{field}: was refused") as caught:
            await client.score(broken)
        assert caught.value.field == field


async def test_query_and_items_come_in_one_answer_and_many_requests_in_one_call(scorer: Scorer) -> None:
    both = replace(BROUGHT, query_text="red shoes", query_image=RED)
    alone = await scorer.http.score(both)
    assert alone.completeness.encoded == 3
    requests = [replace(both, query_text=f"shoes {n % 4}") for n in range(16)]
    for client in (scorer.http, scorer.rpc):
        for n, answer in enumerate(await client.score_many(requests)):
            assert not isinstance(answer, Exception)
            same(answer.scores, (await scorer.rpc.score(requests[n])).scores)
    assert await scorer.count('repcenter_encode_on_miss_total{result="encoded"}') == 3 + 1 + 4
    assert await scorer.count('repcenter_encode_on_miss_total{result="failed"}') == 0


async def test_over_the_open_inference_protocol(scorer: Scorer) -> None:
    expected = await scorer.http.score(replace(BROUGHT, query_text="red", query_image=BLUE))
    texts = {
        "candidates": MISSING.candidates,
        "behaviours": [b.item_id for b in MISSING.behaviours],
        "query_text": ["red"],
    }
    document = (
        b'{"new-1": {"title": "Heat", "attributes": {"genre": "Crime", "price": 5.0}, "image": "%s"}, '
        b'"new-2": {"text": {"title": "Ronin", "plot": "a case"}}, "new-3": {"image": "%s"}}'
    ) % (base64.b64encode(RED), base64.b64encode(BLUE))
    inputs = [
        *({"name": n, "shape": [len(v)], "datatype": "BYTES", "data": list(v)} for n, v in texts.items()),
        {"name": "contents", "shape": [1], "datatype": "BYTES", "data": [document.decode()]},
        {"name": "behaviour_times", "shape": [3], "datatype": "INT64", "data": [10, 20, 30]},
        {"name": "timestamp_ms", "shape": [1], "datatype": "INT64", "data": [9_000]},
        {
            "name": "query_image",
            "shape": [1],
            "datatype": "BYTES",
            "data": [base64.b64encode(BLUE).decode()],
        },
    ]
    body = {"inputs": inputs, "parameters": {"missing": "encode"}}
    answer = await scorer.raw.post("/v2/models/default/infer", json=body)
    assert answer.status_code == 200, answer.text
    outputs = {o["name"]: o["data"] for o in answer.json()["outputs"]}
    assert outputs["statuses"] == [1, 5, 2, 5, 3, 5]
    same(np.array(outputs["scores"], np.float32), expected.scores)
    assert answer.json()["parameters"]["encoded"] == 3
    assert answer.json()["parameters"]["encode_failed"] == 0
    raw = {**{n: [v.encode() for v in vs] for n, vs in texts.items()}, "contents": [document]}
    raw["query_image"] = [BLUE]
    message = oip.ModelInferRequest(
        model_name="default",
        parameters={"missing": oip.InferParameter(string_param="encode")},
        inputs=[
            *(
                oip.ModelInferRequest.InferInputTensor(
                    name=name,
                    datatype="BYTES",
                    shape=[len(values)],
                    contents=oip.InferTensorContents(bytes_contents=values),
                )
                for name, values in raw.items()
            ),
            *(
                oip.ModelInferRequest.InferInputTensor(
                    name=name,
                    datatype="INT64",
                    shape=[len(times)],
                    contents=oip.InferTensorContents(int64_contents=times),
                )
                for name, times in (("behaviour_times", [10, 20, 30]), ("timestamp_ms", [9_000]))
            ),
        ],
    )
    async with grpc.aio.insecure_channel(scorer.running.grpc_target) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        found = await stub.ModelInfer(message, timeout=20)
    same(np.array(found.outputs[0].contents.fp32_contents, np.float32), expected.scores)
    assert found.parameters["encoded"].int64_param == 3
    for name, data, reason in (
        ("contents", "{", "contents"),
        ("contents", '{"new-1": {"title": 7}}', "contents['new-1'].title"),
        ("contents", '{"new-1": {"image": "%"}}', "contents['new-1'].image"),
        ("query_image", "%%%", "query_image"),
    ):
        broken = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [data]}, inputs[0]]
        refused = await scorer.raw.post(
            "/v2/models/default/infer", json={"inputs": broken, "parameters": {"missing": "encode"}}
        )
        assert (refused.status_code, reason in refused.json()["error"]) == (400, True), refused.text


async def test_explained_logged_captured_and_replayed(
    door: RunningEncoder, settings: StoreSettings, scorer_settings: ScorerSettings, tmp_path: Path
) -> None:
    changed = scorer_settings.model_copy(
        update={"capture_slow_ms": 0.0, "score_log": str(tmp_path / "log"), "score_log_roll_s": 0.1}
    )
    request = replace(BROUGHT, query_text="red", query_image=RED, explain=5, request_id="page")
    async with scoring(changed, settings, door.grpc_target) as scorer:
        answer = await scorer.http.score(request)
    assert answer.explanations is not None
    assert sorted(e.item_id for e in answer.explanations) == sorted(
        ["item-1", "new-1", COLD[0], "new-2", "new-1"]
    )
    (file,) = (settings.var_dir / "slow").iterdir()
    assert RED not in file.read_bytes()
    capture = decode_capture(file.read_bytes(), file.name)
    assert (capture.request.query_text, capture.request.query_image, capture.request.contents) == (
        "",
        b"",
        {},
    )
    assert set(capture.request.query) == {"text", "image", "fused"}
    assert replay_capture(capture, open_captured(capture, ScorerSettings()), ScorerSettings()).identical
    files = ScoreFiles(str(tmp_path / "log"))
    (table,) = files.read(files.names())
    (row,) = table.to_pylist()
    assert row["statuses"] == [1, 5, 2, 5, 3, 5]
    assert row["sequences"] == [2, 0, 0, 0, 0, 0]
    assert '"fused"' in row["query"]


async def test_contents_that_do_not_fit_are_refused(scorer: Scorer) -> None:
    heat = Item("new-1", {"title": "Heat"})
    cases: list[tuple[ScoreRequest, str]] = [
        (replace(MISSING, contents=NEW), "contents: need missing: encode"),
        (replace(BROUGHT, contents={"other": Item("other")}), "contents: is no candidate"),
        (
            replace(BROUGHT, contents={"new-1": Item("new-1", {"title": "x" * 20_001})}),
            r"new-1'\]\.text\.title",
        ),
        (
            replace(BROUGHT, contents={"new-1": Item("new-1", attributes={"price": 1e308})}),
            r"attributes\.price",
        ),
        (replace(BROUGHT, contents={"new-1": Item("new-1", image_url="here")}), r"new-1'\]\.image_url"),
        (replace(BROUGHT, query_text="x" * 20_001), "query_text"),
    ]
    for request, reason in cases:
        for client in (scorer.http, scorer.rpc):
            with pytest.raises((InvalidInput, TooLarge), match=reason):
                await client.score(request)
    ids = [f"id-{n}" for n in range(65)]
    contents = {item_id: replace(heat, item_id=item_id) for item_id in ids}
    for client in (scorer.http, scorer.rpc):
        with pytest.raises(TooLarge, match="contents: 65 items exceed the limit of 64"):
            await client.score(ScoreRequest(ids, missing="encode", contents=contents))
        del contents["id-64"]
        full = await client.score(ScoreRequest(ids, missing="encode", contents=contents))
        assert full.status_names() == ["encoded"] * 64 + ["missing"]
        contents["id-64"] = heat
    for body, field in (
        ({"contents": []}, "contents"),
        ({"contents": {"a": {"item_id": "a"}}}, "contents['a'].item_id"),
        ({"contents": {"a": {"title": "x", "text": {"title": "y"}}}}, "contents['a'].title"),
        ({"contents": {"a": {"image": "data:x,y"}}}, "contents['a'].image"),
        ({"contents": {"a": {"attributes": {"price": None}}}}, "contents['a'].attributes.price"),
        ({"query_image": "%"}, "query_image"),
        ({"query_text": None}, "query_text"),
        ({"query_text": 7}, "query_text"),
    ):
        given = {"candidates": ["a"], "missing": "encode", **body}
        refused = await scorer.raw.post("/v1/score", json=given)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field), refused.text
    lone = b'{"candidates": ["a"], "missing": "encode", "contents": {"a": {"title": "\\ud800"}}}'
    assert (await scorer.raw.post("/v1/score", content=lone)).status_code == 422
    named = pb.ScoreRequest(
        candidates=["a"], missing=pb.MISSING_POLICY_ENCODE, contents={"a": pb.Item(item_id="b")}
    )
    async with grpc.aio.insecure_channel(scorer.running.grpc_target) as channel:
        stub = pb_grpc.ScorerStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError, match=r"item_id: is another one"):
            await stub.Score(named, timeout=20)


async def test_without_an_encoder_requests_say_what_to_set(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    async with scoring(scorer_settings, settings, None) as scorer:
        for request, field in (
            (BROUGHT, "missing"),
            (ScoreRequest(["item-1"], query_text="red"), "query_text"),
            (ScoreRequest(["item-1"], query_image=RED), "query_image"),
        ):
            with pytest.raises(InvalidInput, match=f"^{field}: needs an encoder: set REPCENTER_ENCODER"):
                await scorer.http.score(request)
        assert (await scorer.http.score(replace(MISSING, missing="encode"))).status_names()[1] == "missing"


async def test_another_space_is_refused(
    world: World, settings: StoreSettings, scorer_settings: ScorerSettings, tmp_path: Path
) -> None:
    other = make_encoder_bundle(tmp_path / "other", 16, seed=3, attributes=SPACE.attributes)
    named = EncoderSettings(encoder_uri=str(other.path), http_port=0, grpc_port=0, stop_s=2.0)
    async with (
        open_encoder(named, settings) as door,
        scoring(scorer_settings, settings, door.grpc_target) as scorer,
    ):
        answer = await scorer.http.score(BROUGHT)
        same(answer.scores, (await scorer.http.score(MISSING)).scores)
        assert (answer.completeness.encoded, answer.completeness.encode_failed) == (0, 3)
        with pytest.raises(Exception, match=r"the encoder's answer: expected space") as caught:
            await scorer.rpc.score(ScoreRequest(["item-1"], query_text="red"))
        assert caught.value.code == SpaceMismatch.code  # type: ignore[attr-defined]
        assert await scorer.count('repcenter_encode_on_miss_failures_total{code="conflict"}') == 4


async def test_both_clients_ask_an_encoder_alike(door: RunningEncoder, encoder: Encoder) -> None:
    items = [NEW["new-1"], Item("b", image=b"broken"), Item("c", {"title": "x"})]
    async with HttpClient(door.http_url) as http, GrpcClient(door.grpc_target) as rpc:
        a, b = await http.encode(items, records=True), await rpc.encode(items, records=True)
        assert (a.space_id, a.encoder_digest) == (b.space_id, b.encoder_digest)
        assert a.space_id == encoder.space.id
        plain = await rpc.encode(items[:1])
    for one, other in zip(a.items, b.items, strict=True):
        if isinstance(one, Exception) or isinstance(other, Exception):
            assert (type(one), type(other)) == (InvalidInput, InvalidInput)
            continue
        assert one.record == other.record != b""
        assert one.vectors.keys() == other.vectors.keys()
        for name in one.vectors:
            np.testing.assert_array_equal(one.vectors[name], other.vectors[name])
    assert not isinstance(plain.items[0], Exception)
    assert plain.items[0].record == b""


async def test_concurrent_requests_with_one_content_are_cheap(scorer: Scorer, door: RunningEncoder) -> None:
    request = replace(BROUGHT, query_text="together")
    answers = await asyncio.gather(*(scorer.http.score(request) for _ in range(20)))
    for answer in answers[1:]:
        same(answer.scores, answers[0].scores)
    assert await scorer.count('repcenter_encode_on_miss_total{result="encoded"}') == 4
    others = [
        await scorer.count(f'repcenter_encode_on_miss_total{{result="{kind}"}}')
        for kind in ("cached", "joined")
    ]
    assert sum(others) == 19 * 4
    async with httpx.AsyncClient(base_url=door.http_url) as http:
        assert await metric(http, 'repcenter_encode_total{door="grpc",outcome="encoded"}') == 2


async def test_the_command_brings_files(scorer: Scorer, tmp_path: Path) -> None:
    contents = {"new-1": {"title": "Heat"}, "new-3": {"image": base64.b64encode(BLUE).decode()}}
    told, shown = tmp_path / "contents.json", tmp_path / "red.png"
    told.write_text(json.dumps(contents))
    shown.write_bytes(RED)
    words = ["score", "item-1", "new-1", "-b", "new-3", "--url", scorer.running.http_url, "--json"]
    words += ["--query-text", "red", "--query-image", str(shown), "--contents"]
    ran = await asyncio.to_thread(CliRunner().invoke, app, [*words, str(told)])
    assert ran.exit_code == 0, ran.output
    found = {row["item_id"]: row for row in json.loads(ran.stdout)["scores"]}
    expected = await scorer.http.score(
        ScoreRequest(
            ["item-1", "new-1"],
            [Behaviour("new-3")],
            query_text="red",
            query_image=RED,
            missing="encode",
            contents={"new-1": Item("new-1", {"title": "Heat"}), "new-3": NEW["new-3"]},
        )
    )
    assert found["new-1"]["status"] == "encoded"
    assert [found[i]["score"] for i in ("item-1", "new-1")] == expected.scores.tolist()
    for text in ("[]", "{", '{"new-1": {"titel": 1}}'):
        told.write_text(text)
        ran = await asyncio.to_thread(CliRunner().invoke, app, [*words, str(told)])
        assert isinstance(ran.exception, InvalidInput), ran.output
        assert ran.exception.field.startswith("--contents")


async def test_equal_contents_are_one_and_are_kept_apart_from_others(scorer: Scorer) -> None:
    ids = [f"twin-{n}" for n in range(5)]
    contents = {item_id: Item(item_id, {"title": "Heat"}) for item_id in ids}
    answer = await scorer.rpc.score(ScoreRequest(ids, KNOWN, missing="encode", contents=contents))
    assert (set(answer.scores.tolist()), answer.completeness.encoded) == ({float(answer.scores[0])}, 5)
    assert await scorer.count('repcenter_encode_on_miss_total{result="encoded"}') == 1
    space = Space("f" * 64, SPACE.modalities, SPACE.attributes)
    heat = contents["twin-0"]
    kinds = [
        heat,
        replace(heat, text={"title": "Heat", "plot": ""}),
        replace(heat, attributes={"title": "Heat"}),
        replace(heat, image=b""),
        replace(heat, image=b"x"),
        replace(heat, image_url="/x"),
    ]
    keys = [content_key(s, item) for s in (SPACE, space) for item in kinds]
    assert len(set(keys)) == len(keys)
    assert content_key(SPACE, contents["twin-1"]) == keys[0]


async def test_a_call_to_the_encoder_is_in_the_callers_trace(
    door: RunningEncoder, settings: StoreSettings, scorer_settings: ScorerSettings
) -> None:
    exporter = InMemorySpanExporter()
    tracing = start_tracing("scorer", TraceSettings(trace=True), SimpleSpanProcessor(exporter))
    assert tracing is not None
    asked = EncodeSettings(encoder_target=door.grpc_target)
    async with (
        open_scorer(scorer_settings, settings, tracing=tracing, encode_settings=asked) as running,
        HttpClient(running.http_url) as client,
    ):
        await until(running.readiness.is_ready)
        await client.score(replace(BROUGHT, query_text="red"))
    tracing.stop()
    spans = exporter.get_finished_spans()
    (server,) = [span for span in spans if span.name == "POST /v1/score"]
    calls = [span for span in spans if span.name == "repcenter.v1.Encoder/Encode"]
    assert len(calls) == 2
    for call in calls:
        assert call.parent is not None
        assert server.context is not None
        assert (call.kind, call.parent.span_id) == (SpanKind.CLIENT, server.context.span_id)


async def test_drift_between_spaces_leaves_queries_out(world: World, scorer_settings: ScorerSettings) -> None:
    """A recorded query's vectors are those of the space that served."""
    loaded = await load_generation(world.generation.id, world.generations, world.store, scorer_settings)
    space = Space("f" * 64, SPACE.modalities, SPACE.attributes)
    await world.store.create_space(space)
    other = replace(loaded, generation=replace(world.generation, space=space))
    unreadable = [Recorded(ScoreRequest(["item-1", "item-30"], query={"of before": [1.0]}), 0)]
    with pytest.raises(InvalidInput, match=r"query\.of before"):
        await measure_drift(world.store, loaded, loaded, unreadable)
    assert (await measure_drift(world.store, loaded, other, unreadable)).lost == 0.5  # one has an ID row
