"""The JSON of a request to encode and of its answer."""

from __future__ import annotations

import base64
from typing import Any, Literal

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.errors import RepcenterError
from contracts.items import Item
from contracts.problem import problem
from realtime_infer.encode_queue import Vectors
from realtime_infer.item_body import ContentBody

ENCODE_PATH = "/v1/encode"
EXAMPLE: dict[str, Any] = {
    "items": [{"title": "a thief and a detective"}, {"image": "iVBORw0KGgo…"}],
    "format": "floats",
    "deadline_ms": 200,
}
EXAMPLE_ANSWER: dict[str, Any] = {
    "space_id": "5f0c…",
    "encoder_digest": "9a41…",
    "items": [{"vectors": {"text": [0.12, -0.03], "fused": [0.08, 0.11]}, "flagged": []}],
}


class EncodeBody(BaseModel):
    """Items to encode now. Nothing is stored."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"example": EXAMPLE})

    items: list[ContentBody] = Field(description="Texts and pictures; a query is an item with a text alone.")
    format: Literal["floats", "base64"] = Field(
        "floats", description="Vectors as lists of numbers, or as base64 of little-endian float32."
    )
    records: bool = Field(False, description="Also the record that a push would store, with sequence 0.")
    deadline_ms: float | None = Field(
        None, gt=0, le=60_000, description="REPCENTER_ENCODE_DEADLINE_S if absent."
    )

    def contents(self) -> list[Item]:
        """Their ids say where they stand. Raises InvalidInput or TooLarge."""
        return [body.content(f"items[{i}]") for i, body in enumerate(self.items)]


def parse_encode(body: bytes) -> EncodeBody:
    """RequestValidationError names the fields."""
    try:
        return EncodeBody.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error


def encode_answer(vectors: Vectors, *, as_floats: bool, records: bool) -> bytes:
    """The JSON answer: each item has its vectors by modality, or a problem."""
    items: list[dict[str, Any]] = []
    for found in vectors.items():
        if isinstance(found, RepcenterError):
            items.append({"problem": problem(found, ENCODE_PATH)})
            continue
        values: dict[str, Any] = {
            name: vector if as_floats else _base64(vector.astype("<f4").tobytes())
            for name, vector in found.vectors.items()
        }
        record = {"record": _base64(found.record)} if records else {}
        items.append({"vectors": values, "flagged": found.flagged, **record})
    document = {
        "space_id": vectors.encoder.space.id,
        "encoder_digest": vectors.encoder.digest,
        "items": items,
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
