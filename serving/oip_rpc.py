"""The Open Inference Protocol over gRPC: inference.GRPCInferenceService. It only translates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from typing import Any, cast

import grpc.aio
import numpy as np

from contracts.errors import InvalidInput, RepcenterError
from contracts.rpc.v1 import open_inference_pb2 as pb
from contracts.rpc.v1 import open_inference_pb2_grpc as pb_grpc
from doors.grpc_errors import Context, GrpcErrors
from serving.metrics import Metrics
from serving.oip import (
    EXTENSIONS,
    PLATFORM,
    InferAnswer,
    OpenInference,
    Parameter,
    TensorInfo,
)
from serving.oip_requests import PICTURES, InferCall, check_input
from serving.readiness import Readiness
from serving.tensors import DTYPES, Tensor, Values, bytes_of_values, decoded, tensor, values_of_bytes

SERVICE = "inference.GRPCInferenceService"
_LONGEST_DEADLINE_S = 60.0
_ERRORS = GrpcErrors(SERVICE, "scorer")


class InferenceService(pb_grpc.GRPCInferenceServiceServicer):
    """The protocol's service over one OpenInference."""

    def __init__(self, inference: OpenInference, readiness: Readiness, metrics: Metrics) -> None:
        self._inference = inference
        self._readiness = readiness
        self._metrics = metrics

    def add_to(self, server: grpc.aio.Server) -> None:
        cast(Any, pb_grpc.add_GRPCInferenceServiceServicer_to_server)(self, server)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=await self._readiness.is_ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Not ready while a scene is not loaded, NOT_FOUND where there is no such scene or generation."""
        try:
            self._inference.model(request.name, request.version or None)
        except RepcenterError as error:
            if error.code == "unavailable":
                return pb.ModelReadyResponse(ready=False)
            await _ERRORS.abort(context, error, "ModelReady")
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="repcenter", version=installed("repcenter"), extensions=EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        try:
            info = self._inference.model(request.name, request.version or None)
        except Exception as error:
            await _ERRORS.abort(context, error, "ModelMetadata")
        return pb.ModelMetadataResponse(
            name=info.name,
            versions=info.versions,
            platform=PLATFORM,
            inputs=_infos(info.inputs),
            outputs=_infos(info.outputs),
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        """Within the client's deadline; raw tensors are answered with raw tensors."""
        began = time.perf_counter()
        outcome = "internal"
        try:
            if "priority" not in request.parameters:
                self._inference.check_admission(b"")
            remaining = context.time_remaining()
            answer = await self._inference.infer(
                infer_call(request), None if remaining is None else min(remaining, _LONGEST_DEADLINE_S)
            )
            outcome = "ok"
            return infer_response(answer, raw=bool(request.raw_input_contents))
        except RepcenterError as error:
            outcome = error.code
            await _ERRORS.abort(context, error, "ModelInfer")
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Exception as error:
            await _ERRORS.abort(context, error, "ModelInfer")
        finally:
            self._metrics.request("oip_grpc", outcome, time.perf_counter() - began)


def infer_call(message: pb.ModelInferRequest) -> InferCall:
    """The message as a call; InvalidInput names the tensor that does not fit."""
    raw: Sequence[bytes | None] = message.raw_input_contents or [None] * len(message.inputs)
    if len(raw) != len(message.inputs):
        raise InvalidInput(
            "raw_input_contents", len(raw), f"must be one for each of {len(message.inputs)} inputs"
        )
    return InferCall(
        message.model_name,
        message.model_version or None,
        message.id,
        _parameters(message.parameters),
        [_tensor(given, content) for given, content in zip(message.inputs, raw, strict=True)],
        [output.name for output in message.outputs],
    )


def infer_response(answer: InferAnswer, raw: bool) -> pb.ModelInferResponse:
    """raw: tensors as bytes beside the message instead of in it."""
    return pb.ModelInferResponse(
        model_name=answer.model,
        model_version=answer.version,
        id=answer.id,
        parameters={name: _parameter(value) for name, value in answer.parameters.items()},
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=t.name,
                datatype=t.datatype,
                shape=t.shape,
                contents=None if raw else _contents(t),
            )
            for t in answer.outputs
        ],
        raw_output_contents=[bytes_of_values(t.values) for t in answer.outputs] if raw else [],
    )


def _tensor(given: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    check_input(given.name, given.datatype)
    if raw is None:
        values = _values(given)
    elif given.HasField("contents"):
        raise InvalidInput(f"{given.name}.contents", "given", "cannot be together with raw_input_contents")
    else:
        values = values_of_bytes(given.name, given.datatype, raw, text=given.name not in PICTURES)
    return tensor(given.name, given.datatype, given.shape, values)


def _values(given: pb.ModelInferRequest.InferInputTensor) -> Values:
    contents = given.contents
    if given.datatype == "BYTES" and given.name in PICTURES:
        return list(contents.bytes_contents)
    if given.datatype == "BYTES":
        return decoded(given.name, contents.bytes_contents)
    typed = contents.int64_contents if given.datatype == "INT64" else contents.fp32_contents
    return np.array(typed, dtype=DTYPES[given.datatype])


def _contents(given: Tensor) -> pb.InferTensorContents:
    assert not isinstance(given.values, list)
    if given.datatype == "FP32":
        return pb.InferTensorContents(fp32_contents=given.values.tolist())
    return pb.InferTensorContents(uint_contents=given.values.tolist())


def _infos(infos: Sequence[TensorInfo]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [pb.ModelMetadataResponse.TensorMetadata(**info._asdict()) for info in infos]


def _parameters(messages: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    """Those that have a value."""
    found: dict[str, object] = {}
    for name, message in messages.items():
        kind = message.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(message, kind)
    return found


def _parameter(value: Parameter) -> pb.InferParameter:
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return pb.InferParameter(string_param=value)
