"""Requests to encode and their answers on both wires."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from contracts.encoded import EncodedItem, EncodedItems
from contracts.errors import RepcenterError
from contracts.items import Item
from contracts.problem import error_of
from contracts.rpc.v1 import repcenter_pb2 as pb
from serving.client.items import content_document


def encode_body(items: Sequence[Item], *, records: bool, deadline_s: float) -> bytes:
    """The JSON of POST /v1/encode; the items' ids stay here."""
    return orjson.dumps(
        {
            "items": [content_document(item) for item in items],
            "records": records,
            "format": "base64",
            "deadline_ms": deadline_s * 1e3,
        }
    )


def read_encoded(body: bytes) -> EncodedItems:
    """The answer of POST /v1/encode with format base64."""
    document = orjson.loads(body)
    items = [_item(item) for item in document["items"]]
    return EncodedItems(document["space_id"], document["encoder_digest"], items)


def _item(document: dict[str, Any]) -> EncodedItem | RepcenterError:
    if "problem" in document:
        return error_of(document["problem"])
    vectors = {
        name: np.frombuffer(base64.b64decode(vector), "<f4").astype(np.float32)
        for name, vector in document["vectors"].items()
    }
    return EncodedItem(vectors, document["flagged"], base64.b64decode(document.get("record", "")))


def read_encoded_message(message: pb.EncodeResponse) -> EncodedItems:
    """The answer of Encoder/Encode."""
    return EncodedItems(
        message.space_id, message.encoder_digest, [_item_of_message(item) for item in message.items]
    )


def _item_of_message(message: pb.EncodedItem) -> EncodedItem | RepcenterError:
    if message.HasField("refusal"):
        return refusal(message.refusal)
    vectors = {name: np.array(vector.values, np.float32) for name, vector in message.vectors.items()}
    return EncodedItem(vectors, list(message.flagged), message.record)


def refusal(message: pb.Refusal) -> RepcenterError:
    """The typed error of one of many."""
    wait_s = message.retry_after_ms / 1e3 if message.HasField("retry_after_ms") else None
    return error_of({"type": f":{message.code}", "detail": message.detail}, wait_s)
