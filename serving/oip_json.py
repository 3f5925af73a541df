"""The Open Inference Protocol's bodies over HTTP: JSON, and JSON followed by raw tensors.

With the binary tensor extension the header HEADER_LENGTH says where the JSON ends; the raw bytes of the
tensors that have a `binary_data_size` follow in their order. A score that is missing is "NaN" in JSON,
which clients of the protocol read as a number where null would break its schema.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError

from contracts.errors import InvalidInput
from contracts.item_json import decode_base64
from serving.oip import InferAnswer, ModelInfo
from serving.oip_requests import PICTURES, InferCall, check_input
from serving.tensors import Tensor, bytes_of_values, tensor, values_of_bytes, values_of_json

HEADER_LENGTH = "Inference-Header-Content-Length"
_CONFIG = ConfigDict(extra="ignore", strict=True)  # servers of the protocol pass over what they do not know

Parameters = Annotated[dict[str, Any], Field(description="Extensions, by name.")]


@dataclass(frozen=True)
class RequestInput:
    """One input tensor."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    name: str
    shape: list[Annotated[int, Field(ge=0)]]
    datatype: str
    parameters: Parameters = field(default_factory=dict)
    data: Annotated[
        list[Any] | None,
        Field(
            description="Row by row, nested or flat; none where `binary_data_size` says that bytes follow."
        ),
    ] = None


@dataclass(frozen=True)
class RequestOutput:
    """An output that is wanted; `binary_data`: as bytes."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    name: str
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class InferBody:
    """What to score, as tensors."""

    __pydantic_config__: ClassVar[ConfigDict] = _CONFIG
    inputs: Annotated[list[RequestInput], FailFast()]
    id: Annotated[str, Field(description="Comes back in the answer.")] = ""
    parameters: Annotated[
        dict[str, Any],
        Field(
            description="`timeout` (microseconds) or `deadline_ms`: answer within this time or with 504; "
            "`missing` (mask, fail, encode) and `default_score`; `binary_data_output`: all outputs as bytes. "
            "Others are passed over."
        ),
    ] = field(default_factory=dict)
    outputs: Annotated[list[RequestOutput], FailFast(), Field(description="None given: all of them.")] = (
        field(default_factory=list)
    )


_ADAPTER = TypeAdapter(InferBody)
EXAMPLE_BODY: dict[str, Any] = {
    "id": "42",
    "inputs": [
        {
            "name": "candidates",
            "shape": [3],
            "datatype": "BYTES",
            "data": ["film-50", "film-260", "film-new"],
        },
        {"name": "behaviours", "shape": [2], "datatype": "BYTES", "data": ["film-318", "film-858"]},
        {"name": "context", "shape": [1], "datatype": "BYTES", "data": ['{"device": "tv"}']},
    ],
    "outputs": [{"name": "scores"}],
}
_TENSOR_SCHEMA = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "string"}]}},
    },
}
ANSWER_SCHEMA = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {"type": "array", "items": _TENSOR_SCHEMA},
    },
}


def parse_infer(
    body: bytes, header_length: str | None, model: str, version: str | None
) -> tuple[InferCall, frozenset[str]]:
    """The call, and the outputs wanted as bytes. header_length: the header's value, None = all is JSON.

    Raises RequestValidationError, InvalidInput that name the field.
    """
    size = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal() and int(header_length) <= len(body)):
            raise InvalidInput(HEADER_LENGTH, header_length, f"must be at most the body's {len(body)} bytes")
        size = int(header_length)
    try:
        parsed = _ADAPTER.validate_json(body[:size])
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error
    inputs, at = [], size
    for given in parsed.inputs:
        read, at = _input(given, body, at)
        inputs.append(read)
    if at != len(body):
        raise InvalidInput("body", len(body), f"bytes: the tensors end at {at}")
    names = [output.name for output in parsed.outputs]
    every = parsed.parameters.get("binary_data_output") is True
    binary = {o.name for o in parsed.outputs if o.parameters.get("binary_data", every) is True}
    if every and not names:
        binary = {"scores", "statuses"}
    return InferCall(model, version, parsed.id, parsed.parameters, inputs, names), frozenset(binary)


def _input(given: RequestInput, body: bytes, at: int) -> tuple[Tensor, int]:
    """The tensor, and where the next one's bytes begin."""
    check_input(given.name, given.datatype)
    size = given.parameters.get("binary_data_size")
    if size is None:
        if given.data is None:
            raise InvalidInput(given.name, None, "has neither data nor binary_data_size")
        values = values_of_json(given.name, given.datatype, given.data)
        if given.name in PICTURES:
            values = [decode_base64(str(value), given.name) if value else b"" for value in values]
    else:
        where = f"{given.name}.parameters.binary_data_size"
        if given.data is not None:
            raise InvalidInput(where, size, "cannot be given together with data")
        if type(size) is not int or not 0 <= size <= len(body) - at:
            raise InvalidInput(where, size, f"must be at most the {len(body) - at} bytes that follow")
        text = given.name not in PICTURES
        values = values_of_bytes(given.name, given.datatype, body[at : at + size], text=text)
        at += size
    return tensor(given.name, given.datatype, given.shape, values), at


def infer_body(answer: InferAnswer, binary: frozenset[str]) -> tuple[bytes, int | None]:
    """The answer's bytes, and how many of them are JSON: None where all are."""
    raw = [bytes_of_values(t.values) if t.name in binary else None for t in answer.outputs]
    document = orjson.dumps(
        {
            "model_name": answer.model,
            "model_version": answer.version,
            "id": answer.id,
            "parameters": answer.parameters,
            "outputs": [_output(t, bytes_) for t, bytes_ in zip(answer.outputs, raw, strict=True)],
        }
    )
    if not binary:
        return document, None
    return b"".join([document, *(part for part in raw if part is not None)]), len(document)


def _output(given: Tensor, raw: bytes | None) -> dict[str, object]:
    described: dict[str, object] = {"name": given.name, "shape": given.shape, "datatype": given.datatype}
    if raw is not None:
        return {**described, "parameters": {"binary_data_size": len(raw)}}
    data = orjson.dumps(given.values, option=orjson.OPT_SERIALIZE_NUMPY).replace(b"null", b'"NaN"')
    return {**described, "data": orjson.Fragment(data)}


def model_body(info: ModelInfo, platform: str) -> bytes:
    """The JSON of a model's metadata."""
    return orjson.dumps(
        {
            "name": info.name,
            "versions": info.versions,
            "platform": platform,
            "inputs": [t._asdict() for t in info.inputs],
            "outputs": [t._asdict() for t in info.outputs],
        }
    )


def infer_body_schema() -> dict[str, Any]:
    """OpenAPI's requestBody, from the same adapter that validates."""
    schema = _ADAPTER.json_schema()
    parts = schema.pop("$defs")
    for name, part in (("inputs", "RequestInput"), ("outputs", "RequestOutput")):
        schema["properties"][name]["items"] = parts[part]
    content = {"schema": schema, "example": EXAMPLE_BODY}
    return {"required": True, "content": {"application/json": content}}


def named(errors: Sequence[Any]) -> str:
    """What is wrong with a body, in one line."""
    first = errors[0]
    where = ".".join(str(part) for part in first.get("loc", ())) or "body"
    return f"{where}: {first.get('msg', 'is invalid')}"
