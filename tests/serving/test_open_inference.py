"""The Open Inference Protocol on both doors, spoken by hand: the same scores as through the native doors."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
import pytest_asyncio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from contracts.request import Behaviour, ScoreRequest
from contracts.rpc.v1 import open_inference_pb2 as pb
from contracts.rpc.v1 import open_inference_pb2_grpc as pb_grpc
from contracts.scores import COLD, DEFAULT, MISSING, OK
from serving.app import RunningScorer
from serving.client import HttpClient
from tests.serving.conftest import COLD as COLD_IDS
from tests.serving.conftest import HOSTILE, World

CANDIDATES = ["item-1", COLD_IDS[0], "never-seen", "item-2", "ümläut 映画 🎬", "nul\0l"]
BEHAVIOURS = ["item-3", "item-4", "item-9"]
STATUSES = [OK, COLD, MISSING, OK, OK, OK]
SPACE = "/v2/models/default"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Doors:
    """Both of them, and what the native one says of CANDIDATES after BEHAVIOURS."""

    http: httpx.AsyncClient
    rpc: Any
    expected: Array


@pytest_asyncio.fixture
async def doors(running: RunningScorer) -> AsyncIterator[Doors]:
    async with (
        HttpClient(running.http_url) as client,
        httpx.AsyncClient(base_url=running.http_url) as http,
        grpc.aio.insecure_channel(running.grpc_target) as channel,
    ):
        scores = await client.score(ScoreRequest(CANDIDATES, [Behaviour(b) for b in BEHAVIOURS]))
        assert scores.statuses.tolist() == STATUSES
        yield Doors(http, cast(Any, pb_grpc.GRPCInferenceServiceStub)(channel), scores.scores)


def strings(name: str, values: list[str], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": shape or [len(values)], "data": values}


def packed(values: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


def body(**more: Any) -> dict[str, Any]:
    return {"inputs": [strings("candidates", CANDIDATES), strings("behaviours", BEHAVIOURS)], **more}


def outputs_of(document: dict[str, Any]) -> dict[str, Array]:
    kinds = {"FP32": np.float32, "UINT8": np.uint8}
    return {
        t["name"]: np.array(t["data"], dtype=kinds[t["datatype"]]).reshape(t["shape"])
        for t in document["outputs"]
    }


async def test_json_in_json_out(doors: Doors, world: World) -> None:
    answer = await doors.http.post(SPACE + "/infer", json=body(id="42"))
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["id"], document["model_name"]) == ("42", "default")
    assert document["model_version"] == world.generation.id
    assert document["parameters"] == {
        **{"candidates_asked": 6, "candidates_found": 5, "behaviours_asked": 3, "behaviours_found": 3},
        **{"stale": False, "encoded": 0, "encode_failed": 0},
    }
    assert document["outputs"][0]["data"][2] == "NaN"  # null would break the protocol's schema
    outputs = outputs_of(document)
    np.testing.assert_array_equal(outputs["scores"], doors.expected)
    assert outputs["statuses"].tolist() == STATUSES
    versioned = f"{SPACE}/versions/{world.generation.id}/infer"
    again = await doors.http.post(versioned, json=body(outputs=[{"name": "statuses"}]))
    assert [t["name"] for t in again.json()["outputs"]] == ["statuses"]


@pytest.mark.parametrize("all_at_once", [True, False])
async def test_binary_tensors_both_ways(doors: Doors, all_at_once: bool) -> None:
    raw = packed(CANDIDATES), packed(BEHAVIOURS)
    wanted = (
        {"parameters": {"binary_data_output": True}}
        if all_at_once
        else {"outputs": [{"name": "statuses"}, {"name": "scores", "parameters": {"binary_data": True}}]}
    )
    header = orjson.dumps(
        {
            "inputs": [
                {
                    **{"name": name, "datatype": "BYTES", "shape": [count]},
                    "parameters": {"binary_data_size": len(part)},
                }
                for name, count, part in (("candidates", 6, raw[0]), ("behaviours", 3, raw[1]))
            ],
            **wanted,
        }
    )
    answer = await doors.http.post(
        SPACE + "/infer",
        content=header + raw[0] + raw[1],
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers["inference-header-content-length"])
    document, rest = orjson.loads(answer.content[:size]), answer.content[size:]
    scores = next(t for t in document["outputs"] if t["name"] == "scores")
    assert scores["parameters"] == {"binary_data_size": 4 * len(CANDIDATES)}
    assert "data" not in scores
    np.testing.assert_array_equal(np.frombuffer(rest[: 4 * len(CANDIDATES)], "<f4"), doors.expected)
    if all_at_once:
        assert list(rest[4 * len(CANDIDATES) :]) == STATUSES
    else:
        assert document["outputs"][0]["data"] == STATUSES


def rpc_request(raw: bool, **more: Any) -> pb.ModelInferRequest:
    tensors = {"candidates": CANDIDATES, "behaviours": BEHAVIOURS}
    return pb.ModelInferRequest(
        model_name="default",
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name=name,
                datatype="BYTES",
                shape=[len(values)],
                contents=None if raw else pb.InferTensorContents(bytes_contents=[v.encode() for v in values]),
            )
            for name, values in tensors.items()
        ],
        raw_input_contents=[packed(values) for values in tensors.values()] if raw else [],
        **more,
    )


@pytest.mark.parametrize("raw", [True, False])
async def test_grpc(doors: Doors, world: World, raw: bool) -> None:
    answer = await doors.rpc.ModelInfer(rpc_request(raw, id="7"), timeout=5)
    assert (answer.id, answer.model_name, answer.model_version) == ("7", "default", world.generation.id)
    assert answer.parameters["candidates_found"].int64_param == 5
    assert [(t.name, t.datatype, list(t.shape)) for t in answer.outputs] == [
        ("scores", "FP32", [6]),
        ("statuses", "UINT8", [6]),
    ]
    if raw:
        scores = np.frombuffer(answer.raw_output_contents[0], "<f4")
        assert list(answer.raw_output_contents[1]) == STATUSES
    else:
        scores = np.array(answer.outputs[0].contents.fp32_contents, dtype=np.float32)
        assert list(answer.outputs[1].contents.uint_contents) == STATUSES
    np.testing.assert_array_equal(scores, doors.expected)


async def test_several_requests_in_one_call(doors: Doors, running: RunningScorer) -> None:
    """Rows are filled up with empty strings; every request has its own user, times and columns."""
    requests = [
        ScoreRequest(["item-1", "item-2", "item-7"], [Behaviour("item-3", 1_000)], context={"device": "tv"}),
        ScoreRequest(
            [HOSTILE[0], COLD_IDS[0]],
            [Behaviour("item-4"), Behaviour("item-5", 2_000)],
            user_id="u1",
            timestamp_ms=9_000,
        ),
    ]
    async with HttpClient(running.http_url) as client:
        expected = [await client.score(r) for r in requests]
    answer = await doors.http.post(
        SPACE + "/infer",
        json={
            "inputs": [
                {
                    **strings("candidates", [], [2, 3]),
                    "data": [["item-1", "item-2", "item-7"], [HOSTILE[0], "", COLD_IDS[0]]],
                },
                strings("behaviours", ["", "item-3", "item-4", "item-5"], [2, 2]),
                {
                    **{"name": "behaviour_times", "datatype": "INT64", "shape": [2, 2]},
                    "data": [-1, 1_000, -1, 2_000],
                },
                strings("user_id", ["", "u1"], [2, 1]),
                strings("context", ['{"device": "tv"}', ""]),
                {"name": "timestamp_ms", "datatype": "INT64", "shape": [2], "data": [-1, 9_000]},
            ]
        },
    )
    assert answer.status_code == 200, answer.text
    outputs = outputs_of(answer.json())
    assert outputs["statuses"].tolist() == [[OK, OK, OK], [OK, 0, COLD]]
    np.testing.assert_array_equal(outputs["scores"][0], expected[0].scores)
    np.testing.assert_array_equal(outputs["scores"][1, [0, 2]], expected[1].scores)
    assert np.isnan(outputs["scores"][1, 1])


def changed(at: int, **changes: Any) -> dict[str, Any]:
    document = body()
    document["inputs"][at] = {**document["inputs"][at], **changes}
    return document


def added(**given: Any) -> dict[str, Any]:
    document = body()
    document["inputs"].append(given)
    return document


def sized(size: Any) -> dict[str, Any]:
    tensor = {**strings("candidates", []), "parameters": {"binary_data_size": size}}
    return {"inputs": [{k: v for k, v in tensor.items() if k != "data"}]}


BAD: dict[str, tuple[Any, int, str]] = {
    "not json": (b"{", 400, "body"),
    "an array": (b"[]", 400, "body"),
    "deep": (b"[" * 10_000, 400, "recursion"),
    "no inputs": ({}, 400, "inputs"),
    "no candidates": ({"inputs": []}, 400, "lack candidates"),
    "twice": (added(**strings("behaviours", ["a"])), 400, "name a tensor twice"),
    "unknown input": (added(**strings("colour", ["a"])), 400, "'colour'"),
    "unknown output": (body(outputs=[{"name": "logits"}]), 400, "outputs[0].name"),
    "datatype": (changed(0, datatype="FP32"), 400, "candidates.datatype"),
    "shape too large": (changed(0, shape=[7]), 400, "candidates.shape"),
    "shape huge": (changed(0, shape=[2**62, 2**62]), 400, "candidates.shape"),
    "shape negative": (changed(0, shape=[-6]), 400, "shape"),
    "three dimensions": (changed(0, shape=[1, 1, 6]), 400, "candidates.shape"),
    "no request": (changed(0, shape=[0, 3], data=[]), 400, "candidates.shape"),
    "too many requests": (changed(0, shape=[65, 1], data=["a"] * 65), 413, "65"),
    "rows of another count": (changed(0, shape=[2, 3]), 400, "behaviours.shape"),
    "a number": (changed(0, data=["a", 7, "b", "c", "d", "e"]), 400, "candidates[1]"),
    "mixed": (changed(0, data=[["a"], "b"]), 400, "candidates"),
    "surrogate": (b'{"inputs": [{"name": "\\ud800"}]}', 400, "body"),
    "empty id": (changed(0, shape=[1], data=[""]), 400, "candidates[0]"),
    "neither": ({"inputs": [{"name": "candidates", "shape": [1], "datatype": "BYTES"}]}, 400, "neither"),
    "bytes beyond the end": (sized(9), 400, "binary_data_size"),
    "bytes below zero": (sized(-1), 400, "binary_data_size"),
    "bytes in words": (sized("9"), 400, "binary_data_size"),
    "too many candidates": (changed(0, shape=[2001], data=["a"] * 2001), 413, "candidates"),
    "times of another shape": (
        added(name="behaviour_times", datatype="INT64", shape=[1], data=[1]),
        400,
        "behaviour_times.shape",
    ),
    "times in words": (
        added(name="behaviour_times", datatype="INT64", shape=[3], data=["a", "b", "c"]),
        400,
        "behaviour_times",
    ),
    "a time too large": (added(name="timestamp_ms", datatype="INT64", shape=[1], data=[2**70]), 400, "INT64"),
    "columns": (added(**strings("user", ["[1]"])), 400, "user"),
    "a column": (added(**strings("user", ['{"age": null}'])), 400, "user.age"),
    "two users": (added(**strings("user_id", ["a", "b"])), 400, "user_id.shape"),
    "timeout": (body(parameters={"timeout": 0}), 400, "parameters.timeout"),
    "query": (added(name="query.text", datatype="FP32", shape=[3], data=[1e308, 0, 0]), 400, "query.text"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_is_named(doors: Doors, name: str) -> None:
    given, status, part = BAD[name]
    content = given if isinstance(given, bytes) else json.dumps(given)
    answer = await doors.http.post(SPACE + "/infer", content=content)
    assert answer.status_code == status, answer.text
    assert part in answer.json()["error"]
    assert (await doors.http.post(SPACE + "/infer", json=body())).status_code == 200


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\1\0\0", "end within element 0"),
        (b"\1\0\0\0a\xff\xff\xff\xffb", "end within element 1"),
        (b"\1\0\0\0\xff", "is not valid UTF-8"),
        (b"\1\0\0\0a\1\0\0\0b", "shape"),
    ],
)
async def test_hostile_bytes_on_both_doors(doors: Doors, raw: bytes, reason: str) -> None:
    header = orjson.dumps(
        {
            "inputs": [
                {
                    **{"name": "candidates", "datatype": "BYTES", "shape": [1]},
                    "parameters": {"binary_data_size": len(raw)},
                }
            ]
        }
    )
    length = {"Inference-Header-Content-Length": str(len(header))}
    answer = await doors.http.post(SPACE + "/infer", content=header + raw, headers=length)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]
    message = pb.ModelInferRequest(
        model_name="default",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="candidates", datatype="BYTES", shape=[1])],
        raw_input_contents=[raw],
    )
    with pytest.raises(grpc.aio.AioRpcError, match=reason) as refused:
        await doors.rpc.ModelInfer(message, timeout=5)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("length", ["-1", "9999999", "x", "²", ""])
async def test_a_header_length_that_cannot_be(doors: Doors, length: str) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode()}
    answer = await doors.http.post(SPACE + "/infer", json=body(), headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


async def test_bytes_that_no_tensor_owns(doors: Doors) -> None:
    header = json.dumps(body()).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    answer = await doors.http.post(SPACE + "/infer", content=header + b"more", headers=length)
    assert (answer.status_code, "the tensors end at" in answer.text) == (400, True)
    packed = await doors.http.post(SPACE + "/infer", content=header, headers={"Content-Encoding": "gzip"})
    assert (packed.status_code, "content-encoding" in packed.text) == (400, True)


async def test_grpc_refuses_what_does_not_fit(doors: Doors) -> None:
    for change, reason in (
        ({"raw_input_contents": [b""]}, "raw_input_contents"),
        ({"model_version": "g0"}, "no version of model 'default'"),
        ({"parameters": {"deadline_ms": pb.InferParameter(string_param="soon")}}, "parameters.deadline_ms"),
    ):
        message = rpc_request(raw=False)
        message.MergeFrom(pb.ModelInferRequest(**change))
        with pytest.raises(grpc.aio.AioRpcError, match=reason):
            await doors.rpc.ModelInfer(message, timeout=5)
    both = rpc_request(raw=True)
    both.inputs[0].contents.bytes_contents.append(b"a")
    with pytest.raises(grpc.aio.AioRpcError, match="together with raw_input_contents"):
        await doors.rpc.ModelInfer(both, timeout=5)


async def test_a_deadline_in_parameters(doors: Doors) -> None:
    answer = await doors.http.post(SPACE + "/infer", json=body(parameters={"timeout": 1}))
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
    answer = await doors.http.post(
        SPACE + "/infer", json=body(parameters={"timeout": 5_000_000, "headers": {"a": 1}})
    )
    assert answer.status_code == 200  # what a server does not know it passes over


async def test_missing_candidates_by_parameters(doors: Doors) -> None:
    given = body(parameters={"default_score": 0.25}, outputs=[{"name": "scores"}, {"name": "statuses"}])
    outputs = outputs_of((await doors.http.post(SPACE + "/infer", json=given)).json())
    np.testing.assert_array_equal(outputs["scores"], np.where(np.isnan(doors.expected), 0.25, doors.expected))
    assert outputs["statuses"].tolist() == [DEFAULT if s == MISSING else s for s in STATUSES]
    refused = await doors.http.post(SPACE + "/infer", json=body(parameters={"missing": "fail"}))
    assert (refused.status_code, "'never-seen'" in refused.json()["error"]) == (404, True)
    for parameters in ({"missing": "guess"}, {"default_score": "half"}, {"default_score": 2}):
        refused = await doors.http.post(SPACE + "/infer", json=body(parameters=parameters))
        assert (refused.status_code, next(iter(parameters)) in refused.json()["error"]) == (400, True)
    message = rpc_request(raw=True, parameters={"missing": pb.InferParameter(string_param="fail")})
    with pytest.raises(grpc.aio.AioRpcError, match="never-seen") as not_found:
        await doors.rpc.ModelInfer(message, timeout=5)
    assert not_found.value.code() == grpc.StatusCode.NOT_FOUND


async def test_server_and_models(doors: Doors, world: World, running: RunningScorer) -> None:
    http, rpc, version = doors.http, doors.rpc, world.generation.id
    for path in ("/v2", "/v2/"):
        server = (await http.get(path)).json()
        assert (server["name"], server["extensions"]) == ("repcenter", ["binary_tensor_data"])
    assert (await rpc.ServerMetadata(pb.ServerMetadataRequest())).version == server["version"]
    assert (await http.get("/v2/health/live")).json() == {"live": True}
    assert (await http.get("/v2/health/ready")).json() == {"ready": True}
    assert (await rpc.ServerLive(pb.ServerLiveRequest())).live
    for path in (SPACE, f"{SPACE}/versions/{version}"):
        model = (await http.get(path)).json()
        assert (model["name"], model["versions"], model["platform"]) == ("default", [version], "onnx_onnxv1")
        assert {"name": "candidates", "datatype": "BYTES", "shape": [-1]} in model["inputs"]
        assert (await http.get(path + "/ready")).json() == {"name": "default", "ready": True}
    told = await rpc.ModelMetadata(pb.ModelMetadataRequest(name="default", version=version))
    assert [t.name for t in told.inputs] == [t["name"] for t in model["inputs"]]
    assert [(t.name, t.datatype) for t in told.outputs] == [("scores", "FP32"), ("statuses", "UINT8")]
    assert (await rpc.ModelReady(pb.ModelReadyRequest(name="default"))).ready
    for path in ("/v2/models/nowhere", f"{SPACE}/versions/g0", f"{SPACE}/versions/g0/ready"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc.ModelMetadata(pb.ModelMetadataRequest(name="nowhere"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    running.readiness.draining = True
    assert (await http.get("/v2/health/ready")).status_code == 503
    assert not (await rpc.ServerReady(pb.ServerReadyRequest())).ready


async def test_reflection_and_metrics_know_the_protocol(doors: Doors, running: RunningScorer) -> None:
    await doors.rpc.ModelInfer(rpc_request(raw=True), timeout=5)
    await doors.http.post(SPACE + "/infer", json=body())
    exposed = (await doors.http.get("/metrics")).text
    for door in ("oip_http", "oip_grpc"):
        assert f'request_duration_seconds_count{{door="{door}",outcome="ok"}} 1.0' in exposed
    async with grpc.aio.insecure_channel(running.grpc_target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inference.GRPCInferenceService"
        )
        found = await stub.ServerReflectionInfo(iter([asked])).read()
        assert len(found.file_descriptor_response.file_descriptor_proto) == 1
