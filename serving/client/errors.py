"""What a door refused, as the typed error that it had."""

from __future__ import annotations

import grpc.aio
import orjson

from contracts.errors import RepcenterError
from contracts.problem import GRPC_KEY, MEDIA_TYPE, STATUSES, error_of

_CODE_OF_GRPC = {
    "INVALID_ARGUMENT": "invalid",
    "NOT_FOUND": "not_found",
    "FAILED_PRECONDITION": "conflict",
    "RESOURCE_EXHAUSTED": "overloaded",
    "UNAVAILABLE": "unavailable",
    "UNAUTHENTICATED": "unauthenticated",
    "PERMISSION_DENIED": "forbidden",
    "DEADLINE_EXCEEDED": "deadline",
}


def http_error(status: int, content_type: str, body: bytes, retry_after: str | None) -> RepcenterError:
    """The typed error of an answer that is not a success."""
    if content_type.startswith(MEDIA_TYPE):
        return error_of(orjson.loads(body), float(retry_after) if retry_after else None)
    return RepcenterError(f"HTTP {status}: {body[:200].decode(errors='replace')}")


def grpc_error(error: grpc.aio.AioRpcError) -> RepcenterError:
    """The door's problem where it sent one; else the best reading of gRPC's own status."""
    metadata = dict(error.trailing_metadata() or ())
    if GRPC_KEY in metadata:
        wait_ms = metadata.get("grpc-retry-pushback-ms")
        return error_of(orjson.loads(metadata[GRPC_KEY]), float(wait_ms) / 1e3 if wait_ms else None)
    code = _CODE_OF_GRPC.get(error.code().name, "internal")
    title = STATUSES[code][2]
    return error_of({"type": f":{code}", "detail": error.details() or title})
